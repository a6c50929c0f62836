"""Where a configuration comes from, and whether that has changed since it was read.

Reads files, and knows nothing of who runs on the configuration.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from ..errors import ConfigError

if TYPE_CHECKING:
    from .config import Config

# Device, inode, time of change in ns, and size. None: there is no such file.
Stamp: TypeAlias = "tuple[int, int, int, int] | None"

Seen: TypeAlias = dict[str, Stamp]  # by path, each file that was looked at, as it was then

# A file must stay as it is for so long before it is read: whoever writes it may not be done.
SETTLE_S = 0.25


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

    @classmethod
    def of(cls, config: Config) -> ConfigSource:
        """The source of what cannot be read again."""
        return cls(lambda _: config)

    def read(self) -> Config:
        """Read the configuration again. Raises ConfigError; then `config` stays as it was."""
        seen: Seen = {}
        try:
            self.config = self._read(seen)
            self.problems = ()
        except ConfigError as error:
            self.problems = error.problems
            raise
        finally:
            self.seen = seen
        return self.config

    def has_changed(self) -> bool:
        """Whether files are not as they were read, and stay so for SETTLE_S: then it blocks."""
        stamps = self._stamps()
        if stamps == self.seen:
            return False
        time.sleep(SETTLE_S)
        return stamps == self._stamps()

    def _stamps(self) -> Seen:
        return {path: stamp(path) for path in self.seen}


# What a server whose settings are ours serves. Its master reads it again before each fork.
SERVED: list[ConfigSource] = []
