"""Anthropic's SDK for Node as a caller: what reaches its users, of each kind of upstream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.callers.conversation import Conversation
from tests.callers.environments import ANTHROPIC_NODE
from tests.support.dialects import DIALECTS, Call, Dialect, Said, configuration
from tests.support.gateway import Gateway
from tests.support.upstream import CUT, Upstream

# Installing it takes up to a minute.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SAID = Said("Hello there, you", prompt_tokens=9, completion_tokens=3)
CALLS = (Call("call_1", "get_weather", {"city": "Zürich"}), Call("call_2", "get_weather", {}))
CALLED = Said("", reasoning="Hm.", calls=CALLS, finish="tool_calls")


@pytest.fixture(scope="module")
def gateway(upstream: Upstream) -> Iterator[Gateway]:
    clients = [one.client(upstream.origin, f"key-{one.kind}", one.kind) for one in DIALECTS]
    with Gateway(configuration(*clients, **{"request-retry": 0})) as running:
        yield running


@pytest.fixture(scope="module")
def node(gateway: Gateway) -> Iterator[Conversation]:
    with Conversation(ANTHROPIC_NODE, "anthropic_node.mjs", gateway.url) as running:
        yield running


@pytest.fixture(params=DIALECTS, ids=lambda dialect: dialect.kind)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    found: Dialect = request.param
    return found


@pytest.mark.parametrize("call", ["unary", "stream"])
def test_text(node: Conversation, upstream: Upstream, dialect: Dialect, call: str) -> None:
    """Piece by piece, with usage."""
    reply = dialect.whole(SAID) if call == "unary" else dialect.streamed(SAID)
    upstream.reply(f"key-{dialect.kind}", reply)
    heard = node.ask(call, dialect.kind)
    assert (heard.text, heard.total_tokens, heard.message) == (SAID.text, 12, "")


def test_streamed_tools(node: Conversation, upstream: Upstream, dialect: Dialect) -> None:
    """With thinking before them."""
    upstream.reply(f"key-{dialect.kind}", dialect.streamed(CALLED))
    heard = node.ask("stream_tools", dialect.kind)
    assert heard.calls == [[call.name, call.arguments] for call in CALLS]


@pytest.mark.parametrize("call", ["unary", "stream"])
def test_error(node: Conversation, upstream: Upstream, dialect: Dialect, call: str) -> None:
    """Status and message, before a stream too."""
    upstream.reply(f"key-{dialect.kind}", dialect.refused(400, "Out of luck."))
    heard = node.ask(call, dialect.kind)
    assert heard.status == 400
    assert "Out of luck." in heard.message


def test_failure_in_mid_stream(node: Conversation, upstream: Upstream, dialect: Dialect) -> None:
    """The text up to there, and then no clean end."""
    whole = dialect.streamed(SAID)
    upstream.reply(f"key-{dialect.kind}", replace(whole, body=[*whole.body[:-2], CUT]))
    heard = node.ask("stream", dialect.kind)
    assert SAID.text.startswith(heard.text)
    assert heard.text
    assert "upstream connection error: " in heard.message


def test_count_and_models(node: Conversation) -> None:
    """An estimate; the list as the SDK pages it."""
    assert node.ask("count", "openai").total_tokens
    assert set(node.ask("models", "").pieces) == {one.kind for one in DIALECTS}
