"""The Claude client, and the proof that its fake upstream is one: the official SDK takes it so."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import pytest

from proxy.clients import base
from proxy.clients.base import MAX_PAGES
from proxy.clients.claude import ClaudeClient
from proxy.config import ClientConfig, Secret
from proxy.errors import InvalidRequest, UpstreamInvalid, UpstreamRefusal
from proxy.net.transport import Transport
from proxy.net.watch import CallerConnection
from proxy.version import USER_AGENT
from proxy.wire.chat import HUB_COUNT, ChatRequest, Usage, error_body, read_request
from proxy.wire.claude.api import BETAS
from proxy.wire.claude.native import MESSAGES
from proxy.wire.claude.request import to_request
from tests.support import claude_upstream as claude
from tests.support.calls import WAIT_S, read_all
from tests.support.dialects import BY_KIND, Call, Said, claude_stream
from tests.support.translators import fed
from tests.support.upstream import Received, Reply, Upstream, json_reply

CLAUDE = BY_KIND["claude"]
KEY = "sk-ant-0123456789abcdef"
SAID = Said("I will look.", "Hm.", (Call("toolu_1", "weather", {"city": "Zürich"}),), "tool_calls")
HELLO = {"role": "user", "content": "Hi"}
ASKED: Any = {"model": claude.MODEL, "max_tokens": 99, "messages": [HELLO]}


@pytest.fixture
def sdk(plain: Upstream) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(
        api_key=KEY, base_url=plain.origin, max_retries=0, timeout=WAIT_S
    ) as client:
        yield client


@pytest.fixture
def make_client(plain: Upstream, make_way: Callable[..., Transport]) -> Callable[..., ClaudeClient]:
    def make(**headers: str) -> ClaudeClient:
        config = ClientConfig(
            kind="claude",
            provider="claude",
            label="claude/1",
            identity="1",
            key=Secret(KEY),
            base_url=plain.origin,
            max_concurrency=1,
            weight=1,
            models=None,
            headers={name.replace("_", "-"): value for name, value in headers.items()},
        )
        return ClaudeClient(config, make_way(plain.origin))

    return make


def ask(client: ClaudeClient, *, refused: bool = False, **more: Any) -> Any:
    """What the client makes of a unary answer, or of a refusal."""
    body = {"model": "alias", "messages": [HELLO], **more}
    request = read_request(json.dumps(body).encode())
    deadline = time.monotonic() + WAIT_S
    headers = {"x-request-id": "req_1", "User-Agent": "caller"}
    reply = client.send(
        request,
        model=claude.MODEL,
        headers=headers,
        caller=CallerConnection(None),
        deadline=deadline,
    )
    try:
        data = read_all(reply)
        return client.refusal(reply, data) if refused else client.answer(request, data)
    finally:
        reply.close()


def list_models(client: ClaudeClient) -> list[str]:
    return client.list_models(caller=CallerConnection(None), deadline=time.monotonic() + WAIT_S)


# The fake


@pytest.mark.parametrize("name", claude.ANSWERS)
def test_sdk_reads_the_fakes_answers(plain: Upstream, sdk: anthropic.Anthropic, name: str) -> None:
    """Over the wire, unary and as a stream that adds up to the same."""
    answer = claude.ANSWERS[name]
    plain.reply(KEY, json_reply(answer), claude_stream(answer))
    whole = sdk.messages.create(**ASKED)
    with sdk.messages.stream(**ASKED) as stream:
        streamed = stream.get_final_message()
    assert whole.model_dump(mode="json", exclude={"usage"}) == streamed.model_dump(
        mode="json", exclude={"usage"}
    )
    assert whole.usage.output_tokens == streamed.usage.output_tokens
    assert {one.path for one in plain.received()} == {"/v1/messages"}
    assert {one.key for one in plain.received()} == {KEY}


def test_sdk_raises_the_fakes_errors(plain: Upstream, sdk: anthropic.Anthropic) -> None:
    """By status, with type and message; in mid-stream by the error's type."""
    limits = claude.rate_limit_headers(bucket="tokens", resets_at="x", retry_after="7")
    plain.reply(
        KEY,
        CLAUDE.refused(429, "Slower.", **limits),
        CLAUDE.refused(529, "Overloaded."),
        CLAUDE.refused(401, "invalid x-api-key"),
    )
    with pytest.raises(anthropic.RateLimitError, match="Slower") as caught:
        sdk.messages.create(**ASKED)
    assert caught.value.response.headers["retry-after"] == "7"
    with pytest.raises(anthropic.InternalServerError, match="Overloaded") as overloaded:
        sdk.messages.create(**ASKED)
    assert overloaded.value.status_code == 529
    with pytest.raises(anthropic.AuthenticationError):
        sdk.messages.create(**ASKED)


def test_sdk_pages_through_the_fakes_models(plain: Upstream, sdk: anthropic.Anthropic) -> None:
    """By `after_id`, until `has_more` is false."""
    plain.pages["/v1/models"] = pages(2)
    assert [model.id for model in sdk.models.list(limit=1000)] == ["claude-0", "claude-1"]


def pages(count: int) -> Callable[[Received], Reply]:
    """A list of so many pages of one model each."""

    def page(received: Received) -> Reply:
        after = received.query.partition("after_id=claude-")[2]
        number = int(after) + 1 if after else 0
        return json_reply({**claude.models(f"claude-{number}"), "has_more": number + 1 < count})

    return page


# The client


def test_request_as_the_api_wants_it(
    plain: Upstream, make_client: Callable[..., ClaudeClient]
) -> None:
    """Key and version in headers; the provider's own headers win, its betas add to ours."""
    plain.reply(KEY, CLAUDE.answer(SAID))
    chat, usage = ask(make_client(anthropic_beta="b-1", USER_AGENT="mine"))
    assert usage == Usage(11, 7, 0, 0, 0)
    assert json.loads(chat)["model"] == "alias"
    (received,) = plain.received()
    names = [name.lower() for name, _ in received.headers]
    assert len(names) == len(set(names))
    assert received.header["user-agent"] == "mine"
    assert received.header["anthropic-beta"].endswith(",b-1")
    assert received.header["x-request-id"] == "req_1"
    assert KEY not in received.path + received.query


def test_user_agent_is_ours(plain: Upstream, make_client: Callable[..., ClaudeClient]) -> None:
    """Unless the provider names another."""
    plain.pages["/v1/models"] = pages(1)
    list_models(make_client())
    assert plain.received()[0].header["user-agent"] == USER_AGENT


@pytest.mark.parametrize(
    ("status", "headers", "asked_s"),
    [
        (429, {"retry-after": "7"}, 7.0),
        (429, {"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        (529, {}, None),
        (500, {"retry-after": "3"}, 3.0),
    ],
)
def test_refusals_tell_status_and_wait(
    plain: Upstream,
    make_client: Callable[..., ClaudeClient],
    status: int,
    headers: dict[str, str],
    asked_s: float | None,
) -> None:
    """In OpenAI's envelope; the hints go on to a caller who is to get them."""
    plain.reply(KEY, CLAUDE.refused(status, "Slower.", **headers))
    refusal = ask(make_client(), refused=True)
    assert (refusal.status, refusal.retry_after_s) == (status, asked_s)
    error = json.loads(error_body(refusal))["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"] == "Slower."
    assert refusal.headers().items() >= headers.items()


def test_limits_that_are_used_up_tell_when_they_reset(
    plain: Upstream, make_client: Callable[..., ClaudeClient]
) -> None:
    """`anthropic-ratelimit-*`, when a 429 has no `retry-after`; the caller gets it as one."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 500))
    limits = claude.rate_limit_headers(bucket="input-tokens", resets_at=moment, retry_after=None)
    plain.reply(KEY, CLAUDE.refused(429, "Slower.", **limits))
    refusal = ask(make_client(), refused=True)
    assert 400 < refusal.retry_after_s <= 500
    assert 400 < int(refusal.headers()["retry-after"]) <= 500
    assert not [name for name in refusal.headers() if name.startswith("anthropic-")]


def test_what_claude_cannot_do_is_never_sent(
    plain: Upstream, make_client: Callable[..., ClaudeClient]
) -> None:
    """InvalidRequest comes before a connection is taken."""
    with pytest.raises(InvalidRequest):
        ask(make_client(), n=2)
    assert plain.connections == 0


def test_model_list_ends(plain: Upstream, make_client: Callable[..., ClaudeClient]) -> None:
    """All pages up to a limit; an empty or refused list is an error."""
    client = make_client()
    plain.pages["/v1/models"] = pages(3)
    assert list_models(client) == ["claude-0", "claude-1", "claude-2"]
    for count in (MAX_PAGES - 1, MAX_PAGES, MAX_PAGES + 1, 10_000):
        plain.pages["/v1/models"] = pages(count)
        before = len(plain.received())
        listed = [f"claude-{number}" for number in range(min(count, MAX_PAGES))]
        assert list_models(client) == listed
        assert len(plain.received()) - before == len(listed)
    plain.pages["/v1/models"] = json_reply({"data": []})
    with pytest.raises(UpstreamInvalid):
        list_models(client)
    plain.pages["/v1/models"] = CLAUDE.refused(401, "invalid x-api-key")
    with pytest.raises(UpstreamRefusal):
        list_models(client)


def test_names_that_claude_does_not_take_come_back(
    make_client: Callable[..., ClaudeClient],
) -> None:
    """The caller sees its own, whole and streamed: the client reads them in the request."""
    function = {"name": "files.read", "parameters": {}}
    tools = [{"type": "function", "function": function}]
    chat = {"model": "m", "messages": [HELLO], "tools": tools}
    request = read_request(json.dumps(chat).encode())
    [sent] = json.loads(to_request(request.body, model=claude.MODEL, stream=False))["tools"]
    answer = claude.message(claude.tool_use("a", sent["name"], {"n": 1}), stop_reason="tool_use")
    client = make_client()
    whole, _ = client.answer(request, json.dumps(answer).encode())
    [call] = json.loads(whole)["choices"][0]["message"]["tool_calls"]
    assert call["function"] == {"name": "files.read", "arguments": '{"n": 1}'}
    chunks = fed(client.chunks(request), claude.data(claude.events(answer)))
    deltas = [json.loads(chunk)["choices"][0]["delta"] for chunk in chunks]
    calls = [each["function"] for delta in deltas for each in delta.get("tool_calls", ())]
    assert [call["name"] for call in calls if "name" in call] == ["files.read"]
    assert json.loads("".join(call["arguments"] for call in calls)) == {"n": 1}


def send_natively(
    client: ClaudeClient, body: bytes, headers: dict[str, str], *, query: str = ""
) -> bytes:
    """What the client makes of an answer to a request of a caller who speaks the same."""
    request = ChatRequest(body, "alias", stream=False, speech=MESSAGES, query=query)
    reply = client.send(
        request,
        model=claude.MODEL,
        headers=headers,
        caller=CallerConnection(None),
        deadline=time.monotonic() + WAIT_S,
    )
    try:
        return client.answer(request, read_all(reply))[0]
    finally:
        reply.close()


@pytest.mark.parametrize(
    ("configured", "asked", "version", "betas"),
    [
        ({}, {}, "2023-06-01", f"{BETAS}"),
        ({}, {"anthropic-version": "2026-10-21", "anthropic-beta": "a,b"}, "2026-10-21", "a,b"),
        ({"anthropic_beta": "c"}, {}, "2023-06-01", f"{BETAS},c"),
        ({"anthropic_beta": "c"}, {"anthropic-beta": "a"}, "2023-06-01", "a,c"),
        ({"Anthropic_Version": "1"}, {"anthropic-version": "2"}, "1", BETAS),
        ({"anthropic_version": "1"}, {}, "1", BETAS),
    ],
)
def test_versions_and_betas(
    plain: Upstream,
    make_client: Callable[..., ClaudeClient],
    configured: dict[str, str],
    asked: dict[str, str],
    version: str,
    betas: str,
) -> None:
    """The caller's, ours where it has none; the configuration's version wins, its betas join."""
    plain.reply(KEY, json_reply(claude.message()))
    send_natively(make_client(**configured), b'{"model":"alias"}', asked)
    (got,) = plain.received(KEY)
    found = (got.header["anthropic-version"], got.header["anthropic-beta"])
    assert found == (version, betas)


def test_queries_do_not_fill_the_memory(
    plain: Upstream, make_client: Callable[..., ClaudeClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They pass as they came, and callers choose them."""
    monkeypatch.setattr(base, "MAX_HEADS", 2)
    client = make_client()
    for number in range(4):
        plain.reply(KEY, json_reply(claude.message()))
        send_natively(client, b'{"model":"alias"}', {}, query=f"beta={number}")
    assert [got.query for got in plain.received(KEY)] == [f"beta={n}" for n in range(4)]
    assert len(client._heads) == 2


def test_chat_is_counted(plain: Upstream, make_client: Callable[..., ClaudeClient]) -> None:
    """For callers of other dialects: of a request for a message, what is counted of it."""
    plain.reply(KEY, json_reply({"input_tokens": 7}))
    body = json.dumps({"model": "alias", "messages": [HELLO], "max_tokens": 9}).encode()
    request = ChatRequest(body, "alias", stream=False, speech=HUB_COUNT)
    client = make_client()
    reply = client.send(
        request,
        model=claude.MODEL,
        headers={},
        caller=CallerConnection(None),
        deadline=time.monotonic() + WAIT_S,
    )
    try:
        assert client.answer(request, read_all(reply)) == (b'{"input_tokens": 7}', None)
    finally:
        reply.close()
    (got,) = plain.received(KEY)
    assert got.path == "/v1/messages/count_tokens"
    assert got.json().keys() == {"model", "messages"}
