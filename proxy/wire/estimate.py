"""How many tokens a request may have, where nobody counts them.

The formula: a quarter of the bytes of its prompt as compact JSON in UTF-8, rounded up, and 1,600
for each image or file, whose data does not count. English prose has four characters a token, other
scripts more bytes and fewer characters; 1,600 is about what the largest image takes at Anthropic
(platform.claude.com/docs/en/build-with-claude/vision, 2026-11).
"""

from __future__ import annotations

from typing import Any, Final

from .lenient_json import encode

BYTES_PER_TOKEN: Final = 4
MEDIUM_TOKENS: Final = 1600

_DATA: Final = ("data", "file_data")


def tokens(prompt: Any) -> int:
    """The estimate for all that a model is to read of a request, as plain data."""
    media: list[str] = []
    size = len(encode(_without_media(prompt, media)))
    return -(-size // BYTES_PER_TOKEN) + MEDIUM_TOKENS * len(media)


def _without_media(found: Any, media: list[str]) -> Any:
    if isinstance(found, list):
        return [_without_media(item, media) for item in found]
    if isinstance(found, dict):
        is_base64 = found.get("type") == "base64"
        return {
            name: _without_media(value, media)
            if not (is_base64 and name in _DATA and isinstance(value, str))
            else _counted(value, media)
            for name, value in found.items()
        }
    if isinstance(found, str) and found[:5].lower() == "data:":
        return _counted(found, media)
    return found


def _counted(data: str, media: list[str]) -> str:
    media.append(data)
    return ""
