"""Bytes that are no YAML, or none that this program takes: one clear line each."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.config import document, load_config
from proxy.errors import ConfigError

SECRET = "sk-or-v1-0123456789b780"
BAD_TAG = "a tag or a number that is not understood"


@pytest.mark.long
@pytest.mark.parametrize(
    ("data", "problems"),
    [
        (b"port: 1\n\thost: x", ["line 2, column 1: a tab: YAML is indented with spaces"]),
        (b"a:\n  \tb: 1", ["line 2, column 3: a tab: YAML is indented with spaces"]),
        (b"port: 1\nhost: [a", ["line 2, column 9: not YAML: expected ',' or ']', "
                                "but got '<stream end>'"]),
        (b"a:\n  - b: 1\n   c: 2", ["line 3, column 4: not YAML: expected <block end>, but found "
                                    "'<block mapping start>': look at its indentation"]),
        (b"a: b: c", ["line 1, column 5: not YAML: mapping values are not allowed here"]),
        (b"a: *" + SECRET.encode(), ["line 1, column 4: not YAML: found undefined alias …"]),
        (b"a: 1\n---\nb: 2", ["line 2, column 1: not YAML: but found another document"]),
        (b"a: 1\nb: \x01", ["line 2: a control character"]),
        (b"a: 1\nb: \xff", ["line 2: expected UTF-8"]),
        (b"[" * 1500, ["nested too deeply"]),
        (b"a: &x [*x]", ["line 1: an alias of what it is inside of"]),
        (b"a: &x {<<: *x}", ["line 1: an alias of what it is inside of"]),
        (b"? [a]\n: b", ["line 1: expected a string as key"]),
        (b"<<: 5", ["line 1: expected a mapping to merge"]),
        (b"a: !x 5\nb: !!int x\nc: !!binary aaaa\nd: 0b_",
         [f"line {number}: {BAD_TAG}" for number in (1, 2, 3, 4)]),
        (
            b"a: 1\nb: {c: 1, c: 2}\na: 3\na: 4",
            [
                "line 2: a key that line 2 has already: c",
                "line 3: a key that line 1 has already: a",
                "line 4: a key that line 1 has already: a",
            ],
        ),
    ],
)  # fmt: skip
def test_unreadable_text_is_named_with_its_line(data: bytes, problems: list[str]) -> None:
    """Syntax, tabs, encodings, keys that stand twice; no excerpt, which could hold a key."""
    with pytest.raises(ConfigError) as caught:
        document.parse(data)
    assert list(caught.value.problems) == problems


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("\ufeffa: 1", {"a": 1}),
        ("", None),
        ("a: 2026-11-22\nb: =\nc: !!str 5\nd: '5'", {"a": "2026-11-22", "b": "=", "c": "5",
                                                     "d": "5"}),
        ("a: yes\nb: ~\nc: 1.5", {"a": True, "b": None, "c": 1.5}),
        ("1: a\ntrue: b", {"1": "a", "true": "b"}),
        ("a: &x {k: 1, l: 1}\nb: {<<: *x, k: 2}\nc: *x", {"a": {"k": 1, "l": 1},
                                                      "b": {"k": 2, "l": 1},
                                                      "c": {"k": 1, "l": 1}}),
        ("a: [&x {k: 1}, &y {k: 2, l: 2}]\nb: {<<: [*x, *y]}", {"a": [{"k": 1}, {"k": 2, "l": 2}],
                                                               "b": {"k": 1, "l": 2}}),
        ("a: [${A}, ${B:-x, y: [z] #?}]\nb: {c: ${D}, d: 1}", {"a": ["${A}", "${B:-x, y: [z] #?}"],
                                                             "b": {"c": "${D}", "d": 1}}),
        ("a: ${B:-x # y} # ${C}", {"a": "${B:-x # y}"}),
    ],
)  # fmt: skip
def test_yaml_becomes_plain_values(text: str, tree: object) -> None:
    """Dates are strings, keys are strings, references need no quotes."""
    assert document.parse(text.encode()) == tree


@pytest.mark.parametrize("name", ["missing.yaml", ".", "a\0b"])
def test_file_that_cannot_be_read_is_a_config_error(name: str, tmp_path: Path) -> None:
    """Missing, a directory, no path at all: a reason and no traceback."""
    path = os.path.join(tmp_path, name)
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ={})
    (problem,) = caught.value.problems
    assert problem.startswith(f"{path}: cannot be read: ")


@settings(max_examples=200)
@given(st.text(st.sampled_from("ab:- \n\t[]{},#&*!|>'\"%@`?<=~$0.\\\u2028\ufeff"), max_size=40))
def test_any_text_is_read_or_unreadable(text: str) -> None:
    """The parser's own errors, whatever their class, do not come through."""
    assert not any("\n" in problem for problem in problems_of(text.encode()))


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_unreadable(data: bytes) -> None:
    """Encodings too."""
    assert not any("\n" in problem for problem in problems_of(data))


def problems_of(data: bytes) -> tuple[str, ...]:
    try:
        document.parse(data)
    except ConfigError as unreadable:
        return unreadable.problems
    return ()


def test_values_leave_nothing_to_the_collector() -> None:
    """A configuration has hundreds of them, and is read again and again."""
    gc.disable()
    gc.freeze()  # what is there already is not looked at
    try:
        assert [document.plain_value(text) for text in ("12", "1.5", "~", "x")] == [
            12,
            1.5,
            None,
            "x",
        ]
        assert gc.collect() < 10
    finally:
        gc.unfreeze()
        gc.enable()
