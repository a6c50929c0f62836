"""`python -m bench`: the table; `growth`: what grows with what; `scale`: what `state` costs."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from bench import growth, peers, report, scale
from bench.limits import raise_open_files
from bench.processes import BenchError, mock_upstream, tls_upstream
from bench.rows import FULL, QUICK, Effort, Sample, measure_target
from bench.targets import available

_RESULTS = Path(__file__).with_name("RESULTS.md")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("what", nargs="?", choices=["table", "growth", "scale"], default="table")
    parser.add_argument(
        "--targets", help="comma-separated; default: all that this machine has", metavar="NAMES"
    )
    parser.add_argument(
        "--peers", default="", help=f"install and add: {', '.join(peers.NAMES)}", metavar="NAMES"
    )
    parser.add_argument("--rounds", type=int, help="instead of three")
    parser.add_argument(
        "--quick", action="store_true", help="run everything once, briefly; the numbers say little"
    )
    parser.add_argument("--full", action="store_true", help="growth: up to the millionth request")
    parser.add_argument(
        "--out", type=Path, help="where the page goes; default: bench/RESULTS.md, none if quick"
    )
    return parser.parse_args()


def main() -> int:
    options = _arguments()
    for number in (signal.SIGINT, signal.SIGTERM):  # both unwind, so that all is ended
        signal.signal(number, signal.default_int_handler)
    raise_open_files()
    try:
        if options.what == "growth":
            return growth.run(rounds=options.rounds or 3, quick=options.quick, million=options.full)
        if options.what == "scale":
            return scale.run(options.out or _RESULTS, rounds=options.rounds, quick=options.quick)
        return _table(options)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nbench: stopped; all that it had started has ended", file=sys.stderr)
        return 130


def _table(options: argparse.Namespace) -> int:
    effort = QUICK if options.quick else FULL
    if options.rounds:
        effort = Effort(**(vars(effort) | {"rounds": options.rounds}))
    peer_names = _names(options.peers)
    for name in peer_names:
        peers.install(name)
    names = (_names(options.targets) if options.targets else available()) + peer_names
    start, load_before = time.monotonic(), os.getloadavg()[0]
    samples = _rounds(names, effort)
    took_s = time.monotonic() - start
    print(report.plain(report.table(samples, effort)))
    print(f"\n{report.workers(samples)}".rstrip())
    for line in report.losses(samples):
        print(f"not whole, right and in time: {line}")
    print(f"{took_s:.0f} s")
    out = options.out or (None if options.quick else _RESULTS)
    if out:
        page = report.page(samples, effort, took_s=took_s, load_before=load_before)
        kept = report.scale_of(out.read_text()) if out.exists() else ""
        out.write_text(report.with_scale(page, kept))
    return 0


def _names(text: str) -> list[str]:
    return [name for name in text.replace(",", " ").split() if name]


def _rounds(names: list[str], effort: Effort) -> report.Samples:
    """Every target in every round, one after the other, so that a slow minute meets them all."""
    samples: dict[str, list[Sample]] = {name: [] for name in names}
    with mock_upstream() as upstream, tls_upstream() as tls:
        for number in range(effort.rounds):
            for name in names:
                print(f"round {number + 1} of {effort.rounds}: {name}", file=sys.stderr)
                samples[name].append(measure_target(name, upstream, tls, effort))
    return samples


if __name__ == "__main__":
    sys.exit(main())
