"""The callers' dialects of the matrix: how each asks, and what it makes of an answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.faults.dialects import DIALECTS, EMBEDDERS, Dialect
from tests.support.gateway import CHAT, Gateway, Response, asked

Json = dict[str, Any]


@dataclass(frozen=True)
class Heard:
    """`text`: up to the end or the failure; `code`: of the failure in mid-stream, if there is one.

    `is_whole`: it ends as a whole answer does.
    """

    text: str
    is_whole: bool
    code: str | None = None


@dataclass(frozen=True)
class Caller:
    """One dialect. `code` is what a refusal has to say where chat has this status and codes.

    `share`: every n-th cell of each upstream's is run for it too; only unary ones unless it
    `streams`.
    """

    name: str
    path: str
    body: Callable[[str, bool], Json]
    hear: Callable[[Response, bool], Heard]
    error: Callable[[Response], tuple[str, str | None]]
    code: Callable[[int, list[str | None]], list[str | None]]
    headers: frozenset[str] = frozenset()
    share: int = 1
    upstreams: tuple[Dialect, ...] = tuple(DIALECTS.values())
    streams: bool = True

    def ask(
        self, gateway: Gateway, model: str, headers: Mapping[str, str], *, is_stream: bool
    ) -> Response:
        return gateway.call("POST", self.path, self.body(model, is_stream), headers)


def _hear_chat(answer: Response, is_stream: bool) -> Heard:
    if not is_stream:
        return Heard(str(answer.json()["choices"][0]["message"]["content"]), True)
    *events, last = answer.data
    if last == b"[DONE]":
        return Heard(answer.text, True)
    assert b"[DONE]" not in events
    error = json.loads(last)["error"]
    assert error["type"] == "upstream_error"
    chunks = [json.loads(event)["choices"][0]["delta"] for event in events]
    return Heard("".join(delta["content"] for delta in chunks), False, error["code"])


def _chat_error(answer: Response) -> tuple[str, str | None]:
    code = answer.error["code"]
    return answer.error["message"], None if code is None else str(code)


def _hear_messages(answer: Response, is_stream: bool) -> Heard:
    if not is_stream:
        return Heard("".join(block["text"] for block in answer.json()["content"]), True)
    events: list[Json] = []
    for block in answer.body.decode().removesuffix("\n\n").split("\n\n"):
        name, _, data = block.partition("\ndata: ")
        events.append(json.loads(data))
        assert name == f"event: {events[-1]['type']}"
    kinds = [event["type"] for event in events]
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    text = "".join(delta.get("text", "") for delta in deltas)
    assert "message_stop" not in kinds[:-1]
    if kinds[-1] == "message_stop":
        return Heard(text, True)
    assert kinds[-1] == "error"
    return Heard(text, False, events[-1]["error"]["type"])


def _hear_embeddings(answer: Response, _is_stream: bool) -> Heard:
    (found,) = answer.json()["data"]
    return Heard("".join(chr(int(number)) for number in found["embedding"]), True)


def _messages_error(answer: Response) -> tuple[str, str | None]:
    found = answer.json()
    assert found["type"] == "error"
    return found["error"]["message"], found["error"]["type"]


def _messages_code(status: int, codes: list[str | None]) -> list[str | None]:
    kinds = {503: "overloaded_error", 504: "timeout_error", 529: "overloaded_error"}
    return [kinds.get(status, "api_error")]


def _hear_responses(answer: Response, is_stream: bool) -> Heard:
    """Its errors in streams have few codes, so that the message has to tell."""
    if not is_stream:
        return Heard(_response_text(answer.json()), True)
    blocks = [block.split("\n") for block in answer.body.decode().split("\n\n") if block]
    events: list[Json] = [json.loads(data.removeprefix("data: ")) for _, data in blocks]
    assert [name for name, _ in blocks] == [f"event: {event['type']}" for event in events]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    *told, last = events
    assert not any(event["type"] in ("response.completed", "response.failed") for event in told)
    text = "".join(event["delta"] for event in told if event["type"].endswith("text.delta"))
    if last["type"] == "response.completed":
        assert _response_text(last["response"]) == text
        return Heard(text, True)
    assert last["type"] == "response.failed"
    assert last["response"]["error"]["message"].startswith("upstream connection error: ")
    return Heard(text, False, last["response"]["error"]["code"])


def _response_text(response: Json) -> str:
    assert response["status"] == "completed"
    return "".join(part["text"] for item in response["output"] for part in item["content"])


CALLERS = (
    Caller(
        name="chat",
        path=CHAT,
        body=lambda model, is_stream: asked(model, stream=is_stream),
        hear=_hear_chat,
        error=_chat_error,
        code=lambda _status, codes: codes,
    ),
    Caller(
        name="messages",
        path="/v1/messages",
        body=lambda model, is_stream: asked(model, stream=is_stream, max_tokens=99),
        hear=_hear_messages,
        error=_messages_error,
        code=_messages_code,
        headers=frozenset({"request-id"}),
        share=3,
    ),
    Caller(
        name="responses",
        path="/v1/responses",
        body=lambda model, is_stream: {"model": model, "input": "Hi", "stream": is_stream},
        hear=_hear_responses,
        error=_chat_error,
        code=lambda status, codes: [*codes, "server_error"],
        share=3,
    ),
    Caller(
        name="embed",
        path="/v1/embeddings",
        body=lambda model, _is_stream: {"model": model, "input": ["Hi"]},
        hear=_hear_embeddings,
        error=_chat_error,
        code=lambda _status, codes: codes,
        share=3,
        upstreams=EMBEDDERS,
        streams=False,
    ),
)
