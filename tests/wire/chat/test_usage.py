"""Usage: asked for without touching anything else of a request, and read as services tell it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.wire.chat import ChatRequest, ChunkStream, Usage, read_request
from proxy.wire.chat.usage import read_usage
from tests.support.translators import fed
from tests.support.upstream import chunk

WISH = b',"stream_options":{"include_usage":true}'


def body_with(options: bytes | None) -> bytes:
    more = b"" if options is None else b', "stream_options" : %b' % options
    return b'{"model":"m","messages":["\\ud83d"],"stream":true%b,"x":1e2}' % more


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (None, False),
        (b"null", False),
        (b"{}", False),
        (b'{"include_usage":true}', True),
        (b'{ "include_usage" : true }', True),
        (b'{"include_\\u0075sage":true}', True),
        (b'{"include_usage":false}', False),
        (b'{"include_usage":1}', False),
        (b'{"other":{"include_usage":true}}', False),
    ],
)
def test_usage_that_was_asked_for(options: bytes | None, wanted: bool) -> None:
    """By true alone. Who did not ask has it asked for, all else as it was."""
    body = body_with(options)
    for request in (read_request(body), ChatRequest(body, "m", stream=True)):
        assert request.wants_usage is wanted
        assert request.for_model("m") == body
        sent = request.for_model("m", asks_usage=True)
        assert ChatRequest(sent, "m", stream=True).wants_usage
        if wanted:
            assert sent == body
        elif options is None:
            assert sent == body[:-1] + WISH + b"}"
        before, after = json.loads(body), json.loads(sent)
        own = before.pop("stream_options", None) or {}
        assert after.pop("stream_options") == {**own, "include_usage": True}
        assert after == before
        assert json.loads(request.for_model("n", asks_usage=True))["model"] == "n"


@pytest.mark.parametrize("options", [b"7", b'"x"', b"[]", b"[" * 300 + b"]" * 300])
def test_options_that_make_no_sense_stay(options: bytes) -> None:
    """The upstream answers for them."""
    request = read_request(body_with(options))
    assert request.wants_usage
    assert request.for_model("m", asks_usage=True) == request.body


COUNTS: dict[str, Any] = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}


@pytest.mark.parametrize(
    ("told", "usage"),
    [
        (COUNTS, Usage(9, 3)),
        (
            {
                **COUNTS,
                "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
                "completion_tokens_details": {"reasoning_tokens": 1},
            },
            Usage(9, 3, 4, 2, 1),
        ),
        ({**COUNTS, "prompt_cache_hit_tokens": 4}, Usage(9, 3, 4)),
        (
            {
                "input_tokens": 9,
                "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
                "output_tokens": 3,
                "output_tokens_details": {"reasoning_tokens": 1},
            },
            Usage(9, 3, 4, 2, 1),
        ),
        ({**COUNTS, "input_tokens": 0, "output_tokens": None}, Usage(9, 3)),
        ({**COUNTS, "cached_tokens": 4, "prompt_tokens_details": None}, Usage(9, 3, 4)),
        ({**COUNTS, "prompt_tokens_details": [1], "completion_tokens_details": 7}, Usage(9, 3)),
        ({"prompt_tokens": 9.0, "completion_tokens": "3"}, Usage(9)),
        ({"prompt_tokens": -1, "completion_tokens": 2**60, "cached_tokens": True}, None),
        ({}, None),
        ([], None),
        (None, None),
    ],
)
def test_usage_as_services_tell_it(told: Any, usage: Usage | None) -> None:
    """What is no count was not told."""
    assert read_usage(told) == usage


def test_usages_add_up() -> None:
    """As far as they are known."""
    assert Usage(1, 2).plus(Usage(3, None, 1)) == Usage(4, 2, 1)
    assert Usage().plus(Usage(0, 0, 0, 0, 0)) == Usage(0, 0, 0, 0, 0)
    assert Usage(1).plus(Usage(1, partial=True)) == Usage(2, partial=True)


@pytest.mark.parametrize("hides", [False, True])
def test_the_chunk_for_usage_alone_is_hidden(hides: bool) -> None:
    """Nothing else is: not usage in a chunk that has a choice, nor a chunk without either."""
    first = json.dumps(chunk({"content": "a"}, usage={"prompt_tokens": 1})).encode()
    filters = json.dumps(chunk(None, usage=None)).encode()
    alone = json.dumps(chunk(None, usage=COUNTS)).encode()
    odd = json.dumps({**chunk(None), "choices": 7, "usage": COUNTS}).encode()
    last = json.dumps(chunk({}, finish="stop")).encode()
    for usage in (alone, odd):
        stream = ChunkStream(hides_usage=hides)
        made = fed(stream, [filters, first, last, usage, b"[DONE]"])
        assert made == [filters, first, last, *([] if hides else [usage])]
        assert stream.usage == Usage(9, 3)
        assert stream.is_over
