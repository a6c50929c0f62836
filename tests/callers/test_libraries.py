"""The official Node SDK, langchain-openai and litellm as callers: what reaches their users."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.callers.conversation import Conversation
from tests.callers.environments import LANGCHAIN, LITELLM, NODE
from tests.support.gateway import Gateway, Lot
from tests.support.upstream import Upstream, chat, error, stream, stream_tool_calls, tool_calls

# Installing one takes up to a minute.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WEATHER = ("get_weather", {"city": "Zürich", "unit": "celsius"})
LIBRARIES = {
    "openai-node": (NODE, "openai_node.mjs"),
    "langchain-openai": (LANGCHAIN, "langchain_chat.py"),
    "litellm": (LITELLM, "litellm_library.py"),
}


@pytest.fixture(scope="module", params=LIBRARIES)
def caller(request: pytest.FixtureRequest, gateway: Gateway) -> Iterator[Conversation]:
    """Each library in turn, its retries off."""
    with Conversation(*LIBRARIES[request.param], f"{gateway.url}/v1") as running:
        yield running


def test_unary(caller: Conversation, lot: Lot) -> None:
    """Text and usage."""
    heard = caller.ask("unary", lot.model)
    assert (heard.pieces, heard.total_tokens, heard.message) == (["Hello there!"], 12, "")


def test_stream(caller: Conversation, lot: Lot) -> None:
    """Piece by piece, usage at the end."""
    heard = caller.ask("stream", lot.model)
    assert (heard.pieces, heard.total_tokens) == (["Hello", " there", "!"], 12)
    assert heard.message == ""


def test_tools(caller: Conversation, upstream: Upstream, lot: Lot) -> None:
    """Tools go up, two calls come down."""
    upstream.reply(lot.key, tool_calls(WEATHER, WEATHER))
    assert caller.ask("tools", lot.model).calls == [[*WEATHER], [*WEATHER]]
    assert upstream.received(lot.key)[0].json()["tools"][0]["function"]["name"] == WEATHER[0]


def test_streamed_tools(caller: Conversation, upstream: Upstream, lot: Lot) -> None:
    """Arguments in pieces find their calls."""
    upstream.reply(lot.key, stream_tool_calls(WEATHER, WEATHER))
    assert caller.ask("stream_tools", lot.model).calls == [[*WEATHER], [*WEATHER]]


@pytest.mark.parametrize("call", ["unary", "stream"])
@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
def test_error(caller: Conversation, upstream: Upstream, lot: Lot, status: int, call: str) -> None:
    """Status and message, before a stream too."""
    upstream.reply(lot.key, error(status, "Out of luck.", headers={"Retry-After": "99"}))
    heard = caller.ask(call, lot.model)
    assert heard.status == status
    assert "Out of luck." in heard.message
    assert heard.pieces == []
    assert len(upstream.received(lot.key)) == 1


@pytest.mark.parametrize("call", ["unary", "stream"])
def test_unknown_model(caller: Conversation, call: str) -> None:
    """The gateway's own error, by its status and text."""
    heard = caller.ask(call, "nobody-offers-this")
    assert heard.status == 404
    assert "nobody-offers-this" in heard.message


def test_failure_in_mid_stream(caller: Conversation, upstream: Upstream, lot: Lot) -> None:
    """The text up to there, and then no clean end."""
    upstream.reply(lot.key, stream("Hello", " there", finish=None, done=False))
    heard = caller.ask("stream", lot.model)
    assert heard.pieces == ["Hello", " there"]
    assert "cut off" in heard.message


def test_completion(caller: Conversation, upstream: Upstream, lot: Lot) -> None:
    """Legacy completions, served by chat: the prompt is the message."""
    heard = caller.ask("completion", lot.model, prompt="Say hello")
    assert (heard.pieces, heard.total_tokens, heard.message) == (["Hello there!"], 12, "")
    (received,) = upstream.received(lot.key)
    assert received.path == "/v1/chat/completions"
    assert received.json()["messages"] == [{"role": "user", "content": "Say hello"}]


def test_streamed_completion(caller: Conversation, lot: Lot) -> None:
    """The same piece by piece."""
    heard = caller.ask("stream_completion", lot.model, prompt="Say hello")
    assert (heard.pieces, heard.message) == (["Hello", " there", "!"], "")


def test_completion_error(caller: Conversation, upstream: Upstream, lot: Lot) -> None:
    """Its status and message are those of the chat behind it."""
    upstream.reply(lot.key, error(400, "Out of luck."))
    heard = caller.ask("completion", lot.model, prompt="Say hello")
    assert heard.status == 400
    assert "Out of luck." in heard.message


# What only the official SDK has


@pytest.fixture(scope="module")
def node(gateway: Gateway) -> Iterator[Conversation]:
    """The official SDK for Node."""
    with Conversation(*LIBRARIES["openai-node"], f"{gateway.url}/v1") as running:
        yield running


def test_list_of_prompts(node: Conversation, upstream: Upstream, lot: Lot) -> None:
    """Served one after the other; the texts in order, usage summed."""
    upstream.reply(lot.key, chat("one"), chat("two"))
    heard = node.ask("completion", lot.model, prompt=["1", "2"])
    assert (heard.pieces, heard.total_tokens) == (["one", "two"], 24)


def test_completion_that_is_not_supported(node: Conversation, lot: Lot) -> None:
    """Token arrays are a 400 that says so, by code and message."""
    heard = node.ask("completion", lot.model, prompt=[1, 2, 3])
    assert (heard.status, heard.code) == (400, "invalid_request")
    assert "tokens" in heard.message


def test_model_list(node: Conversation, lot: Lot) -> None:
    """As the SDK pages it."""
    assert lot.model in node.ask("models", "").pieces


def test_code_of_an_error_in_mid_stream(node: Conversation, upstream: Upstream, lot: Lot) -> None:
    """There is no status any more: the code tells."""
    upstream.reply(lot.key, stream("Hello", finish=None, done=False))
    heard = node.ask("stream", lot.model)
    assert (heard.status, heard.code) == (None, "upstream_truncated")


def test_response(node: Conversation, upstream: Upstream, lot: Lot) -> None:
    """Made of chat: text, calls and usage."""
    assert node.ask("response", lot.model).text == "Hello there!"
    upstream.reply(lot.key, tool_calls(WEATHER, WEATHER))
    heard = node.ask("response", lot.model)
    assert (heard.calls, heard.total_tokens) == ([[*WEATHER], [*WEATHER]], 12)


def test_streamed_response(node: Conversation, upstream: Upstream, lot: Lot) -> None:
    """As the SDK's helper joins it."""
    heard = node.ask("stream_response", lot.model)
    assert (heard.pieces, heard.total_tokens) == (["Hello", " there", "!"], 12)
    upstream.reply(lot.key, stream_tool_calls(WEATHER, WEATHER))
    assert node.ask("stream_response", lot.model).calls == [[*WEATHER], [*WEATHER]]


def test_parsed_response(node: Conversation, upstream: Upstream, lot: Lot) -> None:
    """Structured output."""
    upstream.reply(lot.key, chat('{"n":7}'))
    assert node.ask("parse_response", lot.model).pieces == ["7"]


def test_response_that_fails_in_mid_stream(
    node: Conversation, upstream: Upstream, lot: Lot
) -> None:
    """Is told by the event, and in what the helper makes of them."""
    cut = stream("Hello", finish=None, done=False)
    upstream.reply(lot.key, cut, cut)
    heard = node.ask("events", lot.model)
    assert heard.pieces == ["Hello"]
    assert "cut off" in heard.message
    assert "cut off" in node.ask("stream_response", lot.model).message
