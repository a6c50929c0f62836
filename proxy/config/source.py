"""Where a configuration comes from, and whether that has changed since it was read.

Reads files, and knows nothing of who runs on the configuration.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from ..errors import ConfigError

if TYPE_CHECKING:
    from .config import Config

# Device, inode, time of change in ns, and size. None: there is no such file.
Stamp: TypeAlias = "tuple[int, int, int, int] | None"

# A file must stay as it is for so long before it is read: whoever writes it may not be done.
SETTLE_S = 0.25

# By path, each file that was looked at, as it was then.
Seen: TypeAlias = dict[str, Stamp]


def stamp(path: str | os.PathLike[str]) -> Stamp:
    """What tells a file from itself when it is rewritten, or replaced, at either end of a link."""
    try:
        facts = os.stat(path)
    except (OSError, ValueError):
        return None
    return facts.st_dev, facts.st_ino, facts.st_mtime_ns, facts.st_size


class ConfigSource:
    """A configuration, and what it is read from. Reads it when made; raises ConfigError.

    `read` notes in its argument what it looks at, before it does, and raises ConfigError. For one
    thread at a time.
    """

    def __init__(self, read: Callable[[Seen], Config]) -> None:
        self.problems: tuple[str, ...] = ()  # of the files as they are; `config` is an earlier one
        self._read = read
        self.seen: Seen = {}
        self.config = read(self.seen)
        self._stamps = self.seen  # at the last look
        self._same_since = -math.inf

    @classmethod
    def of(cls, config: Config) -> ConfigSource:
        """The source of what cannot be read again."""
        return cls(lambda _: config)

    def read(self) -> Config:
        """Read the configuration again. Raises ConfigError; then `config` stays as it was."""
        seen: Seen = {}
        try:
            self.config = self._read(seen)
        except ConfigError as error:
            self.problems = error.problems
            raise
        else:
            self.problems = ()
            return self.config
        finally:
            self.seen = seen

    def has_changed(self) -> bool:
        """Whether any of the files is not as it was when it was read."""
        return self.seen != {path: stamp(path) for path in self.seen}

    @property
    def is_settling(self) -> bool:
        """Whether any had changed at the last look."""
        return self._stamps != self.seen

    def is_due(self, now: float) -> bool:
        """Whether files have changed, and were the same at all looks for SETTLE_S until now.

        `now` is a monotonic moment.
        """
        stamps = {path: stamp(path) for path in self.seen}
        if stamps != self._stamps:
            self._stamps, self._same_since = stamps, now
        return self.is_settling and now >= self._same_since + SETTLE_S


# What a server whose settings are ours serves. Its master reads it again before each fork.
SERVED: list[ConfigSource] = []
