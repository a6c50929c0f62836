"""The official `openai` SDK as a caller of Responses, served by each kind of upstream."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import openai
import pytest
from openai.types.responses import Response
from pydantic import BaseModel

from tests.support.dialects import BY_KIND, DIALECTS, Call, Dialect, Said, configuration
from tests.support.gateway import Gateway
from tests.support.responses import RECORDED, read_events, read_response, replayed
from tests.support.responses_upstream import ENCRYPTED, NATIVE
from tests.support.upstream import CUT, Upstream, json_reply

Json = dict[str, Any]

PATH = "/v1/responses"
ALL: tuple[Dialect, ...] = (*DIALECTS, NATIVE)
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(20)).decode()
TOOLS: Any = [
    {
        "type": "function",
        "name": "weather",
        "description": "The weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
        "strict": True,
    }
]
PARIS = Call("call_paris", "weather", {"city": "Paris"})
ZURICH = Call("call_zurich", "weather", {"city": "Zürich"})
# A model for each case in which a client fails: it rests for a while then.
FAILING = [
    (one, f"{one.kind}-{case}")
    for one in ALL
    for case in ("cut", *(f"{status}-{way}" for status in (400, 429, 500) for way in (0, 1)))
]
HELLO = Said("Hello there, you!", prompt_tokens=9, completion_tokens=3)
BOTH = Said("I will look.", "Both?", (PARIS, ZURICH), "tool_calls", reasoning_tokens=2)


@pytest.fixture(scope="module")
def gateway(upstream: Upstream) -> Iterator[Gateway]:
    clients = [one.client(upstream.origin, f"key-{one.kind}", one.kind) for one in ALL]
    clients += [
        one.client(upstream.origin, f"mixed-{one.kind}", "mixed") for one in (NATIVE, ALL[0])
    ]
    clients += [one.client(upstream.origin, f"key-{model}", model) for one, model in FAILING]
    asked_for = {"models": [{"name": "native-bytes"}]}
    clients.append(NATIVE.client(upstream.origin, "key-native-bytes", "native-bytes", **asked_for))
    with Gateway(configuration(*clients, **{"request-retry": 1})) as running:
        yield running


@pytest.fixture(params=ALL, ids=lambda dialect: dialect.kind)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    found: Dialect = request.param
    return found


@pytest.fixture
def sdk(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with gateway.sdk() as client:
        yield client


def says(upstream: Upstream, dialect: Dialect, *said: Said) -> None:
    upstream.reply(f"key-{dialect.kind}", *[dialect.answer(one) for one in said])


def sent(upstream: Upstream, dialect: Dialect) -> Json:
    """The latest request, as its API reads it."""
    return dialect.read(upstream.received(f"key-{dialect.kind}")[-1])


def gist(response: Response) -> Json:
    """What was said, whoever said it."""
    texts, calls, thoughts = "", [], ""
    for item in response.output:
        if item.type == "message":
            texts += "".join(part.text for part in item.content if part.type == "output_text")
        elif item.type == "function_call":
            calls.append((item.call_id, item.name, json.loads(item.arguments)))
        elif item.type == "reasoning":
            thoughts += "".join(part.text for part in item.summary)
    return {"text": texts, "calls": calls, "reasoning": thoughts}


def expected(said: Said) -> Json:
    return {
        "text": said.text,
        "calls": [tuple(each) for each in said.calls],
        "reasoning": said.reasoning,
    }


@pytest.mark.parametrize("said", [HELLO, BOTH])
def test_unary(sdk: openai.OpenAI, upstream: Upstream, dialect: Dialect, said: Said) -> None:
    """Text, calls, reasoning and usage."""
    says(upstream, dialect, said)
    response = sdk.responses.create(model=dialect.kind, input="Hi", tools=TOOLS)
    Response.model_validate(response.to_dict(), strict=True)
    assert gist(response) == expected(said)
    assert response.status == "completed"
    assert response.usage
    assert response.usage.total_tokens == said.prompt_tokens + said.completion_tokens
    assert response.usage.output_tokens_details.reasoning_tokens == said.reasoning_tokens


@pytest.mark.parametrize("said", [HELLO, BOTH])
def test_stream(sdk: openai.OpenAI, upstream: Upstream, dialect: Dialect, said: Said) -> None:
    """The SDK's accumulator, and its events."""
    says(upstream, dialect, said)
    with sdk.responses.stream(model=dialect.kind, input="Hi", tools=TOOLS) as stream:
        deltas = [each.delta for each in stream if each.type == "response.output_text.delta"]
        response = stream.get_final_response()
    assert "".join(deltas) == said.text
    assert len(deltas) >= 3
    assert gist(response) == expected(said)
    assert response.usage
    assert response.usage.input_tokens == said.prompt_tokens


def test_async(gateway: Gateway, upstream: Upstream, dialect: Dialect) -> None:
    """Unary and streamed, at once."""
    upstream.always(f"key-{dialect.kind}", dialect.answer(HELLO))

    async def unary(sdk: openai.AsyncOpenAI) -> str:
        return (await sdk.responses.create(model=dialect.kind, input="Hi")).output_text

    async def streamed(sdk: openai.AsyncOpenAI) -> str:
        async with sdk.responses.stream(model=dialect.kind, input="Hi") as stream:
            return (await stream.get_final_response()).output_text

    async def many() -> list[str]:
        async with openai.AsyncOpenAI(**gateway.sdk_options()) as sdk:
            return await asyncio.gather(*(call(sdk) for call in (unary, streamed) * 2))

    assert asyncio.run(many()) == [HELLO.text] * 4


class City(BaseModel):
    """A structured answer."""

    name: str
    people: int


def test_parse(sdk: openai.OpenAI, upstream: Upstream, dialect: Dialect) -> None:
    """Structured outputs, whole and streamed."""
    says(upstream, dialect, *[Said('{"name":"Bern","people":134000}')] * 2)
    city = City(name="Bern", people=134_000)
    parsed = sdk.responses.parse(model=dialect.kind, input="Bern?", text_format=City)
    assert parsed.output_parsed == city
    with sdk.responses.stream(model=dialect.kind, input="Bern?", text_format=City) as stream:
        assert stream.get_final_response().output_parsed == city
    assert "people" in json.dumps(sent(upstream, dialect))


def test_tools_in_ten_turns(sdk: openai.OpenAI, upstream: Upstream, dialect: Dialect) -> None:
    """Signed reasoning comes back to its maker each time; the fakes refuse what was changed.

    Every other turn is streamed.
    """
    turns = [
        Said(
            f"Step {turn}.",
            "Think.",
            (Call(f"call_{turn}", "weather", {"city": "Bern"}),),
            "tool_calls",
        )
        for turn in range(10)
    ]
    says(upstream, dialect, *turns, HELLO)
    items: Any = [{"role": "user", "content": "Which is colder?"}]
    for turn in range(11):
        asked: Any = {"model": dialect.kind, "input": items, "tools": TOOLS, "store": False}
        asked |= {"include": ["reasoning.encrypted_content"], "reasoning": {"effort": "low"}}
        if turn % 2:
            with sdk.responses.stream(**asked) as stream:
                response = stream.get_final_response()
        else:
            response = sdk.responses.create(**asked)
        items += [item.to_dict(mode="json") for item in response.output]
        items += [
            {"type": "function_call_output", "call_id": item.call_id, "output": "-2 °C"}
            for item in response.output
            if item.type == "function_call"
        ]
    assert response.output_text == HELLO.text
    last = json.dumps(sent(upstream, dialect))
    signed = {"claude": '"thinking"', "gemini": "thoughtSignature", "native": ENCRYPTED}
    assert last.count(signed.get(dialect.kind, "reasoning_content")) >= 10


def test_history_of_another_kind(sdk: openai.OpenAI, upstream: Upstream) -> None:
    """Is served by each, without a signature that is not its own."""
    for maker in ALL:
        says(upstream, maker, BOTH)
        asked: Any = {
            "model": maker.kind,
            "input": "Hi",
            "tools": TOOLS,
            "reasoning": {"effort": "low"},
        }
        made = sdk.responses.create(**asked)
        items: Any = [{"role": "user", "content": "Hi"}]
        items += [item.to_dict(mode="json") for item in made.output]
        items += [
            {"type": "function_call_output", "call_id": call.id, "output": "-2 °C"}
            for call in BOTH.calls
        ]
        for taker in ALL:
            says(upstream, taker, HELLO)
            taken = sdk.responses.create(model=taker.kind, input=items, tools=TOOLS)
            assert taken.output_text == HELLO.text
            body = json.dumps(sent(upstream, taker))
            assert "cG9vbHByb3h5" not in body
            assert (ENCRYPTED in body) == (maker is taker is NATIVE)


def test_images(sdk: openai.OpenAI, upstream: Upstream, dialect: Dialect) -> None:
    """Of the user, and in a result."""
    says(upstream, dialect, HELLO)
    image: Any = {
        "type": "input_image",
        "image_url": f"data:image/png;base64,{PNG}",
        "detail": "auto",
    }
    items: Any = [
        {"role": "user", "content": [{"type": "input_text", "text": "Look"}, image]},
        {"type": "function_call", "call_id": "a", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": [image]},
    ]
    assert sdk.responses.create(model=dialect.kind, input=items, tools=TOOLS).output_text
    assert json.dumps(sent(upstream, dialect)).count(PNG) == 2


@pytest.mark.parametrize("program", RECORDED)
def test_recorded_programs(
    gateway: Gateway, upstream: Upstream, dialect: Dialect, program: str
) -> None:
    """Each of their requests is answered as it asks."""
    for body in RECORDED[program]:
        says(upstream, dialect, HELLO)
        answer = gateway.call("POST", PATH, {**body, "model": dialect.kind})
        assert answer.status == 200, answer
        if dialect is NATIVE:
            assert sent(upstream, dialect) == {**body, "model": dialect.model}
        elif body.get("stream"):
            assert replayed(read_events(answer.body))["status"] == "completed"
        else:
            assert read_response(answer.body)["status"] == "completed"


def test_what_was_dropped_is_told(gateway: Gateway, upstream: Upstream) -> None:
    """In a header and in the record; natively nothing is."""
    (body, _) = RECORDED["codex"]
    for kind, dropped in (("claude", "web_search"), ("gemini", None), ("native", None)):
        dialect = BY_KIND.get(kind, NATIVE)
        says(upstream, dialect, HELLO)
        answer = gateway.call("POST", PATH, {**body, "model": kind})
        assert answer.headers.get("x-proxy-dropped") == dropped
        record = gateway.record_of(answer.headers["x-request-id"])
        assert record.get("dropped") == dropped


@pytest.mark.parametrize("status", [400, 429, 500])
@pytest.mark.parametrize("stream", [False, True])
def test_error_before_the_answer(
    sdk: openai.OpenAI,
    upstream: Upstream,
    dialect: Dialect,
    status: int,
    stream: bool,
) -> None:
    """Has its true status and OpenAI's envelope, of a stream too."""
    model = f"{dialect.kind}-{status}-{int(stream)}"
    upstream.always(f"key-{model}", dialect.refused(status, "All is lost."))
    asked: Any = {"model": model, "input": "Hi", "stream": stream}
    with pytest.raises(openai.APIStatusError) as raised:
        sdk.responses.create(**asked)
    assert raised.value.status_code == status
    assert "All is lost." in raised.value.message


def test_failure_in_mid_stream(sdk: openai.OpenAI, upstream: Upstream, dialect: Dialect) -> None:
    """Is reported by the SDK's events, raised by its helper, and never taken for whole."""
    whole, model = dialect.streamed(HELLO), f"{dialect.kind}-cut"
    broken = replace(whole, body=[*whole.body[: len(whole.body) // 2 + 1], CUT])
    upstream.always(f"key-{model}", broken)
    *_, last = sdk.responses.create(model=model, input="Hi", stream=True)
    assert last.type == "response.failed"
    assert last.response.error
    assert last.response.error.code == "server_error"
    assert last.response.error.message.startswith("upstream connection error: ")
    with (
        pytest.raises(RuntimeError),
        sdk.responses.stream(model=model, input="Hi") as stream,
    ):
        stream.get_final_response()


def test_conversations_are_for_one_native_client(gateway: Gateway, upstream: Upstream) -> None:
    """Nobody else has them."""
    for name, value in (
        ("previous_response_id", "resp_1"),
        ("conversation", "conv_1"),
        ("background", True),
        ("prompt", {"id": "pmpt_1"}),
    ):
        for model in ("openai", "claude", "mixed"):
            answer = gateway.call("POST", PATH, {"model": model, "input": "Hi", name: value})
            assert answer.status == 400
            assert answer.error["param"] == name
            assert "send the whole input" in answer.error["message"]
        says(upstream, NATIVE, HELLO)
        answer = gateway.call("POST", PATH, {"model": "native", "input": "Hi", name: value})
        assert answer.status == 200
        assert sent(upstream, NATIVE)[name] == value


def test_what_chat_cannot_say_goes_to_the_native_client(
    gateway: Gateway, upstream: Upstream
) -> None:
    """If the model has one."""
    items = [
        {"type": "compaction", "encrypted_content": ENCRYPTED},
        {"role": "user", "content": "Hi"},
    ]
    for _ in range(2):
        upstream.reply("mixed-native", NATIVE.whole(HELLO))
        assert gateway.call("POST", PATH, {"model": "mixed", "input": items}).status == 200
    refused = gateway.call("POST", PATH, {"model": "openai", "input": items})
    assert (refused.status, refused.error["param"]) == (400, "input[0]")
    assert upstream.received("mixed-openai") == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/responses/resp_1"),
        ("DELETE", "/v1/responses/resp_1"),
        ("POST", "/v1/responses/resp_1/cancel"),
        ("POST", "/v1/responses/compact"),
        ("GET", "/v1/responses/resp_1/input_items"),
    ],
)
def test_nothing_is_kept(gateway: Gateway, method: str, path: str) -> None:
    """And says so."""
    answer = gateway.call(method, path, {} if method == "POST" else None)
    assert answer.status == 404
    assert "no responses are kept here" in answer.error["message"]


def test_refused_reasoning_is_left_out(gateway: Gateway, upstream: Upstream) -> None:
    """On the same lease, uncounted: an answer comes nevertheless."""
    refused = NATIVE.refused(400, "The encrypted content gAAA could not be verified.")
    upstream.reply("key-native", refused, NATIVE.answer(HELLO))
    items = [
        {"role": "user", "content": "Hi"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": ENCRYPTED},
        {"role": "assistant", "content": "Hm"},
    ]
    answer = gateway.call("POST", PATH, {"model": "native", "input": items})
    assert answer.status == 200
    assert answer.headers["x-proxy-attempts"] == "1"
    assert sent(upstream, NATIVE)["input"] == [items[0], items[2]]


def test_native_bytes_pass(gateway: Gateway, upstream: Upstream) -> None:
    """Both ways, however they are cut: fields and events of tomorrow, numbers as spelled."""
    body = b'{ "model":"native-bytes","stream":true,"input":"Hi","x":1.50,"y":"\\u00e9" }'
    stream = NATIVE.streamed(BOTH)
    for reply in (stream, stream.in_pieces(7), stream.compressed()):
        upstream.reply("key-native-bytes", reply)
        answer = gateway.call("POST", PATH, body)
        assert answer.body == stream.content()
        got = upstream.received("key-native-bytes")[-1]
        assert got.body == body
    whole = NATIVE.whole(BOTH)
    upstream.reply("key-native-bytes", whole)
    answer = gateway.call("POST", PATH, body.replace(b"true", b"false"))
    assert answer.body == whole.content()
    upstream.reply("key-native-bytes", whole)
    answer = gateway.call("POST", PATH, body)  # a stream was asked for, and not given
    assert [each["type"] for each in read_events(answer.body)][-1] == "response.completed"


def test_tokens_are_counted(gateway: Gateway, sdk: openai.OpenAI, upstream: Upstream) -> None:
    """By Claude and Gemini themselves; else by a formula, which says so."""
    counts = {"claude": {"input_tokens": 14}, "gemini": {"totalTokens": 15}}
    for kind, counted in counts.items():
        upstream.reply(f"key-{kind}", json_reply(counted))
        count = sdk.responses.input_tokens.count(model=kind, input="Hi", instructions="Be brief.")
        assert count.input_tokens == next(iter(counted.values()))
        assert count.object == "response.input_tokens"
        assert "Be brief." in upstream.received(f"key-{kind}")[-1].body.decode()
    for kind in ("openai", "native"):
        answer = gateway.call("POST", f"{PATH}/input_tokens", {"model": kind, "input": "Hi " * 100})
        assert (answer.status, answer.headers["x-proxy-estimated"]) == (200, "true")
        assert 50 < answer.json()["input_tokens"] < 150
