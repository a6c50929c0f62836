"""`Secret` is an API key that is masked in logs, errors, reprs and tracebacks.

`Secrets` knows all secrets of one configuration, and masks them in whatever leaves. These are
callers' keys, clients' keys, whatever was filled in from files, and the credentials in `headers`
and `proxy-url`, each in the spellings in which an upstream or a program in between may quote it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import html
import json
import operator
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import msgspec

from ..errors import ProxyError, UpstreamRefusal

# A caller's key may be given as what `sha256sum` prints for it.
HASHED = re.compile("sha256:([0-9A-Fa-f]{64})")

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
    hashed = HASHED.fullmatch(key.reveal())
    return bytes.fromhex(hashed[1]) if hashed else hashlib.sha256(key.reveal().encode()).digest()


def is_placeholder(key: Secret) -> bool:
    """Whether it is the placeholder of a published example, which everybody knows."""
    return _PLACEHOLDER.fullmatch(key.reveal()) is not None


# Keys that are shorter (`none`, `EMPTY`) are dummies: words, or parts of words, in any text.
MIN_SECRET_CHARS = 8

# So much of a secret's beginning tells whose kind it is (`sk-ant-api03-`), and no more.
_TOLD_CHARS = 16

# Names of headers that carry credentials, and of those that don't, whatever they look like.
_SECRET_NAME = re.compile(
    r"auth(?!or(?!iz))|cookie|(?<!idempotency-)key|token|secret|passw|credential|session|signature",
    re.IGNORECASE,
)
_PLAIN_NAME = re.compile(
    r"openai-|anthropic-|.*(?:beta|version|agent|referer|origin|title|accept|content-)",
    re.IGNORECASE,
)
_SCHEMES = ("bearer", "basic", "token", "apikey", "key")  # RFC 9110 section 11.1, and as met


class Secrets:
    """Masks secrets in text, in bytes, and in bytes that come in pieces. Immutable."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._masks: dict[bytes, bytes] = {}
        for secret in secrets:
            if len(secret) >= MIN_SECRET_CHARS:
                shown = mask(secret).encode()
                self._masks.update(dict.fromkeys(_spellings(secret), shown))
        self._sorted = sorted(self._masks)
        self._any = re.compile(_any_of(self._sorted) if self._sorted else b"(?!)", re.DOTALL)
        self._longest = max(map(len, self._sorted), default=0)
        self._alphabet = bytes({byte for spelling in self._sorted for byte in spelling})

    def mask(self, text: str) -> str:
        """Mask all whole secrets in `text`."""
        data = text.encode("utf-8", "surrogatepass")
        masked = self.mask_bytes(data)
        return text if masked is data else masked.decode("utf-8", "surrogatepass")

    def mask_quote(self, text: str) -> str:
        """As `mask`, for what an upstream said: a text that was cut may end in half a secret."""
        masked = self.mask(text)
        whole = masked.removesuffix("…")
        data = whole.encode("utf-8", "surrogatepass")
        begun = self._begun(data)
        if begun < _TOLD_CHARS:
            return masked
        return data[:-begun].decode("utf-8", "surrogatepass") + "…"

    def mask_bytes(self, data: bytes) -> bytes:
        """Mask all whole secrets in `data`. Returns `data` itself if there is none."""
        if not self._any.search(data):
            return data
        return self._any.sub(lambda found: self._masks[found[0]], data)

    def mask_json(self, data: bytes) -> bytes:
        """As `mask_quote`, for a JSON text that quotes an upstream, however that is escaped."""
        data = self.mask_bytes(data)
        try:
            tree = msgspec.json.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return data
        masked = self._mask_tree(tree)
        return data if masked == tree else msgspec.json.encode(masked)

    def mask_error(self, error: ProxyError) -> None:
        """Mask in place what an error says: upstreams have been seen to quote secrets."""
        error.message = self.mask_quote(error.message)
        error.args = (error.message,)
        if isinstance(error, UpstreamRefusal):
            if error.body is not None:
                error.body = self.mask_json(error.body)
            if error.as_sent is not None:
                error.as_sent = self.mask_json(error.as_sent)
            if error.code is not None:
                error.code = error.upstream_code = self.mask_quote(error.code)
            passed = error.passed_headers.items()
            error.passed_headers = {name: self.mask(value) for name, value in passed}

    def _mask_tree(self, tree: Any) -> Any:
        if isinstance(tree, str):
            return self.mask_quote(tree)
        if isinstance(tree, list):
            return [self._mask_tree(each) for each in tree]
        if isinstance(tree, dict):
            return {self.mask(name): self._mask_tree(each) for name, each in tree.items()}
        return tree

    def split(self, data: bytes) -> tuple[bytes, bytes]:
        """Mask a piece of a stream: what is certain, and a rest that belongs before the next."""
        cut = len(data) - self._begun(data)
        for found in self._any.finditer(data):
            if found.start() < cut < found.end():
                cut = found.end()
        return self.mask_bytes(data[:cut]), data[cut:]

    def _begun(self, data: bytes) -> int:
        """How many bytes at the end may be the beginning of a secret."""
        end = data[-self._longest + 1 :] if self._longest else b""
        end = end[len(end.rstrip(self._alphabet)) :]
        for at in range(len(end)):
            begun = end[at:]
            # Those that begin so follow it in order, and the first may be no more than that.
            follower = bisect_left(self._sorted, begun + b"\0")
            if follower < len(self._sorted) and self._sorted[follower].startswith(begun):
                return len(begun)
        return 0


def _any_of(words: Sequence[bytes]) -> bytes:
    """A pattern for sorted words, the longest at a place. What begins alike is in it once."""
    alike = [*map(operator.eq, words[0], words[-1]), False].index(False)
    begin, rests = words[0][:alike], [word[alike:] for word in words]
    groups = groupby(filter(None, rests), key=lambda rest: rest[:1])
    others = b"|".join([_any_of(list(group)) for _, group in groups])
    is_word = b"" if rests[0] else b"?"
    return re.escape(begin) + (b"(?:%b)%b" % (others, is_word) if others else b"")


def is_secret_name(name: str) -> bool:
    """Whether a header of this name carries credentials."""
    return _SECRET_NAME.search(name) is not None


def in_header(name: str, value: str) -> Iterator[str]:
    """The credentials in a header's value: all of it, and its parts without the scheme."""
    scheme, _, rest = value.strip().partition(" ")
    has_scheme = bool(rest) and scheme.lower() in _SCHEMES
    if not (has_scheme or is_secret_name(name)):
        if not _PLAIN_NAME.match(name):
            yield from KEY_LIKE.findall(value)
        return
    yield value
    for word in re.split(r'[\s,;"]+', rest if has_scheme else value):
        yield word
        yield word.partition("=")[2]  # of a cookie, a parameter
    if scheme.lower() == "basic":
        try:
            pair = base64.b64decode(rest, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return
        yield pair
        yield pair.partition(":")[2]


def in_url(url: str) -> Iterator[str]:
    """The credentials in a URL: its user and password, also as RFC 7617 has them in a header.

    A user's name is none, unless it is the token, with no password or with `x` in its place.
    """
    parts = urlsplit(url)
    user, password = parts.username or "", parts.password or ""
    for name, word in ((user, password), (unquote(user), unquote(password))):
        yield word
        yield f"{name}:{word}"
        for encoding in ("utf-8", "latin-1"):  # the latter is what `requests` sends
            pair = f"{name}:{word}".encode(encoding, "replace")
            yield base64.b64encode(pair).decode()
        if len(word) <= 1:
            yield name


def _spellings(secret: str) -> set[bytes]:
    """As it stands in a header, and escaped: in JSON by various writers, in a URL, in HTML."""
    in_json = json.dumps(secret)[1:-1]
    texts = {
        secret,
        in_json,
        json.dumps(in_json)[1:-1],  # JSON as text in JSON
        in_json.replace("/", r"\/"),  # PHP
        _escaped(in_json, "<>&", "x"),  # Go
        _escaped(in_json, "<>&='", "x"),  # Gson
        _escaped(in_json.replace(r"\"", '"'), "\"<>&'+`", "X"),  # .NET
        html.escape(secret),
    }
    for safe in ("", "/"):
        quoted = quote(secret, safe=safe)
        texts |= {quoted, re.sub("%..", lambda found: found[0].lower(), quoted)}
    return {text.encode("utf-8", "surrogatepass") for text in texts}


def _escaped(text: str, characters: str, style: str) -> str:
    return "".join([rf"\u{ord(each):04{style}}" if each in characters else each for each in text])
