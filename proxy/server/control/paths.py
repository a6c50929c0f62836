"""Finds and cleans the control sockets' directories, the "homes".

A home is its user's alone. Or it is the service's (`control-dir`, systemd's RuntimeDirectory): then
root may ask there, and the home's group if its mode lets the group in.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Collection, Iterator

# What an AF_UNIX address may have, without the NUL: sun_path is 108 bytes on Linux (unix(7)), 104
# on macOS and the BSDs.
MAX_PATH_BYTES = 103

# pid_max on 64-bit Linux is 4194304 (proc(5)).
_LONGEST_NAME = "/65535/4194304.sock"

# For a connection to be taken, and for the request on it to come.
REQUEST_TIMEOUT_S = 2.0

# systemd's for a service of our name. Only root can make it; who asks has not its environment.
_SERVICE_HOME = "/run/poolproxy"


def make_directory(port: int, control_dir: str = "") -> str:
    """Make the directory for the sockets of workers on this port; raises OSError."""
    refusal = OSError("the paths of all temporary directories are too long for a socket's address")
    for home, is_own in _homes(control_dir).items():
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(home, 0o700)
            if not _is_closed(home, is_own=is_own, owners=(os.geteuid(), 0)):
                whose = "this user's alone (mode 0700)" if is_own else "its own (mode 0750 or less)"
                raise PermissionError(f"{home} is not a directory of {whose}")
            directory = os.path.join(home, str(port))
            with contextlib.suppress(FileExistsError):
                os.mkdir(directory, 0o700)
            share(directory, 0o750)
            return directory
        except OSError as error:
            refusal = error
    raise refusal


def share(path: str, mode: int) -> None:
    """Give what is new in a home to the group that the home lets in, if it does."""
    home = os.stat(os.path.dirname(path))
    if home.st_mode & stat.S_IXGRP:
        if os.stat(path).st_gid != home.st_gid:
            os.chown(path, -1, home.st_gid)
        os.chmod(path, mode)


def sockets(port: int, control_dir: str = "") -> Iterator[str]:
    """The sockets on this port that this user may ask, those of dead workers included."""
    for home, is_own in _homes(control_dir).items():
        # Whoever can write to the directory could pose as our server.
        if _is_closed(home, is_own=is_own):
            directory = os.path.join(home, str(port))
            for name in _listing(directory):
                if name.endswith(".sock") and name.removesuffix(".sock").isdecimal():
                    yield os.path.join(directory, name)


def ports(control_dir: str = "") -> list[int]:
    """The ports on which a worker that this user may ask listens."""
    names = [name for home in _homes(control_dir) for name in _listing(home)]
    named = {int(name) for name in names if name.isdecimal()}
    return sorted(
        port for port in named if any(is_alive(path) for path in sockets(port, control_dir))
    )


def sweep(directory: str) -> None:
    """Remove the sockets of dead workers."""
    for name in _listing(directory):
        if name.endswith(".sock"):
            is_alive(os.path.join(directory, name))


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


def unlink(path: str) -> None:
    """Remove a file that may be gone already. Folders are not ours, and stay.

    A home's group may not remove what is in it: the next worker does.
    """
    with contextlib.suppress(FileNotFoundError, PermissionError):
        if not os.path.isdir(path):
            os.unlink(path)


def _homes(control_dir: str) -> dict[str, bool]:
    """The homes, by preference, and whether each is this user's own or the service's.

    A question looks into all of them, as the server may have another environment.
    """
    own = f"poolproxy-{os.geteuid()}"
    shared = "/tmp"  # noqa: S108 (whose the directory in it is gets checked)
    places = [os.environ.get("XDG_RUNTIME_DIR", ""), os.environ.get("TMPDIR", ""), shared]
    homes = dict.fromkeys([control_dir, os.environ.get("RUNTIME_DIRECTORY", "")], False)
    homes |= dict.fromkeys([os.path.join(place, own) for place in places], True)
    homes |= {_SERVICE_HOME: False}
    return {
        home: is_own
        for home, is_own in homes.items()
        if os.path.isabs(home) and len(os.fsencode(home + _LONGEST_NAME)) <= MAX_PATH_BYTES
    }


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


def _listing(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []
