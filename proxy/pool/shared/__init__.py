"""One pool over many processes and hosts: its books are kept by functions in a Redis or Valkey.

`books` is the pool as a process sees it, `connection` the way to the server. The rules are in
`books.lua`, those of `health` and `queue` among them: tests hold both to one model. Here is which
process is which, over all hosts, and which of this host's are dead.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def _proc(name: str) -> str:
    """A file of the kernel's; "": there is none."""
    try:
        return Path("/proc", name).read_text()
    except OSError:
        return ""


def _start_of(pid: int | str) -> str:
    """When the process began, in the kernel's ticks; "": there is none (proc(5), field 22).

    The first thread of one that is killed may be a zombie while others still have its sockets.
    """
    stat = _proc(f"{pid}/stat").rpartition(")")[2].split() or ["X", *"0" * 19]
    return "" if stat[0] in "ZX" and int(stat[17]) <= 1 else stat[19]


# What pids belong to: this start of this host, and a namespace in it. Without /proc nobody can tell
# that a process is dead: it expires.
_boot = _proc("sys/kernel/random/boot_id")[:8]
PLACE = f"{_boot}.{os.stat('/proc/self/ns/pid').st_ino:x}" if _boot else secrets.token_hex(8)


def own_name(serial: int) -> str:
    """The name of one of this process's pools."""
    return f"{PLACE}-{os.getpid()}-{_start_of(os.getpid())}-{serial}"


def is_dead(name: str) -> bool:
    """Whether it was one of this host's processes, and is no more."""
    place, pid, start, _ = name.split("-")
    return place == PLACE and bool(start) and _start_of(pid) != start
