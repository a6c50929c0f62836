"""`load_config`: makes a `Config` of a file or a mapping, or one error with every problem."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from . import cliproxyapi, document
from .check import Notes, check
from .config import Config
from .resolve import resolve
from .source import Seen, stamp
from .wording import kind_of

PATH_VARIABLE = "PROXY_CONFIG"
DEFAULT_PATH = "config.yaml"

# Parts of LiteLLM's file (docs.litellm.ai/docs/proxy/config_settings, read 2026-11).
_LITELLM = frozenset(
    {"model_list", "litellm_params", "litellm_settings", "router_settings", "general_settings"}
)

# The built-in default, a copy of the repository's config.yaml, and what stands for its path.
_DEFAULT = Path(__file__).with_name("default.yaml")
BUILT_IN = "built-in default"


def default_path() -> str:
    """Where the configuration is if nobody says where."""
    return os.environ.get(PATH_VARIABLE) or DEFAULT_PATH


def load_config(
    path: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    seen: Seen | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    or_built_in: bool = False,
) -> Config:
    """Read, fill in, check and resolve the configuration; raises `ConfigError` with all problems.

    `path` is that of a file, or a mapping of the file's shape; None means `$PROXY_CONFIG`, else
    `./config.yaml`. `${NAME}` is looked up in `environ`. The text from there is a string where a
    string is wanted; a number or boolean is read as YAML reads it, and empty means left out.
    `or_built_in`: where nothing names a file and there is no `./config.yaml`, the built-in default.
    `seen` gets all files on which the result depends, as they were before they were read.
    """
    seen = {} if seen is None else seen
    if isinstance(path, Mapping):
        return _from_tree(path, Notes("", environ, seen))
    named = path or environ.get(PATH_VARIABLE)
    where = os.fspath(named or DEFAULT_PATH)
    seen[where] = stamp(where)
    if or_built_in and not named and not os.path.lexists(where):
        return _from_tree(document.read(_DEFAULT), Notes(BUILT_IN, environ, seen))
    try:
        tree = document.read(where)
    except ConfigError as unreadable:
        problems = [f"{where}: {problem}" for problem in unreadable.problems]
        if path is None and not os.path.lexists(where):
            hint = f"${PATH_VARIABLE} may name another file, and `poolproxy init` writes one"
            problems = [f"{problems[0]} ({hint})"]
        raise ConfigError(problems) from unreadable
    return _from_tree(tree, Notes(where, environ, seen))


def write_built_in(path: str | None) -> str:
    """Write the built-in default to a new file that only its owner may read, as keys will be in it.

    Returns its path, which is `load_config`'s where `path` is None; raises OSError.
    """
    where = path or default_path()
    with open(os.open(where, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(_DEFAULT.read_bytes())
    return where


def _from_tree(tree: Any, notes: Notes) -> Config:
    tops = [top for top in (tree if isinstance(tree, list) else [tree]) if isinstance(top, Mapping)]
    if found := dict.fromkeys(key for top in tops for key in top if key in _LITELLM):
        said = "a file of LiteLLM's: docs/migrating.md says what becomes of it"
        notes.problem(", ".join(found), said)
    elif not isinstance(tree, Mapping):
        notes.problem("", f"expected a mapping of settings, got {kind_of(tree)}")
    else:
        file = check(tree, notes)
        for text in cliproxyapi.warnings(notes.ignored):
            notes.warning("", text)
        config = resolve(file, notes)
        if file.state and find_spec("redis") is None:  # which nobody else needs
            notes.problem("state", "pip install 'poolproxy[redis]'")
    if notes.problems:
        raise ConfigError(notes.problems)
    return config
