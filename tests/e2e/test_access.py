"""Who may call: callers' keys where there are any, else this machine's own programs only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from tests.support.gateway import CHAT, Gateway, Lot, Lots, asked
from tests.support.upstream import Upstream

KEY = "caller-key-0123456789"
NARROW_KEY = "narrow-key-0123456789"
NARROW_HASH = f"sha256:{hashlib.sha256(NARROW_KEY.encode()).hexdigest()}"


@pytest.fixture(scope="module")
def lots(upstream: Upstream) -> Lots:
    return Lots(upstream.url, {1: 60})


@pytest.fixture
def lot(lots: Lots) -> Lot:
    return lots.take()


@pytest.fixture(scope="module")
def narrow(lots: Lots) -> Lot:
    """The one model that NARROW_KEY may use, of which the file has a hash only."""
    return lots.take()


@pytest.fixture(scope="module")
def keyed(lots: Lots, narrow: Lot) -> Iterator[Gateway]:
    callers = [KEY, {"name": "narrow", "key": NARROW_HASH, "models": [narrow.model]}]
    with Gateway({"api-keys": callers, "openai-compatibility": lots.providers}) as running:
        yield running


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    "headers",
    [
        bearer(KEY),
        {"Authorization": f"bearer  {KEY}"},
        {"x-api-key": KEY},
        {"x-goog-api-key": KEY},
        {**bearer(KEY), "x-api-key": "wrong", "x-goog-api-key": "wrong"},
        {"x-api-key": KEY, "x-goog-api-key": "wrong"},
    ],
)
def test_key_lets_in(keyed: Gateway, lot: Lot, headers: dict[str, str]) -> None:
    """In any of the SDKs' headers; the first present decides."""
    assert keyed.chat(lot.model, headers=headers).status == 200
    assert keyed.call("GET", "/v1/models", headers=headers).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer("wrong"),
        bearer(""),
        {"Authorization": ""},
        {"Authorization": KEY},
        {"Authorization": f"Basic {KEY}"},
        bearer(KEY + "0"),
        bearer(KEY[:-1]),
        bearer(KEY.upper()),
        bearer("sch\xfcssel"),
        {"x-api-key": "\xff\xfe"},
        {**bearer("wrong"), "x-api-key": KEY},
        {"x-api-key": "wrong", "x-goog-api-key": KEY},
        {"Cookie": f"key={KEY}"},
        bearer(NARROW_HASH),
        bearer(NARROW_HASH.removeprefix("sha256:")),
    ],
)
@pytest.mark.parametrize(
    ("method", "path"), [("POST", CHAT), ("GET", "/v1/models"), ("GET", "/v1/models/x")]
)
def test_no_other_key_does(
    keyed: Gateway, upstream: Upstream, lot: Lot, headers: dict[str, str], method: str, path: str
) -> None:
    """401 in the envelope, also for what is no ASCII."""
    body = asked(lot.model) if method == "POST" else None
    answer = keyed.call(method, path, body, headers)
    assert answer.status == 401
    assert answer.error["code"] == "invalid_api_key"
    assert upstream.received(lot.key) == []


def test_key_in_the_query_is_not_read(keyed: Gateway, lot: Lot) -> None:
    """It would end in logs."""
    body = asked(lot.model)
    for name in ("key", "api_key", "api-key"):
        assert keyed.call("POST", f"{CHAT}?{name}=x", body).status == 401


def test_key_is_asked_for_before_the_body_is_read(keyed: Gateway) -> None:
    """Nobody uploads megabytes without one."""
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
    assert keyed.exchange(head % CHAT.encode()).status == 401


def test_key_may_use_its_models_only(keyed: Gateway, lot: Lot, narrow: Lot) -> None:
    """The others do not exist for it."""
    headers = bearer(NARROW_KEY)
    listed = keyed.call("GET", "/v1/models", headers=headers).json()["data"]
    assert [model["id"] for model in listed] == [narrow.model]
    assert keyed.call("GET", f"/v1/models/{lot.model}", headers=headers).status == 404
    refused = keyed.chat(lot.model, headers=headers)
    assert refused.status == 404
    assert refused.error["code"] == "model_not_found"
    assert keyed.chat(narrow.model, headers=headers).status == 200


def test_record_names_the_caller(keyed: Gateway, narrow: Lot) -> None:
    """By the name of its key, never by the key."""
    answer = keyed.chat(narrow.model, headers=bearer(NARROW_KEY))
    assert keyed.record_of(answer.headers["x-request-id"])["caller"] == "narrow"


def test_status_pages_need_no_key(keyed: Gateway) -> None:
    """Load balancers have none."""
    for path in ("/", "/healthz", "/readyz"):
        assert keyed.call("GET", path).status == 200


def test_preflight_needs_no_key(keyed: Gateway) -> None:
    """Browsers send none with it; the headers asked for are echoed."""
    wanted = "authorization, content-type, x-stainless-os"
    headers = {"Origin": "https://app.example", "Access-Control-Request-Headers": wanted}
    headers["Access-Control-Request-Method"] = "POST"
    answer = keyed.call("OPTIONS", CHAT, headers=headers)
    assert answer.status == 204
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-allow-headers"] == wanted


@pytest.mark.parametrize("stream", [False, True])
def test_answers_to_other_origins(keyed: Gateway, lot: Lot, stream: bool) -> None:
    """Scripts of any page may read them, errors too, and the headers that help."""
    headers = {"Origin": "https://app.example"}
    for answer in (
        keyed.chat(lot.model, stream=stream, headers={**headers, **bearer(KEY)}),
        keyed.chat(lot.model, stream=stream, headers=headers),
        keyed.call("GET", "/nothing", headers=headers),
    ):
        assert answer.headers["access-control-allow-origin"] == "*"
        exposed = answer.headers["access-control-expose-headers"].split(", ")
        assert {"x-request-id", "x-proxy-client", "retry-after", "retry-after-ms"} <= set(exposed)


# Without keys

LOCAL_HOSTS = ["localhost", "localhost:8317", "127.0.0.1", "127.8.9.1:80", "[::1]:1", "a.localhost"]
FOREIGN_HOSTS = [
    "evil.example",
    "localhost.evil.example:8317",
    "10.0.0.1",
    "0.0.0.0",
    "[::2]",
    "x:y",
]


@pytest.mark.parametrize("host", LOCAL_HOSTS)
def test_open_gateway_answers_to_loopback_names(gateway: Gateway, host: str) -> None:
    """As a program on this machine calls it, whatever the port says."""
    headers = {"Host": host, "Origin": f"http://{host}"}
    assert gateway.call("GET", "/v1/models", headers=headers).status == 200


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_open_gateway_refuses_other_names(gateway: Gateway, upstream: Upstream, host: str) -> None:
    """DNS rebinding: the page's own name stands in `Host`."""
    for answer in (
        gateway.call("GET", "/v1/models", headers={"Host": host}),
        gateway.call("POST", CHAT, asked("any"), {"Host": host}),
    ):
        assert answer.status == 403
        assert answer.error["code"] == "forbidden"


@pytest.mark.parametrize(
    "origin", ["null", "", "https://evil.example", "http://10.0.0.1", "file://"]
)
def test_open_gateway_refuses_other_origins(gateway: Gateway, origin: str) -> None:
    """A plain POST of a web page, which no preflight precedes; no CORS headers either."""
    headers = {"Origin": origin, "Content-Type": "text/plain"}
    answer = gateway.call("POST", CHAT, asked("any"), headers)
    assert answer.status == 403
    assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_open_gateway_sends_no_cors_headers(gateway: Gateway) -> None:
    """Not even to a page on this machine."""
    answer = gateway.call("GET", "/v1/models", headers={"Origin": "http://localhost:3000"})
    assert answer.status == 200
    assert not [name for name in answer.headers if name.startswith("access-control-")]
