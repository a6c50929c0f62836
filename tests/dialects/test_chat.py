"""The hub itself: nothing is translated, and a failure is told in OpenAI's words."""

from __future__ import annotations

import json

import pytest

from proxy.dialects.base import Answer
from proxy.dialects.chat import CHAT, ChatWriter
from proxy.errors import AllCoolingDown, InvalidRequest, UpstreamRefusal, UpstreamTruncated
from proxy.wire.chat import HUB
from proxy.wire.sse import NamedEvent

BODY = b'{ "model":"m","messages":[1],"stream":true }'


def test_request_is_its_own_prompt_in_either_form() -> None:
    """So that no client gets anything but the caller's bytes."""
    ask = CHAT.read(BODY, {"x": "y"})
    assert (ask.speech, ask.model, ask.stream, ask.headers) == (HUB, "m", True, {"x": "y"})
    for natively in (True, False):
        assert ask.prompts(natively=natively) == 1
        assert ask.request(0, "openai", natively=natively).body == BODY


def test_answer_passes_as_it_came() -> None:
    """The same bytes, not a copy."""
    body = b'{"choices":[]}'
    assert CHAT.read(BODY, {}).whole([Answer(body, is_native=True)]) is body


@pytest.mark.parametrize("option", [b"true", b"false"])
def test_usage_is_for_those_who_asked(option: bytes) -> None:
    """Where a whole answer is cut into chunks for a stream."""
    body = BODY[:-1] + b',"stream_options":{"include_usage":%b}}' % option
    assert CHAT.read(body, {}).wants_usage is (option == b"true")


def test_chunks_leave_as_they_are_and_without_names() -> None:
    """The official SDKs take an event with a name for something else."""
    named = NamedEvent(b"b")
    named.name = b"message"
    writer = ChatWriter()
    writer.begin(0, is_native=True)
    assert writer.feed([b"a", named]) == b"data: a\n\ndata: b\n\n"
    assert writer.end() == b"data: [DONE]\n\n"


@pytest.mark.parametrize("is_begun", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (UpstreamTruncated("cut"), "502", "upstream_truncated"),
        (AllCoolingDown("all are"), "429", "rate_limit_exceeded"),
        (UpstreamRefusal("no", status=418), "418", "418"),
    ],
)
def test_failure_before_any_chunk_has_its_status_as_code(
    is_begun: bool, error: UpstreamTruncated, status: str, code: str
) -> None:
    """200 is out already."""
    writer = ChatWriter()
    if is_begun:
        writer.begin(0, is_native=False)
    told = json.loads(writer.fail(error).removeprefix(b"data: "))["error"]
    assert told["code"] == (code if is_begun else status)


def test_error_is_in_the_envelope() -> None:
    """An upstream's own as it came."""
    assert json.loads(CHAT.error(InvalidRequest("no", param="n")))["error"] == {
        "message": "no",
        "type": "invalid_request_error",
        "param": "n",
        "code": "invalid_request",
    }
    assert CHAT.error(UpstreamRefusal("no", status=400, body=b'{"error":{}}')) == b'{"error":{}}'


def test_refused_reasoning_is_left_out() -> None:
    """Whoever's, wherever it stands; all else stays as it came."""
    call = {"id": "a__thought__c2ln", "function": {}, "extra_content": {"google": {}}}
    thoughts = {"thinking_blocks": [1], "reasoning_content": "Hm.", "reasoning_details": []}
    said = [{"role": "assistant", "tool_calls": [call], **thoughts}, {"role": "user", "x": 1}]
    body = b'{"model":"m","x":1.50,"messages":%b}' % json.dumps(said).encode()
    ask = CHAT.read(body, {})
    plain = ask.plain_request(0, "openai", natively=True)
    assert plain is not None
    assert b'"x":1.50' in plain.body
    assert json.loads(plain.body)["messages"] == [
        {"role": "assistant", "tool_calls": [{"id": "a", "function": {}}]},
        {"role": "user", "x": 1},
    ]
    mere = b'[{"content":"thinking_blocks"}]', b'[ {"content": "reasoning_content"} ]'
    for odd in (b"[1]", b'["reasoning_content"]', *mere):
        ask = CHAT.read(b'{"model":"m","messages":%b}' % odd, {})
        assert ask.plain_request(0, "openai", natively=True) is None
