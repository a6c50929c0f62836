"""An upstream that speaks Responses itself, as OpenAI's own API does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from zlib import crc32

from proxy.wire.reasoning import MARK
from tests.support.dialects import Dialect, Said
from tests.support.upstream import CREATED, Received, Reply, json_reply

Json = dict[str, Any]

# What it makes itself; of the gateway's containers it must see none.
ENCRYPTED = "gAAAAABo-theirs"


class Responses(Dialect):
    """It says what no other API says, too: fields and events that nobody knows."""

    kind = "native"
    model = "gpt-5.1"
    key_header = "authorization"
    messages = "input"

    def client(self, origin: str, key: str, alias: str, **more: Any) -> Json:
        entry = self._entry(key, alias, {"responses": "native", **more})
        entry |= {"name": f"native-{alias}", "base-url": f"{origin}/v1"}
        entry["api-keys"] = [entry.pop("api-key")]
        return {"openai-compatibility": [entry]}

    def read(self, received: Received) -> Json:
        assert received.path == "/v1/responses"
        request: Json = received.json()
        for item in request["input"] if isinstance(request["input"], list) else ():
            assert not str(item.get("encrypted_content")).startswith(MARK)
        return request

    def is_stream(self, received: Received) -> bool:
        return received.json().get("stream") is True

    def output(self, said: Said) -> list[Json]:
        items: list[Json] = []
        if said.reasoning:
            summary = [{"type": "summary_text", "text": said.reasoning}]
            items.append({"type": "reasoning", "summary": summary, "encrypted_content": ENCRYPTED})
        if said.text:
            part = {"type": "output_text", "text": said.text, "annotations": [], "logprobs": []}
            items.append({"type": "message", "role": "assistant", "content": [part]})
        items += [
            {
                "type": "function_call",
                "call_id": call.id,
                "name": call.name,
                "arguments": json.dumps(call.arguments),
            }
            for call in said.calls
        ]
        return [
            {"id": f"{item['type']}_{at}", "status": "completed", **item}
            for at, item in enumerate(items)
        ]

    def response(self, said: Said, status: str = "completed") -> Json:
        is_cut = said.finish == "length"
        return {
            # What says something else has another id: callers tell messages by it.
            "id": f"resp_{crc32(repr(said).encode()):08x}",
            "object": "response",
            "created_at": CREATED,
            "status": "incomplete" if is_cut and status == "completed" else status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "model": self.model,
            "output": self.output(said) if status == "completed" else [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "field_of_tomorrow": 1.50,
            "usage": {
                "input_tokens": said.prompt_tokens,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": said.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": said.reasoning_tokens},
                "total_tokens": said.prompt_tokens + said.completion_tokens,
            }
            if status == "completed"
            else None,
        }

    def whole(self, said: Said) -> Reply:
        return json_reply(self.response(said))

    def streamed(self, said: Said) -> Reply:
        return self.stream(list(self.events(said)))

    def stream(self, told: list[Json]) -> Reply:
        """These events, each with its name."""
        body = [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in told]
        return Reply(body, headers=[("Content-Type", "text/event-stream")], framing="chunked")

    def events(self, said: Said) -> Iterator[Json]:
        for number, event in enumerate(self._events(said)):
            yield {"sequence_number": number, **event, "type": f"response.{event['type']}"}

    def _events(self, said: Said) -> Iterator[Json]:
        for name in ("created", "in_progress"):
            yield {"type": name, "response": self.response(said, "in_progress")}
        for at, item in enumerate(self.output(said)):
            place = {"output_index": at, "item_id": item["id"]}
            begun = {**item, "status": "in_progress"}
            if item["type"] == "message":
                begun["content"] = []
            elif item["type"] == "function_call":
                begun["arguments"] = ""
            yield {"type": "output_item.added", "output_index": at, "item": begun}
            yield {"type": "thing_of_tomorrow", **place, "float": 1.50}
            if item["type"] == "message":
                yield from self._text(item["content"][0], {**place, "content_index": 0}, said)
            elif item["type"] == "function_call":
                arguments = item["arguments"]
                yield {"type": "function_call_arguments.delta", **place, "delta": arguments}
                yield {"type": "function_call_arguments.done", **place, "arguments": arguments}
            yield {"type": "output_item.done", "output_index": at, "item": item}
        last = self.response(said)
        yield {"type": last["status"], "response": last}

    def _text(self, part: Json, place: Json, said: Said) -> Iterator[Json]:
        yield {"type": "content_part.added", **place, "part": {**part, "text": ""}}
        for piece in said.pieces:
            yield {"type": "output_text.delta", **place, "delta": piece, "logprobs": []}
        yield {"type": "output_text.done", **place, "text": said.text, "logprobs": []}
        yield {"type": "content_part.done", **place, "part": part}

    def refused(self, status: int, message: str, **more: Any) -> Reply:
        return json_reply({"error": {"message": message, "type": "x", "code": None}}, status, more)


NATIVE = Responses()
