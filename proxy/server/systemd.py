"""Tells systemd, where it wants to know, how far the server is: the protocol of sd_notify(3).

The master speaks: systemd by default heeds the main process of a service only (`NotifyAccess`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from typing import Any

# A worker's signal to its master that it serves. gunicorn has no use for it, and a master that does
# not expect it ignores it (signal(7)).
_SERVES = signal.SIGURG

_addresses: list[str] = []  # of systemd's socket; none: nobody wants to know


def expect_workers(server: Any) -> None:
    """Tell systemd in place of gunicorn, which says READY before there is a worker."""
    address = os.environ.pop("NOTIFY_SOCKET", "")
    if not address:
        return
    # "@" begins one of Linux's abstract names.
    _addresses[:] = [f"\0{address[1:]}" if address[0] == "@" else address]
    signal.signal(_SERVES, lambda *_: notify(f"MAINPID={server.pid}\nREADY=1"))


def serves(master: int) -> None:
    """In a worker: it takes requests from now on."""
    if _addresses:
        with contextlib.suppress(OSError):
            os.kill(master, _SERVES)


def stops(server: Any) -> None:
    """In the master: the server is about to stop. Said once, and nothing after it."""
    if not server.reexec_pid:  # else the service goes on, in the server that takes over
        notify("STOPPING=1")
        _addresses.clear()


def notify(state: str) -> None:
    """Send a state to systemd. It may be gone, or slow: then nothing is sent."""
    for address in _addresses:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto(state.encode(), address)
