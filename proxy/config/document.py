"""Reads the bytes of a file as a tree of plain values, and says where they are no YAML.

This is YAML 1.1 as PyYAML reads it, with three differences: dates are strings, a mapping must not
have a key twice, and `${NAME}` needs no quotes inside `[...]` and `{...}`.
"""

from __future__ import annotations

import os
import re
from typing import Any

import yaml
from yaml.constructor import SafeConstructor
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.resolver import Resolver

from ..errors import ConfigError
from .wording import shown_key

Tree = Any  # None, bool, int, float, str, or a list or dict[str, ...] of them

REFERENCE = re.compile(
    r"\$\{(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^{}\n]*))?|file:(?P<file>[^{}\n]+))\}"
)

# A reference's characters that would end a plain scalar travel through the parser as code points
# of the last private-use plane, one for one, so that columns stay true.
_HIDDEN = {ord(character): chr(0x10FF00 + ord(character)) for character in "{}[],:#?"}
_SHOWN = {ord(hidden): chr(character) for character, hidden in _HIDDEN.items()}

# A word that PyYAML quotes from the text; not the characters and token names that it quotes too.
_QUOTED_WORD = re.compile(r"""(['"])[^\s<'"][^\s'"]{3,}\1""")

_TAG = "tag:yaml.org,2002:"
_STRINGS = frozenset(_TAG + name for name in ("str", "timestamp", "value", "merge"))
_PLAIN = frozenset(_TAG + name for name in ("null", "bool", "int", "float"))


def read(path: str | os.PathLike[str]) -> Tree:
    """Read the tree in the file at `path`; raises ConfigError."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except (OSError, ValueError) as error:  # the latter for a path with a NUL
        why = getattr(error, "strerror", None) or error
        raise ConfigError([f"cannot be read: {why}"]) from error
    return parse(data)


def parse(data: bytes) -> Tree:
    """Read the tree in `data`; raises ConfigError with the line of each problem."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"line {line}: expected UTF-8"]) from error
    hidden = REFERENCE.sub(lambda reference: reference[0].translate(_HIDDEN), text)
    try:
        node = yaml.compose(hidden, Loader=yaml.SafeLoader)
        builder = _Builder()
        tree = builder.build(node) if node else None
    except yaml.YAMLError as error:
        # Not `from error`: its text holds an excerpt, and a traceback would show that.
        raise ConfigError([_syntax_problem(error, text)]) from None
    except RecursionError as error:
        raise ConfigError(["nested too deeply"]) from error
    if builder.problems:
        raise ConfigError(builder.problems)
    return tree


def plain_value(text: str) -> Tree:
    """The value of `text` as a plain scalar: a number, a boolean, None or a string."""
    tag = Resolver().resolve(ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    if tag not in _PLAIN:
        return text
    try:
        return SafeConstructor().construct_object(ScalarNode(tag, text))
    except ValueError:  # `0b_`, or more digits than Python converts
        return text


class _Builder:
    """Turns composed nodes into values; a node that was given an anchor is built once."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._built: dict[Node, Tree] = {}  # None: it is being built

    def build(self, node: Node) -> Tree:
        if isinstance(node, ScalarNode):
            if node.tag in _STRINGS:
                return node.value.translate(_SHOWN)
            value = plain_value(node.value) if node.tag in _PLAIN else node.value
            if isinstance(value, str):
                self._add(node, "a tag or a number that is not understood")
            return value
        if node not in self._built:
            self._built[node] = None
            if isinstance(node, MappingNode):
                self._built[node] = self._mapping(node)
            else:
                self._built[node] = [self.build(item) for item in node.value]
        elif self._built[node] is None:
            self._add(node, "an alias of what it is inside of")
        return self._built[node]

    def _mapping(self, node: MappingNode) -> dict[str, Tree]:
        own: dict[str, Tree] = {}
        merged: dict[str, Tree] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                merged = {**self._merged(value_node), **merged}
            elif not isinstance(key_node, ScalarNode):
                self._add(key_node, "expected a string as key")
            elif (key := key_node.value.translate(_SHOWN)) in own:
                self._add(key_node, f"a key that line {lines[key]} has already: {shown_key(key)}")
            else:
                lines[key] = _line(key_node)
                own[key] = self.build(value_node)
        return {**merged, **own}

    def _merged(self, node: Node) -> dict[str, Tree]:
        """What `<<: *anchor` or `<<: [*anchor, ...]` brings; the first of a list wins."""
        sources = node.value if isinstance(node, SequenceNode) else [node]
        merged: dict[str, Tree] = {}
        for source in sources:
            if isinstance(source, MappingNode):
                merged = {**(self.build(source) or {}), **merged}
            else:
                self._add(source, "expected a mapping to merge")
        return merged

    def _add(self, node: Node, problem: str) -> None:
        self.problems.append(f"line {_line(node)}: {problem}")


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _syntax_problem(error: yaml.YAMLError, text: str) -> str:
    """One line for PyYAML's several, without its excerpt, which could hold a key."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is None:  # the reader's: a character that no YAML text may hold
        position = getattr(error, "position", 0)
        return f"line {text.count(chr(10), 0, position) + 1}: a control character"
    where = f"line {mark.line + 1}, column {mark.column + 1}"
    lines = text.splitlines()
    if mark.line < len(lines) and lines[mark.line][: mark.column + 1].strip(" -").startswith("\t"):
        return f"{where}: a tab: YAML is indented with spaces"
    problem = _QUOTED_WORD.sub("…", getattr(error, "problem", None) or "")
    hint = ": look at its indentation" if "<block end>" in problem else ""
    return f"{where}: not YAML: {problem}{hint}"
