"""Prompts as chat requests, and their answers as one: who passes, and who is translated."""

from __future__ import annotations

import json

import pytest

from proxy.dialects.base import Answer
from proxy.dialects.completions import COMPLETIONS
from proxy.errors import InvalidRequest
from proxy.wire.chat import HUB

ONE = b'{"model":"m","prompt":"p"}'
TWO = b'{"model":"m","prompt":["p","q"]}'
CHAT = b'{"id":"c","choices":[{"index":0,"message":{"content":"said"},"finish_reason":"stop"}]}'
NATIVE = b'{"id":"c","choices":[{"index":0,"text":"said","finish_reason":"stop"}]}'
CHUNK = b'{"id":"c","choices":[{"index":0,"delta":{"content":"said"}}]}'
NATIVE_CHUNK = b'{"id":"c","choices":[{"index":0,"text":"said"}],"x":1}'


def test_request_stays_whole_where_all_clients_take_it() -> None:
    """Else each prompt is a request, in either form."""
    ask = COMPLETIONS.read(TWO, {})
    assert ask.prompts(natively=True) == 1
    whole = ask.request(0, "openai", natively=True)
    assert (whole.body, whole.speech) == (TWO, ask.speech)
    assert ask.prompts(natively=False) == 2
    native = [ask.request(at, "openai", natively=True) for at in (0, 1)]
    assert [json.loads(each.body)["prompt"] for each in native] == ["p", "q"]
    hub = [ask.request(at, "openai", natively=False) for at in (0, 1)]
    assert [json.loads(each.body)["messages"][0]["content"] for each in hub] == ["p", "q"]
    assert {each.speech for each in hub} == {HUB}


def test_what_chat_cannot_say_is_for_native_clients_alone() -> None:
    """It is no error before it is known who serves it."""
    ask = COMPLETIONS.read(b'{"model":"m","prompt":[1,2]}', {})
    assert ask.prompts(natively=False) == 1
    assert ask.request(0, "openai", natively=True).body
    with pytest.raises(InvalidRequest, match="tokens"):
        ask.request(0, "openai", natively=False)


@pytest.mark.parametrize(
    ("body", "answers", "texts"),
    [
        (ONE, [Answer(NATIVE, True)], None),
        (ONE, [Answer(CHAT, False)], ["said"]),
        (TWO, [Answer(NATIVE, True), Answer(CHAT, False)], ["said", "said"]),
    ],
)
def test_only_answer_of_a_native_client_passes(
    body: bytes, answers: list[Answer], texts: list[str] | None
) -> None:
    """Those to several prompts are made one, whoever gave them."""
    ask = COMPLETIONS.read(body, {})
    ask.prompts(natively=False)
    whole = ask.whole(answers)
    if texts is None:
        assert whole is answers[0].body
    else:
        choices = json.loads(whole)["choices"]
        assert [(each["index"], each["text"]) for each in choices] == list(enumerate(texts))


def test_stream_of_several_prompts_goes_on_with_each() -> None:
    """Native or not; one end."""
    ask = COMPLETIONS.read(TWO, {})
    ask.prompts(natively=False)
    writer = ask.writer()
    for at, (chunk, is_native) in enumerate([(CHUNK, False), (NATIVE_CHUNK, True)]):
        writer.begin(at, is_native=is_native)
        told = json.loads(writer.feed([chunk]).removeprefix(b"data: "))
        assert [(each["index"], each["text"]) for each in told["choices"]] == [(at, "said")]
    assert writer.feed([b'{"choices":[]}']) == b""
    assert writer.end() == b"data: [DONE]\n\n"


def test_stream_of_a_native_client_passes() -> None:
    """If it is for the only prompt."""
    ask = COMPLETIONS.read(ONE, {})
    ask.prompts(natively=False)
    writer = ask.writer()
    writer.begin(0, is_native=True)
    assert writer.feed([NATIVE_CHUNK]) == b"data: " + NATIVE_CHUNK + b"\n\n"
