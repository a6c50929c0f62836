"""The configuration: `load_config` makes an immutable `Config` of a file.

document   the file's bytes -> a tree of plain values
schema     the file's keys, types, limits, defaults
check      tree + environment + schema -> `schema.File`, every problem noted
resolve    `schema.File` -> `Config`: one client per key
secrets    all secrets of a `Config`, and how they are hidden in what leaves
source     what a `Config` is read from, and whether it has changed
"""

from __future__ import annotations

from .config import Caller, ClientConfig, Config, Model, changes, is_loopback
from .load import BUILT_IN, default_path, load_config, write_built_in
from .schema import json_schema
from .secrets import Secret, Secrets, digest_of, is_secret_name, mask
from .source import SERVED, SETTLE_S, ConfigSource, Seen, stamp
from .wording import count, in_ascii, names

__all__ = [
    "BUILT_IN", "SERVED", "SETTLE_S", "Caller", "ClientConfig", "Config", "ConfigSource", "Model",
    "Secret", "Secrets", "Seen", "changes", "count", "default_path", "digest_of", "in_ascii",
    "is_loopback", "is_secret_name", "json_schema", "load_config", "mask", "names", "stamp",
    "write_built_in",
]  # fmt: skip
