"""Function names that Gemini does not take: changed on their way there, and back again."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from proxy.wire.gemini.models import wire_name
from tests.support import gemini_upstream as upstream
from tests.support.gemini_rules import NAME, violations
from tests.wire.gemini.chat import Json, chat_of, chunks_of, join
from tests.wire.gemini.requests import HELLO, called, result, translate
from tests.wire.histories import NAMES, tool

TAKEN = ["weather", "_x", "get-page", "files.read", "A" * 64, "x_0123abcd"]
CHANGED = [
    "1password_get",
    "mcp:server/do it",
    "größe",
    "A" * 65,
    "A" * 64 + "B",
    "-x",
    "",
    "天気",
    *(name for name in NAMES if not NAME.fullmatch(name)),
]


def test_names_that_gemini_takes_stay() -> None:
    """Byte for byte."""
    assert [wire_name(name) for name in TAKEN] == TAKEN


@pytest.mark.parametrize(
    ("name", "legible"),
    [
        ("mcp:server/do it", "mcp_server_do_it"),
        ("größe.v2-b", "gr__e.v2-b"),
        ("1password", "_1password"),
        ("-x", "_-x"),
        ("天気", "__"),
        ("", "_"),
        ("A" * 65, "A" * 55),
        ("1" + "b" * 64, "_1" + "b" * 53),
    ],
)
def test_changed_name_is_legible_still(name: str, legible: str) -> None:
    """A model chooses by it: each character that Gemini does not take is one `_`."""
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    assert wire_name(name) == f"{legible}_{digest}"


@pytest.mark.parametrize("name", CHANGED)
@pytest.mark.parametrize("model", ["gemini-2.5-flash", "gemini-3.5-flash"])
def test_name_is_changed_everywhere_in_a_request(name: str, model: str) -> None:
    """Declared, chosen, called before: always the same."""
    call = {"id": "call_1", "function": {"name": name, "arguments": "{}"}}
    chosen = {"type": "function", "function": {"name": name}}
    for choice in (
        chosen,
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [chosen]}},
    ):
        made = translate(
            model,
            messages=[*HELLO, called(call), result("call_1", "x")],
            tools=[tool("weather"), tool(name)],
            tool_choice=choice,
        )
        assert violations(made, model=model) == []
        calling = made["toolConfig"]["functionCallingConfig"]
        assert {
            made["tools"][0]["functionDeclarations"][1]["name"],
            made["contents"][1]["parts"][0]["functionCall"]["name"],
            made["contents"][2]["parts"][0]["functionResponse"]["name"],
            *calling["allowedFunctionNames"],
        } == {wire_name(name)}


@pytest.mark.parametrize("name", [*CHANGED, *TAKEN])
def test_caller_gets_its_own_name_back(name: str) -> None:
    """Unary and streamed; of a tool that is declared, or only in the history."""
    call = upstream.call(wire_name(name), {"city": "Köln"}, id="1")
    event = upstream.answer([upstream.candidate([call])])
    requests: list[Json] = [
        {"messages": HELLO, "tools": [tool("weather"), tool(name)]},
        {"messages": [*HELLO, called({"id": "x", "function": {"name": name}})]},
    ]
    for asked in requests:
        made = [
            chat_of(upstream.unary(event), **asked),
            join(chunks_of([[upstream.payload(event)]], **asked)),
        ]
        for answer in made:
            (found,) = answer["choices"][0]["message"]["tool_calls"]
            assert found["function"]["name"] == name


def test_name_that_looks_changed_and_was_not_stays() -> None:
    """The model's own word, or a declared name of that form."""
    event = upstream.answer([upstream.candidate([upstream.call("x_0123abcd", {})])])
    for tools in ([], [tool("x_0123abcd")], None):
        asked: Json = {"messages": HELLO, "tools": tools}
        found: Any = chat_of(upstream.unary(event), **asked)["choices"][0]["message"]
        assert found["tool_calls"][0]["function"]["name"] == "x_0123abcd"


CALLS = [upstream.call("weather", {"n": n}, id=f"id{n}") for n in range(3)]
ONE_EVENT = [upstream.answer([upstream.candidate(CALLS)])]
ONE_EACH = [upstream.answer([upstream.candidate([call], finish=None)]) for call in CALLS]
SPREAD = [*ONE_EACH, upstream.answer([upstream.candidate([])])]


@pytest.mark.parametrize("events", [ONE_EVENT, SPREAD])
@pytest.mark.parametrize(("asked", "count"), [(False, 1), (True, 3), (None, 3)])
def test_one_call_at_a_time_if_the_caller_says_so(
    events: list[Json], asked: bool | None, count: int
) -> None:
    """`parallel_tool_calls: false`: of several calls in one answer the first is given."""
    request: Json = {"messages": HELLO, "tools": [tool("weather")], "parallel_tool_calls": asked}
    for answer in (
        chat_of(upstream.unary(upstream.joined(events)), **request),
        join(chunks_of([upstream.payloads(events)], **request)),
    ):
        choice = answer["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        assert len(choice["message"]["tool_calls"]) == count
        assert choice["message"]["tool_calls"][0]["id"] == "id0"
