"""The open-file limit, which thousands of streams need raised."""

from __future__ import annotations

import resource


def raise_open_files() -> None:
    """Raise the soft limit to the hard one, for this process and those it starts."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
