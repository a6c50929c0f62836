"""The worker as gunicorn knows it: `worker_class = "proxy.worker.Worker"`.

That of `server.worker` knows the insides of some versions of gunicorn. Where they are others, this
is gthread's own, and the log says so.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import gunicorn  # type: ignore[import-untyped]
from gunicorn.workers import gthread  # type: ignore[import-untyped]

from .server import worker

__all__ = ["Worker"]

# The versions that are known, as `setup.cfg` says: the first, up to the second.
GUNICORNS = (27, 0, 1), (28,)

# The attributes of gthread's workers and connections that ours reads, as gthread itself does.
_READ = ("buf", "data_ready", "initialized", "nr_conns", "parser", "poller", "tpool", "unreader")


def _unknown() -> str | None:
    """What our worker does not know of this gunicorn; None if it knows all that it uses."""
    if not GUNICORNS[0] <= gunicorn.version_info < GUNICORNS[1]:
        return "its version"
    code = Path(gthread.__file__).read_text()
    if missing := [name for name in _READ if not re.search(rf"\.{name}\b", code)]:
        return f"there is no `{missing[0]}`"
    try:
        for name, ours in vars(worker.Worker).items():
            if inspect.isfunction(ours):
                theirs = getattr(gthread.ThreadWorker, name, None)
                expected = None if name.startswith("_") else inspect.getfullargspec(ours).args
                if (theirs and inspect.getfullargspec(theirs).args) != expected:
                    return f"`ThreadWorker.{name}`"
        worker.in_our_terms(Exception(), is_read=False)
    except (AttributeError, TypeError) as error:
        return str(error)
    return None


class _PlainWorker(gthread.ThreadWorker):  # type: ignore[misc]
    """gthread as it is: better than no worker, where gunicorn's insides are unknown."""

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """In the master, once, when it has started."""
        known = [".".join(map(str, version)) for version in GUNICORNS]
        log.warning(
            "proxy.worker.Worker does not know gunicorn %s (%s) and serves as plain gthread, whose"
            " threads wait for slow callers: install gunicorn >= %s, < %s",
            *(gunicorn.__version__, _DIFFERENCE, *known),
        )
        super().check_config(cfg, log)


_DIFFERENCE = _unknown()
Worker = _PlainWorker if _DIFFERENCE else worker.Worker
