"""Chunks of chat as a message's events: one block at a time, in order, whatever comes when."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from proxy.errors import UpstreamInvalid
from proxy.wire.chat import Usage, chunks_of
from proxy.wire.lenient_json import encode
from proxy.wire.made_names import plain_id
from proxy.wire.messages.answer import MessageStream, events_of, usage_of
from proxy.wire.reasoning import MAX_CHARS, bare, pack
from proxy.wire.sse import encode_named
from tests.support.claude_upstream import joined

Json = dict[str, Any]
Made = Callable[[], MessageStream]


def asked(*, thinks: bool = True, shown: bool = True, kind: str = "openai") -> Made:
    shows = thinks and shown
    return partial(MessageStream, "m", stops=["END"], thinks=thinks, shows=shows, kind=kind)


def chunk(finish: str | None = None, **delta: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return json.dumps({"id": "chatcmpl-1", "choices": [choice]}).encode()


def call(index: int | None, arguments: str = "", **more: Any) -> Json:
    name = more.pop("name", None)
    function = {"arguments": arguments, **({"name": name} if name else {})}
    return {"index": index, "function": function, **more}


def calls(*made: Json) -> bytes:
    return chunk(tool_calls=list(made))


def message(*chunks: bytes, about: Made | None = None) -> Json:
    """What the events come to, each chunk fed by itself and all at once."""
    written = []
    for at_once in (False, True):
        stream = (about or asked())()
        fed = stream.feed(chunks) if at_once else b"".join(stream.feed([one]) for one in chunks)
        written.append(fed + stream.end())
    assert written[0] == written[1]
    check_order(written[0])
    found = joined(written[0])
    assert {**json.loads(encode(stream.answer)), "id": found["id"]} == found
    return found


def check_order(written: bytes) -> None:
    """One block is open at a time, and their indexes have no gap."""
    opened, last = None, -1
    for event in written.decode().split("\n\n")[:-1]:
        data = json.loads(event.partition("data: ")[2])
        if data["type"] == "content_block_start":
            assert (opened, data["index"]) == (None, last + 1)
            opened = last = data["index"]
        elif data["type"].startswith("content_block_"):
            assert data["index"] == opened
            opened = None if data["type"] == "content_block_stop" else opened


def uses(found: Json) -> list[tuple[str, str, Json]]:
    return [(b["id"], b["name"], b["input"]) for b in found["content"] if b["type"] == "tool_use"]


def test_events_are_those_of_the_documentation() -> None:
    """All of them, of a stream and of a whole Message (build-with-claude/streaming)."""
    stream = asked()()
    fed = [chunk(reasoning_content="Hm."), chunk(content="Yes.")]
    written = stream.feed([*fed, calls(call(0, "{}", id="a", name="f"))]) + stream.end()
    names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    usage = dict.fromkeys((*names, "output_tokens"), 0)
    ending = {"stop_reason": "tool_use", "stop_sequence": None}
    start: Json = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
    }
    start |= {**dict.fromkeys(ending), "usage": usage}
    thinking = {"type": "signature_delta", "signature": pack("openai", b"")}
    blocks: list[tuple[Json, list[Json]]] = [
        (
            {"type": "thinking", "thinking": "", "signature": ""},
            [{"type": "thinking_delta", "thinking": "Hm."}, thinking],
        ),
        ({"type": "text", "text": ""}, [{"type": "text_delta", "text": "Yes."}]),
        (
            {"type": "tool_use", "id": "a", "name": "f", "input": {}},
            [{"type": "input_json_delta", "partial_json": "{}"}],
        ),
    ]
    expected: list[Json] = [{"type": "message_start", "message": start}]
    for at, (block, deltas) in enumerate(blocks):
        expected.append({"type": "content_block_start", "index": at, "content_block": block})
        expected += [{"type": "content_block_delta", "index": at, "delta": one} for one in deltas]
        expected.append({"type": "content_block_stop", "index": at})
    expected.append({"type": "message_delta", "delta": ending, "usage": usage})
    expected.append({"type": "message_stop"})
    for whole in (written, encode_named(events_of(encode(stream.answer)))):
        lines = [event.split("\n") for event in whole.decode().split("\n\n")[:-1]]
        told = [json.loads(data.removeprefix("data: ")) for _, data in lines]
        assert told == expected
        assert [name for name, _ in lines] == [f"event: {one['type']}" for one in told]


def test_answer_without_a_word_is_a_message() -> None:
    """With an id of its own, no content, and a reason that asks for nothing."""
    for written in (
        asked()().end(),
        (stream := asked()()).feed([chunk(finish="tool_calls")]) + stream.end(),
    ):
        found = joined(written)
        assert (found["content"], found["stop_reason"]) == ([], "end_turn")
        assert found["id"].removeprefix("msg_")


def test_parallel_calls_are_put_in_order() -> None:
    """Their chunks alternate; what came for the second waits for the first."""
    found = message(
        calls(call(0, id="a", name="f"), call(1, id="b", name="g")),
        calls(call(0, '{"x"'), call(1, '{"y"')),
        calls(call(1, ":2}"), call(0, ":1}")),
        chunk(finish="tool_calls"),
    )
    assert uses(found) == [("a", "f", {"x": 1}), ("b", "g", {"y": 2})]
    assert found["stop_reason"] == "tool_use"


def test_second_call_streams_once_the_first_is_whole() -> None:
    """It does not wait for the end."""
    stream = asked()()
    stream.feed([calls(call(0, '{"x":1}', id="a", name="f"))])
    stream.feed([calls(call(1, id="b", name="g"))])
    assert b'"partial_json":"{\\"y"' in stream.feed([calls(call(1, '{"y'))])


@pytest.mark.parametrize(
    "chunks",
    [
        # all at one index, or at none, told apart by their ids
        [calls(call(0, "{}", id="a", name="f")), calls(call(0, "{}", id="b", name="g"))],
        [calls(call(None, "{}", id="a", name="f"), call(None, "{}", id="b", name="g"))],
        # a name in pieces
        [
            calls(call(0, id="a", name="")),
            calls(call(0, name="f"), call(1, id="b")),
            calls(call(1, name="g")),
        ],
        # neither says anything
        [calls(call(0, id="a", name="f"), call(1, id="b", name="g"))],
    ],
)
def test_calls_as_servers_send_them(chunks: list[bytes]) -> None:
    """Each is a call of its own."""
    assert uses(message(*chunks)) == [("a", "f", {}), ("b", "g", {})]


def test_text_that_comes_while_a_call_is_open_waits() -> None:
    """It is not lost, nor within the call."""
    found = message(
        calls(call(0, '{"x"', id="a", name="f")), chunk(content="late"), calls(call(0, ":1}"))
    )
    assert found["content"][1] == {"type": "text", "text": "late"}
    assert uses(found) == [("a", "f", {"x": 1})]


def test_call_that_was_cut_off_is_some_object() -> None:
    """By max_tokens: the caller sees what there is, text that waited for the call as well."""
    cut = calls(call(0, '{"x": "y', id="a", name="f"))
    found = message(cut, chunk(content="late"), chunk(finish="length"))
    assert (uses(found)[0][2], found["stop_reason"]) == ({"arguments": '{"x": "y'}, "max_tokens")
    assert found["content"][1:] == [{"type": "text", "text": "late"}]


def test_upstream_that_goes_back_is_refused() -> None:
    """To a call whose block is over."""
    stream = asked()()
    stream.feed([calls(call(0, "{}", id="a", name="f")), calls(call(1, "{}", id="b", name="g"))])
    assert stream.feed([calls(call(0, " "))]) == b""
    with pytest.raises(UpstreamInvalid):
        stream.feed([calls(call(0, "more"))])


EXTRA = {"google": {"thought_signature": "c2ln"}}


def thoughts(found: Json) -> list[tuple[str, str]]:
    return [(b["thinking"], b["signature"]) for b in found["content"] if b["type"] == "thinking"]


@pytest.mark.parametrize(
    ("about", "kept"),
    [
        (asked(), [("Hm. So.", pack("openai", b""))]),
        (asked(shown=False), [("", pack("openai", b"Hm. So."))]),
        (asked(kind="gemini"), [("Hm. So.", pack("gemini", b""))]),
        (asked(kind="gemini", shown=False), [("", pack("gemini", b""))]),
        (asked(thinks=False), []),
    ],
)
def test_thoughts_before_text(about: Made, kept: list[tuple[str, str]]) -> None:
    """Shown or not as was asked; the container says whose they are."""
    chunks = [chunk(reasoning_content="Hm. "), chunk(reasoning="So."), chunk(content="Yes.")]
    found = message(*chunks, about=about)
    assert thoughts(found) == kept
    assert found["content"][-1] == {"type": "text", "text": "Yes."}


@pytest.mark.parametrize("thinks", [False, True])
def test_thoughts_before_a_call_are_always_kept(thinks: bool) -> None:
    """Vendors want them back in a tool loop, whether the caller asked for thinking or not."""
    signed = json.dumps(EXTRA, separators=(",", ":")).encode()
    one = calls(call(0, "{}", id="a__thought__c2ln", name="f", extra_content=EXTRA))
    found = message(chunk(reasoning_content="Hm."), one, about=asked(thinks=thinks, kind="gemini"))
    assert thoughts(found) == [("Hm." if thinks else "", pack("gemini", signed))]
    assert uses(found) == [("a", "f", {})]
    plain = calls(call(0, "{}", id="a", name="f"))
    found = message(chunk(reasoning_content="Hm."), plain, about=asked(thinks=thinks))
    assert thoughts(found) == [
        ("Hm.", pack("openai", b"")) if thinks else ("", pack("openai", b"Hm."))
    ]


def test_thoughts_that_gemini_does_not_want_back() -> None:
    """It has signed none of them, and the caller knows no thinking."""
    plain = calls(call(0, "{}", id="a", name="f"))
    about = asked(thinks=False, kind="gemini")
    assert thoughts(message(chunk(reasoning_content="Hm."), plain, about=about)) == []


def test_thoughts_that_are_not_shown_survive_the_end_of_another_block() -> None:
    """Of a text, or of a call: the upstream wants them with the next call."""
    text = chunk(content="Yes.")
    first = calls(call(0, "{}", id="a", name="f"))
    for before in (text, first):
        then = calls(call(1, "{}", id="b", name="f"))
        found = message(before, chunk(reasoning_content="Hm."), then, about=asked(shown=False))
        assert thoughts(found) == [("", pack("openai", b"Hm."))]


def test_what_signs_the_text_comes_behind_it() -> None:
    """If the caller knows thinking; one that is too large is left out."""
    chunks = [chunk(content="Yes."), chunk(extra_content=EXTRA, finish="stop")]
    found = message(*chunks, about=asked(kind="gemini"))
    assert [block["type"] for block in found["content"]] == ["text", "thinking"]
    assert len(message(*chunks, about=asked(thinks=False, kind="gemini"))["content"]) == 1
    large = {"google": {"thought_signature": "x" * MAX_CHARS}}
    found = message(chunk(content="Yes."), chunk(extra_content=large), about=asked(kind="gemini"))
    assert thoughts(found) == [("", pack("gemini", b""))]


@pytest.mark.parametrize(
    ("last", "reason", "sequence"),
    [
        ({"finish_reason": "stop"}, "end_turn", None),
        ({"finish_reason": "length"}, "max_tokens", None),
        ({"finish_reason": "content_filter"}, "refusal", None),
        ({"finish_reason": "stop", "stop_reason": "END"}, "stop_sequence", "END"),
        ({"finish_reason": "stop", "stop_reason": 7}, "end_turn", None),
        ({"finish_reason": "odd"}, "end_turn", None),
    ],
)
def test_reasons(last: Json, reason: str, sequence: str | None) -> None:
    """With the sequence where the server tells it."""
    found = message(
        json.dumps({"id": "x", "choices": [{"index": 0, "delta": {}, **last}]}).encode()
    )
    assert (found["stop_reason"], found["stop_sequence"]) == (reason, sequence)


def test_usage_leaves_cached_tokens_out() -> None:
    """And is read as far as it can be."""
    details = {"cached_tokens": 5, "cache_write_tokens": 2}
    usage: Json = {"prompt_tokens": 10, "completion_tokens": 4, "prompt_tokens_details": details}
    usage["completion_tokens_details"] = {"reasoning_tokens": 3}
    found = message(chunk(content="x"), json.dumps({"choices": [], "usage": usage}).encode())
    assert found["usage"] == {
        "input_tokens": 3,
        "cache_creation_input_tokens": 2,
        "cache_read_input_tokens": 5,
        "output_tokens": 4,
        "output_tokens_details": {"thinking_tokens": 3},
    }
    odd = json.dumps({"choices": [], "usage": {"prompt_tokens": "x"}}).encode()
    assert message(chunk(content="x"), odd)["usage"]["input_tokens"] == 0


@pytest.mark.parametrize(
    ("chat_id", "made"),
    [
        ("chatcmpl-a.B_9", "msg_aB_9"),
        ("chatcmpl-msg_1", "msg_1"),
        ("x-msg_" + "b" * 65, "msg_" + "b" * 64),
    ],
)
def test_id_is_the_completions(chat_id: str, made: str) -> None:
    """As far as Anthropic's have its characters."""
    assert message(json.dumps({"id": chat_id}).encode())["id"] == made


@pytest.mark.parametrize(
    ("told", "counts"),
    [
        (None, (0, 0, 0, 0)),
        (Usage(), (0, 0, 0, 0)),
        (Usage(1, 2), (1, 0, 0, 2)),
        (Usage(5, 0, 4, 3), (0, 3, 4, 0)),
    ],
)
def test_usage_that_is_not_told_is_0(told: Usage | None, counts: tuple[int, ...]) -> None:
    """Nor is anything less."""
    assert tuple(usage_of(told).values()) == counts


@pytest.mark.parametrize("data", [b"[]", b"7", b'{"x":1e999}', b"\xff"])
def test_what_is_no_chunk_is_the_upstreams_fault(data: bytes) -> None:
    """Whatever Python would raise."""
    with pytest.raises(UpstreamInvalid):
        asked()().feed([data])


def test_thoughts_and_text_in_one_chunk() -> None:
    """In this order, and a call behind both; a usage that was told once stays."""
    usage = {"prompt_tokens": 3, "completion_tokens": 4}
    said: Json = {"content": "Yes.", "reasoning_content": "Hm."}
    delta = {**said, "tool_calls": [call(0, "{}", id="a", name="f")]}
    whole = json.dumps({"usage": usage, "choices": [{"index": 0, "delta": delta}]}).encode()
    found = message(json.dumps({"id": "x", "choices": []}).encode(), whole, chunk(finish="stop"))
    assert [block["type"] for block in found["content"]] == ["thinking", "text", "tool_use"]
    assert (found["usage"]["input_tokens"], found["usage"]["output_tokens"]) == (3, 4)


def test_half_an_emoji_passes() -> None:
    """As the escape that it came as."""
    lone = b'{"choices":[{"index":0,"delta":{"content":"\\ud83d"}}]}'
    assert b'"text":"\\ud83d"' in asked()().feed([lone])


def test_other_choices_and_parts() -> None:
    """Of several choices the first; of parts the text."""
    other = json.dumps({"id": "x", "choices": [{"index": 1, "delta": {"content": "no"}}]}).encode()
    parts = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "yes"}]
    found = message(other, chunk(content=parts), chunk(refusal="!"))
    assert found["content"] == [{"type": "text", "text": "yes!"}]


def test_unary_answer_is_what_its_stream_comes_to() -> None:
    """Calls, thoughts, and an id of its own where it has none."""
    said = {"content": None, "reasoning_content": "Hm."}
    said["tool_calls"] = [call(None, "null", id="functions.f:0", name="f")]  # type: ignore[assignment]
    body = {"choices": [{"message": said, "finish_reason": "tool_calls"}], "usage": None}
    found = json.loads(asked()().whole(chunks_of(json.dumps(body).encode())))
    ((made, name, given),) = uses(found)
    assert (made[:6], name, given) == ("toolu_", "f", {})
    assert found["stop_reason"] == "tool_use"
    assert len(found["id"]) == len("msg_") + 32


def test_ids_are_as_every_kind_takes_them() -> None:
    """Told apart, in Anthropic's characters, without what chat carries in them."""
    used: set[str] = set()
    given = ["a", "a", "a__thinking__eJx", "", "", "x.y:0"]
    made = [plain_id(bare(one), used, "toolu_") for one in given]
    assert made[:3] == ["a", "a_2", "a_3"]
    assert len(set(made)) == len(made)
    assert plain_id("x.y:0", set(), "toolu_") == made[5]
