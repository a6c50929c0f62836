"""Responses as a dialect: who gets a request in which form, and how a stream that fails ends."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.dialects.base import Answer
from proxy.dialects.responses import INPUT_TOKENS, RESPONSES, ResponsesAsk
from proxy.errors import InvalidRequest, UnsupportedParameter, UpstreamRefusal, UpstreamTruncated
from proxy.wire.chat import HUB_COUNT
from proxy.wire.sse import named
from tests.support.dialects import Said
from tests.support.responses import read_events, replayed
from tests.support.responses_upstream import NATIVE

Json = dict[str, Any]

BODY = b'{ "model":"m","input":"Hi","x":1.50 }'
CHUNK = b'{"created":5,"choices":[{"index":0,"delta":{"content":"He"}}]}'


def ask(**asked: Any) -> ResponsesAsk:
    body = json.dumps({"model": "m", "input": "Hi", **asked}).encode()
    found = RESPONSES.read(body, {})
    assert isinstance(found, ResponsesAsk)
    return found


def native_events(count: int) -> list[bytes]:
    return [
        named(json.dumps(each).encode(), each["type"].encode())
        for each in list(NATIVE.events(Said("Hello")))[:count]
    ]


def test_native_client_gets_the_callers_bytes() -> None:
    """All others chat."""
    found = RESPONSES.read(BODY, {"x": "y"})
    assert (found.model, found.stream, found.headers) == ("m", False, {"x": "y"})
    native = found.request(0, "openai", natively=True)
    assert native.body is BODY
    assert native.speech == found.speech
    hub = found.request(0, "openai", natively=False)
    assert json.loads(hub.body)["messages"] == [{"role": "user", "content": "Hi"}]
    assert found.dropped == ["x"]


def test_translation_is_made_once_for_each_kind() -> None:
    """However many clients of it are tried."""
    found = ask()
    made = [found.request(0, kind, natively=False) for kind in ("claude", "openai", "claude")]
    assert made[0] is made[2]


@pytest.mark.parametrize("clients", [1, 2])
@pytest.mark.parametrize("natively", [False, True])
def test_conversation_is_one_native_clients(clients: int, natively: bool) -> None:
    """Of several nobody knows which has it."""
    found = ask(previous_response_id="resp_1")
    found.clients = clients
    if natively and clients == 1:
        assert found.prompts(natively=True)
    else:
        with pytest.raises(InvalidRequest, match="send the whole input"):
            found.prompts(natively=natively)


def test_request_without_its_reasoning() -> None:
    """If there is any in it, in either form."""
    thought: Json = {"type": "reasoning", "summary": [], "encrypted_content": "gAAA"}
    with_thought = ask(input=[thought, {"role": "user", "content": "Hi"}])
    for found, is_there in ((ask(), False), (with_thought, True)):
        plain = found.plain_request(0, "openai", natively=True)
        assert (plain != found.request(0, "openai", natively=True)) == is_there
    usual = ask().request(0, "gemini", natively=False)
    assert ask().plain_request(0, "gemini", natively=False) == usual
    effort = ask(reasoning={"effort": "low"})
    plain = effort.plain_request(0, "gemini", natively=False)
    assert plain is not None
    assert b"reasoning_effort" not in plain.body
    assert effort.dropped == ["reasoning.effort"]


def test_native_answer_passes_as_it_came() -> None:
    """The same bytes, not a copy; as a stream of its events where one was asked for."""
    body = NATIVE.whole(Said("Hello")).content()
    answer = Answer(body, is_native=True)
    assert ask().whole([answer]) is body
    events, is_native = ask(stream=True).streamed(answer)
    assert is_native
    assert b"response.completed" in events[-1]


def test_native_events_keep_their_names() -> None:
    """And have no end of ours."""
    writer = ask(stream=True).writer()
    writer.begin(0, is_native=True, kind="openai")
    told = native_events(4)
    written = b"".join(b"event: %b\ndata: %b\n\n" % (each.name, each) for each in told)  # type: ignore[attr-defined]
    assert writer.feed(told) == written
    assert writer.end() == b""


def test_native_stream_that_breaks_fails_under_its_own_id() -> None:
    """Numbered on."""
    writer = ask(stream=True).writer()
    writer.begin(0, is_native=True, kind="openai")
    written = writer.feed(native_events(5))
    (failed,) = _events(writer.fail(UpstreamTruncated("cut off")))
    assert failed["type"] == "response.failed"
    assert failed["sequence_number"] == len(_events(written)) == 5
    assert failed["response"]["id"] == NATIVE.response(Said("Hello"))["id"]
    assert failed["response"]["error"]["message"] == "upstream connection error: cut off"


@pytest.mark.parametrize("name", ["error", "response.failed"])
def test_native_failure_passes_in_its_own_words(name: str) -> None:
    """Masked by then."""
    writer = ask(stream=True).writer()
    writer.begin(0, is_native=True, kind="openai")
    writer.feed(native_events(5))
    sent = json.dumps({"type": name, "message": "No."}).encode()
    written = writer.fail(UpstreamRefusal("No.", status=502, as_sent=sent))
    assert written == b"event: %b\ndata: %b\n\n" % (name.encode(), sent)


def test_made_stream_that_breaks() -> None:
    """And one that never began: whole events all the same."""
    for chunks in ([CHUNK], []):
        writer = ask(stream=True).writer()
        written = b""
        if chunks:
            writer.begin(0, is_native=False, kind="openai")
            written = writer.feed(chunks)
        written += writer.fail(UpstreamRefusal("No.", status=429))
        failed = replayed(read_events(written))
        assert failed["error"]["code"] == "rate_limit_exceeded"
        assert failed["error"]["message"] == "upstream overloaded: No."


def test_stream_that_never_began_fails_whatever_was_asked() -> None:
    """What chat cannot say, too: only native clients were tried, and a comment is out already."""
    items = [{"type": "compaction", "encrypted_content": "x"}]
    failed = replayed(
        read_events(ask(stream=True, input=items).writer().fail(UpstreamTruncated("cut")))
    )
    assert failed["error"]["code"] == "server_error"


def test_errors_are_openais() -> None:
    """As in chat."""
    error = json.loads(RESPONSES.error(InvalidRequest("no", param="input")))["error"]
    assert (error["message"], error["param"]) == ("no", "input")


def test_tokens_are_counted_by_those_who_can() -> None:
    """Else by a formula; a conversation of the vendor's cannot be counted."""
    found = INPUT_TOKENS.read(b'{"model":"m","input":"Hi","stream":true}', {})
    assert not found.stream
    assert found.request(0, "claude", natively=False).speech == HUB_COUNT
    counted = found.whole([Answer(b'{"input_tokens":7}', is_native=False)])
    assert json.loads(counted) == {"object": "response.input_tokens", "input_tokens": 7}
    answer, headers = found.unserved(UnsupportedParameter("no client can"))
    assert json.loads(found.whole([answer]))["input_tokens"] > 0
    assert headers == {"x-proxy-estimated": "true"}
    with pytest.raises(UpstreamTruncated):
        found.unserved(UpstreamTruncated("cut"))
    kept = INPUT_TOKENS.read(b'{"model":"m","previous_response_id":"resp_1"}', {})
    with pytest.raises(UnsupportedParameter):
        kept.unserved(UnsupportedParameter("no"))


def _events(written: bytes) -> list[Json]:
    blocks = filter(None, written.decode().split("\n\n"))
    return [json.loads(block.split("\n")[1].removeprefix("data: ")) for block in blocks]
