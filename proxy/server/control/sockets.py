"""Makes, finds and asks the control sockets, in directories that are their "homes".

A home is its user's alone. Or it is the service's (`control-dir`, systemd's RuntimeDirectory): then
root may ask there, and the home's group if its mode lets the group in.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
from collections.abc import Collection
from typing import Any

import msgspec

_PATH = re.compile(r".*/(\d+)-\d+\.sock", re.DOTALL)

REQUEST_TIMEOUT_S = 2.0  # for a connection to be taken, and for the request on it to come
ANSWER_TIMEOUT_S = 10.0  # for an answer to come, or more of it


def listen(port: int, control_dir: str = "") -> tuple[str, socket.socket]:
    """A socket of this process for a port, and where it is; raises OSError."""
    refusal = OSError("there is no place for it")
    for home, is_own in _homes(control_dir).items():
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(home, 0o700)
            if not _is_closed(home, is_own=is_own, owners=(os.geteuid(), 0)):
                whose = "this user's alone (mode 0700)" if is_own else "its own (mode 0750 or less)"
                raise PermissionError(f"{home} is not a directory of {whose}")
            path = os.path.join(home, f"{port}-{os.getpid()}.sock")
            return path, _listen_at(path)
        except OSError as error:
            refusal = error
    raise refusal


def _listen_at(path: str) -> socket.socket:
    """A socket that listens before anybody can see it: one that refuses has no owner any more."""
    draft = path.removesuffix("sock") + "new"
    listener = socket.socket(socket.AF_UNIX)
    try:
        unlink(draft)
        listener.bind(draft)
        home = os.stat(os.path.dirname(path))
        if home.st_mode & stat.S_IXGRP:  # the group may come in, and ask
            if os.stat(draft).st_gid != home.st_gid:
                os.chown(draft, -1, home.st_gid)
            os.chmod(draft, 0o660)
        listener.listen()
        os.replace(draft, path)
    except BaseException:
        listener.close()
        raise
    return listener


def sockets(port: int, control_dir: str = "") -> list[str]:
    """The sockets on this port that this user may ask, those of dead workers included."""
    return [path for other, path in _all(control_dir) if other == port]


def ports(control_dir: str = "") -> list[int]:
    """The ports on which a worker that this user may ask listens."""
    return sorted({port for port, path in _all(control_dir) if is_alive(path)})


def _all(control_dir: str) -> list[tuple[int, str]]:
    """Each socket that this user may ask, after its port."""
    paths: list[str] = []
    for home, is_own in _homes(control_dir).items():
        # Whoever can write to the directory could pose as our server.
        if _is_closed(home, is_own=is_own):
            with contextlib.suppress(FileNotFoundError, PermissionError):
                paths += [os.path.join(home, name) for name in sorted(os.listdir(home))]
    return [(int(found[1]), found[0]) for found in map(_PATH.fullmatch, paths) if found]


def is_alive(path: str) -> bool:
    """Whether a worker listens on the socket; removes the socket of a dead one."""
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(REQUEST_TIMEOUT_S)
            probe.connect(path)
    except (ConnectionRefusedError, FileNotFoundError):
        unlink(path)
        return False
    except OSError:  # it is there, and busy
        pass
    return True


def ask_all(
    port: int,
    request: dict[str, str],
    *,
    control_dir: str = "",
    timeout_s: float = ANSWER_TIMEOUT_S,
) -> list[dict[str, Any]]:
    """The answers of all workers on this port, by pid; none if no instance runs that may be asked.

    A worker that does not answer in time has `error` in place of facts. A worker that starts
    meanwhile is asked too, so that none misses an order. Blocks for `timeout_s` a worker at most.
    """
    answers: dict[str, dict[str, Any] | None] = {}
    while found := [path for path in sockets(port, control_dir) if path not in answers]:
        for path in found:
            answers[path] = _ask(path, request, timeout_s)
    return sorted(filter(None, answers.values()), key=lambda answer: int(answer["pid"]))


def _ask(path: str, request: dict[str, str], timeout_s: float) -> dict[str, Any] | None:
    """The answer of one worker; None: it is gone."""
    pid = int(path.removesuffix(".sock").rpartition("-")[2])
    try:
        with socket.socket(socket.AF_UNIX) as worker:
            worker.settimeout(timeout_s)
            worker.connect(path)
            worker.sendall(msgspec.json.encode(request) + b"\n")
            with worker.makefile("rb") as answers:
                line = answers.readline()
        answer = msgspec.json.decode(line, type=dict[str, Any])
    except (ConnectionRefusedError, FileNotFoundError):
        unlink(path)
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        return {"pid": pid, "error": f"no answer from worker {pid}: {error}"}
    return {**answer, "pid": pid}


def unlink(path: str) -> None:
    """Remove a file, unless it is gone already, a folder, or another user's to remove."""
    with contextlib.suppress(FileNotFoundError, IsADirectoryError, PermissionError):
        os.unlink(path)


def _homes(control_dir: str) -> dict[str, bool]:
    """The homes, by preference, and whether each is this user's own. A question looks into all."""
    own = f"poolproxy-{os.geteuid()}"
    shared = "/tmp"  # noqa: S108 (whose the directory in it is gets checked)
    places = [os.environ.get("XDG_RUNTIME_DIR", ""), os.environ.get("TMPDIR", ""), shared]
    homes = dict.fromkeys([control_dir, os.environ.get("RUNTIME_DIRECTORY", "")], False)
    homes |= dict.fromkeys([os.path.join(place, own) for place in places], True)
    homes |= {"/run/poolproxy": False}  # systemd's for our name, which root alone can make
    return {home: is_own for home, is_own in homes.items() if os.path.isabs(home)}


def _is_closed(path: str, *, is_own: bool, owners: Collection[int] | None = None) -> bool:
    """Whether a home is closed to whom it does not belong to; `owners`: None is anybody."""
    try:
        facts = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return False
    if is_own:
        owners = (os.geteuid(),)
    is_theirs = stat.S_ISDIR(facts.st_mode) and (owners is None or facts.st_uid in owners)
    return is_theirs and not facts.st_mode & (0o077 if is_own else 0o007)
