"""The demo provider answers alike each time, in OpenAI's format, word by word."""

from __future__ import annotations

import json
import math
import socket
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from proxy.clients.base import Reply
from proxy.clients.demo import MAX_WORDS, DemoClient
from proxy.config import ClientConfig, Secret
from proxy.errors import CallerGone
from proxy.net.watch import CallerConnection
from proxy.wire.chat import Usage, read_request
from proxy.wire.sse import DONE, SseDecoder
from tests.support.clock import VirtualClock

HELLO = "Hello from the demo provider."


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def client(clock: VirtualClock) -> DemoClient:
    config = ClientConfig(
        kind="demo",
        provider="demo",
        label="demo",
        identity="demo",
        key=Secret(""),
        base_url="",
        max_concurrency=0,
        weight=1,
        models=None,
        delay_s=0.5,
    )
    return DemoClient(config, clock)


def send(client: DemoClient, caller: CallerConnection | None = None, **asked: Any) -> Reply:
    body = json.dumps({"model": "demo", "messages": ["x"], **asked}).encode()
    return client.send(
        read_request(body),
        model="demo",
        headers={},
        caller=caller or CallerConnection(None),
        deadline=math.inf,
    )


def read(reply: Reply) -> list[bytes]:
    assert reply.head(0.0)
    assert reply.status == 200
    found = []
    while data := reply.read(math.inf):
        found.append(data)
    reply.close()
    return found


def said(*contents: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content} for content in contents]


def test_unary_answer_is_a_chat_completion(client: DemoClient) -> None:
    """It says back the last message, and counts a token a word."""
    [body] = read(send(client, messages=said("first one", "Hi  there")))
    found = ChatCompletion.model_validate_json(body)
    assert found.choices[0].message.content == f"{HELLO} You said: Hi there"
    assert found.usage is not None
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (4, 9)
    assert client.answer(read_request(b'{"model":"m","messages":[1]}'), body) == (body, Usage(4, 9))


def stream(client: DemoClient, **asked: Any) -> list[ChatCompletionChunk]:
    decoder = SseDecoder(max_event_bytes=10_000)
    reply = send(client, stream=True, **asked)
    assert reply.headers["content-type"] == "text/event-stream"
    *events, done = [event for data in read(reply) for event in decoder.feed(data)]
    assert done == DONE
    translator = client.chunks(read_request(b'{"model":"m","messages":[1]}'))
    translator.feed(events)
    assert translator.finish() == []
    return [ChatCompletionChunk.model_validate_json(event) for event in events]


def test_stream_comes_word_by_word(client: DemoClient) -> None:
    """In chunks that add up to the unary answer."""
    chunks = stream(client, messages=said("Hi"))
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(texts) == f"{HELLO} You said: Hi"
    assert len(chunks) == 9
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_stream_tells_usage_when_asked(client: DemoClient) -> None:
    """In a last chunk without choices."""
    *_, last = stream(client, messages=said("Hi"), stream_options={"include_usage": True})
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 8


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_answer_is_cut_at_the_asked_length(client: DemoClient, name: str) -> None:
    """With the reason for it."""
    limit: dict[str, Any] = {name: 2}
    [body] = read(send(client, messages=said("Hi"), **limit))
    [choice] = ChatCompletion.model_validate_json(body).choices
    assert (choice.message.content, choice.finish_reason) == ("Hello from", "length")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"text": "a"}, {"type": "image_url"}, 5, {"text": "b"}], " You said: a b"),
        (None, ""),
        (5, ""),
        ("", ""),
        ("w " * 500, " You said:" + " w" * MAX_WORDS),
    ],
)
def test_any_content_is_answered(client: DemoClient, content: Any, text: str) -> None:
    """Parts, rubbish, and no more words than fit."""
    [body] = read(send(client, messages=[*said(content), 7]))
    assert ChatCompletion.model_validate_json(body).choices[0].message.content == HELLO + text


def test_halves_of_characters_do_not_break_the_answer(client: DemoClient) -> None:
    """They are said back as they came."""
    [body] = read(send(client, messages=said("a\ud83d b")))
    text = f"{HELLO} You said: a\ud83d b"
    assert json.loads(body)["choices"][0]["message"]["content"] == text
    events = read(send(client, stream=True, messages=said("a\ud83d b")))
    assert any(rb'"content":" a\ud83d"' in event for event in events)


def test_words_take_their_time(client: DemoClient, clock: VirtualClock) -> None:
    """A wait in between can be taken up again."""
    reply = send(client, stream=True, messages=said("Hi"))
    begin = clock.now
    assert reply.read(begin + 0.2) is None
    assert reply.read(begin + 9)
    assert clock.now == begin + 0.5
    assert reply.read(begin) is None
    assert reply.read(begin + 9)
    assert clock.now == begin + 1.0


def test_gone_caller_is_noticed(client: DemoClient) -> None:
    """As with any upstream."""
    ours, peer = socket.socketpair()
    with ours:
        peer.close()
        client_on_time = DemoClient(client.config)
        reply = send(client_on_time, caller=CallerConnection(ours))
        with pytest.raises(CallerGone):
            reply.read(math.inf)


def test_demo_has_one_model_and_never_refuses(client: DemoClient) -> None:
    """Nothing is open, nothing to close."""
    assert client.list_models(caller=CallerConnection(None), deadline=0.0) == ["demo"]
    client.close()
    reply = send(client)
    with pytest.raises(AssertionError):
        client.refusal(reply, b"")
