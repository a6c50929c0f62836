"""Answers as Gemini's v1beta API sends them, for tests and for the fake upstream on a socket.

`test_gemini_upstream.py` proves them faithful with google-genai's own types. Unary answers are
dicts; `events` are the payloads of `data:` fields; `sse` and `unary` are what goes over the wire,
CRLF and pretty-printed JSON as Google sends them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from typing import Any

from google.genai import models as sdk_models
from google.genai import types

from tests.support.gemini_rules import violations

Json = dict[str, Any]

RESPONSE_ID = "9sYhabcDEF-f_u8P0qSKyAE"
SERVICE = "generativelanguage.googleapis.com"
MODEL_VERSION = "gemini-3.8-flash"
SIGNATURE = base64.b64encode(bytes(range(200)) + b"\xfb\xef\xff").decode()
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(20)).decode()


BESIDE = (
    "systemInstruction",
    "tools",
    "toolConfig",
    "serviceTier",
    "store",
    "cachedContent",
)


def read_request(body: bytes, *, model: str = "gemini-3.5-flash") -> Json:
    """A generateContent request that Gemini would take.

    Read by google-genai's types, which forbid unknown fields, and by what the service itself says.
    """
    request: Json = json.loads(body)
    for content in request["contents"]:
        read = types.Content.model_validate(content)
        assert read.role in ("user", "model")
        assert read.parts
    beside = {name: value for name, value in request.items() if name in BESIDE}
    types.GenerateContentConfig.model_validate({**request.get("generationConfig", {}), **beside})
    assert request.keys() <= {"contents", "generationConfig", *BESIDE}
    assert violations(request, model=model) == []
    return request


def read_embed_request(body: bytes, *, model: str) -> tuple[list[str], int | None]:
    """The texts of a batchEmbedContents request that Gemini would take, and the size asked for."""
    request: Json = json.loads(body)
    assert request.keys() == {"requests"}
    assert 1 <= len(request["requests"]) <= 100
    texts, sizes = [], set()
    for each in request["requests"]:
        assert each.pop("model") == f"models/{model}"
        (part,) = types.Content.model_validate(each.pop("content")).parts or []
        assert part.text
        texts.append(part.text)
        sizes.add(types.EmbedContentConfig.model_validate(each).output_dimensionality)
    (size,) = sizes
    return texts, size


def embeddings(vectors: Iterable[Sequence[float]], tokens: int | None = None) -> Json:
    """A BatchEmbedContentsResponse; newer models tell the `tokens`."""
    made: Json = {"embeddings": [{"values": [*vector]} for vector in vectors]}
    if tokens is not None:
        details = [{"modality": "TEXT", "tokenCount": tokens}]
        made["usageMetadata"] = {"promptTokenCount": tokens, "promptTokensDetails": details}
    return made


def read_as_sdk(response: Json) -> types.GenerateContentResponse:
    """What google-genai makes of it; its models forbid unknown fields."""
    for candidate in response.get("candidates", []):
        types.Content.model_validate(candidate["content"])
    converted = sdk_models._GenerateContentResponse_from_mldev(response)
    return types.GenerateContentResponse.model_validate(converted)


def text(said: str, *, thought: bool = False, signature: str | None = None) -> Json:
    part: Json = {"text": said}
    if thought:
        part["thought"] = True
    if signature is not None:
        part["thoughtSignature"] = signature
    return part


def call(name: str, args: Json, *, id: str | None = None, signature: str | None = None) -> Json:
    function: Json = {"name": name, "args": args}
    if id is not None:
        function["id"] = id
    part: Json = {"functionCall": function}
    if signature is not None:
        part["thoughtSignature"] = signature
    return part


def part_of_call(*, last: bool = False, **fields: Any) -> Json:
    """A part of a call that comes in several: `name`, `id`, `args`, or paths and their values."""
    return {"functionCall": fields if last else {**fields, "willContinue": True}}


def partial(path: str, *, last: bool = True, **value: Any) -> Json:
    """One value of `partialArgs`; `last=False`: more text for this path follows."""
    return {"jsonPath": path, **value, **({} if last else {"willContinue": True})}


def image(data: str = PNG, kind: str = "image/png") -> Json:
    return {"inlineData": {"mimeType": kind, "data": data}}


def usage(
    prompt: int = 11, candidates: int = 7, *, thoughts: int = 0, cached: int = 0, tools: int = 0
) -> Json:
    told: Json = {
        "promptTokenCount": prompt,
        "candidatesTokenCount": candidates,
        "totalTokenCount": prompt + candidates + thoughts + tools,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": prompt}],
    }
    if thoughts:
        told["thoughtsTokenCount"] = thoughts
    if cached:
        told["cachedContentTokenCount"] = cached
        told["cacheTokensDetails"] = [{"modality": "TEXT", "tokenCount": cached}]
    if tools:
        told["toolUsePromptTokenCount"] = tools
    return told


def candidate(
    parts: Sequence[Json], *, finish: str | None = "STOP", index: int = 0, **more: Any
) -> Json:
    made: Json = {"content": {"parts": list(parts), "role": "model"}, "index": index, **more}
    if not parts:
        made["content"] = {"role": "model"}
    if finish is not None:
        made["finishReason"] = finish
    return made


def answer(candidates: Iterable[Json], told: Json | None = None, **more: Any) -> Json:
    """A GenerateContentResponse: a whole answer or one event."""
    return {
        "candidates": list(candidates),
        "usageMetadata": usage() if told is None else told,
        "modelVersion": MODEL_VERSION,
        "responseId": RESPONSE_ID,
        **more,
    }


def blocked(reason: str = "PROHIBITED_CONTENT") -> Json:
    """The prompt was refused: no candidates at all."""
    return {
        "promptFeedback": {"blockReason": reason},
        "usageMetadata": {"promptTokenCount": 11, "totalTokenCount": 11},
        "modelVersion": MODEL_VERSION,
        "responseId": RESPONSE_ID,
    }


def text_stream(words: Sequence[str], *, finish: str = "STOP") -> list[Json]:
    """One event a word; the last one has the finishReason and the whole usage."""
    events = []
    for number, word in enumerate(words):
        last = number == len(words) - 1
        told = usage(candidates=number + 1)
        events.append(answer([candidate([text(word)], finish=finish if last else None)], told))
    return events


def joined(events: Sequence[Json]) -> Json:
    """The unary answer that says the same as these events."""
    by_index: dict[int, Json] = {}
    for event in events:
        for piece in event.get("candidates", []):
            whole = by_index.setdefault(piece["index"], {"index": piece["index"], "parts": []})
            whole["parts"] += piece.get("content", {}).get("parts", [])
            whole.update({k: v for k, v in piece.items() if k not in ("content", "index")})
    candidates = []
    for whole in by_index.values():
        parts = whole.pop("parts")
        candidates.append({"content": {"parts": parts, "role": "model"}, **whole})
    made = {**events[0], "usageMetadata": events[-1]["usageMetadata"]}
    return {**made, "candidates": candidates} if candidates else made


def payload(event: Json) -> bytes:
    return json.dumps(event, ensure_ascii=False).encode()


def payloads(events: Iterable[Json]) -> list[bytes]:
    return [payload(event) for event in events]


def sse(events: Iterable[Json]) -> list[bytes]:
    """The events as streamGenerateContent?alt=sse frames them."""
    return [b"data: " + payload(event) + b"\r\n\r\n" for event in events]


def unary(response: Json) -> bytes:
    return json.dumps(response, indent=2, ensure_ascii=False).encode() + b"\n"


def error(code: int, status: str, message: str, *details: Json) -> Json:
    body: Json = {"code": code, "message": message, "status": status}
    if details:
        body["details"] = list(details)
    return {"error": body}


def retry_info(delay: str) -> Json:
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}


def quota_failure(*quota_ids: str) -> Json:
    return {
        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
        "violations": [
            {
                "quotaMetric": f"{SERVICE}/generate_content_free_tier_requests",
                "quotaId": quota_id,
                "quotaDimensions": {"location": "global", "model": MODEL_VERSION},
                "quotaValue": "20",
            }
            for quota_id in quota_ids
        ],
    }


def error_info(reason: str) -> Json:
    return {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason,
        "domain": "googleapis.com",
        "metadata": {"service": SERVICE},
    }


PER_MINUTE = "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"
PER_DAY = "GenerateRequestsPerDayPerProjectPerModel-FreeTier"


def out_of_quota(delay: str = "17s", *quota_ids: str) -> Json:
    return error(
        429,
        "RESOURCE_EXHAUSTED",
        "You exceeded your current quota, please check your plan and billing details.",
        quota_failure(*(quota_ids or (PER_MINUTE,))),
        retry_info(delay),
    )


def bad_key() -> Json:
    return error(
        400,
        "INVALID_ARGUMENT",
        "API key not valid. Please pass a valid API key.",
        error_info("API_KEY_INVALID"),
    )


def overloaded() -> Json:
    return error(503, "UNAVAILABLE", "The model is overloaded. Please try again later.")


def no_such_model(model: str = "gemini-0") -> Json:
    return error(
        404,
        "NOT_FOUND",
        f"models/{model} is not found for API version v1beta, or is not supported for "
        "generateContent. Call ListModels to see the list of available models.",
    )


def model_list(*ids: str, next_page_token: str | None = None) -> Json:
    listed: Json = {
        "models": [
            {
                "name": f"models/{model}",
                "version": "001",
                "displayName": model,
                "inputTokenLimit": 1048576,
                "outputTokenLimit": 65536,
                "supportedGenerationMethods": ["embedContent"]
                if "embedding" in model
                else ["generateContent", "countTokens"],
                "temperature": 1,
                "topP": 0.95,
                "topK": 64,
            }
            for model in ids
        ]
    }
    if next_page_token is not None:
        listed["nextPageToken"] = next_page_token
    return listed


GROUNDING: Json = {
    "groundingChunks": [
        {"web": {"uri": "https://example.org/a", "title": "A"}},
        {"web": {"uri": "https://example.org/b", "title": "B"}},
    ],
    "groundingSupports": [
        {
            "segment": {"startIndex": 8, "endIndex": 12, "text": "Köln"},
            "groundingChunkIndices": [0, 1],
        }
    ],
    "webSearchQueries": ["where"],
}
CITATIONS: Json = {
    "citationSources": [{"startIndex": 0, "endIndex": 3, "uri": "https://example.org/c"}]
}
LOGPROBS: Json = {
    "chosenCandidates": [{"token": "Hi", "tokenId": 5, "logProbability": -0.5}],
    "topCandidates": [
        {
            "candidates": [
                {"token": "Hi", "tokenId": 5, "logProbability": -0.5},
                {"token": "Hé", "tokenId": 6, "logProbability": -1.5},
            ]
        }
    ],
}

COLOR_ENDS = partial("$.color", stringValue="rm")

# Event sequences that the stream, the unary reply and the end-to-end tests all go through.
STREAMS: dict[str, list[Json]] = {
    "one event": text_stream(["Hello"]),
    "words": text_stream(["Hello", ", ", "wörld 🌍", "\u2028!\n"]),
    "length": text_stream(["Once", " upon"], finish="MAX_TOKENS"),
    "thoughts": [
        answer([candidate([text("**Think**", thought=True)], finish=None)]),
        answer([candidate([text(" more", thought=True)], finish=None)]),
        answer([candidate([text("Done")], finish=None)]),
        answer(
            [candidate([text("", signature=SIGNATURE)])],
            usage(20, 3, thoughts=40, cached=12, tools=4),
        ),
    ],
    "two calls at once": [
        answer(
            [
                candidate(
                    [
                        call("weather", {"city": "Köln"}, id="fc-1", signature=SIGNATURE),
                        call("weather", {"city": "Bonn", "days": 1.5}, id="fc-2"),
                    ],
                    finish=None,
                )
            ]
        ),
        answer([candidate([text("")])]),
    ],
    "calls in two events without ids": [
        answer([candidate([text("Wait. "), call("a", {})], finish=None)]),
        answer([candidate([call("b", {"x": [1, {"y": None}]})])]),
    ],
    "a call in parts": [
        answer(
            [
                candidate(
                    [{**part_of_call(name="light", id="fc-1"), "thoughtSignature": SIGNATURE}],
                    finish=None,
                )
            ]
        ),
        answer(
            [
                candidate(
                    [
                        part_of_call(
                            partialArgs=[
                                partial("$.brightness", numberValue=50),
                                partial("$.color", stringValue="wa", last=False),
                            ]
                        )
                    ],
                    finish=None,
                )
            ]
        ),
        answer(
            [
                candidate(
                    [part_of_call(partialArgs=[partial("$.color", stringValue="rm")])], finish=None
                )
            ]
        ),
        answer([candidate([part_of_call(last=True), call("other", {}, id="fc-2")])]),
    ],
    "calls in parts that alternate": [
        answer(
            [
                candidate(
                    [
                        part_of_call(
                            name="a",
                            id="1",
                            partialArgs=[partial("$.x", stringValue="1", last=False)],
                        ),
                        part_of_call(
                            name="b", id="2", partialArgs=[partial("$.y[0].z", nullValue=None)]
                        ),
                    ],
                    finish=None,
                )
            ]
        ),
        answer(
            [
                candidate(
                    [
                        part_of_call(
                            id="2", last=True, partialArgs=[partial("$.y[1]", boolValue=False)]
                        ),
                        part_of_call(
                            id="1", last=True, partialArgs=[partial("$.x", stringValue="2")]
                        ),
                    ]
                )
            ]
        ),
    ],
    "a name before its arguments": [
        answer([candidate([{"functionCall": {"name": "a", "id": "1"}}], finish=None)]),
        answer([candidate([{"functionCall": {"id": "1", "args": {"x": 42}}}], finish=None)]),
        answer([candidate([])]),
    ],
    "names alone": [
        answer([candidate([{"functionCall": {"name": "a"}}], finish=None)]),
        answer([candidate([{"functionCall": {"name": "b"}}])]),
    ],
    "a call that Gemini did not expect": [
        answer([candidate([call("weather", {"city": "Bonn"})], finish="UNEXPECTED_TOOL_CALL")]),
    ],
    "a search beside functions": [
        answer(
            [
                candidate(
                    [
                        {
                            "toolCall": {
                                "toolType": "GOOGLE_SEARCH_WEB",
                                "args": {"queries": ["weather Bonn"]},
                                "id": "s-1",
                            },
                            "thoughtSignature": SIGNATURE,
                        }
                    ],
                    finish=None,
                )
            ]
        ),
        answer(
            [
                candidate(
                    [
                        {
                            "toolResponse": {
                                "toolType": "GOOGLE_SEARCH_WEB",
                                "response": {"search_suggestions": "<b>"},
                                "id": "s-1",
                            }
                        },
                        call("weather", {"city": "Bonn"}, id="fc-1", signature=SIGNATURE),
                    ]
                )
            ]
        ),
    ],
    "the same id twice": [
        answer([candidate([call("a", {}, id="1"), call("a", {}, id="1")])]),
    ],
    "two candidates": [
        answer([candidate([text("A")], finish=None), candidate([text("B")], finish=None, index=1)]),
        answer([candidate([text("b")], index=1)]),
        answer([candidate([text("a")], finish="MAX_TOKENS")]),
    ],
    "image": [
        answer([candidate([text("Here: "), image()], finish=None)]),
        answer([candidate([image(kind="image/jpeg")])]),
    ],
    "safety": [
        answer([candidate([text("Take")], finish=None)]),
        answer([candidate([], finish="SAFETY", finishMessage="Unsafe.")]),
    ],
    "prompt blocked": [blocked()],
    "grounded": [
        answer([candidate([text("Where? K")], finish=None, citationMetadata=CITATIONS)]),
        answer(
            [
                candidate(
                    [text("öln, Köln.")],
                    groundingMetadata=GROUNDING,
                    citationMetadata=CITATIONS,  # once more
                )
            ]
        ),
    ],
    "grounded as a whole": [
        answer(
            [
                candidate(
                    [text("It rains.", signature=SIGNATURE)],
                    groundingMetadata={"groundingChunks": [*GROUNDING["groundingChunks"], {}]},
                )
            ]
        )
    ],
    "logprobs": [answer([candidate([text("Hi")], logprobsResult=LOGPROBS)])],
    "nothing said": [answer([candidate([])])],
    # Shapes that public SDKs, gateways and their tests have of recorded answers.
    "thoughts alone": [
        answer([candidate([text("Hm.", thought=True)], finish=None)], usage(9, 0, thoughts=5)),
        answer([candidate([text("", signature=SIGNATURE)], finish="MAX_TOKENS")]),
    ],
    "a signed word and a signed call": [
        answer([candidate([text("Look", signature=SIGNATURE)], finish=None)]),
        answer([candidate([text(": "), call("a", {"x": None}, id="1", signature=SIGNATURE)])]),
    ],
    "usage before and behind the text": [
        {"usageMetadata": usage(7, 0), "modelVersion": MODEL_VERSION, "responseId": RESPONSE_ID},
        {"candidates": [candidate([text("Hi")], finish=None)], "responseId": RESPONSE_ID},
        answer([candidate([text("!")])], usage(7, 2, thoughts=3)),
    ],
    "no content at the end": [
        answer([candidate([text("Hi")], finish=None)]),
        answer([{"index": 0, "finishReason": "STOP", "content": {}}]),
    ],
    "no list of parts": [
        answer([candidate([text("A poem")], finish=None)]),
        answer([{"index": 0, "finishReason": "RECITATION", "content": {"role": "model"}}]),
    ],
    "a language that it does not speak": [
        answer([candidate([], finish="LANGUAGE", finishMessage="Unsupported.")])
    ],
    "rated": [
        answer(
            [
                candidate(
                    [text("Fine.")],
                    safetyRatings=[
                        {"category": "HARM_CATEGORY_HARASSMENT", "probability": "NEGLIGIBLE"}
                    ],
                    avgLogprobs=-0.1,
                    tokenCount=2,
                )
            ]
        )
    ],
    "code was run": [
        answer(
            [
                candidate(
                    [
                        text("Let me see. "),
                        {"executableCode": {"language": "PYTHON", "code": "print(6*7)"}},
                    ],
                    finish=None,
                )
            ]
        ),
        answer(
            [
                candidate(
                    [
                        {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "42\n"}},
                        text("It is 42."),
                    ]
                )
            ]
        ),
    ],
    "usage after the end": [
        answer([candidate([text("Hi")])]),
        {"usageMetadata": usage(5, 6), "responseId": RESPONSE_ID, "modelVersion": MODEL_VERSION},
    ],
}
