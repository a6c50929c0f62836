"""The configuration: `load_config` makes a `Config`, immutable from then on.

document   the file's bytes -> a tree of plain values
variables  ${NAME} -> the environment's value
layout     the file's keys, types, limits, defaults
check      tree + layout -> `layout.File`, every problem noted
resolve    `layout.File` -> `Config`: one client per key
"""

from __future__ import annotations

from .load import load_config
from .schema import json_schema
from .secret import Secret, mask
from .settings import CallerKey, ClientConfig, Config, Model, is_loopback

__all__ = [
    "CallerKey",
    "ClientConfig",
    "Config",
    "Model",
    "Secret",
    "is_loopback",
    "json_schema",
    "load_config",
    "mask",
]
