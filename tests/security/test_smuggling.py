"""Requests that two readers would cut differently: refused, and nothing behind them is served.

Against gunicorn with the settings as shipped (RFC 9112, sections 2.2, 5, 6 and 7.1). Each case has
a second request behind it, which a reader that is fooled would answer.
"""

from __future__ import annotations

import json
import socket

import pytest

from tests.security.conftest import AUTHORIZED, CALLER_KEY
from tests.support.gateway import CHAT, PATIENCE_S, Gateway, Lots, asked
from tests.support.upstream import Upstream

BODY = b'{"model":"m","messages":[1]}'
CHUNKED = b"1c\r\n" + BODY + b"\r\n0\r\n\r\n"
SMUGGLED = b"GET /v1/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
TE = b"Transfer-Encoding: chunked\r\n"
LENGTH = b"Content-Length: 28\r\n"

HEADERS = {
    "length, then chunked": LENGTH + TE,
    "chunked, then length": TE + LENGTH,
    "length 0 and chunked": b"Content-Length: 0\r\n" + TE,
    "two lengths": LENGTH + b"Content-Length: 0\r\n",
    "the same length twice": LENGTH + LENGTH,
    "a list of lengths": b"Content-Length: 28, 28\r\n",
    "a signed length": b"Content-Length: +28\r\n",
    "a negative length": b"Content-Length: -1\r\n",
    "a length in hex": b"Content-Length: 0x1c\r\n",
    "a length with an underscore": b"Content-Length: 2_8\r\n",
    "a length of other digits": b"Content-Length: 2\xb2\r\n",
    "an empty length": b"Content-Length:\r\n",
    "chunked twice": b"Transfer-Encoding: chunked, chunked\r\n",
    "chunked in two lines": TE + TE,
    "chunked before another": b"Transfer-Encoding: chunked, gzip\r\n",
    "chunked, then identity": b"Transfer-Encoding: chunked, identity\r\n",
    "identity alone": b"Transfer-Encoding: identity\r\n",
    "gzip alone": b"Transfer-Encoding: gzip\r\n",
    "an unknown coding": b"Transfer-Encoding: xchunked\r\n",
    "chunked with a parameter": b"Transfer-Encoding: chunked;q=1\r\n",
    "chunked in quotes": b'Transfer-Encoding: "chunked"\r\n',
    "vertical tab before chunked": b"Transfer-Encoding: \x0bchunked\r\n",
    "NUL behind chunked": b"Transfer-Encoding: chunked\x00\r\n",
    "space before the colon": b"Transfer-Encoding : chunked\r\n",
    "tab before the colon": b"Content-Length\t: 28\r\n",
    "a folded line": b"Transfer-Encoding:\r\n chunked\r\n",
    "a folded value": b"X-A: 1\r\n\tTransfer-Encoding: chunked\r\n",
    "a bare LF": b"X-A: 1\nTransfer-Encoding: chunked\r\n",
    "a bare CR": b"X-A: 1\rTransfer-Encoding: chunked\r\n",
    "a line without a colon": b"Transfer-Encoding\r\n" + LENGTH,
    "an empty name": b": 1\r\n" + LENGTH,
    "a name with a space": b"X A: 1\r\n" + LENGTH,
    "a second host": b"Host: example.com\r\n" + LENGTH,
    "an expectation that we do not know": b"Expect: 200-ok\r\n" + LENGTH,
}
LINES = {
    "HTTP/1.0 in chunks": (b"POST %b HTTP/1.0", TE),
    "no version": (b"POST %b", LENGTH),
    "HTTP/2 by name": (b"POST %b HTTP/2.0", LENGTH),
    "a version of more digits": (b"POST %b HTTP/1.10", LENGTH),
    "a small method": (b"post %b HTTP/1.1", LENGTH),
    "two spaces": (b"POST  %b HTTP/1.1", LENGTH),
    "a tab": (b"POST\t%b HTTP/1.1", LENGTH),
    "a control in the target": (b"POST %b\x01 HTTP/1.1", LENGTH),
    "a byte beyond ASCII in the target": (b"POST %b\xff HTTP/1.1", LENGTH),
}
CHUNKS = {
    "a size in 0x": b"0x1c\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a signed size": b"+1c\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a negative size": b"-1\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a size with an underscore": b"1_c\r\n" + BODY + b"\r\n0\r\n\r\n",
    "space before the size": b" 1c\r\n" + BODY + b"\r\n0\r\n\r\n",
    "LF behind the size": b"1c\n" + BODY + b"\r\n0\r\n\r\n",
    "LF in an extension": b"1c;a\nb\r\n" + BODY + b"\r\n0\r\n\r\n",
    "no line end behind the content": b"1c\r\n" + BODY + b"0\r\n\r\n",
    "more content than said": b"1c\r\n" + BODY + b"x\r\n0\r\n\r\n",
    "no size at all": b"\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a framing field in the trailers": b"1c\r\n" + BODY + b"\r\n0\r\nContent-Length: 5\r\n\r\n",
}


def answers(gateway: Gateway, data: bytes) -> list[bytes]:
    """Each answer on one connection, from its status on, until the gateway ends it."""
    with gateway.connect() as sock:
        sock.sendall(data)
        # A reader that waits for more of a request gets to see that there is none.
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(PATIENCE_S)
        return b"".join(iter(lambda: sock.recv(65536), b"")).split(b"HTTP/1.1 ")[1:]


def statuses(gateway: Gateway, data: bytes) -> list[bytes]:
    """The status of each answer on one connection, until the gateway ends it."""
    return [answer[:3] for answer in answers(gateway, data)]


def head(line: bytes = b"POST %b HTTP/1.1", headers: bytes = b"") -> bytes:
    """A request's head; the caller's key is sound."""
    host = b"" if b"Host: h" in headers else b"Host: localhost\r\n"
    key = b"Authorization: Bearer %b\r\n" % CALLER_KEY.encode()
    return line.replace(b"%b", CHAT.encode()) + b"\r\n" + host + key + headers + b"\r\n"


def assert_refused(gateway: Gateway, request: bytes) -> None:
    """One answer, and the end of the connection: what stands behind it is not read.

    Not 404, which would be the body's model, or the second request's path.
    """
    (status,) = statuses(gateway, request + SMUGGLED)
    assert status in (b"400", b"417", b"501"), status


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("body", [BODY, CHUNKED], ids=["plain", "chunked"])
def test_ambiguous_framing_is_refused(gateway: Gateway, name: str, body: bytes) -> None:
    """Whatever the body behind it looks like."""
    assert_refused(gateway, head(headers=HEADERS[name]) + body)


@pytest.mark.parametrize("name", LINES)
def test_odd_request_line_is_refused(gateway: Gateway, name: str) -> None:
    """A line that another reader might take for another request."""
    line, headers = LINES[name]
    assert_refused(gateway, head(line, headers) + BODY)


@pytest.mark.parametrize("name", CHUNKS)
def test_broken_chunks_are_refused(gateway: Gateway, name: str) -> None:
    """Nothing behind a broken chunk is taken for a request."""
    assert_refused(gateway, head(headers=TE) + CHUNKS[name])


# What is no request, with the caller's key where a reader may quote it, and its status.
NO_REQUESTS = {
    "no request line": (b"Authorization: Bearer %k\r\n\r\n", 400),
    "a key in a broken line": (b"GET /v1/models?key=%k HTTP/9\r\n\r\n", 400),
    "a key in the method": (b"%k / HTTP/1.1\r\n\r\n", 400),
    "a long request line": (b"GET /?%k" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n", 414),
    "a key without a colon": (b"GET / HTTP/1.1\r\nAuthorization Bearer %k\r\n\r\n", 400),
    "a key as a name": (b"GET / HTTP/1.1\r\n(%k): 1\r\n\r\n", 400),
    "a key with a NUL": (b"GET / HTTP/1.1\r\nAuthorization: Bearer %k\0\r\n\r\n", 400),
    "a key in a folded line": (b"GET / HTTP/1.1\r\nX-Api-Key:\r\n %k\r\n\r\n", 400),
    "a long field": (b"GET / HTTP/1.1\r\nX-Api-Key: %k" + b"x" * 9000 + b"\r\n\r\n", 431),
    "many fields": (b"GET / HTTP/1.1\r\n" + b"X-Api-Key: %k\r\n" * 200 + b"\r\n", 431),
    "no host": (b"GET /healthz HTTP/1.1\r\nX-Api-Key: %k\r\n\r\n", 400),
    "two hosts": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
    "a key as expectation": (b"GET / HTTP/1.1\r\nExpect: %k\r\n\r\n", 417),
    "a key as a coding": (b"GET / HTTP/1.1\r\nTransfer-Encoding: %k\r\n\r\n", 501),
}


@pytest.mark.parametrize("name", NO_REQUESTS)
def test_what_is_no_request_gets_an_error_in_our_shape(gateway: Gateway, name: str) -> None:
    """As every caller does; the gateway's `close` fails where its log quotes the key."""
    data, status = NO_REQUESTS[name]
    (answer,) = answers(gateway, data.replace(b"%k", CALLER_KEY.encode()))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"%d " % status), head
    assert b"\r\nContent-Type: application/json\r\n" in head
    assert b"\r\nConnection: close\r\n" in head
    error = json.loads(body)["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_request")
    assert CALLER_KEY.upper() not in answer.decode().upper()


def test_http_1_0_needs_no_host(gateway: Gateway) -> None:
    """RFC 9112, 3.2: from 1.1 on only."""
    with gateway.connect() as sock:
        sock.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert sock.recv(12)[-3:] == b"200"


def test_body_without_a_length_is_no_body(gateway: Gateway) -> None:
    """RFC 9112, 6.3: what stands behind such a head is the next request, never its body."""
    health = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert statuses(gateway, head() + health) == [b"400", b"200"]


def test_underscored_names_are_not_ours(gateway: Gateway, upstream: Upstream, lots: Lots) -> None:
    """`Content_Length` and `X_Request_Id` mean nothing: they would map to the same variable."""
    lot = lots.take()
    given = {
        **AUTHORIZED,
        "x-request-id": "sound",
        "X_Request_Id": "spoofed",
        "Authorization_": "Bearer x",
        "Transfer_Encoding": "chunked",
        "Content_Length": "0",
        "OpenAI_Beta": "spoofed",
    }
    answer = gateway.chat(lot.model, headers=given)
    assert (answer.status, answer.headers["x-request-id"]) == (200, "sound")
    (received,) = upstream.received(lot.key)
    assert "openai-beta" not in received.header
    assert gateway.call("GET", "/v1/models", headers={"x_api_key": CALLER_KEY}).status == 401


@pytest.mark.parametrize("name", ["SCRIPT_NAME", "PATH_INFO", "REMOTE_USER"])
def test_path_cannot_be_changed_by_a_header(gateway: Gateway, name: str) -> None:
    """Not even from this machine, where a proxy in front would be: its checks are by the path."""
    headers = {**AUTHORIZED, name: "/healthz"}
    assert gateway.call("GET", "/healthz/v1/models", headers=headers).status == 404
    headers[name] = "/elsewhere"
    assert gateway.call("GET", "/healthz", headers=headers).status == 200


def test_forwarded_headers_change_nothing(gateway: Gateway, lots: Lots) -> None:
    """Who a caller claims to be, and by which scheme it came, decides nothing and goes nowhere."""
    claims = {
        "Forwarded": "for=127.0.0.1;host=localhost;proto=https",
        "X-Forwarded-For": "127.0.0.1",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Prefix": "/evil",
        "X-Forwarded-Proto": "https",
        "X-Original-URL": "/healthz",
        "X-HTTP-Method-Override": "DELETE",
    }
    assert gateway.call("GET", "/v1/models", headers=claims).status == 401
    answer = gateway.call("GET", "/", headers={**claims, **AUTHORIZED})
    assert answer.status == 200
    assert b"evil" not in answer.body + json.dumps(answer.headers).encode()
    assert gateway.chat(lots.take().model, headers={**claims, **AUTHORIZED}).status == 200


def test_connection_named_fields_stay_here(
    gateway: Gateway, upstream: Upstream, lots: Lots
) -> None:
    """What `Connection` names is hop-by-hop, and so is `TE`; neither reaches the upstream."""
    lot = lots.take()
    hop_by_hop = {
        "Connection": "keep-alive, X-Secret",
        "X-Secret": "1",
        "TE": "trailers",
        "Upgrade": "h2c",
        "Proxy-Authorization": "Basic eDp5",
        "Cookie": "session=1",
    }
    body = json.dumps(asked(lot.model)).encode()
    assert gateway.call("POST", CHAT, body, {**AUTHORIZED, **hop_by_hop}).status == 200
    (received,) = upstream.received(lot.key)
    assert not {name.lower() for name in hop_by_hop} & set(received.header)
