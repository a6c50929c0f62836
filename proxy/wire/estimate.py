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


def tokens(prompt: Any) -> int:
    """The estimate for all that a model is to read of a request, as plain data."""
    media = 0

    def without_media(found: Any, is_data: bool = False) -> Any:
        nonlocal media
        if isinstance(found, list):
            return [without_media(item) for item in found]
        if isinstance(found, dict):
            has_data = found.get("type") == "base64"
            return {
                name: without_media(value, is_data=has_data and name in ("data", "file_data"))
                for name, value in found.items()
            }
        if isinstance(found, str) and (is_data or found[:5].lower() == "data:"):
            media += 1
            return ""
        return found

    size = len(encode(without_media(prompt)))
    return -(-size // BYTES_PER_TOKEN) + MEDIUM_TOKENS * media
