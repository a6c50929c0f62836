"""The OpenAI client: what it sends, how it reads refusals and model lists."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from proxy.clients import base
from proxy.clients.base import Collected
from proxy.clients.openai import OpenAIClient
from proxy.config import ClientConfig, Secret
from proxy.errors import (
    UpstreamInvalid,
    UpstreamRefusal,
    UpstreamTimeout,
    UpstreamTooLarge,
    UpstreamTruncated,
)
from proxy.net.transport import Transport
from proxy.net.watch import CallerConnection
from proxy.version import USER_AGENT
from proxy.wire.chat import ChatRequest, Usage, error_body, read_request
from tests.support.calls import read_all
from tests.support.translators import ended, fed
from tests.support.upstream import Gate, Hold, Received, Upstream, chat, error, json_reply, raw

BODY = b'{"model":"alias","x":1.00,"messages":["Hi"]}'
Maker = Callable[..., Transport]


@pytest.fixture
def make_client(plain: Upstream, make_way: Maker) -> Callable[..., OpenAIClient]:
    def make(key: str = "sk-0123456789abcdef", **headers: str) -> OpenAIClient:
        config = ClientConfig(
            kind="openai",
            provider="p",
            label="p/1",
            identity="1",
            key=Secret(key),
            base_url=plain.url,
            max_concurrency=1,
            weight=1,
            models=None,
            headers={name.replace("_", "-"): value for name, value in headers.items()},
        )
        return OpenAIClient(config, make_way(plain.url))

    return make


def ask(client: OpenAIClient, model: str = "name", **headers: str) -> bytes:
    reply = client.send(
        read_request(BODY),
        model=model,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        caller=CallerConnection(None),
        deadline=time.monotonic() + 9,
    )
    try:
        return read_all(reply)
    finally:
        reply.close()


def only(upstream: Upstream) -> Received:
    [received] = upstream.received()
    return received


def test_request_has_our_headers_and_the_upstreams_model(
    plain: Upstream, make_client: Callable[..., OpenAIClient]
) -> None:
    """Everything else of the body as it came."""
    plain.reply(None, chat("a"))
    client = make_client()
    body = ask(client, x_request_id="r1")
    received = only(plain)
    assert received.body == b'{"model":"name","x":1.00,"messages":["Hi"]}'
    assert received.headers == [
        ("Host", f"127.0.0.1:{plain.port}"),
        ("Accept-Encoding", "identity"),
        ("Content-Type", "application/json"),
        ("User-Agent", USER_AGENT),
        ("Authorization", "Bearer sk-0123456789abcdef"),
        ("x-request-id", "r1"),
        ("Content-Length", str(len(received.body))),
    ]
    assert client.answer(read_request(BODY), body) == (
        body,
        Usage(9, 3, cached_tokens=0, reasoning_tokens=0),
    )
    assert "0123456789" not in repr(client)


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize(("header", "asked_s"), [(None, 27.0), ("3", 3.0)])
def test_wait_in_an_errors_body_is_heeded(
    plain: Upstream,
    make_client: Callable[..., OpenAIClient],
    *,
    listed: bool,
    header: str | None,
    asked_s: float,
) -> None:
    """Where no header asks for one; callers are told of it as if one had."""
    error = {"error": {"code": 429, "message": "q", "details": [{"retryDelay": "27s"}]}}
    headers = {"Retry-After": header} if header else {}
    plain.reply(None, json_reply([error] if listed else error, 429, headers))
    client = make_client()
    reply = client.send(
        read_request(BODY),
        model="m",
        headers={},
        caller=CallerConnection(None),
        deadline=time.monotonic() + 9,
    )
    found = client.refusal(reply, read_all(reply))
    reply.close()
    assert found.retry_after_s == asked_s
    assert found.headers()["retry-after"] == str(int(asked_s))
    assert json.loads(error_body(found)) == error


def test_end_without_a_finish_reason_is_warned_of_once(
    make_client: Callable[..., OpenAIClient], caplog: pytest.LogCaptureFixture
) -> None:
    """Per client."""
    for _ in range(2):
        client = make_client()
        for _ in range(3):
            stream = client.chunks(read_request(BODY))
            fed(stream, [b'{"choices":[{"index":0}]}', b"[DONE]"])
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert client.label in caplog.text


def test_choices_asked_for_are_the_requests(make_client: Callable[..., OpenAIClient]) -> None:
    """Chat's own `n`."""
    finished = b'{"choices":[{"index":0,"finish_reason":"stop"}]}'
    stream = make_client().chunks(read_request(b'{"model":"m","messages":[1],"n":2}'))
    fed(stream, [finished])
    with pytest.raises(UpstreamTruncated):
        ended(stream)
    fed(stream, [finished.replace(b"0", b"1")])
    assert ended(stream) == []


def test_model_of_the_same_name_leaves_the_body_untouched(
    plain: Upstream, make_client: Callable[..., OpenAIClient]
) -> None:
    """Byte for byte."""
    plain.reply(None, chat("a"))
    ask(make_client(), model="alias")
    assert only(plain).body == BODY


def test_providers_headers_come_first(
    plain: Upstream, make_client: Callable[..., OpenAIClient]
) -> None:
    """Before ours and the caller's, whatever their case; no name goes out twice."""
    plain.reply(None, chat("a"))
    client = make_client(user_agent="x", AUTHORIZATION="Token t", openai_project="own", X_Own="1")
    ask(client, OpenAI_Project="callers", OpenAI_Beta="b")
    names = [name.lower() for name, _ in only(plain).headers]
    assert len(names) == len(set(names))
    header = only(plain).header
    assert (header["user-agent"], header["authorization"]) == ("x", "Token t")
    assert (header["openai-project"], header["openai-beta"], header["x-own"]) == ("own", "b", "1")


def test_client_without_a_key_sends_none(
    plain: Upstream, make_client: Callable[..., OpenAIClient]
) -> None:
    """llama.cpp, vLLM, Ollama."""
    plain.reply(None, chat("a"))
    ask(make_client(key=""))
    assert "authorization" not in only(plain).header


def test_refusal_keeps_body_hints_and_code(
    plain: Upstream, make_client: Callable[..., OpenAIClient]
) -> None:
    """Rate limits of one key among many don't pass."""
    headers = {"Retry-After": "3", "openai-version": "1", "x-ratelimit-limit": "5"}
    answer = error(429, "Slow down.", code="rate", headers=headers)
    plain.reply(None, answer)
    client = make_client()
    reply = client.send(
        read_request(BODY), model="m", headers={}, caller=CallerConnection(None),
        deadline=time.monotonic() + 9,
    )  # fmt: skip
    body = read_all(reply)
    reply.close()
    found = client.refusal(reply, body)
    assert (found.status, found.message, found.upstream_code) == (429, "Slow down.", "rate")
    assert found.retry_after_s == 3.0
    assert error_body(found) == body
    assert found.headers() == {"retry-after": "3", "openai-version": "1"}


def list_models(client: OpenAIClient, wait_s: float = 9.0) -> list[str]:
    return client.list_models(caller=CallerConnection(None), deadline=time.monotonic() + wait_s)


def test_models_are_listed(plain: Upstream, make_client: Callable[..., OpenAIClient]) -> None:
    """Each once, in order; with the key."""
    plain.models = ["b", "vendor/a", "b"]
    assert list_models(make_client()) == ["b", "vendor/a"]
    assert only(plain).key == "sk-0123456789abcdef"


@pytest.mark.parametrize(
    "page",
    [{"data": []}, {"data": 5}, {"data": {"id": "x"}}, {"data": [None, 5, {"id": 5}, {"id": ""}]},
     {}, [], "x", {"data": "abc"}],
)  # fmt: skip
def test_odd_model_list_is_invalid(
    plain: Upstream, make_client: Callable[..., OpenAIClient], page: object
) -> None:
    """And connections are given back all the same."""
    plain.pages["/v1/models"] = json_reply(page)
    client = make_client()
    for _ in range(2):
        with pytest.raises(UpstreamInvalid, match="model list is empty"):
            list_models(client)
    assert plain.connections == 1
    client.close()
    plain.wait_for_connections()


@pytest.mark.parametrize(
    "page",
    [
        [{"id": "x", "object": "model"}, {"id": "vendor/y"}],
        {"object": "list", "models": [{"name": "x"}, {"id": "vendor/y", "name": "Y"}]},
        {"data": None, "models": [{"id": "x"}, None, {"id": None}, {"id": "vendor/y"}]},
        {"data": [{"id": "x"}, 5, {"id": "vendor/y"}], "models": [{"name": "z"}]},
    ],
    ids=["bare", "models", "odd entries", "both"],
)
def test_model_list_in_another_form_is_one(
    plain: Upstream, make_client: Callable[..., OpenAIClient], page: object
) -> None:
    """Bare, under `models`, with entries that cannot be read: a provider is not lost by that."""
    plain.pages["/v1/models"] = json_reply(page)
    assert list_models(make_client()) == ["x", "vendor/y"]


def test_model_list_has_a_limit(
    plain: Upstream, make_client: Callable[..., OpenAIClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list of just so many bytes is read; it counts what is read, not what is announced."""
    page = json_reply({"data": [{"id": "x"}]})
    plain.pages["/v1/models"] = page.in_pieces(5)
    size = sum(map(len, page.body))  # type: ignore[arg-type]
    monkeypatch.setattr(base, "MAX_PAGE_BYTES", size)
    assert list_models(make_client()) == ["x"]
    monkeypatch.setattr(base, "MAX_PAGE_BYTES", size - 1)
    with pytest.raises(UpstreamTooLarge, match="limit of a model list"):
        list_models(make_client())


def test_refused_model_list_is_a_refusal(
    plain: Upstream, make_client: Callable[..., OpenAIClient]
) -> None:
    """Under its own status."""
    plain.pages["/v1/models"] = error(401, "No.")
    with pytest.raises(UpstreamRefusal, match="No") as caught:
        list_models(make_client())
    assert caught.value.status == 401


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"])
def test_silent_model_list_is_a_timeout(
    plain: Upstream, make_client: Callable[..., OpenAIClient], begun: bytes
) -> None:
    """Before its head and after."""
    plain.pages["/v1/models"] = raw(begun, Hold(Gate()))
    with pytest.raises(UpstreamTimeout):
        list_models(make_client(), wait_s=0.2)


def test_body_over_its_limit_is_too_large() -> None:
    """Exactly the limit passes."""
    kept = Collected(5, "max")
    kept.add(b"he")
    kept.add(b"llo")
    assert kept.whole() == b"hello"
    with pytest.raises(UpstreamTooLarge, match="larger than 5 bytes"):
        kept.add(b"x")


def test_openais_own_words(make_way: Maker) -> None:
    """Its own API refuses what servers like it take; a caller's own request stays as it is."""
    body = b'{"model":"m","max_tokens":9,"top_k":3,"x":1.00}'
    sent = {}
    for host in ("api.openai.com", "api.other.test"):
        config = ClientConfig(
            kind="openai",
            provider="p",
            label="p/1",
            identity="1",
            key=Secret("sk-0123456789abcdef"),
            base_url=f"https://{host}/v1",
            max_concurrency=1,
            weight=1,
            models=None,
        )
        client = OpenAIClient(config, make_way("http://127.0.0.1:9"))
        for is_made in (False, True):
            request = ChatRequest(body, "m", stream=False, is_made=is_made)
            sent[host, is_made] = client._asked(request, "m")[1]
    assert sent.pop(("api.openai.com", True)) == b'{"model":"m","x":1.00,"max_completion_tokens":9}'
    assert set(sent.values()) == {body}
