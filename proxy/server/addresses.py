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

from ..config import Config
from ..errors import ConfigError

EXIT_BUSY = 3

_bound: list[tuple[str, int]] = []  # where the server listens, once it does


def note_bound(names: Iterable[Any]) -> list[str]:
    """Remember the addresses at which the server listens; returns their hosts."""
    _bound[:] = [name[:2] for name in names if isinstance(name, tuple)]
    return [host for host, _ in _bound]


def servable(config: Config, *hosts: str) -> Config:
    """The configuration, if a server may listen with it, at `hosts` too; else ConfigError."""
    if problems := config.listen_problems(*hosts):
        raise ConfigError(problems)
    return config


def successor(old: Config | None, new: Config) -> Config:
    """`new`, if it may replace `old` in a server that listens; else raises ConfigError.

    gunicorn gives up its old address before it tries the new one, and ends if that fails.
    """
    if old is None:
        return servable(new)
    old_address = old.host or "0.0.0.0", old.port
    servable(new, *(host for host, port in _bound if (host, port) != old_address))
    new_address = new.host or "0.0.0.0", new.port
    moves = new_address != old_address and old.port in [port for _, port in _bound]
    # An address in use may be our own: workers from before the reload listen on for a while.
    if moves and (why := _why_not(new_address)):
        raise ConfigError([why])
    return new


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


def _why_not(address: tuple[str, int], *, shared: bool = False) -> str | None:
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
