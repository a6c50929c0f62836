"""Checks where the server may listen, and whether it can.

Addresses come from the configuration, from the command line, or are inherited. Each is checked
before its socket is bound, where that is possible.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from collections.abc import Iterable
from typing import Any

import msgspec

from ..config import Config
from ..errors import ConfigError

EXIT_BUSY = 3

_bound: list[str] = []  # hosts at which the server listens, once it does


def note_bound(names: Iterable[Any]) -> list[str]:
    """Remember the addresses at which the server listens; returns their hosts."""
    _bound[:] = [name[0] for name in names if isinstance(name, tuple)]
    return _bound


def in_force(started: Config, new: Config) -> Config:
    """What of `new` a running server can take on; a warning names the rest. Raises ConfigError."""
    if problems := new.listen_problems(*_bound):
        raise ConfigError(problems)
    names = "host", "port", "control_dir", "state"
    kept: dict[str, Any] = {name: getattr(started, name) for name in names}
    # Each has a thread, and there are as many as at the start.
    kept["max_requests_in_flight"] = min(new.max_requests_in_flight, started.max_requests_in_flight)
    if started.status_page is False:  # it has no such path
        kept["status_page"] = False
    waiting = [
        name  # its values have keys of their own
        if name == "state"
        else f"{name.replace('_', '-')} {getattr(started, name)} -> {getattr(new, name)}"
        for name, value in kept.items()
        if value != getattr(new, name)
    ]
    more = (f"{', '.join(waiting)}: needs a restart, or SIGUSR2",) if waiting else ()
    return msgspec.structs.replace(new, **kept, warnings=new.warnings + more)


def check_addresses(addresses: Iterable[Any], *, shared: bool = False) -> None:
    """Exit with status 3 and one clear line if gunicorn could not listen at one of these.

    `shared`: other processes may listen there as well (gunicorn's `reuse_port`).
    """
    for address in addresses:
        if isinstance(address, tuple):
            why = _why_not(address, shared=shared)
        else:
            why = None if isinstance(address, int) else _why_not_unix(address)
        if why:
            print(f"poolproxy: {why}", file=sys.stderr)
            sys.exit(EXIT_BUSY)


def _why_not_unix(path: str) -> str | None:
    """Why a server cannot listen on this Unix socket; gunicorn would replace it in silence."""
    if os.path.exists(path) and not stat.S_ISSOCK(os.stat(path).st_mode):
        return f"cannot listen on unix:{path}: it is there, and no socket"
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):  # nobody's, or left from a crash
            return None
        except BlockingIOError:  # somebody's who is busy
            pass
        except OSError as error:
            return f"cannot listen on unix:{path}: {error.strerror}"
    return f"unix:{path} is in use: bind another, or stop what listens there"


def _why_not(address: tuple[str, int], *, shared: bool) -> str | None:
    """Why a server cannot listen at this address."""
    host, port = address
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return f"port {port} is in use: set another `port`, or stop what listens there"
        return f"cannot listen on {host}:{port}: {error.strerror}"
    return None
