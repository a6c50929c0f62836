"""Finds and cleans the control sockets' directories, which are this user's alone."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import tempfile
from collections.abc import Iterator

# What an AF_UNIX address may have, without the NUL: sun_path is 108 bytes on Linux (unix(7)), 104
# on macOS and the BSDs.
MAX_PATH_BYTES = 103

# pid_max on 64-bit Linux is 4194304 (proc(5)).
_LONGEST_NAME = "/65535/4194304.sock"

# For a connection to be taken, and for the request on it to come.
REQUEST_TIMEOUT_S = 2.0

_ORDERS = ".disabled"


def make_directory(port: int) -> str:
    """Make the directory for the sockets of workers on this port; raises OSError."""
    refusal = OSError("the paths of all temporary directories are too long for a socket's address")
    for home in _homes():
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(home, 0o700)
            if not _is_private(home):
                raise PermissionError(f"{home} is not a directory of this user's alone (mode 0700)")
            directory = os.path.join(home, str(port))
            with contextlib.suppress(FileExistsError):
                os.mkdir(directory, 0o700)
            return directory
        except OSError as error:
            refusal = error
    raise refusal


def sockets(port: int) -> Iterator[str]:
    """The sockets of this user's workers on this port, those of dead workers included."""
    for home in _homes():
        # Another owner of the directory could pose as our server.
        if _is_private(home):
            directory = os.path.join(home, str(port))
            for name in _listing(directory):
                if name.endswith(".sock") and name.removesuffix(".sock").isdecimal():
                    yield os.path.join(directory, name)


def ports() -> list[int]:
    """The ports on which a worker of this user's listens."""
    named = {int(name) for home in _homes() for name in _listing(home) if name.isdecimal()}
    return sorted(port for port in named if any(is_alive(path) for path in sockets(port)))


def orders_path(directory: str, instance: str) -> str:
    """Where the orders of an instance are: beside all ports, as a reload may change its port."""
    return os.path.join(os.path.dirname(directory), f"{instance}{_ORDERS}")


def forget(instance: str) -> None:
    """Remove the orders of an instance that ends."""
    for home in filter(_is_private, _homes()):
        unlink(os.path.join(home, f"{instance}{_ORDERS}"))


def sweep(directory: str, instance: str) -> None:
    """Remove what dead workers left; a new worker of `instance` may have the pid of a dead one."""
    for name in _listing(directory):
        if name.endswith(".sock"):
            is_alive(os.path.join(directory, name))
        elif name.endswith(".new") and not _runs(name.removesuffix(".new")):
            unlink(os.path.join(directory, name))
    home = os.path.dirname(directory)
    for name in _listing(home):
        stem, kind, _ = name.partition(_ORDERS)
        if kind and stem != instance and (_pid(stem) == _pid(instance) or not _runs(stem)):
            unlink(os.path.join(home, name))


def is_alive(path: str) -> bool:
    """Whether a worker listens on the socket; removes the socket of a dead one."""
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(REQUEST_TIMEOUT_S)
            probe.connect(path)
    except ConnectionRefusedError:
        unlink(path)
        return False
    except FileNotFoundError:
        return False
    except OSError:  # it is there, and busy
        return True
    return True


def unlink(path: str) -> None:
    """Remove a file that may be gone already. Folders are not ours, and stay."""
    with contextlib.suppress(FileNotFoundError):
        if not os.path.isdir(path):
            os.unlink(path)


def _homes() -> Iterator[str]:
    """The directories for sockets, by preference.

    A question looks into all of them, as the server may have another environment.
    """
    own = f"poolproxy-{os.geteuid()}"
    shared = "/tmp"  # noqa: S108 (whose the directory in it is gets checked)
    for place in dict.fromkeys([os.environ.get("XDG_RUNTIME_DIR", ""), _temporary(), shared]):
        home = os.path.join(place, own)
        if os.path.isabs(home) and len(os.fsencode(home + _LONGEST_NAME)) <= MAX_PATH_BYTES:
            yield home


def _temporary() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:  # none can be written to
        return ""


def _is_private(path: str) -> bool:
    try:
        facts = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return False
    is_own = stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.geteuid()
    return is_own and not facts.st_mode & 0o077


def _listing(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def _pid(stem: str) -> str:
    return stem.partition("-")[0]


def _runs(stem: str) -> bool:
    """Whether the process that a file is named after exists."""
    try:
        os.kill(int(_pid(stem)), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:  # it does, and is another user's
        return True
    return True
