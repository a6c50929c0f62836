"""CPU time and memory of a process and all its descendants, from /proc.

CPU time of live processes comes from their CPU clocks (clock_getcpuclockid(3)): the sum that
/proc/PID/stat shows as utime and stime, but in nanoseconds instead of ticks of 10 ms. That of
children that have ended and were waited for is added from /proc/PID/stat (cutime, cstime).
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# Positions in /proc/PID/stat after the command in brackets (proc_pid_stat(5), less three).
_PPID, _SESSION, _UTIME, _STIME, _CUTIME, _CSTIME, _NUM_THREADS = 1, 3, 11, 12, 13, 14, 17
# make_process_cpuclock() in the kernel's posix-timers.h: the process id inverted, CPUCLOCK_SCHED.
_CPUCLOCK_SCHED = 2


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None  # ended meanwhile
    return text[text.rindex(")") + 2 :].split()


def tree(root: int) -> list[int]:
    """The process `root`, its descendants, and all of the session that it leads; 0: nothing."""
    if not root:
        return []
    parents: dict[int, int] = {}
    members = {root}
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and (stat := _stat(int(entry))):
            parents[int(entry)] = int(stat[_PPID])
            if int(stat[_SESSION]) == root:
                members.add(int(entry))
    while children := {pid for pid, parent in parents.items() if parent in members} - members:
        members |= children
    return sorted(members)


def cpu_s(root: int) -> float:
    """Seconds of CPU, user and system, that the tree has used so far."""
    return sum(map(_process_cpu_s, tree(root)))


def _process_cpu_s(pid: int) -> float:
    stat = _stat(pid)
    if stat is None:
        return 0.0
    reaped_s = (int(stat[_CUTIME]) + int(stat[_CSTIME])) / _TICKS_PER_S
    try:
        return reaped_s + time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)
    except OSError:
        return reaped_s + (int(stat[_UTIME]) + int(stat[_STIME])) / _TICKS_PER_S


def pss_kb(root: int) -> float:
    """Proportional set size of the tree: shared pages count in parts, so the sum is true."""
    return sum(map(_process_pss_kb, tree(root)))


def _process_pss_kb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0  # ended meanwhile
    return sum(float(line.split()[1]) for line in lines if line.startswith("Pss:"))


def threads(root: int) -> int:
    """How many threads the tree has."""
    return sum(int(stat[_NUM_THREADS]) for pid in tree(root) if (stat := _stat(pid)))
