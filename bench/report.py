"""The result as text: a table for the screen, and `RESULTS.md` with what it was measured on."""

from __future__ import annotations

import datetime
import importlib.metadata
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from bench.peers import LITELLM, PORTKEY, VLLM_ROUTER
from bench.processes import ROOT
from bench.rows import OURS, Effort, Row, Sample, rows
from bench.targets import find_nginx

Samples = dict[str, list[Sample]]  # by target, one for each round
_NOTHING = "-"
_REFERENCE = "naive"
SCALE = "## One pool over many processes"
_CPUIDLE = Path("/sys/devices/system/cpu/cpuidle")
_HALT_POLL = Path("/sys/module/haltpoll/parameters/guest_halt_poll_ns")
_LIBRARIES = ("gunicorn", "flask", "werkzeug", "requests", "urllib3", "msgspec")

_EXPLANATION = """\
Written by `make bench`. Medians of interleaved rounds; in brackets the ratio to `naive` of the same
run (Flask, `requests.post`, `iter_lines`: `bench/naive.py`). CPU time and memory are those of a
target's whole process tree, with one worker, everything on loopback. `direct` is the mock upstream
without a gateway: its own times, which the added times of the others leave out. `unpinned` is
poolproxy whose worker does not keep to a core of its own (`PROXY_PIN_WORKERS=0`). The mock and the
load generator are not pinned to a core: a target may pin itself, and must not meet them there.

Responses and Messages made of chat, and chat made of Gemini, are asked of poolproxy alone, chat
made of Claude of LiteLLM and Portkey too. Clients that take one request at a time are known to
poolproxy (`max-concurrency: 1`) and LiteLLM (`max_parallel_requests: 1`); the mock refuses a key's
second stream at once. vllm-router is written in Rust; it balances servers, and passes the caller's
key on. An answer is not waited for longer than 20 s after the upstream's pace made it due: it may
have come later."""


def table(samples: Samples, effort: Effort) -> list[list[str]]:
    """Medians of all rounds, and in brackets how often the naive proxy's cost."""
    lines = [["", *samples]]
    for row in rows(effort):
        reference = _median(_values(samples, _REFERENCE, row))
        cells = []
        for name in samples:
            value = _median(_values(samples, name, row))
            cell = _number(value, row.digits)
            if row.compared and name not in (_REFERENCE, "direct") and reference > 0:
                cell += f" ({value / reference:.2f}x)" if not math.isnan(value) else ""
            cells.append(cell)
        lines.append([row.title, *cells])
    return lines


def spread(samples: Samples, effort: Effort) -> list[list[str]]:
    """The lowest and the highest of all rounds."""
    lines = [["", *samples]]
    for row in rows(effort):
        cells = []
        for name in samples:
            values = _values(samples, name, row)
            ends = [_number(end(values), row.digits) for end in (min, max)] if values else []
            cells.append(" to ".join(ends) or _NOTHING)
        lines.append([row.title, *cells])
    return lines


def _values(samples: Samples, name: str, row: Row) -> list[float]:
    """A row's value in each round; for added times the same round's direct one is taken off."""
    values = []
    for index, sample in enumerate(samples.get(name, [])):
        value = sample.values.get(row.key, math.nan)
        if row.over_direct and name != "direct":
            direct = samples.get("direct", [])
            value -= direct[index].values[row.key] if index < len(direct) else math.nan
        values.append(value)
    return [value for value in values if not math.isnan(value)]


def _median(values: Iterable[float]) -> float:
    values = list(values)
    return statistics.median(values) if values else math.nan


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}" if not math.isnan(value) else _NOTHING


def workers(samples: Samples) -> str:
    """What a second worker brings."""
    lines = []
    for name in OURS:
        one, two, most = (
            _median(sample.values.get(key, math.nan) for sample in samples.get(name, []))
            for key in ("one_worker", "two_workers", "two_workers_most")
        )
        if one > 0:
            lines.append(
                f"{name}, 32 callers: one worker {one:,.0f} requests/s, "
                f"two {two:,.0f} ({two / one:.2f}x; the cores, which mock and load generator "
                f"share, have time for {most:,.0f})"
            )
    return "\n\n".join(lines)


def losses(samples: Samples) -> list[str]:
    """Every answer that was wrong, cut or not finished in time, by target, row and reason."""
    lines = []
    for name, rounds in samples.items():
        total: Counter[str] = sum((sample.losses for sample in rounds), Counter())
        lines += [f"{name}: {why}: {count:,}" for why, count in total.most_common()]
    return lines


def plain(lines: Sequence[Sequence[str]]) -> str:
    """A table for the screen."""
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """The same for a page."""
    rule = ["---", *["---:"] * (len(lines[0]) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])


def page(samples: Samples, effort: Effort, *, took_s: float, load_before: float) -> str:
    """`RESULTS.md`, but for the section that `make bench-scale` writes."""
    lost = losses(samples) or ["none: every answer was whole, right and in time"]
    parts = [
        "# Benchmark results",
        _EXPLANATION,
        facts(samples, rounds=effort.rounds, took_s=took_s, load_before=load_before),
        markdown(table(samples, effort)),
        workers(samples),
        "## Answers that were wrong, cut or not finished in time",
        "\n".join(f"- {line}" for line in lost),
        "## Lowest and highest round",
        markdown(spread(samples, effort)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def facts(names: Iterable[str], *, rounds: int, took_s: float, load_before: float) -> str:
    """When, where and with what these targets were measured."""
    found = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": _machine(),
        "load average before": f"{load_before:.2f}",
        "versions": ", ".join(_versions(names)),
        "took": f"{took_s:.0f} s, {rounds} rounds",
    }
    return "\n".join(f"- {name}: {fact}" for name, fact in found.items())


def with_scale(page: str, section: str) -> str:
    """The page with this section at its end, in place of the one that it has."""
    return page.partition(f"\n{SCALE}\n")[0] + (f"\n{section}" if section else "")


def scale_of(page: str) -> str:
    """The section that `make bench-scale` has written; "": none."""
    _, heading, rest = page.partition(f"\n{SCALE}\n")
    return heading.lstrip("\n") + rest


def _machine() -> str:
    model = _field("/proc/cpuinfo", "model name") or platform.machine()  # arm64 tells no name
    memory_gb = int(_field("/proc/meminfo", "MemTotal").removesuffix("kB")) / 1024**2
    cores = len(os.sched_getaffinity(0))
    machine = f"{model}, {cores} cores, {memory_gb:.0f} GB, Linux {platform.release()}"
    with suppress(OSError):  # a virtual machine's core that halts at once is slow to wake
        if (_CPUIDLE / "current_governor").read_text().strip() == "haltpoll":
            poll_us = int(_HALT_POLL.read_text()) // 1000
            machine += f"; an idle core polls for up to {poll_us} us before it halts"
    return machine


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _versions(names: Iterable[str]) -> list[str]:
    known: dict[str, Callable[[], str]] = {
        "poolproxy": lambda: f"poolproxy {_output('git', 'describe', '--always', '--dirty')}",
        "nginx": lambda: _output(find_nginx() or "nginx", "-v").rpartition(": ")[2],
        "litellm": lambda: f"litellm {LITELLM}",
        "vllm-router": lambda: f"vllm-router {VLLM_ROUTER}",
        "portkey": lambda: f"portkey {PORTKEY} (node {_output('node', '--version')})",
        "redis": lambda: _output("redis-server", "--version").partition(" sha=")[0],
    }
    found = [f"Python {platform.python_version()} ({Path(sys.executable).name})"]
    found += [f"{name} {importlib.metadata.version(name)}" for name in _LIBRARIES]
    return found + [known[name]() for name in names if name in known]


def _output(*argv: str) -> str:
    """What a command says, on either stream; nginx tells its version on standard error."""
    if shutil.which(argv[0]) is None:
        return "of unknown version"
    run = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, check=False)
    return "of unknown version" if run.returncode else (run.stdout or run.stderr).strip()
