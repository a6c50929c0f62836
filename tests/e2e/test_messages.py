"""/v1/messages and count_tokens: the official `anthropic` SDK before each kind of upstream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from proxy.wire.reasoning import MARK
from tests.support import claude_upstream as claude
from tests.support import gemini_upstream as gemini
from tests.support.claude_rules import violations
from tests.support.dialects import BY_KIND, DIALECTS, Call, Dialect, Said, configuration
from tests.support.gateway import PATIENCE_S, Gateway, Reached, Response
from tests.support.messages_traffic import TRAFFIC
from tests.support.upstream import CUT, RESET, Received, Reply, Upstream, json_reply

Json = dict[str, Any]

PATH = "/v1/messages"
HELLO: Any = [{"role": "user", "content": "Hi"}]
TOOLS: Any = [
    {
        "name": "weather",
        "description": "The weather.",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
    }
]
CALLS = (Call("call_1", "weather", {"city": "Zürich"}), Call("call_2", "weather", {"city": "Oslo"}))
SAID = Said("It is 4.", reasoning="2 + 2 is 4.", reasoning_tokens=3)
CALLED = Said("I look.", reasoning="Hm.", calls=CALLS, finish="tool_calls")
THINKING: Any = {"type": "enabled", "budget_tokens": 2000}
KEYS = {one.kind: f"key-{one.kind}" for one in DIALECTS}
EVENTS: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


@pytest.fixture(scope="module")
def gateway(upstream: Upstream) -> Iterator[Gateway]:
    """A model for each kind, and `both`, of Claude and an OpenAI-compatible client."""
    clients = [one.client(upstream.origin, KEYS[one.kind], one.kind) for one in DIALECTS]
    clients.append(BY_KIND["claude"].client(upstream.origin, "key-both-claude", "both"))
    clients.append(BY_KIND["openai"].client(upstream.origin, "key-both-openai", "both"))
    clients.append(BY_KIND["openai"].client(upstream.origin, "key-strict-openai", "strict"))
    old = {"models": [{"name": "gemini-2.0-flash", "alias": "old"}]}
    clients.append(BY_KIND["gemini"].client(upstream.origin, "key-old-gemini", "old", **old))
    settings = {"request-retry": 0, "streaming": {"commit-after-seconds": 1}}
    with Gateway(configuration(*clients, **settings), secrets=KEYS.values()) as running:
        yield running


@pytest.fixture(scope="module")
def sdk(gateway: Gateway) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(**options(gateway)) as client:
        yield client


def options(gateway: Gateway) -> dict[str, Any]:
    return {
        "base_url": gateway.url,
        "api_key": "none",
        "max_retries": 0,
        "timeout": PATIENCE_S,
    }


@pytest.fixture(params=DIALECTS, ids=lambda dialect: dialect.kind)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    found: Dialect = request.param
    return found


@pytest.fixture(params=["openai", "gemini"])
def foreign(request: pytest.FixtureRequest) -> Dialect:
    return BY_KIND[request.param]


def says(upstream: Upstream, dialect: Dialect, said: Said) -> None:
    """Answer as asked; what is not native has to be as the upstream would take it."""

    def answer(received: Received) -> Reply:
        if dialect.kind != "claude":
            dialect.read(received)
        return dialect.streamed(said) if dialect.is_stream(received) else dialect.whole(said)

    upstream.reply(KEYS[dialect.kind], answer)


def last(upstream: Upstream, kind: str) -> Received:
    return upstream.received(KEYS[kind])[-1]


def gist(message: Message) -> Json:
    """What a caller gets: all but ids of messages and signatures."""
    Message.model_validate(message.to_dict(mode="json"), strict=True)
    blocks: list[Any] = []
    for block in message.content:
        if block.type == "thinking":
            assert block.signature
            blocks += [block.thinking] if block.thinking else []
        elif block.type == "text":
            blocks.append(block.text)
        else:
            assert block.type == "tool_use"
            blocks.append((block.id, block.name, block.input))
    usage = message.usage
    return {
        "blocks": blocks,
        "stop": message.stop_reason,
        "tokens": [usage.input_tokens, usage.output_tokens],
    }


def expected(said: Said) -> Json:
    stop = {"tool_calls": "tool_use", "length": "max_tokens", "stop": "end_turn"}
    calls = [(call.id, call.name, call.arguments) for call in said.calls]
    return {
        "blocks": [*filter(None, [said.reasoning, said.text]), *calls],
        "stop": stop[said.finish],
        "tokens": [said.prompt_tokens, said.completion_tokens],
    }


@pytest.mark.parametrize("said", [SAID, CALLED, Said("Once", finish="length")])
def test_messages(
    sdk: anthropic.Anthropic, upstream: Upstream, dialect: Dialect, said: Said
) -> None:
    """Unary, streamed, and by the beta API: text, thinking and calls, usage and the reason."""
    asked: Json = {"model": dialect.kind, "max_tokens": 4000, "messages": HELLO, "tools": TOOLS}
    asked["thinking"] = THINKING
    says(upstream, dialect, said)
    assert gist(sdk.messages.create(**asked)) == expected(said)
    says(upstream, dialect, said)
    with sdk.messages.stream(**asked) as stream:
        assert "".join(stream.text_stream) == said.text
        assert gist(stream.get_final_message()) == expected(said)
    says(upstream, dialect, said)
    beta = sdk.beta.messages.create(**asked, betas=["context-1m-2025-08-07"])
    assert gist(Message.model_validate(beta.to_dict(mode="json"))) == expected(said)


def test_async_messages(gateway: Gateway, upstream: Upstream, dialect: Dialect) -> None:
    """The same, asynchronously."""

    async def converse() -> tuple[Message, Message]:
        async with anthropic.AsyncAnthropic(**options(gateway)) as sdk:
            asked: Any = {"model": dialect.kind, "max_tokens": 99, "messages": HELLO}
            whole = await sdk.messages.create(**asked)
            async with sdk.messages.stream(**asked) as stream:
                return whole, await stream.get_final_message()

    said = Said("Hello there, you")
    says(upstream, dialect, said)
    says(upstream, dialect, said)
    assert [gist(one) for one in asyncio.run(converse())] == [expected(said)] * 2


def test_events_are_those_of_the_types(
    gateway: Gateway, upstream: Upstream, dialect: Dialect
) -> None:
    """Each strictly, named as it says itself, one block at a time."""
    says(upstream, dialect, CALLED)
    asked = {"model": dialect.kind, "max_tokens": 4000, "messages": HELLO, "stream": True}
    answer = gateway.call("POST", PATH, {**asked, "thinking": THINKING})
    events = events_of(answer)
    assert answer.headers["request-id"] == answer.headers["x-request-id"]
    opened: list[int] = []
    for event in events:
        if event["type"] == "content_block_start":
            assert not opened
            opened.append(event["index"])
        elif event["type"] == "content_block_stop":
            assert opened == [event["index"]]
            opened.clear()
    assert [event["type"] for event in events][-2:] == ["message_delta", "message_stop"]


def events_of(answer: Response) -> list[Json]:
    found = []
    for block in answer.body.decode().removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        if event["type"] not in ("ping", "error"):
            EVENTS.validate_json(data.removeprefix("data: "), strict=True)
        found.append(event)
    return found


# Natively


ODD: Json = {"future_field": {"big": 123456789012345678901, "x": [1.50, "\u00e9"]}, "speed": "fast"}


def test_native_request_passes_byte_for_byte(gateway: Gateway, upstream: Upstream) -> None:
    """But for `model`; version, betas and query of the caller go on."""
    answer = claude.message(claude.text("Hi")) | {"odd": [1.10]}
    upstream.reply(KEYS["claude"], json_reply(answer))
    body = json.dumps({"model": "claude", **ODD, "messages": HELLO, "max_tokens": 5}).encode()
    headers = {"anthropic-version": "2026-10-21", "anthropic-beta": "a-1,b-2"}
    found = gateway.call("POST", f"{PATH}?beta=true&x=%22", body, headers)
    assert found.json() == answer
    got = last(upstream, "claude")
    assert (got.path, got.query) == (PATH, "beta=true&x=%22")
    assert {name: got.header[name] for name in headers} == headers
    assert got.header["x-api-key"] == KEYS["claude"]
    expected = b'{"model":"%b",' % BY_KIND["claude"].model.encode()
    rest = json.dumps({**ODD, "messages": HELLO, "max_tokens": 5})
    assert got.body.startswith(expected)
    assert got.body.count(b'"big": 123456789012345678901, "x": [1.5, "\\u00e9"]') == 1
    assert json.loads(got.body) == {"model": BY_KIND["claude"].model, **json.loads(rest)}
    gateway.call("POST", PATH, body)
    assert last(upstream, "claude").header["anthropic-version"] == "2023-06-01"


@pytest.mark.parametrize("at", [1, 50, 200, 300, 400])
def test_native_stream_passes_byte_for_byte(gateway: Gateway, upstream: Upstream, at: int) -> None:
    """However it is cut: unknown events and fields, pings, citations."""
    message = claude.ANSWERS["parallel calls with thinking between"]
    events = [*claude.events(message), {"type": "not_reached"}]
    events.insert(4, {"type": "vendor_event", "x": 1.50})
    sent = claude.sse(events)
    reply = Reply(sent, headers=[("Content-Type", "text/event-stream")], framing="chunked")
    upstream.reply(KEYS["claude"], reply.in_pieces(at))
    found = gateway.call("POST", PATH, asked("claude", stream=True))
    assert found.body == b"".join(sent[:-1])


def asked(model: str, **more: Any) -> Json:
    return {"model": model, "max_tokens": 50, "messages": HELLO, **more}


def test_whole_answer_to_a_request_for_a_stream_is_made_one(
    gateway: Gateway, upstream: Upstream
) -> None:
    """With all that is in its blocks."""
    message = claude.ANSWERS["parallel calls with thinking between"]
    upstream.reply(KEYS["claude"], json_reply(message))
    events = events_of(gateway.call("POST", PATH, asked("claude", stream=True)))
    blocks = [e["content_block"] for e in events if e["type"] == "content_block_start"]
    for event in events:
        if event["type"] == "content_block_delta":
            *_, (name, piece) = event["delta"].items()
            name = {"partial_json": "input"}.get(name, name)
            blocks[event["index"]][name] = json.loads(piece) if name == "input" else piece
    assert blocks == message["content"]
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


# Errors


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("status", "kind"), [(400, "invalid_request_error"), (500, "api_error")])
def test_refusals(
    sdk: anthropic.Anthropic,
    upstream: Upstream,
    dialect: Dialect,
    status: int,
    kind: str,
    stream: bool,
) -> None:
    """Anthropic's envelope with the true status; of Claude itself the bytes that it sent."""
    upstream.reply(KEYS[dialect.kind], dialect.refused(status, "Out of luck."))
    with pytest.raises(anthropic.APIStatusError) as caught:
        sdk.messages.create(**asked(dialect.kind, stream=stream))
    error = caught.value
    assert (error.status_code, error.message.count("Out of luck.")) == (status, 1)
    assert isinstance(error.body, dict)
    assert error.body["error"] == {"type": kind, "message": "Out of luck."}
    assert error.request_id == error.response.headers["x-request-id"]
    if dialect.kind == "claude":
        assert error.body == claude.error(kind, "Out of luck.")
    else:
        assert error.body["request_id"] == error.request_id


@pytest.mark.parametrize("ending", [CUT, RESET])
def test_failure_in_mid_stream_raises(
    sdk: anthropic.Anthropic, upstream: Upstream, dialect: Dialect, ending: Any
) -> None:
    """And nothing looks whole."""
    whole = dialect.streamed(SAID)
    cut = Reply([*whole.body[:-2], ending], headers=whole.headers, framing="chunked")
    upstream.reply(KEYS[dialect.kind], cut)
    stream: Any = sdk.messages.create(**asked(dialect.kind, stream=True, thinking=THINKING))
    seen: list[str] = []
    with pytest.raises(anthropic.APIStatusError, match="upstream connection error: ") as caught:
        seen.extend(event.type for event in stream)
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"]["type"] == "api_error"
    assert "content_block_delta" in seen
    assert "message_stop" not in seen


def test_error_event_of_claude_passes_masked(gateway: Gateway, upstream: Upstream) -> None:
    """In its own words, but for keys."""
    events = claude.events(claude.message(claude.text("Hello")))[:4]
    error = claude.error("overloaded_error", f"no more for {KEYS['claude']}")
    reply = Reply(claude.sse([*events, error]), headers=[("Content-Type", "text/event-stream")])
    upstream.reply(KEYS["claude"], reply)
    *_, last_event = events_of(gateway.call("POST", PATH, asked("claude", stream=True)))
    assert last_event["error"]["type"] == "overloaded_error"
    assert last_event["request_id"] == error["request_id"]
    assert KEYS["claude"] not in last_event["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "kind", "words"),
    [
        ("POST", PATH, asked("nobody"), 404, "not_found_error", "model 'nobody'"),
        ("POST", PATH, b"{", 400, "invalid_request_error", "JSON"),
        (
            "POST",
            PATH,
            {"model": "openai", "messages": []},
            400,
            "invalid_request_error",
            "messages",
        ),
        ("GET", PATH, None, 405, "api_error", "GET"),
        ("POST", f"{PATH}/batches", {}, 404, "not_found_error", f"no path {PATH}/batches"),
        ("POST", f"{PATH}/count_tokens", b"[]", 400, "invalid_request_error", "object"),
    ],
)
def test_our_own_errors(
    gateway: Gateway, method: str, path: str, body: Any, status: int, kind: str, words: str
) -> None:
    """In Anthropic's envelope, with the request's id where its SDKs look for it."""
    answer = gateway.call(method, path, body)
    assert answer.status == status
    found = answer.json()
    assert (found["type"], found["error"]["type"]) == ("error", kind)
    assert words in found["error"]["message"]
    assert found["request_id"] == answer.headers["request-id"] == answer.headers["x-request-id"]


def test_keep_alive_is_a_ping(gateway: Gateway, upstream: Upstream) -> None:
    """Also what commits the answer, before a failure with its status as type."""
    hold = Reached()
    upstream.reply(KEYS["openai"], BY_KIND["openai"].whole(SAID).after(hold.hold()))
    with gateway.open("POST", PATH, asked("openai", stream=True)) as response:
        assert response.readline() == b"event: ping\n"
        assert json.loads(response.readline().removeprefix(b"data: ")) == {"type": "ping"}


# What a request becomes


def test_images_documents_and_results(
    upstream: Upstream, sdk: anthropic.Anthropic, foreign: Dialect
) -> None:
    """Reach each kind of upstream in its own form."""
    image = {"type": "base64", "media_type": "image/png", "data": gemini.PNG}
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
    content: Any = [
        {"type": "text", "text": "Look."},
        {"type": "image", "source": image},
        {"type": "document", "source": pdf, "title": "a.pdf"},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "T"}},
    ]
    result: Any = [{"type": "text", "text": "seen"}, {"type": "image", "source": image}]
    messages: Any = [
        {"role": "user", "content": content},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "call_1", "name": "weather", "input": {"a": 1}}],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "call_1",
                    "content": result,
                    "is_error": True,
                }
            ],
        },
    ]
    says(upstream, foreign, SAID)
    sdk.messages.create(**{**asked(foreign.kind, tools=TOOLS), "messages": messages})
    wire = foreign.read(last(upstream, foreign.kind))
    url = f"data:image/png;base64,{gemini.PNG}"
    if foreign.kind == "openai":
        user, _, tool, behind = wire["messages"]
        assert [part["type"] for part in user["content"]] == ["text", "image_url", "file", "text"]
        assert tool["content"] == "Error: seen"
        assert behind["content"][1]["image_url"]["url"] == url
        assert behind["content"][0]["text"] == "From the result of weather:"
    else:
        user, _, result = wire["contents"]
        assert [next(iter(part)) for part in user["parts"]] == [
            *("text", "inlineData", "inlineData", "text")
        ]
        (part,) = result["parts"]
        assert part["functionResponse"]["response"] == {"error": "seen"}
        assert part["functionResponse"]["parts"][0]["inlineData"]["data"] == gemini.PNG


def test_dropped_tools_are_named(gateway: Gateway, upstream: Upstream) -> None:
    """Where the client that serves cannot run them, unless one is asked for."""
    tools = [*TOOLS, {"type": "web_search_20250305", "name": "web_search"}]
    more = {"tools": tools, "context_management": {"edits": []}}
    says(upstream, BY_KIND["openai"], SAID)
    answer = gateway.call("POST", PATH, asked("openai", **more))
    assert answer.headers["x-proxy-dropped"] == "context_management, web_search_20250305"
    record = gateway.record_of(answer.headers["x-request-id"])
    assert record["dropped"] == "context_management, web_search_20250305"
    assert len(last(upstream, "openai").json()["tools"]) == 1
    choice = {"type": "tool", "name": "web_search"}
    answer = gateway.call("POST", PATH, asked("openai", **more, tool_choice=choice))
    assert (answer.status, "tool_choice" in answer.json()["error"]["message"]) == (400, True)
    says(upstream, BY_KIND["claude"], SAID)
    answer = gateway.call("POST", PATH, asked("claude", **more, tool_choice=choice))
    assert "x-proxy-dropped" not in answer.headers
    assert len(last(upstream, "claude").json()["tools"]) == 2


def test_refused_effort_is_left_out(gateway: Gateway, upstream: Upstream) -> None:
    """Models that do not reason refuse it; agents always ask for it."""
    refused = BY_KIND["openai"].refused(400, "Unsupported parameter: 'reasoning_effort'")
    upstream.reply(KEYS["openai"], refused, BY_KIND["openai"].whole(SAID))
    answer = gateway.call("POST", PATH, asked("openai", thinking=THINKING))
    assert (answer.status, answer.headers["x-proxy-attempts"]) == (200, "1")
    assert "reasoning_effort" not in last(upstream, "openai").json()
    assert answer.headers["x-proxy-dropped"] == "thinking"


def test_all_that_is_ours_may_be_refused(gateway: Gateway, upstream: Upstream) -> None:
    """One thing after the other, within one attempt; the rest is the caller's."""
    openai = BY_KIND["openai"]

    def strict(received: Received) -> Reply:
        for name in ("stream_options", "reasoning_effort"):
            if name in received.json():
                return openai.refused(422, f"Extra inputs are not permitted: {name}")
        return openai.streamed(SAID)

    upstream.reply("key-strict-openai", *[strict] * 9)
    answer = gateway.call("POST", PATH, asked("strict", thinking=THINKING, stream=True))
    assert (answer.status, answer.headers["x-proxy-attempts"]) == (200, "1")
    assert len(upstream.received("key-strict-openai")) == 4


def test_models_that_do_not_think_are_asked_all_the_same(
    gateway: Gateway, upstream: Upstream
) -> None:
    """Of Gemini's it is known, and nothing refuses it."""
    said = gemini.unary(gemini.joined(gemini.text_stream(["Hi"])))
    upstream.reply("key-old-gemini", Reply([said]))
    answer = gateway.call("POST", PATH, asked("old", thinking=THINKING))
    assert answer.json()["content"] == [{"type": "text", "text": "Hi"}]
    (got,) = upstream.received("key-old-gemini")
    assert "thinkingConfig" not in got.json()["generationConfig"]


@pytest.mark.parametrize("name", TRAFFIC)
def test_what_programs_send(
    gateway: Gateway, upstream: Upstream, dialect: Dialect, name: str
) -> None:
    """Is served by each kind of upstream, as it takes it."""
    headers, body, path = TRAFFIC[name]
    is_count = "count_tokens" in path
    if is_count and dialect.kind != "openai":
        upstream.reply(KEYS[dialect.kind], json_reply({"input_tokens": 9, "totalTokens": 9}))
    elif not is_count:
        says(upstream, dialect, CALLED)
    answer = gateway.call("POST", path, {"model": dialect.kind, **body}, headers)
    assert answer.status == 200, answer
    if is_count:
        assert answer.json()["input_tokens"] > 0
    elif body.get("stream"):
        assert events_of(answer)[-1] == {"type": "message_stop"}
    else:
        Message.model_validate_json(answer.body, strict=True)
    if dialect.kind == "claude":
        got = last(upstream, "claude")
        assert got.json() == {**body, "model": dialect.model}
        assert got.header["anthropic-version"] == headers["anthropic-version"]
        assert "x-app" not in got.header


# Signed reasoning


def test_signed_reasoning_for_ten_turns(
    sdk: anthropic.Anthropic, upstream: Upstream, dialect: Dialect
) -> None:
    """With tools, streamed and not: each upstream gets its own signatures back, unchanged."""
    messages: list[Any] = list(HELLO)
    for turn in range(10):
        call = Call(f"call_{turn}", "weather", {"turn": turn})
        said = Said("", reasoning=f"Turn {turn}.", calls=(call,), finish="tool_calls")
        says(upstream, dialect, said)
        more: Any = {**asked(dialect.kind, tools=TOOLS, thinking=THINKING), "messages": messages}
        more["max_tokens"] = 4000
        if turn % 2:
            with sdk.messages.stream(**more) as stream:
                answer = stream.get_final_message()
        else:
            answer = sdk.messages.create(**more)
        check_signatures(last(upstream, dialect.kind), dialect.kind, turn)
        messages.append(answer.to_param())
        done = {"type": "tool_result", "tool_use_id": f"call_{turn}", "content": f"{turn}"}
        messages.append({"role": "user", "content": [done]})


def check_signatures(received: Received, kind: str, turns: int) -> None:
    """All of the vendor's own that it gave up to now."""
    assert MARK.encode() not in received.body
    assert b"__th" not in received.body
    wire = received.json()
    if kind == "gemini":
        calls = [p for c in wire["contents"] for p in c["parts"] if "functionCall" in p]
        assert [part["thoughtSignature"] for part in calls] == [gemini.SIGNATURE] * turns
    elif kind == "claude":
        blocks = [b for m in wire["messages"][1::2] for b in m["content"]]
        thoughts = [block for block in blocks if block["type"] == "thinking"]
        assert [b["thinking"] for b in thoughts] == [f"Turn {n}." for n in range(turns)]
        assert {b["signature"] for b in thoughts} <= {claude.thinking("")["signature"]}
    else:
        said = [m.get("reasoning_content") for m in wire["messages"] if m["role"] == "assistant"]
        assert said == [f"Turn {n}." for n in range(turns)]


@pytest.mark.parametrize("maker", DIALECTS, ids=lambda dialect: dialect.kind)
def test_history_of_one_kind_is_served_by_another(
    sdk: anthropic.Anthropic, upstream: Upstream, maker: Dialect, dialect: Dialect
) -> None:
    """Without a 400, and without a foreign signature."""
    says(upstream, maker, CALLED)
    more: Any = asked(maker.kind, tools=TOOLS, thinking=THINKING) | {"max_tokens": 4000}
    answer = sdk.messages.create(**more)
    results: Any = [
        {"type": "tool_result", "tool_use_id": call.id, "content": "1 °C"} for call in CALLS
    ]
    history: Any = [*HELLO, answer.to_param(), {"role": "user", "content": results}]
    says(upstream, dialect, SAID)
    sdk.messages.create(**{**more, "model": dialect.kind, "messages": history})
    got = last(upstream, dialect.kind)
    assert MARK.encode() not in got.body
    own = {"claude": claude.thinking("")["signature"], "gemini": gemini.SIGNATURE}
    for kind, signature in own.items():
        assert (signature.encode() in got.body) == (kind == maker.kind == dialect.kind)
    if dialect.kind == "claude":
        assert violations(as_blocks(got.json())) in ([], [NOT_ADAPTIVE])


# The model of the tests wants another word, which is the caller's affair.
NOT_ADAPTIVE = '"thinking.type.enabled" is not supported for this model'


def as_blocks(wire: Json) -> Json:
    """The request with all contents in blocks, as the rules want them."""
    results = [b for m in wire["messages"] for b in m["content"] if isinstance(b, dict)]
    for holder in [*wire["messages"], *(b for b in results if b["type"] == "tool_result")]:
        if isinstance(holder["content"], str):
            holder["content"] = [{"type": "text", "text": holder["content"]}]
    return wire


def test_refused_signature_is_left_out(gateway: Gateway, upstream: Upstream) -> None:
    """Once more on the same lease: a look-alike refuses Anthropic's."""
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
    call = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "1"}
    messages = [
        *HELLO,
        {"role": "assistant", "content": [thought, call]},
        {"role": "user", "content": [result]},
    ]
    refused = BY_KIND["claude"].refused(400, "Invalid `signature` in `thinking` block")
    upstream.reply(KEYS["claude"], refused, BY_KIND["claude"].whole(SAID))
    body = asked("claude", thinking=THINKING, tools=TOOLS) | {"messages": messages}
    answer = gateway.call("POST", PATH, body)
    assert (answer.status, answer.headers["x-proxy-attempts"]) == (200, "1")
    wire = last(upstream, "claude").json()
    assert [block["type"] for block in wire["messages"][1]["content"]] == ["tool_use"]
    assert "thinking" not in wire


def test_refused_signature_of_a_caller_of_chat_is_left_out(
    gateway: Gateway, upstream: Upstream
) -> None:
    """The same holds for who speaks chat."""
    said = {"role": "assistant", "content": "So.", "thinking_blocks": [claude.thinking("Hm.")]}
    refused = BY_KIND["claude"].refused(400, "messages.1.content.0: Invalid `signature`")
    upstream.reply(KEYS["claude"], refused, BY_KIND["claude"].whole(SAID))
    answer = gateway.chat("claude", messages=[*HELLO, said, *HELLO])
    assert (answer.status, answer.headers["x-proxy-attempts"]) == (200, "1")
    first, second = upstream.received(KEYS["claude"])[-2:]
    assert (b"signature" in first.body, b"signature" in second.body) == (True, False)


# Counting


def test_tokens_are_counted(sdk: anthropic.Anthropic, upstream: Upstream) -> None:
    """By Claude's own endpoint, and by Gemini's."""
    more: Any = {"messages": HELLO, "system": "s", "tools": TOOLS}
    upstream.reply(KEYS["claude"], json_reply({"input_tokens": 14}))
    assert sdk.messages.count_tokens(model="claude", **more).input_tokens == 14
    got = last(upstream, "claude")
    assert (got.path, got.json()["system"]) == (f"{PATH}/count_tokens", "s")
    upstream.reply(KEYS["gemini"], json_reply({"totalTokens": 15, "cachedContentTokenCount": 2}))
    assert sdk.messages.count_tokens(model="gemini", **more).input_tokens == 15
    got = last(upstream, "gemini")
    model = BY_KIND["gemini"].model
    assert got.path == f"/v1beta/models/{model}:countTokens"
    counted = got.json()["generateContentRequest"]
    assert counted.pop("model") == f"models/{model}"
    assert gemini.read_request(json.dumps(counted).encode())["systemInstruction"]


def test_others_estimate(gateway: Gateway, sdk: anthropic.Anthropic, upstream: Upstream) -> None:
    """By the formula, without an upstream; look-alikes that have no such endpoint, too."""
    before = len(upstream.received(KEYS["openai"]))
    body = {"model": "openai", "messages": [{"role": "user", "content": "x" * 400}]}
    answer = gateway.call("POST", f"{PATH}/count_tokens", body)
    assert answer.headers["x-proxy-estimated"] == "true"
    assert 100 <= answer.json()["input_tokens"] <= 130
    assert sdk.messages.count_tokens(model="openai", messages=HELLO).input_tokens > 0
    assert len(upstream.received(KEYS["openai"])) == before
    upstream.reply(KEYS["claude"], json_reply({"error": "no such path"}, 404))
    answer = gateway.call("POST", f"{PATH}/count_tokens", {**body, "model": "claude"})
    assert (answer.status, answer.headers["x-proxy-estimated"]) == (200, "true")
    upstream.reply(KEYS["claude"], BY_KIND["claude"].refused(400, "No."))
    answer = gateway.call("POST", f"{PATH}/count_tokens", {**body, "model": "claude"})
    assert (answer.status, answer.json()["error"]["message"]) == (400, "No.")


def test_a_mixed_pool_counts_where_it_can(gateway: Gateway, upstream: Upstream) -> None:
    """Whoever's turn it is."""
    for _ in range(4):
        upstream.reply("key-both-claude", json_reply({"input_tokens": 14}))
        answer = gateway.call("POST", f"{PATH}/count_tokens", {"model": "both", "messages": HELLO})
        assert answer.json() == {"input_tokens": 14}
    assert not upstream.received("key-both-openai")


# Models


def test_models_in_anthropics_shape(gateway: Gateway, sdk: anthropic.Anthropic) -> None:
    """For whoever names a version of its API; paging parameters are ignored."""
    assert {model.id for model in sdk.models.list(limit=1)} == {*KEYS, "both", "strict", "old"}
    model = sdk.models.retrieve("gemini")
    assert (model.type, model.id, model.display_name) == ("model", "gemini", "gemini")
    with pytest.raises(anthropic.NotFoundError) as caught:
        sdk.models.retrieve("nobody")
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["type"] == "error"
    assert gateway.call("GET", "/v1/models").json()["object"] == "list"
