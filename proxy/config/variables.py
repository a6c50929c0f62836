"""`${NAME}` and `${NAME:-default}` in strings, filled in from the environment.

As in a shell, the default holds if the variable is unset or empty; it must not contain braces.
`$${` stands for `${`. Filling in comes after parsing, so that no value can add to the structure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

REFERENCE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^{}\n]*))?\}")
_REFERENCE_OR_NOT = re.compile(rf"(?P<escaped>\$\$\{{)|{REFERENCE.pattern}|\$\{{")


class Filled(msgspec.Struct, frozen=True):
    """A text after filling in, the `names` that it asked for, and `problems` with them."""

    text: str
    names: tuple[str, ...]
    problems: tuple[str, ...]


def fill(text: str, environ: Mapping[str, str]) -> Filled:
    """Replace every reference in `text`, from the left, each once."""
    names: list[str] = []
    problems: list[str] = []

    def replacement(match: re.Match[str]) -> str:
        if match["escaped"]:
            return "${"
        name, default = match["name"], match["default"]
        if name is None:
            problems.append("expected ${NAME} or ${NAME:-default} ($${ for a literal ${)")
            return ""
        names.append(name)
        value = environ.get(name)
        if value is None and default is None:
            problems.append(f"{name} is not set in the environment (${{{name}:-}} may be empty)")
        return value or default or ""

    filled = _REFERENCE_OR_NOT.sub(replacement, text)
    return Filled(filled, tuple(names), tuple(problems))
