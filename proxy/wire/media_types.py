"""Media types and base64 as programs write them, and as they are registered and sent.

Every kind of upstream has them mended in requests; the vendors' translators know more names.
"""

from __future__ import annotations

from typing import Final

# Not at iana.org/assignments/media-types; the second is what is.
MISSPELT: Final = {
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/jpe": "image/jpeg",
    "image/x-png": "image/png",
    "image/x-webp": "image/webp",
    "application/x-pdf": "application/pdf",
}


def joined(data: str) -> str:
    """Base64 without the line breaks and blanks that MIME's has (RFC 2045, 6.8)."""
    return "".join(data.split())
