"""`${NAME}`, `${NAME:-default}` and `${file:PATH}` in strings: the environment's, or a file's text.

As in a shell, the default holds if the variable is unset or empty; it must not contain braces. Of a
file's text (Docker and Kubernetes mount secrets so) the line ends behind it are left out; its path
may begin with a variable, such as systemd's `$CREDENTIALS_DIRECTORY`.
`$${` stands for `${`. Filling in comes after parsing, so that no value can add to the structure.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

import msgspec

from .secret import Secret
from .source import Seen, stamp
from .wording import shown

REFERENCE = re.compile(
    r"\$\{(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^{}\n]*))?|file:(?P<file>[^{}\n]+))\}"
)
_REFERENCE_OR_NOT = re.compile(rf"(?P<escaped>\$\$\{{)|{REFERENCE.pattern}|\$\{{")

_FIRST_VARIABLE = re.compile(r"^\$(\w+)")

# No secret is larger, and no file that was meant for one.
_MAX_FILE_BYTES = 65_536


class Filled(msgspec.Struct, frozen=True):
    """A text after filling in, the `names` that it asked for, and `problems` with them.

    `files`: by path, what was in those that it asked for.
    """

    text: str
    names: tuple[str, ...]
    files: dict[str, Secret]
    problems: tuple[str, ...]


def fill(text: str, environ: Mapping[str, str], directory: str, seen: Seen) -> Filled:
    """Replace every reference in `text`, from the left, each once. Paths are seen from `directory`.

    `seen` gets the files as they are before they are read. May block on reading one.
    """
    names: list[str] = []
    files: dict[str, Secret] = {}
    problems: list[str] = []

    def replacement(match: re.Match[str]) -> str:
        if match["escaped"]:
            return "${"
        name, default = match["name"], match["default"]
        if match["file"]:
            names.append(f"file:{match['file']}")
            named = _FIRST_VARIABLE.sub(lambda it: environ.get(it[1], it[0]), match["file"])
            path = os.path.join(directory, os.path.expanduser(named))
            content = ""
            seen[path] = stamp(path)
            try:
                content = _text_in(path)
            except (OSError, ValueError) as error:
                why = getattr(error, "strerror", None) or error
                problems.append(f"the file {shown(path)} cannot be read: {why}")
            files[path] = Secret(content)
            return content
        if name is None:
            wanted = "${NAME}, ${NAME:-default} or ${file:PATH}"
            problems.append(f"expected {wanted} ($${{ for a literal ${{)")
            return ""
        names.append(name)
        value = environ.get(name)
        if value is None and default is None:
            problems.append(f"{name} is not set in the environment (${{{name}:-}} may be empty)")
        return value or default or ""

    filled = _REFERENCE_OR_NOT.sub(replacement, text)
    return Filled(filled, tuple(names), files, tuple(problems))


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
