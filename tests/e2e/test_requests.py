"""What goes through untouched, what is refused, and what of headers crosses the gateway."""

from __future__ import annotations

import gzip
import json
import zlib

import pytest

from tests.e2e.conftest import MAX_BODY_BYTES
from tests.support.gateway import CHAT, Gateway, Lot, asked, curl
from tests.support.upstream import Reply, Upstream, chat
from tests.support.upstream import stream as tell

MESSAGES = b'"messages":[{"role":"user","content":"Hi"}]'

# Values that a decoder and an encoder would not give back as they were.
FIELDS = [
    b'"big":123456789012345678901234567890123456789',
    b'"float":1.0,"zero":-0.0,"exponent":1e5,"small":1E-7,"long":0.1000000000000000055511151231',
    rb'"escapes":"\u00e9\u0041\/\b\"\\","key\u0020":1',
    rb'"surrogates":"\ud83d, then \ude00 and \ud83d\ude00"',
    '"text":"Zürich 😀 \u2028"'.encode(),
    b'"unknown":{"nested":[1, 2,  {"a" :null}],"model":"inner","stream":"inner"}',
    b'"twice":1,"stream":false',
    b'"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}]',
]


@pytest.mark.parametrize("field", FIELDS)
def test_body_passes_untouched_under_its_own_name(
    gateway: Gateway, upstream: Upstream, lot: Lot, field: bytes
) -> None:
    """Where alias equals name the upstream gets the very bytes, white space and order included."""
    body = b' {"model" : "%b",\n\t%b , %b}\r\n' % (lot.model.encode(), field, MESSAGES)
    assert gateway.call("POST", CHAT, body).status == 200
    (received,) = upstream.received(lot.key)
    assert received.body == body


@pytest.mark.parametrize("field", FIELDS)
def test_values_pass_untouched_under_an_alias(
    gateway: Gateway, upstream: Upstream, renamed: Lot, field: bytes
) -> None:
    """Only `model` changes: every other top-level value is the same bytes, in the same order."""
    body = b'{"before":1.50,"model":"%b",%b,%b}'
    assert (
        gateway.call("POST", CHAT, body % (renamed.model.encode(), field, MESSAGES)).status == 200
    )
    (received,) = upstream.received(renamed.key)
    expected = body % (renamed.upstream_name.encode(), field, MESSAGES)
    assert received.body == expected.replace(rb'"key\u0020"', b'"key "')


def test_unary_answer_passes_untouched(gateway: Gateway, upstream: Upstream, renamed: Lot) -> None:
    """Not even the model's name is put right, nor white space, floats or escapes."""
    answer = rb' {"choices" : [{"message":{"content":"\ud83d"}}], "x":1.0, "model":"\u0041"} '
    upstream.reply(renamed.key, Reply([answer], headers=[("Content-Type", "application/json")]))
    assert gateway.chat(renamed.model).body == answer


def test_unary_answer_of_megabytes(gateway: Gateway, upstream: Upstream, lot: Lot) -> None:
    """Larger than any buffer on the way."""
    upstream.reply(lot.key, chat("x" * 5_000_000))
    answer = gateway.chat(lot.model)
    assert len(answer.json()["choices"][0]["message"]["content"]) == 5_000_000


@pytest.mark.parametrize(
    "content_type", [None, "application/x-www-form-urlencoded", "text/plain", "multipart/form-data"]
)
def test_body_is_json_whatever_its_type_says(
    gateway: Gateway, lot: Lot, content_type: str | None
) -> None:
    """curl's default is a form."""
    headers = {"Content-Type": content_type} if content_type else {}
    assert gateway.chat(lot.model, headers=headers).status == 200


def test_chunked_request(gateway: Gateway, upstream: Upstream, lot: Lot) -> None:
    """A body without a length arrives whole."""
    body = json.dumps(asked(lot.model, padding="x" * 300_000))
    url = f"{gateway.url}{CHAT}"
    printed = curl("-H", "Transfer-Encoding: chunked", url, "-d", "@-", data=body)
    assert json.loads(printed)["object"] == "chat.completion"
    assert upstream.received(lot.key)[0].body == body.encode()


def test_expect_100_continue(gateway: Gateway, upstream: Upstream, lot: Lot) -> None:
    """curl asks so before large bodies."""
    body = json.dumps(asked(lot.model, padding="x" * 1_100_000))
    url = f"{gateway.url}{CHAT}"
    printed = curl("-H", "Expect: 100-continue", "--include", url, "-d", "@-", data=body)
    assert printed.startswith("HTTP/1.1 100 Continue")
    assert "HTTP/1.1 200 OK" in printed
    assert upstream.received(lot.key)[0].body == body.encode()


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compressed_request_is_served(
    gateway: Gateway, upstream: Upstream, lot: Lot, coding: str, stream: bool, path: str
) -> None:
    """The upstream gets it as it was; the coding is not passed on."""
    body = json.dumps(asked(lot.model, stream=stream, prompt="Hi", padding="x" * 300_000)).encode()
    packed = (gzip.compress if coding == "gzip" else zlib.compress)(body)
    upstream.reply(lot.key, tell("Hi") if stream else chat("Hi"))
    assert gateway.call("POST", path, packed, {"Content-Encoding": coding}).status == 200
    (received,) = upstream.received(lot.key)
    assert "content-encoding" not in received.header
    assert received.json()["padding"] == "x" * 300_000
    wish = b',"stream_options":{"include_usage":true}' if stream else b""
    assert path != CHAT or received.body == body[:-1] + wish + b"}"


def test_compressed_request_without_a_length(
    gateway: Gateway, upstream: Upstream, lot: Lot
) -> None:
    """Chunked."""
    body = json.dumps(asked(lot.model)).encode()
    packed = gzip.compress(body)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\n"
    head += "Transfer-Encoding: chunked\r\n\r\n"
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(packed), packed)
    assert gateway.exchange(head.encode() + chunks).status == 200
    assert upstream.received(lot.key)[0].body == body


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, deflate"])
def test_other_codings_are_415(gateway: Gateway, lot: Lot, coding: str) -> None:
    """The coding is named."""
    body = json.dumps(asked(lot.model)).encode()
    answer = gateway.call("POST", CHAT, body, {"Content-Encoding": coding})
    assert (answer.status, answer.error["code"]) == (415, "unsupported_content_encoding")
    assert repr(coding) in answer.error["message"]
    assert answer.headers["accept-encoding"] == "gzip, deflate, identity"


def test_compressed_request_that_grows_is_413(gateway: Gateway, lot: Lot) -> None:
    """`max-body-size` counts what it is, too; what cannot be undone is a 400."""
    headers = {"Content-Encoding": "gzip"}
    packed = gzip.compress(json.dumps(asked(lot.model, padding="x" * MAX_BODY_BYTES)).encode())
    answer = gateway.call("POST", CHAT, packed, headers)
    assert (answer.status, answer.error["code"]) == (413, "body_too_large")
    for broken in (packed[:100], b"{}"):
        answer = gateway.call("POST", CHAT, broken, headers)
        assert (answer.status, answer.error["code"]) == (400, "invalid_request")


MALFORMED = {
    "empty": b"",
    "white-space": b" \n",
    "no-json": b"model=m",
    "array": b"[]",
    "string": b'"model"',
    "number": b"1",
    "null": b"null",
    "open": b'{"model":"m",%b',
    "trailing": b'{"model":"m",%b} x',
    "two": b'{"model":"m",%b}{}',
    "nan": b'{"model":"m",%b,"top_p":NaN}',
    "infinity": b'{"model":"m",%b,"top_p":-Infinity}',
    "single-quotes": b"{'model':'m'}",
    "utf-8": b'{"model":"m",%b,"x":"\xff"}',
    "utf-8-in-messages": b'{"model":"m","messages":[{"role":"user","content":"\xc3("}]}',
    "utf-16": '{"model":"m"}'.encode("utf-16"),
    "deep": b'{"model":"m",%b,"x":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "deep-objects": b'{"model":"m",%b,"x":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001,
    "deep-messages": b'{"model":"m","messages":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "model-missing": b"{%b}",
    "model-null": b'{"model":null,%b}',
    "model-number": b'{"model":1,%b}',
    "model-list": b'{"model":["m"],%b}',
    "model-empty": b'{"model":"",%b}',
    "model-twice": b'{"model":"m",%b,"model":"n"}',
    "model-twice-escaped": rb'{"model":"m",%b,"\u006dodel":"n"}',
    "stream-twice": b'{"model":"m","stream":true,%b,"stream":false}',
    "stream-string": b'{"model":"m",%b,"stream":"true"}',
    "stream-number": b'{"model":"m",%b,"stream":1}',
    "messages-missing": b'{"model":"m"}',
    "messages-empty": b'{"model":"m","messages":[]}',
    "messages-blank": b'{"model":"m","messages":[ \n ]}',
    "messages-null": b'{"model":"m","messages":null}',
    "messages-string": b'{"model":"m","messages":"Hi"}',
    "messages-object": b'{"model":"m","messages":{"role":"user"}}',
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_malformed_body_is_400(gateway: Gateway, upstream: Upstream, lot: Lot, body: bytes) -> None:
    """In the envelope, and nothing is sent to any upstream."""
    body = body.replace(b"%b", MESSAGES).replace(b'"m"', b'"%b"' % lot.model.encode())
    answer = gateway.call("POST", CHAT, body)
    assert answer.status == 400
    assert answer.error["type"] == "invalid_request_error"
    assert answer.error["code"] == "invalid_request"
    assert upstream.received(lot.key) == []


@pytest.mark.parametrize(
    "head",
    [
        b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1, 2\r\n\r\n",
        b"POST %b HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST %b HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
    ],
)
def test_broken_framing_is_refused(gateway: Gateway, head: bytes) -> None:
    """A 4xx or 5xx and the end of the connection, never a guess at where the body ends."""
    with gateway.connect() as sock:
        sock.sendall(head % CHAT.encode())
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    assert answer.split(b" ", 2)[1] in (b"400", b"501")


def test_too_large_a_body_is_refused_by_its_length(gateway: Gateway) -> None:
    """413 before any byte of it was read, and the connection ends."""
    head = b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    answer = gateway.exchange(head % (CHAT.encode(), MAX_BODY_BYTES + 1))
    assert answer.status == 413
    assert answer.error["code"] == "body_too_large"


def test_too_large_a_chunked_body_is_refused_in_mid_body(gateway: Gateway) -> None:
    """413 as soon as it is too much, while the caller would go on."""
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    with gateway.connect() as sock:
        sock.sendall(b"POST %b HTTP/1.1\r\nHost: localhost\r\n" % CHAT.encode())
        sock.sendall(b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(MAX_BODY_BYTES // 0x10000 + 1):
            sock.sendall(chunk)
        assert sock.recv(12) == b"HTTP/1.1 413"


def test_body_that_breaks_off(gateway: Gateway, upstream: Upstream, lot: Lot) -> None:
    """Nothing of half a request is sent on."""
    body = json.dumps(asked(lot.model)).encode()
    head = b"POST %b HTTP/1.1\r\nHost: localhost\r\nx-request-id: %b\r\nContent-Length: %d\r\n\r\n"
    with gateway.connect() as sock:
        sock.sendall(head % (CHAT.encode(), lot.model.encode(), len(body) + 1) + body)
    record = gateway.record_of(lot.model)
    assert (record["status"], record["end"]) == ("400", "invalid_request")
    assert upstream.received(lot.key) == []


def test_body_of_just_the_allowed_size(gateway: Gateway, lot: Lot) -> None:
    """The limit itself is allowed."""
    body = json.dumps(asked(lot.model)).encode()
    assert gateway.call("POST", CHAT, body.ljust(MAX_BODY_BYTES)).status == 200
    assert gateway.call("POST", CHAT, body.ljust(MAX_BODY_BYTES + 1)).status == 413


def test_two_requests_on_one_connection(gateway: Gateway, lot: Lot) -> None:
    """Pipelined: the second is answered after the first, neither is lost."""
    body = json.dumps(asked(lot.model)).encode()
    request = b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b"
    last = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with gateway.connect() as sock:
        sock.sendall(request % (CHAT.encode(), len(body), body) + last)
        answers = b"".join(iter(lambda: sock.recv(65536), b""))
    assert answers.count(b"HTTP/1.1 200 OK") == 2
    assert answers.endswith(b'{"status":"ok"}')


# Headers

CALLERS_OWN = {
    "Authorization": "Bearer sk-of-the-caller",
    "Cookie": "session=1",
    "X-Forwarded-For": "10.0.0.1",
    "X-Forwarded-Proto": "https",
    "Forwarded": "for=10.0.0.1",
    "X-Custom": "1",
    "Accept-Encoding": "gzip, br",
    "User-Agent": "curl",
}
FORWARDED = {
    "openai-beta": "assistants=v2",
    "openai-organization": "org-1",
    "openai-project": "proj-1",
    "idempotency-key": "k-1",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "x-request-id": "caller:1",
}


def test_headers_to_the_upstream(gateway: Gateway, upstream: Upstream, lot: Lot) -> None:
    """The named ones go on; the caller's key, cookies, addresses and others do not."""
    gateway.chat(lot.model, headers={**CALLERS_OWN, **FORWARDED})
    (received,) = upstream.received(lot.key)
    header = received.header
    assert {name: header.get(name) for name in FORWARDED} == FORWARDED
    assert header["authorization"] == f"Bearer {lot.key}"
    assert header["content-type"] == "application/json"
    assert header["accept-encoding"] == "identity"
    assert header["host"] == f"127.0.0.1:{upstream.port}"
    assert set(header) - set(FORWARDED) == {
        "accept-encoding",
        "authorization",
        "content-length",
        "content-type",
        "host",
        "user-agent",
    }
    assert not set(CALLERS_OWN.values()) & set(header.values())


@pytest.mark.parametrize("stream", [False, True])
def test_headers_to_the_caller(
    gateway: Gateway, upstream: Upstream, lot: Lot, stream: bool
) -> None:
    """`openai-*` comes back; cookies, hop-by-hop fields and the limits of one key do not."""
    sent = {
        "openai-processing-ms": "12",
        "openai-version": "2020-10-01",
        "Set-Cookie": "session=1",
        "x-ratelimit-remaining-requests": "1",
        "Keep-Alive": "timeout=5",
        "Proxy-Authenticate": "Basic",
        "x-request-id": "of-the-upstream",
        "Server": "upstream",
        "Retry-After": "5",
    }

    reply = tell("Hi") if stream else chat("Hi")
    upstream.reply(lot.key, reply.with_headers(sent))
    answered = gateway.chat(lot.model, stream=stream)
    assert answered.headers["openai-processing-ms"] == "12"
    assert answered.headers["openai-version"] == "2020-10-01"
    assert answered.headers["x-request-id"].startswith("req_")
    assert answered.headers["server"] == "gunicorn"
    assert answered.headers["x-proxy-attempts"] == "1"
    masked = answered.headers["x-proxy-client"]
    assert masked == f"{lot.model}/{lot.key[:3]}...{lot.key[-4:]}"
    left_out = {name.lower() for name in sent} - {
        "openai-processing-ms",
        "openai-version",
        "x-request-id",
        "server",
    }
    assert not left_out & set(answered.headers)


@pytest.mark.parametrize(
    ("given", "is_kept"),
    [
        ("a", True),
        ("A-Z.az_09:x", True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("", False),
        ("a b", False),
        ("a;b", False),
        ("\xe9", False),
    ],
)
def test_request_id_is_kept_or_replaced(
    gateway: Gateway, upstream: Upstream, lot: Lot, given: str, is_kept: bool
) -> None:
    """One id in answer, log and upstream request."""
    answer = gateway.chat(lot.model, headers={"x-request-id": given})
    found = answer.headers["x-request-id"]
    assert (found == given) is is_kept
    assert upstream.received(lot.key)[-1].header["x-request-id"] == found
    assert gateway.record_of(found)["status"] == "200"


def test_request_id_is_made(gateway: Gateway, upstream: Upstream, lot: Lot) -> None:
    """A new one each time."""
    ids = {gateway.chat(lot.model).headers["x-request-id"] for _ in range(3)}
    assert {received.header["x-request-id"] for received in upstream.received(lot.key)} == ids
    assert len(ids) == 3


def test_record_of_a_request(gateway: Gateway, lot: Lot) -> None:
    """One line each: what was asked, by whom it was served, how it went."""
    body = json.dumps(asked(lot.model)).encode()
    answer = gateway.call("POST", CHAT, body)
    record = gateway.record_of(answer.headers["x-request-id"])
    assert record["model"] == lot.model
    assert record["end"] == "ok"
    assert record["attempts"] == "1"
    assert record["in"] == str(len(body))
    assert record["out"] == str(len(answer.body))
    assert record["prompt_tokens"] == "9"
    assert record["completion_tokens"] == "3"
    assert "Hi" not in record.values()


def test_depth_at_the_edge_of_what_can_be_read(gateway: Gateway, renamed: Lot) -> None:
    """What could be read once may be too deep where it is renamed: refused then, nobody's 500."""
    for depth in range(900, 1000, 4):
        nested = b"[" * depth + b"]" * depth
        body = b'{"model":"%b","messages":[{}],"x":%b}' % (renamed.model.encode(), nested)
        assert gateway.call("POST", CHAT, body).status in (200, 400)
