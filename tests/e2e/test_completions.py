"""Contract 6 through the wire: /v1/completions by way of chat, native, and both under one alias."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import openai
import pytest
from openai.types import Completion

from tests.support.clock import NOTICED_S
from tests.support.gateway import Gateway, Lot, Lots, Reached, Response
from tests.support.upstream import (
    CUT,
    Gate,
    Hold,
    Reply,
    Upstream,
    chat,
    chunk,
    completion,
    error,
    events,
    json_reply,
    raw,
    stream,
    stream_completion,
)

PATH = "/v1/completions"
OPTIONS: Any = {"include_usage": True}


class Natives(NamedTuple):
    """A gateway before upstreams with /completions of their own, alone or beside chat's."""

    gateway: Gateway
    upstream: Upstream
    lots: Lots
    mixed: list[Lot]  # the first key is the chat client's, the second the native one's


@pytest.fixture(scope="module")
def natives() -> Iterator[Natives]:
    with Upstream() as upstream:
        native = Lots(upstream.url, {1: 12}, renamed=True, options={"completions": "native"})
        mixed = [
            Lot(f"mixed-{at}", f"up-{at}", (f"sk-chat-{at}", f"sk-own-{at}")) for at in range(5)
        ]
        providers = [
            {
                "name": f"{kind}-{lot.model}",
                "base-url": upstream.url,
                "api-keys": [key],
                "completions": kind,
                "models": [{"name": lot.upstream_name, "alias": lot.model}],
            }
            for lot in mixed
            for kind, key in zip(("chat", "native"), lot.keys, strict=True)
        ]
        config = {"openai-compatibility": [*native.providers, *providers]}
        with Gateway(config) as gateway:
            yield Natives(gateway, upstream, native, mixed)


def call(gateway: Gateway, model: str, **fields: Any) -> Response:
    return gateway.call("POST", PATH, {"model": model, "prompt": "p", **fields})


def strictly(payload: bytes) -> Completion:
    """In the SDK's own type; it has no null for the `finish_reason` of a stream's chunks."""
    found = json.loads(payload)
    for choice in found["choices"]:
        choice["finish_reason"] = choice["finish_reason"] or "stop"
    return Completion.model_validate(found, strict=True)


def said(chunks: list[Completion]) -> dict[int, str]:
    """The text of each choice of a stream."""
    texts: dict[int, str] = {}
    for choice in (choice for one in chunks for choice in one.choices):
        texts[choice.index] = texts.get(choice.index, "") + choice.text
    return texts


# By way of chat


def test_unary(gateway: Gateway, upstream: Upstream, renamed: Lot) -> None:
    """The SDK's own answer; what it asked arrives as chat, under the upstream's name."""
    with gateway.sdk() as sdk:
        answer = sdk.completions.create(
            model=renamed.model, prompt="Say", max_tokens=7, seed=1, user="u", stop=["x"],
            echo=True, logit_bias={"1": 2}, extra_body={"top_k": 3},
        )  # fmt: skip
    assert answer.choices[0].text == "SayHello there!"
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.object, answer.model) == ("text_completion", renamed.upstream_name)
    assert answer.usage
    assert answer.usage.total_tokens == 12
    (sent,) = upstream.received(renamed.key)
    assert sent.path == "/v1/chat/completions"
    assert sent.json() == {
        "model": renamed.upstream_name, "max_tokens": 7, "seed": 1, "user": "u", "stop": ["x"],
        "logit_bias": {"1": 2}, "top_k": 3, "messages": [{"role": "user", "content": "Say"}],
    }  # fmt: skip


def test_shape_of_a_unary_answer(gateway: Gateway, upstream: Upstream, lot: Lot) -> None:
    """Strictly the SDK's, with what chat's had."""
    upstream.reply(lot.key, chat("a", "b", finish="length"))
    answer = call(gateway, lot.model, n=2)
    found = strictly(answer.body)
    assert [(one.index, one.text) for one in found.choices] == [(0, "a"), (1, "b")]
    assert found.system_fingerprint == "fp_44709d6fcb"
    assert (found.id, found.choices[0].finish_reason) == ("chatcmpl-1", "length")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-proxy-attempts"] == "1"


def test_logprobs(gateway: Gateway, upstream: Upstream, lot: Lot) -> None:
    """There and back."""
    token = {"token": "a", "logprob": -0.5, "bytes": None, "top_logprobs": []}
    reply = json.loads(chat("aa").wire_bytes().partition(b"\r\n\r\n")[2])
    reply["choices"][0]["logprobs"] = {"content": [token, token], "refusal": None}
    upstream.reply(lot.key, json_reply(reply))
    with gateway.sdk() as sdk:
        answer = sdk.completions.create(model=lot.model, prompt="p", logprobs=0)
    logprobs = answer.choices[0].logprobs
    assert logprobs
    assert (logprobs.tokens, logprobs.text_offset) == (["a", "a"], [0, 1])
    sent = upstream.received(lot.key)[0].json()
    assert (sent["logprobs"], sent["top_logprobs"]) == (True, 0)


@pytest.mark.parametrize("wants_usage", [False, True])
def test_stream(gateway: Gateway, lot: Lot, wants_usage: bool) -> None:
    """Chunks in the SDK's type; the usage chunk, which has no choices, if asked for."""
    options: Any = {"stream_options": OPTIONS} if wants_usage else {}
    answer = call(gateway, lot.model, stream=True, **options)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    *payloads, end = answer.data
    assert end == b"[DONE]"
    chunks = [strictly(payload) for payload in payloads]
    assert said(chunks) == {0: "Hello there!"}
    assert [one.usage is not None for one in chunks if not one.choices] == [True] * wants_usage
    finishes = [
        choice["finish_reason"] for one in payloads for choice in json.loads(one)["choices"]
    ]
    assert finishes == [None] * (len(finishes) - 1) + ["stop"]
    with gateway.sdk() as sdk:
        created = sdk.completions.create(model=lot.model, prompt="p", stream=True, **options)
        assert said(list(created)) == {0: "Hello there!"}


def test_no_chunk_is_held_back(gateway: Gateway, upstream: Upstream, lot: Lot) -> None:
    """Each leaves while the upstream is silent behind it, a prompt's last as well."""
    middle, end = Gate(), Gate()
    first = events(
        chunk({"content": "a"}), Hold(middle), chunk({"content": "b"}, finish="stop"), "[DONE]",
        Hold(end),
    )  # fmt: skip
    upstream.reply(lot.key, first, stream("c"))
    asked = {"model": lot.model, "prompt": ["p", "q"], "stream": True}
    with gateway.open("POST", PATH, asked) as response:
        for text, gate in (("a", middle), ("b", end)):
            event = response.readline() + response.readline()
            assert json.loads(event[6:])["choices"][0]["text"] == text
            gate.set()
        assert response.read().endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("is_stream", [False, True])
def test_list_of_prompts_with_one_mutex_client(
    gateway: Gateway, upstream: Upstream, lot: Lot, is_stream: bool
) -> None:
    """One after the other with the client's only permit; index = prompt * n + choice."""
    prompts = ["p", "q", ""]
    tokens = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    for at in range(3):
        if is_stream:
            pieces = [chunk({"content": f"{at}-{n}"}, index=n, finish="stop") for n in range(2)]
            usage = chunk(None, usage=tokens)
            upstream.reply(lot.key, events(*pieces, usage, "[DONE]"))
        else:
            upstream.reply(lot.key, chat(f"{at}-0", f"{at}-1", usage=(1, 2), id=f"id-{at}"))
    options: Any = {"stream": True, "stream_options": OPTIONS} if is_stream else {}
    answer = call(gateway, lot.model, prompt=prompts, n=2, **options)
    payloads = answer.data if is_stream else [answer.body]
    assert payloads.count(b"[DONE]") == is_stream
    chunks = [strictly(one) for one in payloads if one != b"[DONE]"]
    assert said(chunks) == {0: "0-0", 1: "0-1", 2: "1-0", 3: "1-1", 4: "2-0", 5: "2-1"}
    assert len({one.id for one in chunks}) == 1
    assert [one.usage.prompt_tokens for one in chunks if one.usage] == [3]
    contents = [one.json()["messages"][0]["content"] for one in upstream.received(lot.key)]
    assert contents == ["p", "q", "Complete this:"]
    record = gateway.record_of(answer.headers["x-request-id"])
    assert (record["attempts"], record["end"]) == ("3", "ok")
    assert (record["prompt_tokens"], record["completion_tokens"]) == ("3", "6")


@pytest.mark.parametrize("is_stream", [False, True])
def test_failover_between_prompts(
    gateway: Gateway, upstream: Upstream, trio: Lot, is_stream: bool
) -> None:
    """A prompt whose client fails goes to the next one, unseen by the caller."""
    for key in trio.keys[:2]:
        upstream.reply(key, (stream if is_stream else chat)("fine"), error(503))
    with gateway.sdk() as sdk:
        answer = sdk.completions.create(model=trio.model, prompt=["p"] * 6, stream=is_stream)
        chunks = [answer] if isinstance(answer, Completion) else list(answer)
    texts = said(chunks)
    assert len(texts) == 6
    assert set(texts.values()) == {"fine", "Hello there!"}
    assert sum(len(upstream.received(key)) for key in trio.keys) == 8


def test_failure_of_a_later_prompt(gateway: Gateway, upstream: Upstream, lot: Lot) -> None:
    """Fails the whole, with the upstream's status and body; the rest is not sent."""
    upstream.reply(lot.key, chat("a"), error(422, "No.", code="c"))
    answer = call(gateway, lot.model, prompt=["p", "q", "r"])
    assert (answer.status, answer.error["code"], answer.error["message"]) == (422, "c", "No.")
    assert len(upstream.received(lot.key)) == 2


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (error(422, "No.", code="c"), "c"),
        (events(chunk({"content": "b"}), CUT), "upstream_truncated"),
    ],
)
def test_failure_of_a_later_prompt_in_mid_stream(
    gateway: Gateway, upstream: Upstream, lot: Lot, reply: Reply, code: str
) -> None:
    """An error event, which the SDK raises, and no [DONE]."""
    upstream.reply(lot.key, stream("a"), reply, stream("a"), reply)
    answer = call(gateway, lot.model, prompt=["p", "q", "r"], stream=True)
    assert json.loads(answer.data[-1])["error"]["type"] == "upstream_error"
    assert len(upstream.received(lot.key)) == 2
    with gateway.sdk() as sdk, pytest.raises(openai.APIError) as raised:
        list(sdk.completions.create(model=lot.model, prompt=["p", "q"], stream=True))
    assert raised.value.code == code


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"prompt": [1, 2]}, "invalid_request"),
        ({"prompt": [[1], [2]]}, "invalid_request"),
        ({"prompt": ["p"] * 129}, "invalid_request"),
        ({"suffix": "s"}, "unsupported_parameter"),
        ({"best_of": 2}, "unsupported_parameter"),
        ({"echo": True, "logprobs": 1}, "unsupported_parameter"),
    ],
)
@pytest.mark.parametrize("is_stream", [False, True])
def test_what_chat_cannot_do(
    gateway: Gateway, upstream: Upstream, lot: Lot, fields: Any, code: str, is_stream: bool
) -> None:
    """400 at once, without asking any upstream."""
    with gateway.sdk() as sdk, pytest.raises(openai.BadRequestError) as raised:
        sdk.completions.create(**{"model": lot.model, "prompt": "p", "stream": is_stream, **fields})
    assert raised.value.code == code
    assert raised.value.param in (*fields, "echo")
    assert not upstream.received(lot.key)


def test_stream_that_is_answered_with_one_json_body(
    gateway: Gateway, upstream: Upstream, lot: Lot
) -> None:
    """It becomes a stream of it, for each prompt."""
    upstream.reply(lot.key, chat("a"), chat("b"))
    options = {"include_usage": True}
    answer = call(gateway, lot.model, prompt=["p", "q"], stream=True, stream_options=options)
    *payloads, end = answer.data
    assert end == b"[DONE]"
    chunks = [strictly(payload) for payload in payloads]
    assert said(chunks) == {0: "a", 1: "b"}
    assert [one.usage.total_tokens for one in chunks if one.usage] == [24]


@pytest.mark.parametrize("is_stream", [False, True])
def test_caller_leaves_between_prompts(
    gateway: Gateway, upstream: Upstream, lot: Lot, is_stream: bool
) -> None:
    """Everything is given back within a second, and nothing further is sent."""
    reached = Reached()
    upstream.reply(lot.key, (stream if is_stream else chat)("a"), raw(reached.hold()))
    body = {"model": lot.model, "prompt": ["p", "q", "r"], "stream": is_stream}
    data = json.dumps(body).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nx-request-id: {lot.model}\r\n"
    with gateway.connect() as sock:
        sock.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        reached.wait_reached()
    left_at = time.monotonic()
    assert gateway.record_of(lot.model)["end"] == "caller_gone"
    assert time.monotonic() - left_at < NOTICED_S
    assert upstream.received(lot.key)[1].wait_ended().aborted
    assert call(gateway, lot.model).status == 200
    assert len(upstream.received(lot.key)) == 3


# Native


@pytest.mark.parametrize(
    "fields",
    [{}, {"prompt": ["a", "b"]}, {"prompt": [[1, 2], [3]]}, {"suffix": "s", "best_of": 9},
     {"prompt": None, "echo": True, "logprobs": 5}],
)  # fmt: skip
def test_native_request_passes_untouched(natives: Natives, fields: Any) -> None:
    """Whole lists, tokens, `suffix`: only the model's name changes; the answer not at all."""
    gateway, upstream, lots, _ = natives
    lot = lots.take()
    reply = completion("a", "b", odd={"x": 1.0})
    upstream.reply(lot.key, reply)
    body = json.dumps({"big": 10**30, "model": lot.model, "prompt": "p", **fields}).encode()
    answer = gateway.call("POST", PATH, body)
    assert answer.body == reply.wire_bytes().partition(b"\r\n\r\n")[2]
    (sent,) = upstream.received(lot.key)
    assert sent.path == PATH
    assert sent.json() == {**json.loads(body), "model": lot.upstream_name}
    record = gateway.record_of(answer.headers["x-request-id"])
    assert (record["prompt_tokens"], record["completion_tokens"]) == ("9", "3")


def test_native_stream_passes_untouched(natives: Natives) -> None:
    """Event by event, also what chat's way would drop; its usage is recorded."""
    gateway, upstream, lots, _ = natives
    lot = lots.take()
    reply = stream_completion("", "a", usage=(1, 2), more={"odd": 1.0}, framing="length")
    upstream.reply(lot.key, reply)
    answer = call(gateway, lot.model, prompt=["p", "q"], stream=True, stream_options=OPTIONS)
    assert answer.body == reply.wire_bytes().partition(b"\r\n\r\n")[2]
    record = gateway.record_of(answer.headers["x-request-id"])
    assert (record["prompt_tokens"], record["completion_tokens"]) == ("1", "2")


def test_native_stream_that_is_answered_with_one_json_body(natives: Natives) -> None:
    """A stream of completions, not of chat."""
    gateway, upstream, lots, _ = natives
    lot = lots.take()
    upstream.reply(lot.key, completion("a", "b", usage=(1, 2)))
    answer = call(gateway, lot.model, stream=True, n=2)
    *payloads, end = answer.data
    assert end == b"[DONE]"
    assert said([strictly(payload) for payload in payloads]) == {0: "a", 1: "b"}
    record = gateway.record_of(answer.headers["x-request-id"])
    assert record["completion_tokens"] == "2"


def test_native_through_the_sdk(natives: Natives) -> None:
    """Unary and streamed."""
    lot = natives.lots.take()
    with natives.gateway.sdk() as sdk:
        answer = sdk.completions.create(model=lot.model, prompt=[1, 2])
        assert answer.choices[0].text == "Hello there!"
        chunks = list(sdk.completions.create(model=lot.model, prompt="p", stream=True))
        assert said(chunks) == {0: "Hello there!"}


# Both under one alias


@pytest.mark.parametrize("is_stream", [False, True])
def test_mixed_alias_serves_lists_prompt_by_prompt(natives: Natives, is_stream: bool) -> None:
    """Each prompt by either kind; the answer is one, echo included."""
    gateway, upstream, _, mixed = natives
    lot = mixed.pop()
    own = stream_completion("q", "b", usage=(1, 2)) if is_stream else completion("qb", usage=(1, 2))
    by_chat = stream("a", usage=(3, 4)) if is_stream else chat("a", usage=(3, 4))
    upstream.reply(lot.keys[0], by_chat)
    upstream.reply(lot.keys[1], own)
    # Which kind is asked first is the pool's choice: both prompts are alike.
    options = {"stream_options": OPTIONS} if is_stream else {}
    answer = call(gateway, lot.model, prompt=["q", "q"], stream=is_stream, echo=True, **options)
    payloads = [one for one in answer.data if one != b"[DONE]"] if is_stream else [answer.body]
    chunks = [strictly(one) for one in payloads]
    assert sorted(said(chunks).items()) in ([(0, "qa"), (1, "qb")], [(0, "qb"), (1, "qa")])
    assert [one.usage.total_tokens for one in chunks if one.usage and not one.choices] == (
        [10] if is_stream else []
    )
    (sent,) = upstream.received(lot.keys[1])
    assert (sent.path, sent.json()["prompt"]) == (PATH, "q")
    assert upstream.received(lot.keys[0])[0].path == "/v1/chat/completions"


@pytest.mark.parametrize("fields", [{"prompt": [[1, 2]]}, {"suffix": "s"}])
def test_mixed_alias_leaves_to_the_native_client_what_chat_cannot_do(
    natives: Natives, fields: Any
) -> None:
    """Whatever the pool chooses first; the chat client does not suffer for it."""
    gateway, upstream, _, mixed = natives
    lot = mixed.pop()
    for _ in range(3):
        assert call(gateway, lot.model, **fields).status == 200
    assert len(upstream.received(lot.keys[1])) == 3
    assert not upstream.received(lot.keys[0])
    assert call(gateway, lot.model).status == 200
    assert call(gateway, lot.model).status == 200
    assert len(upstream.received(lot.keys[0])) == 1


@pytest.mark.long
def test_mixed_alias_when_the_native_client_refuses(natives: Natives) -> None:
    """Its error is what the caller gets."""
    gateway, upstream, _, mixed = natives
    lot = mixed.pop()
    upstream.always(lot.keys[1], error(400, "Not so.", code="c"))
    answer = call(gateway, lot.model, prompt=[1, 2])
    assert (answer.status, answer.error["code"]) == (400, "c")
