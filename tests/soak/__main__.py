"""`make soak`: the gateway under everything at once; status 1 if anything went wrong.

python -m tests.soak [--seconds 600] [--seed N] [--workers 2] [--callers 40] [--state]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys

from tests.soak.soak import Soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    seconds = float(os.environ.get("SOAK_SECONDS", "600"))
    parser.add_argument("--seconds", type=float, default=seconds)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--callers", type=int, default=40)
    parser.add_argument("--state", action="store_true", help="one pool, by a Redis with trouble")
    options = parser.parse_args()
    print(f"soak of {options.seconds:g} s, seed {options.seed}", flush=True)
    soak = Soak(
        options.seconds,
        options.seed,
        workers=options.workers,
        callers=options.callers,
        state=options.state,
    )
    soak.run()
    print(json.dumps(soak.figures, indent=2))
    for problem in soak.problems[:50]:
        print(f"PROBLEM: {problem}")
    print(f"{len(soak.problems)} problems")
    return 1 if soak.problems else 0


if __name__ == "__main__":
    sys.exit(main())
