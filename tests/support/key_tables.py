"""The tables in `docs/configuration.md`, made of `proxy.config.schema` by `make readme`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import yaml
from msgspec import inspect

from proxy.config.check import expected, unwrap
from proxy.config.schema import File

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
HEAD = "| key | default | value | |\n|---|---|---|---|\n"
TABLES = re.compile(
    re.escape(HEAD) + r"(?P<top>(?:\|.*\n)+)(?P<between>[^|]+)" + re.escape(HEAD) + r"(?:\|.*\n)+"
)


def renewed(page: str) -> str:
    """`page` with the tables as they have to be: of the file, and of what its lists hold."""
    entries: dict[str, list[str]] = {}  # those that have a key in common, by its row
    for section in sections(File):
        for name, cells in rows(section):
            entries.setdefault(f"`{name}` | {cells}", []).append(noun(section))
    top = "".join(f"| `{name}` | {cells} |\n" for name, cells in rows(File))
    below = "".join(f"| {', '.join(nouns)}: {row} |\n" for row, nouns in entries.items())
    made, count = TABLES.subn(lambda old: f"{HEAD}{top}{old['between']}{HEAD}{below}", page)
    assert count == 1, "the page has not its two tables of keys"
    return made


def rows(section: type[msgspec.Struct]) -> Iterator[tuple[str, str]]:
    """The name of each key and the cells behind it; instead of a section, the keys in it."""
    for field in fields_of(section):
        bare, rules = unwrap(field.type)
        if isinstance(bare, inspect.StructType):
            if getattr(bare.cls, "shorthand", ""):
                yield field.encode_name, f"| string or mapping | {rules['description']}"
            for name, cells in rows(bare.cls):
                yield f"{field.encode_name}: {name}", cells
        else:
            text = f"{rules.get('unit', '')} {rules['description']}".strip()
            yield field.encode_name, f"{default_of(field)}| {words(bare, rules)} | {text}"


def words(bare: inspect.Type, rules: dict[str, Any]) -> str:
    """What a value has to be."""
    if isinstance(bare, inspect.DictType):
        return "mapping"
    if not isinstance(bare, inspect.VarTupleType) or "expected" in rules:
        return re.sub("^an? ", "", expected(bare, rules))
    if not isinstance(bare.item_type, inspect.StructType):
        return "list"
    entry = bare.item_type.cls
    short = "string or " if getattr(entry, "shorthand", "") else ""
    return f"list: {short}{noun(entry)}"


def sections(section: type[msgspec.Struct]) -> list[type[msgspec.Struct]]:
    """The kinds of entries that its lists hold: each once, and before those of its own lists."""
    found: dict[type[msgspec.Struct], None] = {}
    for field in fields_of(section):
        bare, _ = unwrap(field.type)
        if isinstance(bare, inspect.VarTupleType) and isinstance(
            bare.item_type, inspect.StructType
        ):
            found.update(dict.fromkeys([bare.item_type.cls, *sections(bare.item_type.cls)]))
    return list(found)


def fields_of(section: type[msgspec.Struct]) -> tuple[inspect.Field, ...]:
    """The keys of a section, as they are declared."""
    info = inspect.type_info(section)
    assert isinstance(info, inspect.StructType)
    return info.fields


def noun(section: type) -> str:
    """What an entry is called in the tables."""
    return section.__name__.removesuffix("Entry").lower()


def default_of(field: inspect.Field) -> str:
    """As it would stand in the file, with a space behind it; nothing where it is nothing."""
    if field.required:
        return "required "
    default: Any = None if field.default is msgspec.NODEFAULT else field.default
    if isinstance(default, tuple):
        default = [getattr(entry, getattr(entry, "shorthand", ""), entry) for entry in default]
    if default and unwrap(field.type)[1].get("is_bare"):
        (default,) = default
    return f"`{yaml_text(default)}` " if default not in (None, "", []) else ""


def yaml_text(value: Any) -> str:
    """A plain value, in one line."""
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text()))
