"""The tokens of every answer are known, whoever asked for them, and callers see only what they did.

In this process, through the gateway's endpoints, with upstreams on real sockets.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from proxy import Call, Proxy, Usage
from tests.support import claude_upstream as claude
from tests.support.dialects import BY_KIND, Said, configuration
from tests.support.embeddings import openai_answer
from tests.support.gateway import CHAT, asked, data_of, text_of
from tests.support.responses_upstream import NATIVE
from tests.support.upstream import (
    HANG,
    MODEL,
    Received,
    Reply,
    Upstream,
    chat,
    chunk,
    completion,
    error,
    events,
    json_reply,
    stream,
    stream_completion,
)

COMPLETIONS = "/v1/completions"
TOLD = Usage(9, 3, cached_tokens=0, reasoning_tokens=0)
WISH = b',"stream_options":{"include_usage":true}'
REFUSAL = "Unrecognized request argument supplied: stream_options"


class House:
    """A gateway, and an upstream that answers for all its clients by their keys."""

    def __init__(self, upstream: Upstream) -> None:
        def provider(name: str, **more: Any) -> dict[str, Any]:
            models = [{"name": MODEL, "alias": name}]
            return {
                "name": name, "base-url": upstream.url, "api-keys": [f"key-{name}"],
                "models": models, **more,
            }  # fmt: skip

        providers = [
            provider("same", models=[MODEL]),
            provider("other"),
            provider("silent", **{"ask-usage": False}),
            provider("native", completions="native", responses="native"),
        ]
        foreign = [
            BY_KIND[kind].client(upstream.origin, f"key-{kind}", kind)
            for kind in ("claude", "gemini")
        ]
        demo = [{"name": "demo", "delay-ms": 0}]
        ours = {"openai-compatibility": providers, "demo": demo}
        self.proxy = Proxy(configuration(ours, *foreign))
        self.upstream = upstream
        self.calls: list[Call] = []
        self._http = Flask("theirs")
        self.proxy.init_app(self._http)
        self.proxy.call_ended.connect(self._keep)

    def _keep(self, _: object, *, call: Call) -> None:
        self.calls.append(call)

    @property
    def usage(self) -> Usage | None:
        """Of the last call."""
        return self.calls[-1].usage

    def post(self, body: Any, path: str = CHAT, *, buffered: bool = True) -> TestResponse:
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self._http.test_client().post(path, data=body, buffered=buffered)

    def stream(self, model: str, path: str = CHAT, **fields: Any) -> list[Any]:
        """The chunks of a stream that ended well, its end left off."""
        body = {"prompt": "p"} if path == COMPLETIONS else asked(model)
        answer = self.post({**body, "model": model, "stream": True, **fields}, path)
        *chunks, end = data_of(answer.data)
        assert end == b"[DONE]", answer.data
        return [json.loads(one) for one in chunks]

    def sent(self, model: str) -> list[Received]:
        return self.upstream.received(f"key-{model}")


@pytest.fixture
def house(upstream: Upstream) -> Iterator[House]:
    made = House(upstream)
    yield made
    made.proxy.gateway.close()


def has_usage_chunk(chunks: list[Any]) -> bool:
    return any(not one["choices"] for one in chunks)


# What goes out and what comes back


@pytest.mark.parametrize("space", [b"", b" ", b"\n  "])
def test_the_body_is_as_it_came_but_for_the_wish(house: House, space: bytes) -> None:
    """To the byte, spaces and odd spellings too."""
    body = b'{"model": "gpt-4.1-mini","stream":true , "x":1.50e0,"messages":["\\u0041"]%b}' % space
    house.upstream.reply("key-same", stream("a", usage=(9, 3)))
    assert house.post(body).status_code == 200
    [received] = house.upstream.received("key-same")
    assert received.body == body[:-1] + WISH + b"}"
    assert house.usage == TOLD


@pytest.mark.parametrize("model", [MODEL, "other"])
@pytest.mark.parametrize(
    ("options", "sent"),
    [
        (None, {"include_usage": True}),
        ({}, {"include_usage": True}),
        ({"include_usage": False}, {"include_usage": True}),
        (
            {"include_obfuscation": False, "include_usage": None},
            {"include_obfuscation": False, "include_usage": True},
        ),
    ],
)
def test_callers_who_did_not_ask_see_no_usage_chunk(
    house: House, model: str, options: Any, sent: Any
) -> None:
    """Whatever else they ask for of the stream."""
    chunks = house.stream(model, stream_options=options)
    [received] = house.upstream.received()
    assert received.json()["stream_options"] == sent
    assert not has_usage_chunk(chunks)
    assert [one["choices"][0]["finish_reason"] for one in chunks][-1] == "stop"
    assert house.usage == TOLD


def test_callers_who_asked_see_it(house: House) -> None:
    """And their body is as it came."""
    body = {**asked(MODEL), "stream": True, "stream_options": {"include_usage": True}}
    answer = house.post(body)
    assert [b'"choices": []' in one for one in data_of(answer.data)[-2:]] == [True, False]
    assert house.upstream.received()[0].body == json.dumps(body).encode()
    assert house.usage == TOLD


def test_options_that_make_no_sense_are_for_the_upstream(house: House) -> None:
    """It answers for what it does not take."""
    house.upstream.reply("key-same", error(400, REFUSAL, code="bad"))
    assert house.post({**asked(MODEL), "stream": True, "stream_options": 7}).status_code == 400
    assert [one.json()["stream_options"] for one in house.upstream.received()] == [7]


def test_unary_requests_are_not_touched(house: House) -> None:
    """They are told in any case."""
    body = json.dumps(asked(MODEL)).encode()
    house.post(body)
    assert house.upstream.received()[0].body == body
    assert house.usage == TOLD


def test_it_can_be_turned_off(house: House) -> None:
    """`ask-usage: false`: the body is untouched, and the usage unknown unless callers ask."""
    chunks = house.stream("silent")
    assert "stream_options" not in house.upstream.received()[0].json()
    assert not has_usage_chunk(chunks)
    assert house.usage is None
    assert has_usage_chunk(house.stream("silent", stream_options={"include_usage": True}))
    assert house.usage == TOLD
    # What an upstream tells unasked is not kept from the caller.
    house.upstream.reply("key-silent", stream("a", usage=(9, 3)))
    assert has_usage_chunk(house.stream("silent"))
    assert house.usage == TOLD


def test_one_answer_in_place_of_a_stream(house: House) -> None:
    """Some upstreams send JSON: the chunks made of it tell the usage to those who asked."""
    for options, is_told in ((None, False), ({"include_usage": True}, True)):
        house.upstream.reply("key-same", chat("Hello"))
        assert has_usage_chunk(house.stream(MODEL, stream_options=options)) is is_told
        assert house.usage == TOLD


@pytest.mark.parametrize("kind", ["claude", "gemini", "demo"])
def test_other_kinds_of_clients_know_it_anyway(house: House, kind: str) -> None:
    """Streamed and whole, asked or not."""
    said = Said(text="Hello there", reasoning_tokens=2)
    for options in (None, {"include_usage": True}):
        if kind != "demo":
            house.upstream.reply(f"key-{kind}", BY_KIND[kind].streamed(said))
        assert has_usage_chunk(house.stream(kind, stream_options=options)) is bool(options)
        assert house.usage is not None
        assert house.usage.prompt_tokens == (1 if kind == "demo" else 11)
        assert kind == "demo" or house.usage.reasoning_tokens == 2
        assert not house.usage.partial


# An upstream that does not take the wish


@pytest.mark.parametrize("status", [400, 422])
def test_a_refusal_of_the_wish_is_tried_once_more_without(
    house: House, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """On the same lease; the client is not asked any more, others are."""
    refusal = error(status, REFUSAL)
    house.upstream.reply("key-other", refusal, stream("a"), stream("b"))
    with caplog.at_level(logging.WARNING):
        assert text_of([json.dumps(one).encode() for one in house.stream("other")]) == "a"
    assert house.usage is None
    [attempt] = house.calls[-1].attempts
    assert (attempt.reason, attempt.status) == ("ok", 200)
    house.stream("other")
    house.stream(MODEL)
    wishes = ["stream_options" in one.json() for one in house.upstream.received()]
    assert wishes == [True, False, False, True]
    assert [record.message for record in caplog.records if "stream_options" in record.message] == [
        "other/... takes no `stream_options`: its streams do not tell usage"
    ]


def test_a_refusal_that_stays_is_forwarded(house: House) -> None:
    """It was not about the wish alone."""
    house.upstream.reply("key-other", error(400, REFUSAL), error(400, "No.", code="bad"))
    answer = house.post({**asked("other"), "stream": True})
    assert (answer.status_code, answer.get_json()["error"]["message"]) == (400, "No.")
    assert len(house.upstream.received()) == 2


def test_a_refusal_that_quotes_the_whole_request_turns_nothing_off(house: House) -> None:
    """As FastAPI's do where a field is missing: it is not about the wish, as the next try shows."""

    def refuse(received: Received) -> Reply:
        detail = {"type": "missing", "loc": ["body", "top_k"], "input": received.json()}
        return json_reply({"detail": [detail]}, 422)

    house.upstream.reply("key-other", refuse, refuse)
    assert house.post({**asked("other"), "stream": True}).status_code == 422
    house.stream("other")
    assert ["stream_options" in one.json() for one in house.upstream.received()] == [
        True, False, True,
    ]  # fmt: skip
    assert house.usage == TOLD


@pytest.mark.parametrize(
    ("reply", "fields"),
    [
        (error(400, REFUSAL), {"stream": True, "stream_options": {"include_usage": True}}),
        (error(400, "No."), {"stream": True}),
        (error(400, REFUSAL), {}),
    ],
)
def test_other_refusals_are_forwarded_at_once(house: House, reply: Reply, fields: Any) -> None:
    """Where the caller asked, or nobody did."""
    house.upstream.reply("key-other", reply)
    assert house.post({**asked("other"), **fields}).status_code == 400
    assert len(house.upstream.received()) == 1


# Callers of other dialects, who always ask


RESPONSES: Any = {"input": "Hi"}
MESSAGES: Any = {"max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
DIALECTS = {"/v1/responses": RESPONSES, "/v1/messages": MESSAGES}


def test_native_responses_pass_as_they_came(house: House) -> None:
    """They tell the usage unasked, and OpenAI refuses the wish there."""
    body = {**RESPONSES, "model": "native", "stream": True}
    house.upstream.reply("key-native", error(400, "Unknown parameter: 'stream_options'."))
    house.post(body, "/v1/responses")
    house.stream("native")
    responses, chatted = house.sent("native")
    assert responses.json() == {**body, "model": MODEL}
    assert "stream_options" in chatted.json()


@pytest.mark.parametrize("path", DIALECTS)
def test_translated_streams_are_asked_for_their_usage(house: House, path: str) -> None:
    """With `ask-usage: false`, too: their callers are always told."""
    for model in ("other", "silent"):
        answer = house.post({**DIALECTS[path], "model": model, "stream": True}, path)
        assert b"_tokens" in answer.data
        assert house.sent(model)[0].json()["stream_options"] == {"include_usage": True}
        assert house.usage == TOLD


@pytest.mark.parametrize("path", DIALECTS)
def test_translated_streams_do_without_where_the_wish_is_refused(house: House, path: str) -> None:
    """Once more on the same lease, then from the start."""
    house.upstream.reply("key-other", error(400, REFUSAL), stream("a"), stream("b"), stream("c"))
    for text in ("a", "b"):
        answer = house.post({**DIALECTS[path], "model": "other", "stream": True}, path)
        assert (answer.status_code, len(house.calls[-1].attempts)) == (200, 1)
        assert text.encode() in answer.data
    house.stream("other")
    wishes = ["stream_options" in one.json() for one in house.sent("other")]
    assert wishes == [True, False, False, False]


# Streams that are cut


CUT: dict[str, tuple[str, Reply, Usage]] = {
    "nothing known": (MODEL, stream("a", finish=None, done=False), Usage(partial=True)),
    "told on the way": (
        MODEL,
        events(chunk({"content": "a"}, usage={"prompt_tokens": 5, "completion_tokens": 1})),
        Usage(5, 1, partial=True),
    ),
    "claude": (
        "claude",
        events(*claude.events(claude.message(claude.text("Hello")))[:4], named=True),
        Usage(25, 1, 0, 0, partial=True),
    ),
}


@pytest.mark.parametrize("case", CUT)
def test_a_cut_stream_counts_with_what_is_known(house: House, case: str) -> None:
    """And is marked."""
    model, reply, usage = CUT[case]
    house.upstream.reply(None, reply)
    assert b"upstream_truncated" in house.post({**asked(model), "stream": True}).data
    assert house.usage == usage


@pytest.mark.parametrize("takes", [True, False])
def test_a_caller_who_leaves_costs_what_is_known(house: House, takes: bool) -> None:
    """The upstream may count more. Also where nobody has begun to take the answer."""
    told = {"prompt_tokens": 5, "completion_tokens": 1}
    house.upstream.reply("key-same", events(chunk({"content": "a"}, usage=told), HANG))
    answer = house.post({**asked(MODEL), "stream": True}, buffered=False)
    if takes:
        assert next(answer.iter_encoded())
    answer.close()
    assert house.calls[-1].end == "caller_gone"
    assert house.usage == Usage(5, 1, partial=True)


def test_a_request_that_fails_has_none(house: House) -> None:
    """Nothing was answered."""
    house.upstream.reply("key-same", error(400, "No."))
    house.post({**asked(MODEL), "stream": True})
    assert house.usage is None


# Completions


@pytest.mark.parametrize("model", ["other", "native"])
@pytest.mark.parametrize("wants", [False, True])
@pytest.mark.parametrize("prompts", [1, 3])
def test_completions_add_up(house: House, model: str, wants: bool, prompts: int) -> None:
    """By way of chat or the upstream's own; one usage chunk for those who asked."""
    prompt = ["p"] * prompts if prompts > 1 else "p"
    options = {"stream_options": {"include_usage": True}} if wants else {}
    chunks = house.stream(model, COMPLETIONS, prompt=prompt, **options)
    assert [one["usage"]["prompt_tokens"] for one in chunks if not one["choices"]] == (
        [9 * (prompts if model == "other" else 1)] * wants
    )
    times = prompts if model == "other" else 1  # natively they are one request
    assert house.usage == Usage(9 * times, 3 * times, cached_tokens=0, reasoning_tokens=0)
    assert all(one.json()["stream_options"] == {"include_usage": True} for one in house.sent(model))


def test_native_completions_pass_as_they_came(house: House) -> None:
    """But for the wish."""
    house.upstream.reply("key-native", stream_completion("a", usage=(9, 3)))
    body = b'{"model":"native","prompt":"p","stream":true}'
    house.post(body, COMPLETIONS)
    [received] = house.sent("native")
    assert received.body == body.replace(b'"native"', b'"%b"' % MODEL.encode())[:-1] + WISH + b"}"


def test_prompts_before_one_that_fails_are_counted(house: House) -> None:
    """Streamed or not."""
    two = {"model": "other", "prompt": ["p", "q"]}
    for is_stream, answered in ((False, chat("a")), (True, stream("a", usage=(9, 3)))):
        house.upstream.reply("key-other", answered, error(400, "No."))
        house.post({**two, "stream": is_stream}, COMPLETIONS)
        assert house.usage == Usage(9, 3, cached_tokens=0, reasoning_tokens=0, partial=True)
    house.upstream.reply("key-native", completion("a"))
    house.post({**two, "model": "native"}, COMPLETIONS)
    assert house.usage == TOLD


# Each kind of client, in each dialect


SAID = Said(text="Hello there", reasoning_tokens=2)
PATHS: dict[str, Any] = {
    CHAT: {"messages": MESSAGES["messages"]},
    COMPLETIONS: {"prompt": "p"},
    **DIALECTS,
}


def scripted(kind: str, path: str, *, streams: bool) -> Reply | None:
    """What that kind of upstream answers to what the client makes of a request."""
    if kind == "demo":
        return None
    if kind == "native" and path == COMPLETIONS:
        make = stream_completion if streams else completion
        return make("Hello", usage=(11, 7))
    dialect = NATIVE if (kind, path) == ("native", "/v1/responses") else BY_KIND.get(kind)
    dialect = dialect or BY_KIND["openai"]
    return dialect.streamed(SAID) if streams else dialect.whole(SAID)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", ["other", "native", "claude", "gemini", "demo"])
def test_every_answer_tells_its_tokens(house: House, kind: str, path: str) -> None:
    """Streamed and whole; to the attempt that made it, too. Who did not ask sees no usage chunk."""
    for streams in (False, True):
        if reply := scripted(kind, path, streams=streams):
            house.upstream.reply(f"key-{kind}", reply)
        answer = house.post({**PATHS[path], "model": kind, "stream": streams}, path)
        assert answer.status_code == 200, answer.data
        call = house.calls[-1]
        assert call.usage is not None
        assert call.usage == call.attempts[-1].usage
        assert not call.usage.partial
        assert call.usage.completion_tokens
        if kind != "demo":
            assert (call.usage.prompt_tokens, call.usage.completion_tokens) == (11, 7)
            is_told = kind != "native" or path != COMPLETIONS
            assert call.usage.reasoning_tokens == (2 if is_told else 0)
        if streams and path in (CHAT, COMPLETIONS):
            assert not has_usage_chunk([json.loads(one) for one in data_of(answer.data)[:-1]])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", ["other", "native", "claude", "gemini"])
def test_every_stream_that_is_cut_is_partial(house: House, kind: str, path: str) -> None:
    """With the tokens of the prompt, where they come first."""
    whole = scripted(kind, path, streams=True)
    assert whole is not None
    said = re.search(rb"Hel.*?\r?\n\r?\n", whole.wire_bytes(), re.DOTALL)
    assert said
    house.upstream.reply(f"key-{kind}", whole.cut_at(said.end()))
    answer = house.post({**PATHS[path], "model": kind, "stream": True}, path)
    assert house.calls[-1].end == "upstream_truncated", answer.data
    [attempt] = house.calls[-1].attempts
    assert attempt.usage is not None
    assert attempt.usage.partial
    assert house.usage == attempt.usage
    tells_first = kind in ("claude", "gemini")
    assert attempt.usage.prompt_tokens == (11 if tells_first else None)


@pytest.mark.parametrize("kind", ["same", "gemini"])
def test_embeddings_tell_their_tokens(house: House, kind: str) -> None:
    """Which are all of the prompt's; over HTTP and from Python."""
    openais = openai_answer([[0.5]])
    geminis = {"embeddings": [{"values": [0.5]}], "usageMetadata": {"promptTokenCount": 5}}
    for _ in range(2):
        house.upstream.reply(f"key-{kind}", json_reply(geminis if kind == "gemini" else openais))
    model = MODEL if kind == "same" else kind
    assert house.post({"model": model, "input": "a"}, "/v1/embeddings").status_code == 200
    house.proxy.embed(model=model, input="a")
    for call in house.calls:
        assert call.usage is not None
        assert (call.usage.prompt_tokens, call.usage.completion_tokens) == (5, None)


@pytest.mark.parametrize("kind", ["other", "claude", "gemini"])
def test_calls_from_python_tell_their_tokens(house: House, kind: str) -> None:
    """Streamed too, without a chunk that was not asked for."""
    for reply in (scripted(kind, CHAT, streams=False), scripted(kind, CHAT, streams=True)):
        assert reply is not None
        house.upstream.reply(f"key-{kind}", reply)
    house.proxy.chat(model=kind, messages=MESSAGES["messages"])
    with house.proxy.stream(model=kind, messages=MESSAGES["messages"]) as chunks:
        assert not has_usage_chunk(list(chunks))
    told = [call.usage for call in house.calls]
    assert [one and (one.prompt_tokens, one.completion_tokens) for one in told] == [(11, 7)] * 2


def test_tokens_are_those_of_the_client_that_counted_them(house: House) -> None:
    """Prompts of one request may go to several clients, of which each tells its own."""
    house.upstream.reply("key-other", chat("a", usage=(1, 2)), chat("b", usage=(3, 4)))
    house.post({"model": "other", "prompt": ["p", "q"]}, COMPLETIONS)
    call = house.calls[-1]
    told = [attempt.usage for attempt in call.attempts]
    assert [one and (one.prompt_tokens, one.completion_tokens) for one in told] == [(1, 2), (3, 4)]
    assert call.usage == Usage(4, 6, cached_tokens=0, reasoning_tokens=0)


def test_an_attempt_without_an_answer_has_no_tokens(house: House) -> None:
    """The next one does."""
    house.upstream.reply("key-other", error(500), chat("a"))
    house.post(asked("other"))
    first, second = house.calls[-1].attempts
    assert first.usage is None
    assert second.usage == house.usage == TOLD
