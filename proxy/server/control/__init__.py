"""Asking a running instance how it is, and telling it what to do: a Unix socket for each worker.

Each worker has a pool of its own, so each listens by itself, and who asks, asks them all:

    $XDG_RUNTIME_DIR, else the temporary directory/poolproxy-<uid>/<port>/<pid>.sock

An HTTP endpoint would reach one worker, whichever it is, and need a key of its own. Here the
directory is its user's alone (mode 0700), and that is the authentication.

One line of JSON each way, then the connection ends. Clients disabled by hand are also kept in

    .../poolproxy-<uid>/<instance>.disabled

for workers of the same instance that start later, and for the instance that takes its place in an
upgrade. A socket at which nobody listens, or a file of an instance that is gone, is left from a
crash: whoever finds it removes it.

paths     where the sockets are, and whose
listener  a worker's end
query     the command line's end
"""

from __future__ import annotations

from .listener import Control
from .paths import forget
from .paths import ports as running_ports
from .query import ask_all

__all__ = ["Control", "ask_all", "forget", "running_ports"]
