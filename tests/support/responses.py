"""A Responses stream as strictly as its documentation has it: read, checked, and replayed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

Json = dict[str, Any]

# What programs send, turn by turn, as recorded in 2026-11 and shortened: by the program.
RECORDED: dict[str, list[Json]] = json.loads(
    Path(__file__).with_name("recorded_responses.json").read_text()
)

_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
_LAST = ("response.completed", "response.incomplete", "response.failed")
# Of an item's texts: where its parts stand, and the member that has the text.
_PARTS = {"content_part": "content", "reasoning_summary_part": "summary"}
_TEXTS = {"output_text": "text", "refusal": "refusal", "reasoning_summary_text": "text"}
_ARGUMENTS = {"function_call_arguments": "arguments", "custom_tool_call_input": "input"}


def read_response(body: bytes) -> Json:
    """A Response as the SDK's type takes it strictly."""
    Response.model_validate_json(body, strict=True)
    response: Json = json.loads(body)
    for item in response["output"]:
        assert {"id", "type", "status"} <= item.keys()
        for part in item.get("content", ()):
            assert part["type"] == "refusal" or {"annotations", "logprobs"} <= part.keys()
    return response


def read_events(body: bytes, *, strictly: bool = True) -> list[Json]:
    """Events with their names, numbered without a gap; as the SDK's types take them strictly."""
    found: list[Json] = []
    for block in filter(None, body.decode().split("\n\n")):
        if block.startswith(":"):
            continue
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == len(found)
        if strictly:  # which takes milliseconds
            _EVENT.validate_json(data.removeprefix("data: "), strict=True)
        found.append(event)
    return found


def replayed(events: list[Json]) -> Json:
    """The last Response, after a check that its output is what the events before add up to."""
    begun, progress, *told, last = events
    assert [begun["type"], progress["type"]] == ["response.created", "response.in_progress"]
    assert begun["response"]["status"] == progress["response"]["status"] == "in_progress"
    assert last["type"] in _LAST
    assert last["type"] == f"response.{last['response']['status']}"
    output = _Output()
    for event in told:
        output.take(event)
    response = read_response(json.dumps(last["response"]).encode())
    assert {each["response"]["id"] for each in (begun, progress, last)} == {response["id"]}
    if last["type"] != "response.failed":
        assert output.done == response["output"]
    return response


class _Output:
    def __init__(self) -> None:
        self.done: list[Json | None] = []
        self._open: dict[str, Json] = {}  # by id: what the events said until now
        self._at: dict[str, int] = {}

    def take(self, event: Json) -> None:
        name = event["type"].removeprefix("response.")
        if name == "output_item.added":
            item = event["item"]
            assert event["output_index"] == len(self.done)
            assert item["status"] == "in_progress"
            self.done.append(None)
            self._open[item["id"]], self._at[item["id"]] = item, event["output_index"]
        elif name == "output_item.done":
            item = event["item"]
            added = self._open.pop(item["id"])
            assert self.done[event["output_index"]] is None
            assert item["status"] in ("completed", "incomplete")
            more = {key: item[key] for key in ("status", "encrypted_content") if key in item}
            assert item == {**added, **more}
            self.done[event["output_index"]] = item
        else:
            self._tell(event, *name.rsplit(".", 1))

    def _tell(self, event: Json, what: str, how: str) -> None:
        item = self._open[event["item_id"]]
        assert event["output_index"] == self._at[item["id"]]
        if what in _ARGUMENTS:
            member = _ARGUMENTS[what]
            if how == "delta":
                item[member] += event["delta"]
            assert how == "delta" or event[member] == item[member]
            return
        member = next(each for each in ("content", "summary") if f"{each}_index" in event)
        parts, at = item[member], event[f"{member}_index"]
        if what in _PARTS and how == "added":
            assert at == len(parts)
            parts.append(event["part"])
        elif what in _PARTS:
            assert event["part"] == parts[at]
        elif what == "output_text.annotation":
            assert event["annotation_index"] == len(parts[at]["annotations"])
            parts[at]["annotations"].append(event["annotation"])
        elif how == "delta":
            parts[at][_TEXTS[what]] += event["delta"]
            if event.get("logprobs"):
                parts[at]["logprobs"] += event["logprobs"]
        else:
            assert event[_TEXTS[what]] == parts[at][_TEXTS[what]]
            assert event.get("logprobs", []) == parts[at].get("logprobs", [])


def shapes(value: Any) -> Any:
    """Items or a Response without what differs each time: ids and moments."""
    if isinstance(value, list):
        return [shapes(each) for each in value]
    if isinstance(value, dict):
        return {
            name: shapes(each)
            for name, each in value.items()
            if name not in ("id", "created_at", "item_id")
        }
    return value
