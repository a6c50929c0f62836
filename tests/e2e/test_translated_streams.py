"""Every stream of Claude and Gemini through the gateway: whole, byte by byte, cut anywhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import openai
import pytest

from tests.support import claude_upstream as claude
from tests.support import gemini_upstream as gemini
from tests.support.dialects import BY_KIND, claude_stream, configuration, gemini_stream, joined
from tests.support.gateway import Gateway, Response
from tests.support.upstream import CUT, HANG, RESET, Reply, Upstream, json_reply

Json = dict[str, Any]

# name -> kind, the stream, the unary answer that says the same
CASES: dict[str, tuple[str, Reply, Reply]] = {
    **{
        f"claude: {name}": ("claude", claude_stream(answer), json_reply(answer))
        for name, answer in claude.ANSWERS.items()
    },
    **{
        f"gemini: {name}": ("gemini", gemini_stream(events), json_reply(gemini.joined(events)))
        for name, events in gemini.STREAMS.items()
    },
}


@pytest.fixture(scope="module")
def gateway(upstream: Upstream) -> Iterator[Gateway]:
    kinds = ("claude", "gemini")
    clients = [BY_KIND[kind].client(upstream.origin, f"key-{kind}", kind) for kind in kinds]
    with Gateway({**configuration(*clients), "request-retry": 0}) as running:
        yield running


def ask(gateway: Gateway, upstream: Upstream, kind: str, reply: Reply) -> Response:
    upstream.reply(f"key-{kind}", reply)
    return gateway.chat(kind, stream=True, stream_options={"include_usage": True})


def comparable(completion: Any) -> Json:
    """Without what joining adds or cannot tell: when it was made, what is null or empty, ids that
    are made up, and how arguments are spelled.
    """

    def pruned(value: Any) -> Any:
        if isinstance(value, dict):
            kept = {name: pruned(inner) for name, inner in value.items()}
            return {name: inner for name, inner in kept.items() if inner not in (None, "", [])}
        if isinstance(value, list):
            return [pruned(inner) for inner in value]
        return value

    made: Json = pruned(completion)
    made.pop("created")
    for choice in made["choices"]:
        for field in ("tool_calls", "annotations", "images", "thinking_blocks"):
            for entry in choice["message"].get(field, ()):
                entry.pop("index", None)
        for call in choice["message"].get("tool_calls", ()):
            call["id"] = re.sub("call_[0-9a-f]{24}_", "call_", call["id"])
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return made


@pytest.mark.parametrize("name", CASES)
def test_a_stream_whole_and_byte_by_byte_is_the_unary_answer(
    gateway: Gateway, upstream: Upstream, name: str
) -> None:
    """However it is cut into packets, its chunks add up to the same answer and end in [DONE]."""
    kind, reply, whole = CASES[name]
    upstream.reply(f"key-{kind}", whole)
    unary = comparable(gateway.chat(kind).json())
    for sent in (reply, reply.byte_by_byte(), replace(reply, framing="close")):
        response = ask(gateway, upstream, kind, sent)
        *chunks, done = response.data
        assert done == b"[DONE]"
        assert comparable(joined(chunks).to_dict()) == unary


@pytest.mark.parametrize("how", [CUT, RESET], ids=["end", "reset"])
@pytest.mark.parametrize("name", CASES)
def test_a_cut_stream_never_looks_whole(
    gateway: Gateway, upstream: Upstream, name: str, how: Any
) -> None:
    """At every event's border: an error status, or an error event and no [DONE]."""
    kind, reply, _ = CASES[name]
    body = [step for step in reply.body if isinstance(step, bytes)]
    marked = kind == "claude"  # its end is told by its last event
    for count in range(len(body) if marked else len(body) + 1):
        check_cut(ask(gateway, upstream, kind, replace(reply, body=[*body[:count], how])))


@pytest.mark.parametrize("name", ["claude: parallel calls with thinking between", "gemini: words"])
def test_a_stream_cut_within_an_event_never_looks_whole(
    gateway: Gateway, upstream: Upstream, name: str
) -> None:
    """At every byte near a line's end."""
    kind, reply, _ = CASES[name]
    head_bytes = reply.wire_bytes().index(b"\r\n\r\n") + 4
    end = reply.wire_bytes().rindex(b"data:")
    for border in reply.borders():
        if head_bytes <= border <= end:
            check_cut(ask(gateway, upstream, kind, reply.cut_at(border)))


def check_cut(response: Response) -> None:
    if response.status != 200:
        assert response.status >= 500
        assert response.error["type"] == "upstream_error"
        return
    assert b"[DONE]" not in response.data
    *chunks, last = (json.loads(payload) for payload in response.data)
    assert chunks
    assert last["error"]["code"] in ("upstream_truncated", "upstream_reset")
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert not any(reasons)


def test_claudes_end_ends_the_stream_at_once(gateway: Gateway, upstream: Upstream) -> None:
    """After `message_stop` the caller does not wait for the end of the upstream's body."""
    kind, reply, _ = CASES["claude: text"]
    response = ask(gateway, upstream, kind, reply.then(HANG))
    assert response.data[-1] == b"[DONE]"


def test_look_alikes_of_gemini_may_end_with_done(gateway: Gateway, upstream: Upstream) -> None:
    """`[DONE]` ends the stream at once; one that comes too early is no end."""
    events = gemini.STREAMS["words"]
    done = b"data: [DONE]\n\n"
    response = ask(gateway, upstream, "gemini", gemini_stream(events).then(done, HANG))
    assert response.data[-1] == b"[DONE]"
    assert joined(response.data[:-1]).choices[0].finish_reason == "stop"
    check_cut(ask(gateway, upstream, "gemini", gemini_stream(events[:-1]).then(done)))


@pytest.mark.parametrize(
    ("kind", "opening", "broken"),
    [
        (
            "claude",
            claude.sse(claude.events(claude.ANSWERS["text"]))[:5],
            claude.sse([claude.error("overloaded_error", "Overloaded")])[0],
        ),
        (
            "gemini",
            gemini.sse(gemini.STREAMS["words"])[:2],
            gemini.sse([gemini.overloaded()])[0],
        ),
    ],
)
def test_error_events_raise_in_the_sdk(
    gateway: Gateway, upstream: Upstream, kind: str, opening: list[bytes], broken: bytes
) -> None:
    """In mid-stream as an error event; as the first event under its own status."""
    headers = [("Content-Type", "text/event-stream")]
    upstream.reply(f"key-{kind}", Reply([*opening, broken], headers=headers, framing="chunked"))
    with gateway.sdk() as sdk:
        asked: Any = {"model": kind, "messages": [{"role": "user", "content": "Hi"}]}
        stream = sdk.chat.completions.create(**asked, stream=True)
        with pytest.raises(openai.APIError, match="verloaded"):
            list(stream)
    refused = ask(gateway, upstream, kind, Reply([broken], headers=headers, framing="chunked"))
    assert refused.status == {"claude": 529, "gemini": 503}[kind]
    assert "verloaded" in refused.error["message"]
