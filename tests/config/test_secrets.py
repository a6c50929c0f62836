"""`Secrets`: what of a configuration is secret, in which spellings, and how it is masked."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from proxy.config import Secrets, load_config, mask

KEY = "sk-upstream-0123456789aaaa"
ODD = 'k/9y"<\\&~0123456789'


def secrets_of(tree: dict[str, Any], headers: dict[str, str] | None = None) -> Secrets:
    provider = {
        "name": "p",
        "base-url": "http://127.0.0.1:9/v1",
        "api-keys": [KEY],
        "headers": headers or {},
        "models": [{"name": "m"}],
    }
    return load_config({"openai-compatibility": [provider], **tree}, environ={}).secrets


def is_hidden(secrets: Secrets, text: str) -> bool:
    said = f"before {text} after"
    return text not in secrets.mask(said) and secrets.mask_bytes(said.encode()) != said.encode()


def test_keys_of_callers_and_clients_are_secret() -> None:
    """All of them, whoever is asked or asks."""
    secrets = secrets_of({"api-keys": ["caller-0123456789", {"name": "b", "key": "other-key-1"}]})
    for key in (KEY, "caller-0123456789", "other-key-1"):
        assert is_hidden(secrets, key)
    assert secrets.mask(f"<{KEY}>") == f"<{mask(KEY)}>"
    assert secrets.mask("nothing in it") == "nothing in it"
    assert secrets.mask(f"\ud83d{KEY}\ude00") == f"\ud83d{mask(KEY)}\ude00"
    assert secrets.mask_quote(f"\ud83d{KEY[:20]}…") == "\ud83d…"


@pytest.mark.parametrize(
    ("name", "value", "hidden"),
    [
        ("Authorization", "Bearer tok-0123456789", ["Bearer tok-0123456789", "tok-0123456789"]),
        ("cf-aig-authorization", "tok-0123456789", ["tok-0123456789"]),
        ("X-Key", "plainwords", ["plainwords"]),
        ("X-Gate", "Bearer plainwords", ["plainwords"]),
        ("X-Gate", "sk-plainwords", ["sk-plainwords"]),
        ("X-Gate", "a1b2c3d4e5f6a7b8c9d0e1f2", ["a1b2c3d4e5f6a7b8c9d0e1f2"]),
        ("Cookie", "a=1; sid=0123456789; b=2", ["sid=0123456789", "0123456789"]),
        ("Cookie", "sid=0123456789; b=2", ["sid=0123456789", "0123456789"]),
        ("Cookie", "b=2; sid=0123456789", ["sid=0123456789", "0123456789"]),
        ("Authorization", "Basic bWU6cGFzc3dvcmQx", ["bWU6cGFzc3dvcmQx", "me:password1"]),
        ("Authorization", "Basic bWU6cGFzc3dvcmQx", ["password1"]),
    ],
)
def test_credentials_in_headers_are_secret(name: str, value: str, hidden: list[str]) -> None:
    """By the header's name, by its scheme, or by their looks; with the scheme and without."""
    secrets = secrets_of({}, {name: value})
    assert [text for text in hidden if not is_hidden(secrets, text)] == []


def test_basic_credentials_that_are_no_base64_hold_no_pair() -> None:
    """They are a secret as they stand, and nothing else."""
    secrets = secrets_of({}, {"Authorization": "Basic bWU6!cGFzc3dvcmQx"})
    assert is_hidden(secrets, "bWU6!cGFzc3dvcmQx")
    assert not is_hidden(secrets, "me:password1")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Title", "My application"),
        ("HTTP-Referer", "https://application-0123456789abcdef.example"),
        ("anthropic-beta", "context-1m-2025-08-07-0123"),
        ("User-Agent", "something-0123456789abcdef"),
        ("X-Author", "application/json"),
        ("X-Region", "somewhere"),
    ],
)
def test_other_headers_are_not(name: str, value: str) -> None:
    """They may be words of any answer."""
    assert not is_hidden(secrets_of({}, {name: value}), value)


@pytest.mark.parametrize(
    ("url", "hidden"),
    [
        ("http://me:pass-word1@proxy.test:1", ["pass-word1", "me:pass-word1"]),
        ("http://me:pass%2Fword1@proxy.test:1", ["pass%2Fword1", "pass/word1"]),
        ("http://me:passw%C3%B6rt1@proxy.test:1", ["passwört1", "me:passwört1"]),
        ("socks5://token-0123456789@proxy.test:1", ["token-0123456789"]),
        ("http://token-0123456789:x@proxy.test:1", ["token-0123456789"]),
        ("http://me:pw@proxy.test:1", []),
    ],
)
def test_user_and_password_of_a_proxy_are_secret(url: str, hidden: list[str]) -> None:
    """As they stand in the URL, decoded, and as they are sent."""
    secrets = secrets_of({"proxy-url": url})
    sent = [
        base64.b64encode(text.encode(encoding)).decode()
        for text in hidden
        for encoding in ("utf-8", "latin-1")
        if ":" in text
    ]
    assert [text for text in hidden + sent if not is_hidden(secrets, text)] == []
    assert not is_hidden(secrets, "proxy.test")


def test_name_of_a_user_is_none() -> None:
    """It may be a word of any answer."""
    secrets = secrets_of({"proxy-url": "http://username:pass@proxy.test:1"})
    assert not is_hidden(secrets, "username")
    assert is_hidden(secrets, "username:pass")


@pytest.mark.parametrize(
    "spell",
    [
        lambda key: key,
        lambda key: json.dumps(key)[1:-1],
        lambda key: json.dumps(json.dumps(key)[1:-1])[1:-1],
        lambda key: json.dumps(key)[1:-1].replace("/", "\\/"),
        lambda key: json.dumps(key)[1:-1].replace("<", "\\u003c").replace("&", "\\u0026"),
        quote,
        lambda key: quote(key, safe=""),
        lambda key: re.sub("%..", lambda found: found[0].lower(), quote(key, safe="")),
        html.escape,
    ],
)
def test_every_spelling_is_masked(spell: Callable[[str], str]) -> None:
    """A key that no writer of JSON, URLs or HTML leaves as it is."""
    assert Secrets([ODD]).mask(f"({spell(ODD)})") == f"({mask(ODD)})"


def test_json_is_masked_however_it_is_escaped() -> None:
    """Names and texts, at any depth; what quotes nothing stays as it is, byte for byte."""
    escaped = "".join([f"\\u{ord(each):04x}" for each in KEY])
    data = f'{{ "error": {{"message": "no {escaped}!", "{escaped}": [1.50]}}}}'.encode()
    secrets = Secrets([KEY])
    assert json.loads(secrets.mask_json(data)) == {
        "error": {"message": f"no {mask(KEY)}!", mask(KEY): [1.5]}
    }
    harmless = b'{"a":  1.50, "b": "\\u0041 \xc3\xa4", "c": 1e2}'
    assert secrets.mask_json(harmless) == harmless
    assert secrets.mask_json(b"no \\JSON") == b"no \\JSON"


def test_half_a_key_at_the_end_of_a_quotation_is_masked() -> None:
    """Words of an upstream's are cut, and may be in the midst of one; its prefix tells nothing."""
    secrets = Secrets([KEY])
    assert secrets.mask_quote(f"no {KEY[:-1]}") == "no …"
    assert secrets.mask_quote(f"no {KEY[:20]}…") == "no …"
    assert secrets.mask_quote(f"it begins with {KEY[:12]}") == f"it begins with {KEY[:12]}"
    cut = json.dumps({"error": {"message": f"no {KEY[:-1]}"}}).encode()
    assert json.loads(secrets.mask_json(cut)) == {"error": {"message": "no …"}}


def test_short_keys_are_words() -> None:
    """`EMPTY` and the like stand for none."""
    said = "EMPTY none 1234567"
    assert Secrets(["EMPTY", "none", "1234567", ""]).mask(said) == said


def test_secrets_are_found_at_every_place() -> None:
    """Whatever is before and behind, and where words of four bytes begin."""
    keys = ["12345678", "sk-123456789", KEY]
    secrets = Secrets(keys)
    for key in keys:
        for before in range(9):
            for behind in range(9):
                data = b"-" * before + key.encode() + b"-" * behind
                shown = b"-" * before + mask(key).encode() + b"-" * behind
                assert secrets.mask_bytes(data) == shown


NESTED = [
    "sk-abcdefghijkl",
    "sk-abcdefghijklmnop",
    "klsk-abcdefgsk",
    'q"uoted\\-key-1',
    "kkkkkkkkk",
]


def test_masking_of_a_stream_is_that_of_the_whole() -> None:
    """However it is cut, keys that begin alike or within each other included."""
    secrets = Secrets([*NESTED, ""])
    data = b"sk-abcdefghijkl sk-abcdefghijklmnop klsk-abcdefgsk-abcdefghijkl! "
    data += b'q\\"uoted\\\\-key-1 kkkkkkkkkkkkkkkkkkkk sk-abc'
    whole = secrets.mask_bytes(data)
    assert whole.count(b"...") == 6
    for first in range(len(data) + 1):
        for second in range(first, len(data) + 1):
            shown, tail = secrets.split(data[:first])
            more, tail = secrets.split(tail + data[first:second])
            shown += more
            more, tail = secrets.split(tail + data[second:])
            assert shown + more + secrets.mask_bytes(tail) == whole


def test_nothing_is_held_back_without_secrets() -> None:
    """An open gateway without upstream keys: all is certain at once."""
    assert Secrets([""]).split(b"sk-") == (b"sk-", b"")


def cpu_s(work: Callable[[], object]) -> float:
    """The least CPU time that it takes."""
    taken = []
    for _ in range(20):
        began = time.thread_time()
        for _ in range(20):
            work()
        taken.append(time.thread_time() - began)
    return min(taken)


@pytest.mark.parametrize(
    "data",
    [
        b'data: {"choices":[{"index":0,"delta":{"content":"Hello there"}}]}\n\n' * 8,
        b'data: {"error":"sk-proj-0123456789, sk-proj-"}\n\n' * 8,
        b"a stream that is cut in a key: sk-proj-000",
    ],
    ids=["a chunk", "what looks like keys", "a key's beginning"],
)
def test_cost_does_not_grow_with_keys(data: bytes) -> None:
    """A thousand that begin alike and differ at their ends, as one provider's do."""
    keys = [f"sk-proj-{hashlib.sha256(b'%d' % number).hexdigest()}" for number in range(1000)]
    one, thousand = Secrets(keys[:1]), Secrets(keys)
    for attempt in range(5):
        few_s, many_s = cpu_s(lambda: one.split(data)), cpu_s(lambda: thousand.split(data))
        if many_s < 4 * few_s:
            return
        assert attempt < 4, (few_s, many_s)
