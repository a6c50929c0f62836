"""Fills a tree in and checks it against `schema`; notes every problem, not only the first one.

It walks over the types that msgspec knows of the Structs. A value that does not fit becomes its
default or a blank, so that the rest is seen too; a result with `Notes.problems` must not be used.

In a string, `${NAME}` and `${NAME:-default}` stand for what is in the environment, `${file:PATH}`
for a file's text without the line ends behind it. As in a shell, the default holds if the variable
is unset or empty; it has no braces. A path may begin with a variable, such as systemd's
`$CREDENTIALS_DIRECTORY`. `$${` stands for `${`. Filling in comes after parsing: no value can add to
the structure.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, NoReturn, TypeAlias, cast

from msgspec import inspect

from .cliproxyapi import IGNORED
from .document import REFERENCE, plain_value
from .schema import File
from .secrets import Secret
from .source import Seen, stamp
from .wording import kind_of, shown, shown_key

_REFERENCE_OR_NOT = re.compile(rf"(?P<escaped>\$\$\{{)|{REFERENCE.pattern}|\$\{{")
_FIRST_VARIABLE = re.compile(r"^\$(\w+)")

_MAX_FILE_BYTES = 65_536  # no secret is larger, and no file that was meant for one

Rules: TypeAlias = dict[str, Any]  # what the annotations of a field say, by name


class Notes:
    """Collects problems and warnings, each with its path in the file."""

    def __init__(self, path: str, environ: Mapping[str, str], seen: Seen) -> None:
        self.path = path  # of the file; "": there is none
        self.environ = environ
        self.seen = seen  # gets the files that the configuration names
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self.ignored: dict[str, Any] = {}  # by path, what is at keys that are CLIProxyAPI's alone
        self.variables: dict[str, list[str]] = {}  # path: names filled in there
        self.files: dict[str, Secret] = {}  # what was filled in from files, by their own paths

    def problem(self, at: str, text: str) -> None:
        self.problems.append(": ".join(filter(None, [self.path or "config", at, text])))

    def warning(self, at: str, text: str) -> None:
        self.warnings.append(f"{at}: {text}" if at else text)

    def look_at(self, path: str) -> str:
        """Note what the file at `path` is like before it is read; returns the path from here."""
        path = os.path.join(os.path.dirname(self.path), os.path.expanduser(path))
        self.seen[path] = stamp(path)
        return path


class _Unfit(Exception):
    """The value does not fit and the problem is noted, or it is empty and means that it is none."""


def check(tree: Any, notes: Notes) -> File:
    """Make a `File` of `tree`. What is wrong with it goes into `notes`."""
    return cast("File", _Walk(notes).value(tree, inspect.type_info(File), ""))


class _Walk:
    def __init__(self, notes: Notes) -> None:
        self._notes = notes

    def value(
        self, value: Any, declared: inspect.Type, at: str, field: inspect.Field | None = None
    ) -> Any:
        """`value` as the `declared` type; else a blank, or _Unfit if the `field` has a default."""
        bare, rules = unwrap(declared)
        try:
            if value is None and field:
                if field.required:
                    self._unfit(at, f"missing: expected {expected(bare, rules)}")
                raise _Unfit
            if isinstance(bare, inspect.StructType):
                return self._section(value, bare, at)
            if isinstance(bare, inspect.VarTupleType):
                return self._list(value, bare, rules, at)
            if isinstance(bare, inspect.DictType):
                return self._dict(value, bare, at)
            is_needed = field is None or field.required
            return self._scalar(value, bare, rules, at, is_needed=is_needed)
        except _Unfit:
            if field and not field.required:
                raise
            return _blank(bare)

    def _section(self, value: Any, declared: inspect.StructType, at: str) -> Any:
        shorthand = getattr(declared.cls, "shorthand", "")
        is_short = bool(shorthand) and isinstance(value, str)
        if is_short:
            value = {shorthand: value}
        elif not isinstance(value, Mapping):
            what = "a string or a mapping" if shorthand else "a mapping"
            self._unfit(at, f"expected {what}, got {kind_of(value)}")
        known = {field.encode_name: field for field in declared.fields}
        for key in value:
            if key not in known:
                self._stray(key, value[key], known, declared.cls, at)
        fields = {}
        for name, field in known.items():
            path = at if is_short else _join(at, name)  # a bare string has a path of its own
            with suppress(_Unfit):  # it has its default
                fields[field.name] = self.value(value.get(name), field.type, path, field)
        return declared.cls(**fields)

    def _stray(self, key: Any, value: Any, known: Iterable[str], section: type, at: str) -> None:
        """A key that the section does not have: CLIProxyAPI's, or a mistake."""
        if key in IGNORED.get(section.__name__, ()):
            self._notes.ignored[_join(at, key)] = value
            return
        alike = str(key).lower().replace("_", "-")
        near = difflib.get_close_matches(alike, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        self._notes.problem(_join(at, shown_key(key)), f"unknown key{hint}")

    def _list(self, value: Any, declared: inspect.VarTupleType, rules: Rules, at: str) -> Any:
        if rules.get("is_bare") and isinstance(value, (str, bool)):
            return (self.value("off" if value is False else value, declared.item_type, at),)
        if not isinstance(value, (list, tuple)):
            self._unfit(at, f"expected {rules.get('expected', 'a list')}, got {kind_of(value)}")
        if len(value) < (declared.min_length or 0):
            self._unfit(at, "expected at least one entry; to mean all, leave the key out")
        item = declared.item_type
        return tuple(self.value(entry, item, f"{at}[{index}]") for index, entry in enumerate(value))

    def _dict(self, value: Any, declared: inspect.DictType, at: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            self._unfit(at, f"expected a mapping, got {kind_of(value)}")
        result = {}
        for key, entry in value.items():
            path = _join(at, shown_key(key))
            name = self.value(key, declared.key_type, path)
            result[name] = self.value(entry, declared.value_type, path)
        return result

    def _scalar(
        self, value: Any, bare: inspect.Type, rules: Rules, at: str, *, is_needed: bool
    ) -> Any:
        """A value of its own. One that was filled in is never shown."""
        got = kind_of(value) if rules.get("private") and value != "" else shown(value)
        textual = isinstance(bare, (inspect.StrType, inspect.CustomType, inspect.LiteralType))
        if isinstance(value, str) and "${" in value:
            text, names = self._filled(value, at)
            if names:
                self._notes.variables[at] = names
                got = "the value of " + " and ".join(f"${{{name}}}" for name in names)
            value = text if textual else _typed(text, bare)
        if textual and not isinstance(value, str) and value is not None:
            got += ": put it in quotes"
        result = _converted(value, bare)
        with suppress(ValueError):
            if result is not None and ("valid" not in rules or rules["valid"](result)):
                return Secret(result) if isinstance(bare, inspect.CustomType) else result
        if not is_needed and (value is None or (textual and value == "")):
            raise _Unfit
        self._unfit(at, f"expected {expected(bare, rules)}, got {got}")

    def _filled(self, text: str, at: str) -> tuple[str, list[str]]:
        """With every reference replaced, from the left, each once; and the names in them."""
        names: list[str] = []
        known = len(self._notes.problems)
        environ = self._notes.environ

        def replacement(match: re.Match[str]) -> str:
            name, default, file = match.group("name", "default", "file")
            if match["escaped"]:
                return "${"
            if not (name or file):
                wanted = "${NAME}, ${NAME:-default} or ${file:PATH}"
                self._notes.problem(at, f"expected {wanted} ($${{ for a literal ${{)")
                return ""
            names.append(name or f"file:{file}")
            if name:
                if name not in environ and default is None:
                    said = f"{name} is not set in the environment (${{{name}:-}} may be empty)"
                    self._notes.problem(at, said)
                return environ.get(name) or default or ""
            path = _FIRST_VARIABLE.sub(lambda variable: environ.get(variable[1], variable[0]), file)
            path = self._notes.look_at(path)
            content = ""
            try:
                content = _text_in(path)
            except (OSError, ValueError) as error:
                why = getattr(error, "strerror", None) or error
                self._notes.problem(at, f"the file {shown(path)} cannot be read: {why}")
            self._notes.files[path] = Secret(content)
            return content

        filled = _REFERENCE_OR_NOT.sub(replacement, text)
        if len(self._notes.problems) > known:
            raise _Unfit
        return filled, names

    def _unfit(self, at: str, text: str) -> NoReturn:
        self._notes.problem(at, text)
        raise _Unfit


def unwrap(declared: inspect.Type) -> tuple[inspect.Type, Rules]:
    """The type itself, without `| None`, and the rules that its annotations add."""
    rules: Rules = {}
    while isinstance(declared, (inspect.Metadata, inspect.UnionType)):
        if isinstance(declared, inspect.Metadata):
            rules.update({**(declared.extra_json_schema or {}), **(declared.extra or {})})
            declared = declared.type
        else:
            (declared,) = (t for t in declared.types if not isinstance(t, inspect.NoneType))
    return declared, rules


def _blank(bare: inspect.Type) -> Any:
    """What stands in for a value that is missing or does not fit."""
    if isinstance(bare, inspect.StructType):
        needed = (field for field in bare.fields if field.required)
        return bare.cls(**{field.name: _blank(unwrap(field.type)[0]) for field in needed})
    return Secret("") if isinstance(bare, inspect.CustomType) else ""


def _typed(text: str, bare: inspect.Type) -> Any:
    """A number or boolean that was filled in, as YAML reads it; 1 and 0 are booleans too."""
    value = plain_value(text.strip())
    if isinstance(bare, inspect.BoolType) and value in (0, 1):
        return bool(value)
    return value


def _converted(value: Any, bare: inspect.Type) -> Any:
    """`value` as the type's own, within its limits; None: it is not one."""
    if isinstance(bare, inspect.BoolType):
        return value if isinstance(value, bool) else None
    if isinstance(bare, (inspect.IntType, inspect.FloatType)):
        whole = isinstance(bare, inspect.IntType)
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            return None
        least, above = bare.ge is None or value >= bare.ge, bare.gt is None or value > bare.gt
        if not (least and above and (bare.le is None or value <= bare.le)):
            return None
        return value if whole else float(value)
    if not isinstance(value, str):
        return None
    if isinstance(bare, inspect.LiteralType):
        return value if value in bare.values else None
    return value.strip() if isinstance(bare, inspect.CustomType) else value


def expected(bare: inspect.Type, rules: Rules) -> str:
    """The type and its range in words, for errors and the tables of keys."""
    if "expected" in rules:
        return str(rules["expected"])
    if isinstance(bare, inspect.BoolType):
        return "true or false"
    if isinstance(bare, inspect.LiteralType):
        return " or ".join(map(str, bare.values))
    if not isinstance(bare, (inspect.IntType, inspect.FloatType)):
        return "a string"
    noun = "a whole number" if isinstance(bare, inspect.IntType) else "a number"
    if bare.le is None:
        return f"{noun}, {bare.ge} or more"
    if bare.gt is None:
        return f"{noun} from {bare.ge} to {bare.le}"
    return f"{noun} above {bare.gt} and up to {bare.le}"


def _text_in(path: str) -> str:
    """The text in a file; raises OSError, ValueError."""
    with open(path, "rb") as file:
        data = file.read(_MAX_FILE_BYTES + 1)
    if len(data) > _MAX_FILE_BYTES:
        raise ValueError(f"it has more than {_MAX_FILE_BYTES} bytes")
    try:
        return data.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ValueError("expected UTF-8") from error


def _join(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name
