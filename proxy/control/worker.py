"""A worker's end of the control socket: one daemon thread that answers for its gateway."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket
import threading
from typing import TYPE_CHECKING, Any

import msgspec

from ..version import __version__
from .lines import ANSWER_TIMEOUT_S, MAX_REQUEST_BYTES, REQUEST_TIMEOUT_S, read_line
from .places import make_directory, sweep, unlink

if TYPE_CHECKING:
    from ..gateway import Gateway

# After a failure to accept (no descriptor is free) the next attempt waits so long.
_ACCEPT_PAUSE_S = 0.1

# A directory can vanish before it is used: once for each worker that ends just then.
_MAX_LISTEN_ATTEMPTS = 5

log = logging.getLogger("proxy.control")


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    do: str
    client: str = ""


class Control:
    """Listens from the start, and obeys at once what the instance's workers were told before.

    Made after the fork; `instance` begins with the server's pid and a dash, is the same for all its
    workers, and no other's. Raises OSError where no such socket can be had.
    """

    def __init__(self, gateway: Gateway, *, port: int, instance: str) -> None:
        self._gateway = gateway
        self._instance = instance
        self._path, self._listener = _listen(port)
        self._directory = os.path.dirname(self._path)
        self._orders_path = os.path.join(self._directory, f"{instance}.disabled")
        sweep(self._directory, instance)
        # After listening: an order given meanwhile is in the file, or comes by the socket.
        self._obey_orders()
        self._stopped, self._stop = socket.socketpair()
        self._stopped.settimeout(_ACCEPT_PAUSE_S)
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering and remove the socket. Idempotent; blocks until the thread has ended."""
        unlink(self._path)
        with contextlib.suppress(OSError):  # others are in it
            os.rmdir(self._directory)
        self._stop.close()
        self._thread.join()
        self._stopped.close()
        self._listener.close()

    def _obey_orders(self) -> None:
        try:
            with open(self._orders_path, "rb") as file:
                labels = msgspec.json.decode(file.read(), type=list[str])
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("cannot read which clients are disabled: %s", error)
            return
        for label in labels:
            self._gateway.pool.set_disabled(label, True)

    def _keep_orders(self) -> None:
        labels = [facts["client"] for facts in self._gateway.pool.snapshot() if facts["disabled"]]
        draft = f"{self._orders_path}.{os.getpid()}"
        with open(draft, "wb") as file:
            file.write(msgspec.json.encode(labels))
        os.replace(draft, self._orders_path)

    def _run(self) -> None:
        poller = select.poll()
        poller.register(self._listener, select.POLLIN)
        poller.register(self._stopped, select.POLLIN)
        while all(fd == self._listener.fileno() for fd, _ in poller.poll()):
            try:
                asker, _ = self._listener.accept()
            except OSError:
                self._pause()
                continue
            with asker:
                try:
                    self._serve(asker)
                except OSError as error:
                    log.debug("a control request failed: %s", error)

    def _pause(self) -> None:
        try:
            self._stopped.recv(1)
        except TimeoutError:
            return

    def _serve(self, asker: socket.socket) -> None:
        line = read_line(asker, max_bytes=MAX_REQUEST_BYTES, timeout_s=REQUEST_TIMEOUT_S)
        answer: dict[str, Any] = {
            "pid": os.getpid(),
            "instance": self._instance,
            "version": __version__,
        }
        try:
            answer |= self._answer(line)
        except Exception:
            log.exception("a control request failed")
            answer["error"] = "internal error: see the server's log"
        asker.settimeout(ANSWER_TIMEOUT_S)
        asker.sendall(msgspec.json.encode(answer, enc_hook=str) + b"\n")

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = msgspec.json.decode(line, type=_Request)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return {"error": f"not a control request: {error}"}
        pool = self._gateway.pool
        if request.do == "status":
            return {"clients": self._clients(), "queues": pool.queue_facts()}
        if request.do not in ("disable", "enable"):
            return {"error": f"not a control request: {request.do!r}"}
        if not pool.set_disabled(request.client, request.do == "disable"):
            return {"error": f"there is no client {request.client!r}"}
        log.warning("%s: %sd by hand", request.client, request.do)
        try:
            self._keep_orders()
        except OSError as error:
            why = error.strerror
            return {"error": f"{request.do}d, but workers that start later will not know: {why}"}
        return {}

    def _clients(self) -> list[dict[str, Any]]:
        """The pool's snapshot; `offered`: by the upstream's names, aliases; None: its own list."""
        offered = {
            client.label: client.config.models and _by_name(client.config.models)
            for client in self._gateway.clients
        }
        return [
            {**facts, "offered": offered[facts["client"]]}
            for facts in self._gateway.pool.snapshot()
        ]


def _by_name(models: tuple[Any, ...]) -> dict[str, list[str]]:
    aliases: dict[str, list[str]] = {}
    for model in models:
        aliases.setdefault(model.name, []).append(model.alias)
    return aliases


def _listen(port: int) -> tuple[str, socket.socket]:
    """A socket, and where it is; raises OSError."""
    for _ in range(_MAX_LISTEN_ATTEMPTS):
        path = os.path.join(make_directory(port), f"{os.getpid()}.sock")
        try:
            return path, _listen_at(path)
        except FileNotFoundError:  # the directory's last user has just removed it
            continue
    raise OSError(errno.ENOENT, "the directory for sockets is removed again and again")


def _listen_at(path: str) -> socket.socket:
    """A socket that listens before anybody can see it, so that one that refuses is a dead one's."""
    draft = path.removesuffix("sock") + "new"
    listener = socket.socket(socket.AF_UNIX)
    try:
        unlink(draft)
        listener.bind(draft)
        listener.listen()
        listener.setblocking(False)
        os.replace(draft, path)
    except BaseException:
        listener.close()
        raise
    return listener
