"""The clients that were disabled by hand, for workers of the server that start later.

They are in a file without a name, which each worker inherits, and so does the server that takes
this one's place in an upgrade (SIGUSR2). So no other server sees them, and nothing is left of them.
What metrics count is in another one.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import MutableMapping
from functools import cache

import msgspec

from ...version import __version__

# In an upgrade the old server tells the new one the files' descriptors in these variables. Another
# version may count otherwise.
ORDERS, COUNTS = "POOLPROXY_ORDERS", f"POOLPROXY_COUNTS_{__version__}"


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
    for variable in (ORDERS, COUNTS):
        os.set_inheritable(opened(variable), True)
        environ[variable] = str(opened(variable))


def read(fd: int) -> list[str]:
    """The labels of the disabled clients; raises OSError, MsgspecError."""
    lines = os.pread(fd, os.fstat(fd).st_size, 0).splitlines()
    return msgspec.json.decode(lines[-1], type=list[str]) if lines else []


def keep(fd: int, labels: list[str]) -> None:
    """Keep these in place of those before; raises OSError, MsgspecError."""
    if labels != read(fd):
        # Appended, as all who write share the offset: whoever reads meanwhile sees whole lines.
        os.write(fd, msgspec.json.encode(labels) + b"\n")
