"""Ends the server at SIGTERM so that nobody is cut off: what the master does.

gunicorn's own handler closes the listeners at once. A proxy in front still believes in this server
then, and the kernel resets whoever has connected and was not accepted yet.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import signal
import socket
import struct
from collections.abc import Callable
from typing import Any

from ..gateway import Gateway
from . import systemd

log = logging.getLogger("proxy.serving")

# For `SO_ATTACH_FILTER` (socket(7), linux/filter.h): of the TCP flags, byte 13 (RFC 9293 section
# 3.1), SYN without ACK. Such a segment is dropped, all others are let through.
_ATTACH_FILTER = 26
_NO_SYN = ((0x30, 0, 0, 13), (0x54, 0, 0, 0x12), (0x15, 0, 1, 0x02), (6, 0, 0, 0), (6, 0, 0, 2**31))


def take_over(server: Any, delay_s: Callable[[], float]) -> None:
    """Have the arbiter stop in our way at SIGTERM. `delay_s`: the present `shutdown-delay`."""

    def announce() -> None:
        """At the first SIGTERM. The listeners close after the delay, or at a second SIGTERM.

        Until then the server works on as ever, and replaces a worker that dies.
        """
        server.handle_term = end
        systemd.stops(server)
        Gateway.is_stopping = True  # in workers that are forked from now on
        if hasattr(server.worker_class, "_announce_stop"):  # another one would die by it
            server.kill_workers(signal.SIGUSR2)
        if not (left_s := delay_s()):
            end()
        log.info("stopping: new callers are taken for %g s more", left_s)
        signal.signal(signal.SIGALRM, lambda *_: server.SIG_QUEUE.put_nowait(signal.SIGTERM))
        signal.setitimer(signal.ITIMER_REAL, left_s)

    def end() -> None:
        is_last = server.reexec_pid == server.master_pid == 0 and not server.systemd
        for listener in server.LISTENERS if is_last else ():
            _refuse(listener)
        raise StopIteration  # gunicorn closes the listeners, and has the workers end

    server.handle_term = announce


def _refuse(listener: Any) -> None:
    """Have nobody connect to a listener any more, without a word.

    A caller who tries again, after a second, finds it closed. Who is connected stays so, until a
    worker accepts: `close` alone would reset those who connect at that moment.
    """
    if listener.family in (socket.AF_INET, socket.AF_INET6):
        code = b"".join([struct.pack("HBBI", *step) for step in _NO_SYN])
        held = ctypes.create_string_buffer(code, len(code))
        program = struct.pack("HL", len(_NO_SYN), ctypes.addressof(held))  # struct sock_fprog
        with contextlib.suppress(OSError):  # another system
            listener.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, program)
