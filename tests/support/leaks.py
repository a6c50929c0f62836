"""What no output of the whole suite may hold: a key (unless masked), a lost lease, a dead worker.

Keys in tests begin as those of real providers do, so that none has to be registered to be found.
"""

from __future__ import annotations

import re

# Of a mask (`sk-...b780`) too few characters stand together.
KEY = re.compile(r"(?<![A-Za-z0-9])(?:sk-|AIza|gsk_|hf_|xai-)[A-Za-z0-9_-]{9,}")


def key_in(text: str) -> str | None:
    """The first key in `text`, with what stands before it."""
    found = KEY.search(text)
    return text[max(0, found.start() - 200) : found.end()] if found else None


# gunicorn 27.0.1, arbiter.py: what it logs when a worker crashes, hangs, or is killed. It starts
# another in its place, so that callers may notice nothing.
DEATH = re.compile(
    r"Exception in worker|exited with code|was sent SIG|WORKER TIMEOUT|Unhandled exception in main"
)


def death_in(text: str) -> str | None:
    """The first line that tells of a worker's death."""
    return next((line for line in text.splitlines() if DEATH.search(line)), None)
