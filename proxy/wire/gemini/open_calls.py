"""Function calls that arrive in several parts: `partialArgs` and `willContinue`.

A part with the name opens a call; parts without one continue it, by id or else the last one. Each
`partialArgs` entry puts one value at a JSON Path (RFC 9535, names and places only); text at the
same path is joined. The call ends with a part that does not say `willContinue`, often an empty one.
Source: google-genai 3.4 (types.FunctionCall, types.PartialArg), read 2026-11. A call is given to
the caller when it is whole: values come in any order, so what came first need not be the beginning
of the JSON text.
"""

from __future__ import annotations

import re
from io import StringIO
from itertools import pairwise
from typing import Any, Final

import msgspec

from ...errors import UpstreamInvalid
from .events import FunctionCall, PartialArg

NO_ARGS: Final = (b"", b"null")

_STEP: Final = re.compile(
    r"""\[(\d{1,6})\]|\.([^.\[\]]+)|\['((?:[^'\\]|\\.)*)'\]|\["((?:[^"\\]|\\.)*)"\]"""
)
_PATH: Final = re.compile(rf"\$(?:{_STEP.pattern})+")
_ESCAPED: Final = re.compile(r"\\(.)")


class OpenCall:
    """A call that has begun. `is_whole`: no further part of it was announced."""

    def __init__(self, first: FunctionCall, signature: str | None) -> None:
        self.name = first.name or ""
        self.id = first.id
        self.signature = signature
        self._args = b""  # as they came, while nothing else did
        self._tree: dict[str, Any] | None = None
        self.is_whole = False
        self.add(first, signature)
        # A name alone may be the beginning of a call by a service that does not say so.
        self.is_whole = self.is_whole and bool(self._args or self._tree is not None)

    def is_continued_by(self, part: FunctionCall) -> bool:
        """Whether `part` goes on with this call; another call's has another id or a name."""
        if self.is_whole:
            return False
        if part.id and self.id:
            return part.id == self.id
        return not part.name or (part.name == self.name and self._is_announced)

    def add(self, part: FunctionCall, signature: str | None) -> None:
        """Raises UpstreamInvalid for arguments that have no place in the call."""
        self.signature = self.signature or signature
        self.id = self.id or part.id
        self._is_announced = part.will_continue is True
        self.is_whole = not self._is_announced
        args = bytes(part.args).strip()
        if args not in NO_ARGS:
            if not self._args and self._tree is None:
                self._args = args
            else:
                self._grown().update(_object(args))
        for piece in part.partial_args or ():
            self._put(piece)

    def end_if_unannounced(self) -> None:
        """Another call begins: what was a name alone is a call without arguments."""
        self.is_whole = not self._is_announced

    def arguments(self) -> str:
        """The JSON object without white space; numbers as they came, if they came in one piece."""
        if self._tree is not None:
            return msgspec.json.encode(self._tree, enc_hook=StringIO.getvalue).decode()
        try:
            text = msgspec.json.format(self._args or b"{}", indent=-1).decode()
        except (ValueError, RecursionError) as error:
            raise UpstreamInvalid(f"Gemini sent arguments that are no JSON: {error}") from error
        if not text.startswith("{"):
            raise UpstreamInvalid(f"Gemini sent arguments that are no object for {self.name!r}")
        return text

    def _grown(self) -> dict[str, Any]:
        if self._tree is None:
            self._tree = _object(self._args) if self._args else {}
        return self._tree

    def _put(self, piece: PartialArg) -> None:
        steps = _steps(piece.json_path)
        node: Any = self._grown()
        for step, following in pairwise(steps):
            node = _below(node, step, [] if isinstance(following, int) else {})
        last = steps[-1]
        if piece.string_value is not None:
            text = _below(node, last, StringIO())
            if not isinstance(text, StringIO):
                raise UpstreamInvalid(f"Gemini sent text where a value is, at {piece.json_path}")
            text.write(piece.string_value)
            return
        value = piece.bool_value if piece.number_value is None else piece.number_value
        if value is None and piece.null_value is msgspec.UNSET:
            return
        _below(node, last, value)
        node[last] = value


def _object(args: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(args, type=dict[str, Any])
    except (ValueError, RecursionError) as error:
        raise UpstreamInvalid(f"Gemini sent arguments that are no object: {error}") from error


def _steps(path: str) -> list[str | int]:
    steps: list[str | int] = []
    if _PATH.fullmatch(path):
        for place, name, *quoted in _STEP.findall(path):
            steps.append(int(place) if place else name or _ESCAPED.sub(r"\1", "".join(quoted)))
    if not steps or isinstance(steps[0], int):
        raise UpstreamInvalid(f"Gemini sent arguments at {path[:200]!r}, which is no place")
    return steps


def _below(node: Any, step: str | int, made: Any) -> Any:
    """What stands there, `made` put there if there is nothing."""
    if isinstance(node, dict) and isinstance(step, str):
        return node.setdefault(step, made)
    if isinstance(node, list) and isinstance(step, int) and step <= len(node):
        if step == len(node):
            node.append(made)
        return node[step]
    raise UpstreamInvalid(f"Gemini sent arguments that contradict each other, at {step!r}")
