"""The clients that were disabled by hand, for workers of the server that start later.

They are in a file without a name, which each worker inherits, and so does the server that takes
this one's place in an upgrade (SIGUSR2). So no other server sees them, and nothing is left of them.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import MutableMapping
from functools import cache

import msgspec

# In an upgrade the old server tells the new one the file's descriptor in this variable.
_VARIABLE = "POOLPROXY_ORDERS"


@cache
def opened() -> int:
    """The descriptor of the file. The first call, before any fork, opens it; raises OSError."""
    if inherited := os.environ.pop(_VARIABLE, ""):
        return int(inherited)
    if hasattr(os, "memfd_create"):  # Linux: there need be no directory that can be written to
        return os.memfd_create("poolproxy-orders")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def hand_over(environ: MutableMapping[str, str]) -> None:
    """Let the process that this one becomes have the file, with `environ`."""
    os.set_inheritable(opened(), True)
    environ[_VARIABLE] = str(opened())


def read(fd: int) -> list[str]:
    """The labels of the disabled clients; raises OSError, MsgspecError."""
    lines = os.pread(fd, os.fstat(fd).st_size, 0).splitlines()
    return msgspec.json.decode(lines[-1], type=list[str]) if lines else []


def keep(fd: int, labels: list[str]) -> None:
    """Keep these in place of those before; raises OSError, MsgspecError."""
    if labels != read(fd):
        # Appended, as all who write share the offset: whoever reads meanwhile sees whole lines.
        os.write(fd, msgspec.json.encode(labels) + b"\n")
