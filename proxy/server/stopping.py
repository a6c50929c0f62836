"""Ends the server at SIGTERM so that nobody is cut off: what the master does.

gunicorn's own handler closes the listeners at once, while a proxy in front still believes in this
server.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from typing import Any

from ..gateway import Gateway
from . import systemd

log = logging.getLogger("proxy.serving")


def take_over(server: Any, delay_s: Callable[[], float]) -> None:
    """Have the arbiter stop in our way at SIGTERM. `delay_s`: the present `shutdown-delay`."""
    end = server.handle_term  # closes the listeners, and has the workers end

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

    server.handle_term = announce
