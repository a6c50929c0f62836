"""What callers and upstreams put into names and header values stays inside them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from proxy.config import load_config
from proxy.errors import ConfigError
from proxy.request.failures import MAX_ERROR_BYTES
from proxy.wire.chat.errors import MAX_MESSAGE_CHARS
from tests.security.conftest import AUTHORIZED, CALLER_KEY
from tests.support.gateway import CHAT, Gateway, Lots
from tests.support.upstream import Upstream, chat, error, error_object, events, json_reply, raw

NASTY = (
    "a\r\nSet-Cookie: x=1\r\n\r\n2026 W proxy forged\x00\x1b[2J\u2028\x85\x9b\u202e\"'; <script>"
)
LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d|poolproxy on |  |\[\d{4}-")


def assert_log_is_sound(gateway: Gateway) -> None:
    """Every line is one of ours, however lines are split; nothing in it steers a terminal."""
    for line in gateway.log.splitlines():
        assert LOG_LINE.match(line), line
        assert line.isprintable(), line


@pytest.mark.parametrize("name", [NASTY, "\ud83d", "m" * 200_000, "../../etc/passwd", "%s%n{0}"])
def test_model_names_are_only_names(gateway: Gateway, name: str) -> None:
    """404 in the envelope, the name quoted in it, bounded; no header, no log line of its making."""
    answer = gateway.chat(name, headers=AUTHORIZED)
    assert answer.status in (400, 404)
    assert len(answer.error["message"]) <= MAX_MESSAGE_CHARS + 1
    assert "set-cookie" not in answer.headers
    assert set(answer.headers["x-request-id"]) <= set("req_0123456789abcdef")
    gateway.record_of(answer.headers["x-request-id"])
    assert_log_is_sound(gateway)


@pytest.mark.parametrize("path", ["a%0d%0aSet-Cookie:%20x=1", "%00", "%1b[2J", "%ff%fe", "..%2f.."])
def test_paths_are_only_names(gateway: Gateway, path: str) -> None:
    """Percent-encoded line ends come to nothing."""
    for target in (f"/v1/models/{path}", f"/{path}"):
        answer = gateway.call("GET", target, headers=AUTHORIZED)
        assert answer.status == 404
        assert answer.error["code"] in ("model_not_found", "not_found")
        assert "set-cookie" not in answer.headers
    assert_log_is_sound(gateway)


@pytest.mark.parametrize("value", ['x" forged=1', "a b", "a\tb", "\x85", "a,b", "x" * 4000])
def test_request_ids_are_only_ids(
    gateway: Gateway, upstream: Upstream, lots: Lots, value: str
) -> None:
    """Another one is made in place of what is more than an id."""
    lot = lots.take()
    answer = gateway.chat(lot.model, headers={**AUTHORIZED, "x-request-id": value})
    assert answer.headers["x-request-id"].startswith("req_")
    (received,) = upstream.received(lot.key)
    assert received.header["x-request-id"] == answer.headers["x-request-id"]
    assert_log_is_sound(gateway)


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "a\r\nX: 1"},
        {"name": "a\x1b[2J"},
        {"models": [{"name": "m\r\nX: 1"}]},
        {"models": [{"name": "m", "alias": "m\nforged"}]},
        {"models": [{"name": "m", "alias": "m\u2028forged"}]},
        {"headers": {"X-A": "1\r\nX-B: 2"}},
        {"headers": {"X-A\r\nX-B": "1"}},
        {"headers": {"Transfer-Encoding": "chunked"}},
        {"headers": {"Content-Length": "0"}},
        {"api-keys": ["sk-0123456789\r\nX-B: 2"]},
        {"base-url": "http://127.0.0.1/v1\r\nX-B: 2"},
        {"base-url": "http://127.0.0.1/v1 HTTP/1.1"},
    ],
)
def test_configured_words_hold_no_line_ends(fields: dict[str, Any]) -> None:
    """Names, aliases, keys, headers and URLs that go into heads and logs; the framing is ours."""
    provider = {"name": "p", "base-url": "http://127.0.0.1/v1", "api-keys": ["sk-0123456789ab"]}
    with pytest.raises(ConfigError) as caught:
        load_config({"openai-compatibility": [{**provider, **fields}]}, environ={})
    assert all(problem.isprintable() for problem in caught.value.problems)


@pytest.mark.parametrize(
    "line",
    [
        b"openai-a: 1\x00",
        b"openai-a: 1\rSet-Cookie: x=1",
        b"openai-a : 1",
        b"openai-\xe9: 1",
        b"openai-a",
        b"openai-a: 1\x7f",
        b"Transfer-Encoding: chunked, chunked",
        b"Content-Length: 2, 3",
        b"Content-Length: +2",
    ],
)
def test_upstream_heads_with_odd_lines_are_refused(
    gateway: Gateway, upstream: Upstream, lots: Lots, line: bytes
) -> None:
    """A head that two readers could read differently is no head: 502, and not reused."""
    lot = lots.take()
    reply = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + line + b"\r\n\r\n{}")
    upstream.always(lot.key, reply)
    answer = gateway.chat(lot.model, headers=AUTHORIZED)
    assert (answer.status, answer.error["code"]) == (502, "upstream_invalid_response")
    assert "set-cookie" not in answer.headers


def test_folded_header_of_an_upstream_is_one_line(
    gateway: Gateway, upstream: Upstream, lots: Lots
) -> None:
    """RFC 9112, 5.2: the fold becomes a space before the value goes on."""
    lot = lots.take()
    reply = chat("Hi").with_headers({"openai-a": "1\r\n Set-Cookie: x=1"})
    upstream.reply(lot.key, reply)
    answer = gateway.chat(lot.model, headers=AUTHORIZED)
    assert answer.headers["openai-a"] == "1 Set-Cookie: x=1"
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("status", [200, 400, 503])
def test_upstream_error_texts_are_only_texts(
    gateway: Gateway, upstream: Upstream, lots: Lots, status: int
) -> None:
    """Message and code of an upstream's error: quoted in the log, and no header's value."""
    lot = lots.take()
    upstream.always(lot.key, json_reply(error_object(NASTY, code=NASTY), status))
    answer = gateway.chat(lot.model, headers=AUTHORIZED)
    assert answer.status == (status if status != 200 else 502)
    assert "set-cookie" not in answer.headers
    gateway.record_of(answer.headers["x-request-id"])
    assert_log_is_sound(gateway)


@pytest.mark.parametrize(
    "body",
    [
        b"x" * 5_000_000,
        b'{"error":{"message":"' + b"x" * 5_000_000 + b'"}}',
        b"<html>" + b"\xff" * 5_000_000,
        json.dumps({"error": "x" * 500_000}).encode(),
    ],
    ids=["text", "endless envelope", "no UTF-8", "error a string"],
)
def test_error_bodies_are_bounded(
    gateway: Gateway, upstream: Upstream, lots: Lots, body: bytes
) -> None:
    """Whatever length an upstream's error has, and however many attempts it takes."""
    lot = lots.take()
    head = b"HTTP/1.1 400 Bad\r\nContent-Length: %d\r\n\r\n" % len(body)
    upstream.always(lot.key, raw(head + body))
    answer = gateway.chat(lot.model, headers=AUTHORIZED)
    assert answer.status == 400
    assert len(answer.body) <= 8 * MAX_MESSAGE_CHARS
    assert answer.error["message"]


def test_whole_envelope_passes_up_to_the_bound(
    gateway: Gateway, upstream: Upstream, lots: Lots
) -> None:
    """As it came, if it is no longer than what is read of an error."""
    lot = lots.take()
    upstream.reply(lot.key, error(400, "x" * 900_000))
    answer = gateway.chat(lot.model, headers=AUTHORIZED)
    assert 900_000 < len(answer.body) <= MAX_ERROR_BYTES
    assert answer.error["message"] == "x" * 900_000


def test_cookies_and_hop_by_hop_fields_do_not_come_back(
    gateway: Gateway, upstream: Upstream, lots: Lots
) -> None:
    """Of answers, streams and errors alike; nor does what the upstream says about browsers."""
    sent = {
        "Set-Cookie": "x=1",
        "Connection": "keep-alive",
        "Keep-Alive": "timeout=5",
        "Proxy-Authenticate": "Basic",
        "Upgrade": "h2c",
        "Trailer": "X-A",
        "WWW-Authenticate": "Bearer",
        "Access-Control-Allow-Origin": "https://evil.example",
        "Access-Control-Allow-Credentials": "true",
        "Strict-Transport-Security": "max-age=1",
        "Alt-Svc": 'h3=":443"',
        "Refresh": "0; url=https://evil.example",
        "Link": "<https://evil.example>; rel=preload",
    }
    lot = lots.take()
    done = events({"choices": [{"index": 0, "finish_reason": "stop"}]}, "[DONE]")
    for reply, stream in ((chat("Hi"), False), (error(400), False), (done, True)):
        upstream.reply(lot.key, reply.with_headers(sent))
        answer = gateway.chat(lot.model, stream=stream, headers=AUTHORIZED)
        assert not {name.lower() for name in sent} - {"connection"} & set(answer.headers)
        assert "evil" not in json.dumps(answer.headers)


def test_key_in_the_body_of_a_get_is_nobodys(gateway: Gateway) -> None:
    """Neither path, query nor body is looked at for a key."""
    body = json.dumps({"api_key": CALLER_KEY, "authorization": f"Bearer {CALLER_KEY}"}).encode()
    for path in (f"{CHAT}?api_key={CALLER_KEY}", f"{CHAT}?key={CALLER_KEY}", CHAT):
        assert gateway.call("POST", path, body).status == 401
