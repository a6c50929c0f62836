"""A key is declared once: what is held against it, shown of it and made of it agrees with that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec import inspect

from proxy.config import json_schema, load_config
from proxy.config.check import unwrap
from proxy.config.schema import File, Metrics, QuotaExceeded, Settings, State, Streaming
from tests.support.key_tables import fields_of, sections

SECTIONS: tuple[type[msgspec.Struct], ...] = (
    File,
    QuotaExceeded,
    State,
    Streaming,
    Metrics,
    *sections(File),
)
KEYS = [
    pytest.param(section, field, id=f"{section.__name__}.{field.encode_name}")
    for section in SECTIONS
    for field in fields_of(section)
]
DEFINITIONS = json_schema()["$defs"]


def nodes(node: Any) -> Iterator[dict[str, Any]]:
    """A node of the JSON Schema, and each that may stand in its place."""
    yield node
    for other in node.get("anyOf", ()):
        yield from nodes(other)


def test_every_section_is_in_the_json_schema() -> None:
    """And nothing else is."""
    assert set(DEFINITIONS) == {section.__name__ for section in SECTIONS}


@pytest.mark.parametrize("section", SECTIONS)
def test_json_schema_has_the_keys_of_a_section(section: type) -> None:
    """These, no others, and the same are required."""
    (shape,) = (each for each in nodes(DEFINITIONS[section.__name__]) if "properties" in each)
    assert list(shape["properties"]) == [field.encode_name for field in fields_of(section)]
    required = {field.encode_name for field in fields_of(section) if field.required}
    assert set(shape.get("required", ())) == required


@pytest.mark.parametrize(("section", "field"), KEYS)
def test_json_schema_says_what_is_declared(section: type, field: inspect.Field) -> None:
    """Default, range, and the help behind the unit; each key has a help."""
    (shape,) = (each for each in nodes(DEFINITIONS[section.__name__]) if "properties" in each)
    facts: dict[str, Any] = {}
    for node in nodes(shape["properties"][field.encode_name]):
        facts |= {key: value for key, value in node.items() if key not in ("anyOf", "type")}
    bare, rules = unwrap(field.type)
    if not isinstance(bare, inspect.StructType):
        unit = rules.get("unit")
        said = rules["description"]
        assert facts["description"] == (f"{unit} {said}" if unit else said)
    if field.default is not msgspec.NODEFAULT:
        assert facts["default"] == msgspec.json.decode(msgspec.json.encode(field.default))
    for here, there in (("ge", "minimum"), ("gt", "exclusiveMinimum"), ("le", "maximum")):
        assert facts.get(there) == getattr(bare, here, None)


@pytest.mark.parametrize("field", fields_of(Settings), ids=lambda field: field.encode_name)
def test_setting_goes_from_the_file_into_the_configuration(field: inspect.Field) -> None:
    """As it stands there, under a name that has the unit; left out it has its default."""
    bare, rules = unwrap(field.type)
    other: Any = "/run/it" if field.name in ("control_dir", "state_dir") else "::1"
    if isinstance(bare, (inspect.IntType, inspect.FloatType)):
        other = 7
    elif isinstance(bare, inspect.BoolType):
        other = not field.default
    elif isinstance(bare, inspect.LiteralType):
        other = next(value for value in bare.values if value != field.default)
    elif isinstance(bare, inspect.VarTupleType):
        other = ["10.0.0.0/8"] if field.name == "trusted_proxies" else ["https://app.example"]
    elif isinstance(bare, inspect.DictType):
        other = {"a": ["b"]}
    elif field.name == "state":
        other = {"url": "...", "name": "n"}  # as it is shown
    elif isinstance(bare, inspect.StructType):
        other = {key.encode_name: not key.default for key in bare.fields}
        other |= {key: 7.0 for key in other if key.endswith("seconds")}
    anything: Any = {"openai-compatibility": [{"name": "p", "base-url": "http://127.0.0.1/v1"}]}
    given = {"url": "unix:///s", "name": "n"} if field.name == "state" else other
    config = load_config({field.encode_name: given, **anything}, environ={})
    found = msgspec.to_builtins(getattr(config, field.name), enc_hook=str)
    assert msgspec.json.decode(msgspec.json.encode(found)) == other  # tuples are lists there
    default = {} if field.default is msgspec.NODEFAULT else field.default
    assert getattr(load_config({}, environ={}), field.name) == default
    suffix = {"s": "_s", "bytes": "_bytes"}.get(rules.get("unit", ""), "")
    assert field.name.endswith(suffix)
