"""Whole Gemini answers as chat completions, field by field."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.errors import UpstreamInvalid, UpstreamRefusal
from proxy.wire.gemini import calls
from tests.support import gemini_upstream as upstream
from tests.wire.gemini.chat import MODEL, chat_of, chunks_of, join


def choice_of(name: str) -> dict[str, Any]:
    answer = chat_of(upstream.unary(upstream.joined(upstream.STREAMS[name])))
    choice: dict[str, Any] = answer["choices"][0]
    return choice


def ended(reason: str, parts: list[Any] | None = None) -> bytes:
    return upstream.unary(upstream.answer([upstream.candidate(parts or [], finish=reason)]))


def test_head_is_the_callers() -> None:
    """Model as the caller named it, id as Gemini gave it."""
    answer = chat_of(upstream.unary(upstream.STREAMS["one event"][0]))
    assert answer["model"] == MODEL
    assert answer["id"] == upstream.RESPONSE_ID
    assert answer["choices"][0]["message"]["role"] == "assistant"


def test_usage_counts_thoughts_as_output_and_tool_results_as_input() -> None:
    """As at OpenAI, where the parts are in the details."""
    events = upstream.STREAMS["thoughts"]
    assert chat_of(upstream.unary(upstream.joined(events)))["usage"] == {
        "prompt_tokens": 24,
        "completion_tokens": 43,
        "total_tokens": 67,
        "prompt_tokens_details": {"cached_tokens": 12, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 40},
    }


def test_fields_that_are_missing_count_as_nothing() -> None:
    """All of them are optional."""
    details = [{"modality": "AUDIO"}, {"modality": "AUDIO", "tokenCount": 3}, {"tokenCount": 5}]
    answer = upstream.answer([upstream.candidate([{"inlineData": {}}, {}, upstream.text("A")])])
    answer["candidates"][0]["logprobsResult"] = {"chosenCandidates": [{}]}
    answer["usageMetadata"] = {"promptTokensDetails": details}
    made = chat_of(upstream.unary(answer))
    assert made["usage"]["prompt_tokens_details"] == {"cached_tokens": 0, "audio_tokens": 3}
    assert made["usage"]["total_tokens"] == 0
    choice = made["choices"][0]
    assert "images" not in choice["message"]
    assert choice["logprobs"]["content"] == [
        {"token": "", "bytes": [], "logprob": 0.0, "top_logprobs": []}
    ]
    del answer["usageMetadata"]
    assert chat_of(upstream.unary(answer))["usage"] == {
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "total_tokens": 0,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def test_thoughts_are_reasoning_content() -> None:
    """Thought summaries never mix with the text; the text's signature is kept beside it."""
    message = choice_of("thoughts")["message"]
    assert message["reasoning_content"] == "**Think** more"
    assert message["content"] == "Done"
    assert message["extra_content"] == {"google": {"thought_signature": upstream.SIGNATURE}}


def test_parallel_calls_have_ids_arguments_and_signatures() -> None:
    """Gemini's ids are kept; the signature travels in the extra field and in the id."""
    choice = choice_of("two calls at once")
    assert choice["finish_reason"] == "tool_calls"
    first, second = choice["message"]["tool_calls"]
    assert calls.parse_id(first["id"]) == ("fc-1", upstream.SIGNATURE)
    assert first["extra_content"] == {"google": {"thought_signature": upstream.SIGNATURE}}
    assert (second["id"], "extra_content" in second) == ("fc-2", False)
    assert [call["function"]["arguments"] for call in (first, second)] == [
        '{"city":"Köln"}',
        '{"city":"Bonn","days":1.5}',
    ]


@pytest.mark.parametrize("name", ["calls in two events without ids", "the same id twice"])
def test_missing_and_repeated_ids_become_unique(name: str) -> None:
    """OpenAI callers match results by id, so each call has its own."""
    made = [call["id"] for call in choice_of(name)["message"]["tool_calls"]]
    assert len(set(made)) == 2
    assert all(len(call_id) <= 40 for call_id in made)


def test_big_numbers_in_arguments_survive() -> None:
    """Arguments are not decoded on the way."""
    body = upstream.unary(upstream.answer([upstream.candidate([upstream.call("f", {"x": 1})])]))
    body = body.replace(b'"x": 1', b'"x": 12345678901234567890123, "y": 1.50')
    message = chat_of(body)["choices"][0]["message"]
    assert message["tool_calls"][0]["function"]["arguments"] == (
        '{"x":12345678901234567890123,"y":1.50}'
    )


def test_images_are_data_urls() -> None:
    """In the field where OpenRouter puts them."""
    images = choice_of("image")["message"]["images"]
    assert [image["index"] for image in images] == [0, 1]
    assert images[1]["image_url"]["url"] == f"data:image/jpeg;base64,{upstream.PNG}"


def test_sources_are_url_citations_in_characters() -> None:
    """Gemini counts bytes: the K of Köln stands at 7, its two-byte ö makes it end at 11."""
    message = choice_of("grounded")["message"]
    spans = [tuple(note["url_citation"].values()) for note in message["annotations"]]
    assert spans[0] == (0, 3, "https://example.org/c", "https://example.org/c")
    assert message["content"] == "Where? Köln, Köln."
    assert spans[1:] == [
        (8, 11, "A", "https://example.org/a"),
        (8, 11, "B", "https://example.org/b"),
    ]


PAGES = [
    {"web": {"uri": "u:a", "title": "A"}},
    {},
    {"web": {"title": "C"}},
    {"web": {"uri": "u:d"}},
]


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (
            {"groundingMetadata": {"groundingChunks": PAGES}},
            [(0, 3, "A", "u:a"), (0, 3, "u:d", "u:d")],
        ),
        (
            {
                "groundingMetadata": {
                    "groundingChunks": PAGES,
                    "groundingSupports": [
                        {
                            "segment": {"startIndex": 2},
                            "groundingChunkIndices": [-1, 0, 1, 2, 3, 4],
                        },
                        {"segment": {"endIndex": 0}, "groundingChunkIndices": [0]},
                        {"groundingChunkIndices": [3]},
                        {"segment": {"startIndex": -5, "endIndex": 99}},
                    ],
                }
            },
            [(1, 3, "A", "u:a"), (1, 3, "u:d", "u:d"), (0, 0, "A", "u:a"), (0, 3, "u:d", "u:d")],
        ),
        ({"groundingMetadata": {}}, []),
        (
            {
                "citationMetadata": {
                    "citationSources": [
                        {"uri": "u:a", "startIndex": -1, "endIndex": 99},
                        {"uri": "u:b", "title": "B", "startIndex": 1, "endIndex": 2},
                        {"uri": ""},
                        {},
                    ],
                    "citations": [{"uri": "u:c"}],
                }
            },
            [(0, 3, "u:a", "u:a"), (0, 1, "B", "u:b")],
        ),
        ({"citationMetadata": {"citations": [{"uri": "u:c"}]}}, [(0, 3, "u:c", "u:c")]),
        ({"citationMetadata": {}}, []),
    ],
)
def test_sources_at_any_place(metadata: Any, expected: list[tuple[Any, ...]]) -> None:
    """Offsets within the text, places within the list, and pages that have an address."""
    made = upstream.candidate([upstream.text("äbc")])
    message = chat_of(upstream.unary(upstream.answer([{**made, **metadata}])))["choices"][0][
        "message"
    ]
    notes = message.get("annotations", [])
    assert [tuple(note["url_citation"].values()) for note in notes] == expected


def test_source_without_a_segment_is_for_all_of_the_text() -> None:
    """And a chunk that is no web page for nothing; the text's signature is kept."""
    message = choice_of("grounded as a whole")["message"]
    spans = [tuple(note["url_citation"].values())[:3] for note in message["annotations"]]
    assert spans == [(0, 9, "A"), (0, 9, "B")]
    assert message["extra_content"] == {"google": {"thought_signature": upstream.SIGNATURE}}


def test_candidates_without_index_count_from_zero() -> None:
    """The field is optional."""
    candidates = [upstream.candidate([upstream.text(said)]) for said in "ab"]
    for candidate in candidates:
        del candidate["index"]
    answer = chat_of(upstream.unary(upstream.answer(candidates)))
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]


def test_candidates_come_in_the_order_of_their_indexes() -> None:
    """However Gemini sends them."""
    candidates = [
        upstream.candidate([upstream.text(said)], index=i) for i, said in ((1, "b"), (0, "a"))
    ]
    answer = chat_of(upstream.unary(upstream.answer(candidates)))
    found = [(choice["index"], choice["message"]["content"]) for choice in answer["choices"]]
    assert found == [(0, "a"), (1, "b")]


def test_call_without_arguments_has_an_empty_object() -> None:
    """Joined arguments are always JSON."""
    made = upstream.candidate([{"functionCall": {"name": "f", "args": None}}])
    message = chat_of(upstream.unary(upstream.answer([made])))["choices"][0]["message"]
    assert message["tool_calls"][0]["function"]["arguments"] == "{}"


def test_logprobs_have_openais_shape() -> None:
    """Token, bytes, logprob and the alternatives."""
    (token,) = choice_of("logprobs")["logprobs"]["content"]
    assert token["token"] == "Hi"
    assert token["top_logprobs"][1] == {"token": "Hé", "bytes": [72, 195, 169], "logprob": -1.5}


def test_blocked_prompt_is_content_filter() -> None:
    """No candidates but a blockReason: an answer, not an error."""
    choice = choice_of("prompt blocked")
    assert choice["finish_reason"] == "content_filter"
    assert choice["message"]["content"] is None
    assert choice["message"]["refusal"] == "Gemini blocked the prompt: PROHIBITED_CONTENT"


def test_reason_for_a_blocked_prompt_is_told() -> None:
    """Vertex AI has words for it; unary and streamed."""
    event = upstream.blocked()
    event["promptFeedback"]["blockReasonMessage"] = "Not that."
    told = "Gemini blocked the prompt: PROHIBITED_CONTENT: Not that."
    for answer in (
        chat_of(upstream.unary(event)),
        join(chunks_of([[upstream.payload(event)]])),
    ):
        assert answer["choices"][0]["message"]["refusal"] == told


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("CONTINUATION", "length"),
        ("TOO_MANY_TOOL_CALLS", "length"),
        ("OTHER", "stop"),
        ("NO_IMAGE", "stop"),
        ("A_NEW_ONE", "stop"),
        *[
            (reason, "content_filter")
            for reason in (
                "SAFETY",
                "RECITATION",
                "LANGUAGE",
                "BLOCKLIST",
                "PROHIBITED_CONTENT",
                "SPII",
                "IMAGE_SAFETY",
                "IMAGE_PROHIBITED_CONTENT",
                "IMAGE_RECITATION",
                "ESCALATION",
                "PUP_LIMITED_DISABLED",
                "MODEL_ARMOR",
            )
        ],
    ],
)
def test_finish_reasons(reason: str, expected: str) -> None:
    """Every reason has one of OpenAI's; an answer that was stopped has a refusal, and no text."""
    choice = chat_of(ended(reason))["choices"][0]
    assert choice["finish_reason"] == expected
    said = None if expected == "content_filter" else ""
    assert choice["message"]["content"] == said
    assert (choice["message"]["refusal"] is None) == (said == "")


def test_reason_that_says_nothing_is_none() -> None:
    """The answer goes on, as far as Gemini has told."""
    open_ended = upstream.candidate([upstream.text("A")], finish="FINISH_REASON_UNSPECIFIED")
    last = upstream.candidate([upstream.text("B")])
    events = [upstream.answer([one]) for one in (open_ended, last)]
    made = join(chunks_of([upstream.payloads(events)]))["choices"][0]
    assert (made["message"]["content"], made["finish_reason"]) == ("AB", "stop")
    with pytest.raises(UpstreamInvalid):
        chat_of(upstream.unary(events[0]))


def test_length_counts_over_tool_calls() -> None:
    """A call cut off by the limit is no finished turn."""
    body = ended("MAX_TOKENS", [upstream.call("f", {})])
    assert chat_of(body)["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("reason", ["MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE"])
def test_failed_model_is_an_upstream_failure(reason: str) -> None:
    """So that another attempt is made."""
    with pytest.raises(UpstreamInvalid, match=reason):
        chat_of(ended(reason))


def test_missing_signature_is_the_requests_fault() -> None:
    """Another attempt would not help: a 400."""
    with pytest.raises(UpstreamRefusal) as caught:
        chat_of(ended("MISSING_THOUGHT_SIGNATURE"))
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"{}",
        b"[]",
        b'{"candidates":[]}',
        b'{"candidates":[{"content":{"parts":[{"text":"cut"}]}}]}',
        b'{"candidates":[{"finishReason":"STOP","content":{"parts":['
        b'{"functionCall":{"name":"f","args":[1]}}]}}]}',
    ],
)
def test_what_is_no_whole_answer_is_invalid(body: bytes) -> None:
    """Also one without a finishReason, or with arguments that are no object."""
    with pytest.raises(UpstreamInvalid):
        chat_of(body)


def test_error_under_a_200_is_a_refusal() -> None:
    """Look-alikes do this; it counts as the status that it names."""
    with pytest.raises(UpstreamRefusal) as caught:
        chat_of(upstream.unary(upstream.overloaded()))
    assert caught.value.status == 503
