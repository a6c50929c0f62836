"""The demo provider answers alike each time, in OpenAI's format, word by word."""

from __future__ import annotations

import datetime
import enum
import json
import math
import socket
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import openai
import pydantic
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from proxy import create_app
from proxy.clients.base import Reply
from proxy.clients.demo import MAX_WORDS, DemoClient
from proxy.config import ClientConfig, Secret
from proxy.errors import CallerGone, UnsupportedParameter
from proxy.net.watch import CallerConnection
from proxy.wire.chat import Usage, read_request
from proxy.wire.sse import DONE, SseDecoder
from tests.support.clock import VirtualClock
from tests.support.translators import ended, fed
from tests.support.wsgi import werkzeug_server

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
    request = read_request(json.dumps({"model": "m", "stream": True, **asked}).encode())
    translator = client.chunks(request)
    chunks = fed(translator, events)
    assert ended(translator) == []
    assert translator.usage is not None
    return [ChatCompletionChunk.model_validate_json(chunk) for chunk in chunks]


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


# Tools


def tool(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": [*properties]}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


CITY = {"type": "string", "minLength": 5}
TOOLS = [tool("weather", city=CITY, days={"type": "integer", "minimum": 1}), tool("time")]
ARGUMENTS = {"city": "demod", "days": 1}


def whole(client: DemoClient, **asked: Any) -> Any:
    """The one choice of a unary answer."""
    [body] = read(send(client, **asked))
    [choice] = ChatCompletion.model_validate_json(body).choices
    return choice


def test_tool_is_called_once_and_then_there_is_text(client: DemoClient) -> None:
    """Arguments fit; when its result is there the answer is text, until the user speaks again."""
    history = said("How is the weather?")
    choice = whole(client, messages=history, tools=TOOLS)
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    [call] = choice.message.tool_calls
    assert (call.id, call.function.name) == ("call_demo_1", "weather")
    assert json.loads(call.function.arguments) == ARGUMENTS
    history.append(choice.message.model_dump(exclude_none=True))
    history.append({"role": "tool", "tool_call_id": call.id, "content": "sunny"})
    choice = whole(client, messages=history, tools=TOOLS)
    assert (choice.finish_reason, choice.message.tool_calls) == ("stop", None)
    assert choice.message.content == f"{HELLO} You said: sunny"
    choice = whole(client, messages=[*history, *said("And tomorrow?")], tools=TOOLS)
    assert [call.id for call in choice.message.tool_calls] == ["call_demo_2"]


def test_call_is_streamed_in_pieces(client: DemoClient) -> None:
    """Its name comes first, then the arguments bit by bit."""
    chunks = stream(client, messages=said("Hi"), tools=TOOLS)
    deltas = [chunk.choices[0].delta for chunk in chunks]
    [first], *others = [delta.tool_calls for delta in deltas if delta.tool_calls]
    assert (first.index, first.id, first.type) == (0, "call_demo_1", "function")
    assert first.function is not None
    assert first.function.name == "weather"
    arguments = first.function.arguments or ""
    for [call] in others:
        assert (call.index, call.id, call.function.name) == (0, None, None)  # type: ignore[union-attr]
        arguments += call.function.arguments  # type: ignore[union-attr, operator]
    assert others
    assert json.loads(arguments) == ARGUMENTS
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


NAMED = {"type": "function", "function": {"name": "time"}}


@pytest.mark.parametrize(
    ("choice", "called"),
    [
        ("auto", "weather"),
        ("required", "weather"),
        (NAMED, "time"),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED]}}, "time"),
        ("none", None),
        ({"type": "function", "function": {"name": "other"}}, None),
        ({"type": "custom", "custom": 7}, None),
        (7, "weather"),
    ],
)
def test_choice_of_tools_is_heeded(client: DemoClient, choice: Any, called: str | None) -> None:
    """The first of those that may be called."""
    message = whole(client, messages=said("Hi"), tools=TOOLS, tool_choice=choice).message
    names = [call.function.name for call in message.tool_calls or ()]
    assert names == ([called] if called else [])
    assert (message.content is None) == bool(called)


@pytest.mark.parametrize("tools", [7, [], [7], [{"type": "custom"}], [{"function": {"name": 7}}]])
def test_what_is_no_function_is_not_called(client: DemoClient, tools: Any) -> None:
    """And no reason to fail."""
    assert whole(client, messages=said("Hi"), tools=tools).message.content


def test_function_without_parameters_has_none(client: DemoClient) -> None:
    """Its arguments are an empty object."""
    bare = {"type": "function", "function": {"name": "now"}}
    [call] = whole(client, messages=said("Hi"), tools=[bare]).message.tool_calls
    assert call.function.arguments == "{}"


# Response formats


def test_json_object_is_one(client: DemoClient) -> None:
    """With the text in it."""
    wanted = {"type": "json_object"}
    content = whole(client, messages=said("Hi"), response_format=wanted).message.content
    assert json.loads(content) == {"answer": f"{HELLO} You said: Hi"}


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"tools": [tool("f", a=False)]}, "tools"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": False}}},
         "response_format"),
    ],
)  # fmt: skip
def test_schema_that_nothing_fits_is_refused(
    client: DemoClient, asked: dict[str, Any], param: str
) -> None:
    """Before there is a reply, and the parameter is named."""
    with pytest.raises(UnsupportedParameter) as caught:
        send(client, messages=said("Hi"), **asked)
    assert caught.value.param == param


class Unit(enum.Enum):
    CELSIUS = "C"
    FAHRENHEIT = "F"


class Place(pydantic.BaseModel):
    name: Annotated[str, pydantic.Field(min_length=6, max_length=8)]
    height: Annotated[float, pydantic.Field(gt=0, lt=1)] | None
    parts: list[Place]


class Forecast(pydantic.BaseModel):
    place: Place
    unit: Unit
    day: datetime.date
    values: Annotated[list[Annotated[int, pydantic.Field(ge=3)]], pydantic.Field(min_length=2)]
    kind: Literal["sun", "rain"]


@pytest.fixture
def sdk() -> Iterator[openai.OpenAI]:
    """The official SDK, and the gateway that it calls."""
    with werkzeug_server(create_app({"demo": [{"delay-ms": 0}]})) as port:
        url = f"http://127.0.0.1:{port}/v1"
        with openai.OpenAI(base_url=url, api_key="x", max_retries=0) as made:
            yield made


def test_sdk_parses_what_it_asked_for(sdk: openai.OpenAI) -> None:
    """`chat.completions.parse` with Pydantic's models, as answer, streamed, and as a tool."""
    asked: dict[str, Any] = {"model": "demo", "messages": said("Hi")}
    answer = sdk.chat.completions.parse(**asked, response_format=Forecast)
    parsed = answer.choices[0].message.parsed
    assert isinstance(parsed, Forecast)
    assert (parsed.place.parts, parsed.values) == ([], [3, 3])
    with sdk.chat.completions.stream(**asked, response_format=Forecast) as events:
        final = events.get_final_completion()
    assert final.choices[0].message.parsed == parsed
    tools = [openai.pydantic_function_tool(Forecast)]
    answer = sdk.chat.completions.parse(**asked, tools=tools)
    assert answer.choices[0].message.tool_calls
    [call] = answer.choices[0].message.tool_calls
    assert call.function.parsed_arguments == parsed


def test_gateway_refuses_a_schema_that_nothing_fits(sdk: openai.OpenAI) -> None:
    """As a vendor does: 400, with the parameter."""
    tools: Any = [tool("f", a={"type": "integer", "minimum": 2, "maximum": 1})]
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": "Hi"}], tools=tools
        )
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "tools")


# Time


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
