"""What the references in a JSON Schema point to: pointers, anchors and `$id`s, all within it.

Nothing is ever fetched. The standards are JSON Schema 2020-12 (core, 8.2) and RFC 6901.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple
from urllib.parse import unquote


class Target(NamedTuple):
    """A schema that was referred to, and the one that `#` means there."""

    schema: Mapping[str, Any]
    base: Mapping[str, Any]


class References:
    """The references of one schema, whose names are collected when the first is asked for."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root

    def target(self, reference: object, base: Mapping[str, Any]) -> Target | None:
        """What it points to in a place where `#` means `base`; None: nothing in this schema."""
        if not isinstance(reference, str):
            return None
        address, _, fragment = reference.partition("#")
        if address:
            base = self._named.get(address) or self._named.get(address.rpartition("/")[2]) or {}
        if fragment and not fragment.startswith("/"):
            found: object = self._named.get(f"#{unquote(fragment)}")
        else:
            steps = unquote(fragment).split("/")[1:]
            found = pointed_at(base, steps)
            if found is None and not address:  # many leave out that `$id` begins anew
                found = pointed_at(self._root, steps)
        if isinstance(found, bool):
            found = {} if found else {"enum": []}
        if not isinstance(found, dict) or (not found and not fragment and address):
            return None
        return Target(found, base)

    @cached_property
    def _named(self) -> dict[str, Mapping[str, Any]]:
        """The schemas that have a name: by `$id`, or by `#` and anchor."""
        named: dict[str, Mapping[str, Any]] = {}
        for schema in _all_below(self._root):
            if isinstance(address := schema.get("$id"), str):
                named.setdefault(address.partition("#")[0], schema)
                named.setdefault(address.rpartition("/")[2], schema)
            for key in ("$anchor", "$dynamicAnchor"):
                if isinstance(schema.get(key), str):
                    named.setdefault(f"#{schema[key]}", schema)
        return named


def pointed_at(schema: object, steps: Iterable[str]) -> object:
    """What the steps of a JSON Pointer lead to; None: nothing."""
    for step in steps:
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(schema, dict):
            schema = schema.get(key)
        elif isinstance(schema, list) and key.isdecimal() and int(key) < len(schema):
            schema = schema[int(key)]
        else:
            return None
    return schema


def _all_below(schema: object) -> Iterator[Mapping[str, Any]]:
    left: list[object] = [schema]
    while left:
        found = left.pop()
        if isinstance(found, dict):
            yield found
            left += found.values()
        elif isinstance(found, list):
            left += found
