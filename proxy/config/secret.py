"""`Secret`, an API key that is masked in logs, errors, reprs and tracebacks."""

from __future__ import annotations

import hashlib
import re

# A caller's key may be given as what `sha256sum` prints for it.
HASHED = "sha256:"
_HASHED = re.compile(HASHED + "([0-9A-Fa-f]{64})")

# What may be a key wherever it stands: well-known prefixes, and long words with a digit in them.
KEY_LIKE = re.compile(r"\b(?:sk-|AIza|xai-|gsk_|hf_)[\w-]+|(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{20,}")

# Of published examples: CLIProxyAPI's (`your-api-key-1`, `sk-or-v1-...b780`), LiteLLM's (`sk-1234`,
# `sk-my_special_key`), and the like. A mask, as it is copied from a log, looks like some of them.
_OF_KEYS = "api|secret|master|proxy|special|openai|openrouter|anthropic|claude|gemini|google"
_PLACEHOLDER = re.compile(
    rf"(?:sk-)?(?:your|my|example|change)[-_]?(?:me|(?:(?:{_OF_KEYS})[-_]?){{0,2}}key)?"
    r"(?:[-_]?(?:here|\d))?|sk-1234|(?:[a-z0-9]+-)*x{3,}|.*(?:\.{3}|\*{3}).*|<.*>",
    re.IGNORECASE,
)

_MASKED_WHOLE_BELOW = 12  # characters; of a shorter key the mask would give too much away


class Secret:
    """Holds a key. Everything but `reveal()` gives its mask. An empty one is falsy."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The key itself, for the one place that sends or compares it."""
        return self._value

    def __str__(self) -> str:
        return mask(self._value)

    __repr__ = __str__

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return self._value == other._value if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash((Secret, self._value))


def mask(key: str) -> str:
    """`sk-...b780`: enough to tell keys apart, too little to use one."""
    if not key:
        return ""
    return f"{key[:3]}...{key[-4:]}" if len(key) >= _MASKED_WHOLE_BELOW else "..."


def digest_of(key: Secret) -> bytes:
    """SHA-256 of a caller's key, which may be given as that: `sha256:HEX`."""
    hashed = _HASHED.fullmatch(key.reveal())
    return bytes.fromhex(hashed[1]) if hashed else hashlib.sha256(key.reveal().encode()).digest()


def is_hash(key: Secret) -> bool:
    """Whether it is a digest in place of a caller's key."""
    return _HASHED.fullmatch(key.reveal()) is not None


def is_placeholder(key: Secret) -> bool:
    """Whether it is the placeholder of a published example, which everybody knows."""
    return _PLACEHOLDER.fullmatch(key.reveal()) is not None
