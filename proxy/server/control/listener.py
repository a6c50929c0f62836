"""A worker's end of the control socket: one daemon thread that answers for its gateway.

Which clients were disabled by hand, for workers that start later, is in a file without a name, and
what metrics count in another one. Each worker inherits them, and so does the server that takes this
one's place in an upgrade (SIGUSR2): no other server sees them, and nothing is left of them.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import selectors
import socket
import tempfile
import threading
import time
from collections.abc import Callable, MutableMapping
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import cache, partial
from typing import Any

import msgspec

from ...api.status import ORDERS, Request, answer
from ...errors import ConfigError, ProxyError
from ...gateway import Gateway
from ...reload import LOOK_S
from ...version import __version__
from ..logs import set_up_logs
from .sockets import REQUEST_TIMEOUT_S, ask_all, is_alive, listen, sockets, unlink

_ACCEPT_PAUSE_S = 0.1  # after a failure to accept, when no descriptor is free
FACTS_TIMEOUT_S = 0.5  # who says nothing within it is left out of how things stand in metrics
_MOST_SILENT = 64  # connections without a request; one more ends the oldest
MAX_REQUEST_BYTES = 4096  # a request is a verb and a label, sent at once

# In an upgrade the old server tells the new one the files' descriptors in these variables. Another
# version may count otherwise.
DISABLED, COUNTS = "POOLPROXY_ORDERS", f"POOLPROXY_COUNTS_{__version__}"

log = logging.getLogger("proxy.control")


class Control:
    """A worker's control socket, which listens at once, and obeys what was ordered before.

    Made after the fork. `instance` is the server's pid, `orders_fd` its file of orders. Its thread
    also has the configuration looked at, and does nothing else where no such socket can be had,
    which the log says. Raises RuntimeError if there can be no thread.
    """

    def __init__(
        self,
        gateway: Gateway,
        *,
        port: int,
        instance: str,
        orders_fd: int,
        control_dir: str = "",
        woken: Callable[[], object] = bool,
    ) -> None:
        self._gateway = gateway
        self._keep_counts = gateway.metrics.keep if gateway.metrics else lambda: math.inf
        self._woken = woken
        self._instance = instance
        self._orders_fd = orders_fd
        self._generation = gateway.generation
        self._path = ""
        self._stopped, self._stop = socket.socketpair()
        self._stop.setblocking(False)
        self._listener = self._stop  # nobody asks there, where no other can be had
        ask = partial(ask_all, port, control_dir=control_dir)
        try:
            self._path, self._listener = listen(port, control_dir)
            for path in sockets(port, control_dir):
                is_alive(path)  # else it removes it
            gateway.ask_workers = partial(ask, timeout_s=REQUEST_TIMEOUT_S)
        except OSError as error:
            log.warning("`poolproxy status` will not find worker %s: %s", os.getpid(), error)
        if gateway.metrics is not None and gateway.is_standalone:
            gateway.metrics.fd = opened(COUNTS)
            if self._path:
                gateway.metrics.ask = partial(ask, {"do": "status"}, timeout_s=FACTS_TIMEOUT_S)
        # The socket listens already, so that an order given now is in the file or comes by it.
        self._obey_orders()
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # none can be had
            self.close()
            raise

    def close(self) -> None:
        """Stop answering and remove the socket. Idempotent; blocks until the thread has ended."""
        self._gateway.ask_workers = None
        if self._path:
            unlink(self._path)
        self._stop.close()
        if self._thread.ident is not None:
            self._thread.join()
        self._stopped.close()
        self._keep_counts()
        self._listener.close()

    def wake(self, *_: object) -> None:
        """Have `woken` called and the configuration read. A signal handler: takes no lock."""
        with contextlib.suppress(OSError):  # it was woken often enough, or is closed
            self._stop.send(b"\0")

    def _obey_orders(self) -> None:
        if self._gateway.config.state:  # which knows it, and what was ordered elsewhere
            return
        try:
            labels = read_disabled(self._orders_fd)
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("cannot read which clients are disabled: %s", error)
            return
        for label in labels:
            if not self._gateway.pool.set_disabled(label, True):
                log.warning("%s was disabled by hand, and is no client any more", label)

    def _keep_orders(self) -> str:
        """For workers that start later. Returns, and logs, why they will not know; "": they do."""
        labels = [facts["client"] for facts in self._gateway.pool.snapshot() if facts["disabled"]]
        try:
            keep_disabled(self._orders_fd, labels)
        except (OSError, msgspec.MsgspecError) as error:
            why = f"workers that start later will not know who is disabled: {error}"
            log.warning("%s", why)
            return why
        return ""

    def _run(self) -> None:
        """Answer each asker when its request is there, so that a silent one holds up nobody."""
        poller, askers = selectors.PollSelector(), list[socket.socket]()  # takes no descriptor
        for source in {self._stopped, self._listener}:
            poller.register(source, selectors.EVENT_READ)
        looks_at = keeps_at = -math.inf
        while True:
            left_s = max(0.0, min(looks_at, keeps_at) - time.monotonic())
            ready = [key.fileobj for key, _ in poller.select(left_s)]
            if self._stopped in ready:
                if not self._stopped.recv(MAX_REQUEST_BYTES):
                    break
                try:
                    self._woken()
                    self._gateway.reloader.begin()
                except Exception:  # no thread, no room for a file: the next look may find some
                    log.exception("not all of what was asked for could be done")
            most = _MOST_SILENT - (self._listener in ready)
            for asker in [each for each in askers if each in ready] or askers[:-most]:
                poller.unregister(asker)
                askers.remove(asker)
                with asker:
                    if asker in ready:
                        self._serve(asker)
            if self._listener in ready:
                try:
                    askers.append(self._listener.accept()[0])
                except OSError:  # no descriptor is free
                    time.sleep(_ACCEPT_PAUSE_S)
                else:
                    poller.register(askers[-1], selectors.EVENT_READ)
            if keeps_at <= time.monotonic():
                keeps_at = self._keep_counts()
            if looks_at <= time.monotonic():
                looks_at = time.monotonic() + LOOK_S
                self._look()
        for asker in askers:
            asker.close()

    def _look(self) -> None:
        """Once a second: have changed files read, and follow what was read since."""
        reloader = self._gateway.reloader
        if reloader.looks_at < math.inf:
            reloader.look()
        if self._generation is not self._gateway.generation:
            self._generation = self._gateway.generation
            config = self._generation.config
            set_up_logs(debug=config.debug, as_json=config.log_format == "json")
            self._keep_orders()  # clients may have other labels

    def _serve(self, asker: socket.socket) -> None:
        """Answer what has come; blocks for REQUEST_TIMEOUT_S if much is not taken."""
        asker.settimeout(REQUEST_TIMEOUT_S)
        try:
            asker.sendall(self._answer_to(asker.recv(MAX_REQUEST_BYTES)))
        except OSError as error:
            log.debug("a control request failed: %s", error)

    def _answer_to(self, line: bytes) -> bytes:
        try:
            answer = self._answer(msgspec.json.decode(line, type=Request))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            answer = {"error": f"not a control request: {error}"}
        except ProxyError as error:
            answer = {"error": error.message}
        except Exception:
            log.exception("a control request failed")
            answer = {"error": "internal error: see the server's log"}
        return msgspec.json.encode(answer | {"instance": self._instance}, enc_hook=str) + b"\n"

    def _answer(self, request: Request) -> dict[str, Any]:
        if request.do == "status":
            self._keep_counts()
        if request.do == "reload":
            try:
                return {"changed": self._gateway.reloader.begin().result(REQUEST_TIMEOUT_S)}
            except FutureTimeoutError:
                return {"error": "the configuration is still being read: see the log"}
            except ConfigError as error:
                return {"problems": error.problems}
        told = answer(self._gateway, request)
        if request.do in ORDERS and "error" not in told and (why := self._keep_orders()):
            told["error"] = f"{request.do}: done, but {why}"
        return told


@cache
def opened(variable: str) -> int:
    """The descriptor of a file. The first call, before any fork, opens it; raises OSError."""
    if inherited := os.environ.pop(variable, ""):
        return int(inherited)
    if hasattr(os, "memfd_create"):  # Linux: there need be no directory that can be written to
        return os.memfd_create(variable)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def hand_over(environ: MutableMapping[str, str]) -> None:
    """Let the process that this one becomes have the files, with `environ`."""
    for variable in (DISABLED, COUNTS):
        os.set_inheritable(opened(variable), True)
        environ[variable] = str(opened(variable))


def read_disabled(fd: int) -> list[str]:
    """The labels of the disabled clients; raises OSError, MsgspecError."""
    lines = os.pread(fd, os.fstat(fd).st_size, 0).splitlines()
    return msgspec.json.decode(lines[-1], type=list[str]) if lines else []


def keep_disabled(fd: int, labels: list[str]) -> None:
    """Keep these in place of those before; raises OSError, MsgspecError."""
    if labels != read_disabled(fd):
        # Appended, as all who write share the offset: whoever reads meanwhile sees whole lines.
        os.write(fd, msgspec.json.encode(labels) + b"\n")
