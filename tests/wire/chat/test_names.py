"""Function names that OpenAI does not take: changed on their way there, and back again."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from proxy.wire.chat import CallersNames, ChatRequest, ChunkStream, read_request
from proxy.wire.made_names import plain_name
from tests.support.translators import fed
from tests.wire.chat.rules import NAME, places, violations
from tests.wire.histories import NAMES, conversations, tool

Json = dict[str, Any]
USER = {"role": "user", "content": "Hi"}
TAKEN = ["weather", "1password_get", "_x", "get-page", "A" * 64, "x_0123abcd"]
CHANGED = ["files.read", "mcp:server/do it", "größe", "A" * 65, "天気", "a\n", "a\nb", ""]
MADE = plain_name("files.read")


def read(**fields: Any) -> ChatRequest:
    return read_request(json.dumps({"model": "m", **fields}).encode())


def sent(**fields: Any) -> Json:
    """The body that an OpenAI-compatible upstream gets."""
    found: Json = json.loads(read(**fields).for_model("other"))
    return found


def called(name: str, **more: Any) -> Json:
    call = {"id": "1", "type": "function", "function": {"name": name, "arguments": "{}"}}
    return {"role": "assistant", "content": None, "tool_calls": [call], **more}


def everywhere(name: str) -> Json:
    """A request that has the name wherever one can be."""
    chosen = {"type": "function", "function": {"name": name}}
    return {
        "tools": [tool("weather"), tool(name), {"type": "custom", "custom": {"name": name}}],
        "tool_choice": {
            **chosen,
            "custom": {"name": name},
            "allowed_tools": {"mode": "auto", "tools": [chosen]},
        },
        "functions": [{"name": name}],
        "function_call": {"name": name},
        "messages": [
            {**USER, "name": "Jo"},
            called(name),
            {"role": "tool", "tool_call_id": "1", "name": name, "content": "x"},
            {"role": "assistant", "function_call": {"name": name, "arguments": ""}},
            {"role": "function", "name": name, "content": "x"},
            {"role": "assistant", "tool_calls": [{"id": "2", "custom": {"name": name}}]},
        ],
    }


@pytest.mark.parametrize("name", CHANGED)
def test_name_is_changed_everywhere_in_a_request(name: str) -> None:
    """Declared, chosen, called before, in today's words and those before: always the same."""
    made = sent(**everywhere(name))
    assert violations(made) == []
    names = {found["name"] for _, found in places(made)}
    assert names == {"weather", plain_name(name)}
    assert sum(found["name"] != "weather" for _, found in places(made)) == 12
    assert made["messages"][0]["name"] == "Jo"


@pytest.mark.parametrize("name", TAKEN)
def test_taken_names_cost_no_byte(name: str) -> None:
    """The body stays the one that came, white space and all."""
    body = json.dumps({"model": "m", **everywhere(name)}, indent=1).encode()
    assert read_request(body).for_model("m") is body


@pytest.mark.parametrize("place", ["tools", "functions", "messages"])
def test_one_place_is_enough(place: str) -> None:
    """A name is found wherever it stands alone."""
    whole = everywhere("files.read")
    for entry in whole[place]:
        fields: Json = {"messages": [USER], place: [entry]}
        if entry.get("role") == "function" or "function_call" in entry:
            fields["functions"] = []
        if entry.get("role") == "tool":
            fields["messages"].append(called("weather"))
        assert violations(sent(**fields)) == []


def test_all_else_keeps_its_bytes() -> None:
    """Numbers, escapes, halves of characters, at any depth."""
    body = (
        b'{"model":"m","big":1.0,"messages":[{"role":"user","content":"\\ud83d \\/"}],'
        b'"tools":[{"x":1.50,"function":{"y":12345678901234567890.10,"name":"%b","z":"\\ud83d"}}]}'
    )
    assert read_request(body % b"files.read").for_model("m") == body % MADE.encode()
    assert read_request(body % rb"files\u002eread").for_model("m") == body % MADE.encode()


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": 5},
        {"tools": [5, {"function": 5}]},
        {"tools": [{"function": {"name": 5}}]},
        {"functions": {"name": "a.b"}},
        {"tools": [{"function": None}, {"function": {}}, {}]},
        {"messages": [{**USER, "name": "Jo Doe"}, {"role": "tool", "name": None, "content": []}]},
        {"messages": [{"role": "assistant", "tool_calls": {"function": {"name": "a.b"}}}]},
    ],
)
def test_what_is_not_as_chat_has_it_passes(fields: Json) -> None:
    """The upstream says what it thinks of it; a user's name is none of a function."""
    body = json.dumps({"model": "m", "messages": [USER], **fields}).encode()
    assert read_request(body).for_model("m") == body


@pytest.mark.parametrize("is_declared", [True, False])
def test_names_of_the_upstreams_own_tools_stay(is_declared: bool) -> None:
    """Kimi's search is declared, called and answered by a name that no function may have."""
    named = {"type": "builtin_function", "function": {"name": "$web_search"}}
    result = {"role": "tool", "tool_call_id": "1", "name": "$web_search", "content": "{}"}
    messages = [USER, {"role": "assistant", "tool_calls": [{"id": "1", **named}]}, result]
    fields: Json = {"messages": messages, "tools": [named] if is_declared else []}
    assert sent(**fields) == {"model": "other", **fields}
    fields["tools"] += [tool("files.read")]
    made = sent(**fields)
    assert [at for at in violations(made) if "tool_calls" in at] == [
        "messages[1].tool_calls[0].function"
    ]
    assert made["messages"] == messages
    assert made["tools"][-1]["function"]["name"] == MADE


@pytest.mark.long
@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(conversations())
def test_conversations_go_out_with_names_that_are_taken(request: Json) -> None:
    """None breaks the rule, and with the names put back each is what it was."""
    request = {**request, "functions": [{"name": "f"}]}  # who calls them declares them
    body = read_request(json.dumps(request).encode())
    made = json.loads(body.for_model("m"))
    assert violations(made) == []
    again = {wire: name for name, wire in body.names.items()}
    back = copy.deepcopy(made)
    for _, found in places(back):
        found["name"] = again.get(found["name"], found["name"])
    assert back == json.loads(body.body)
    assert bool(body.names) == any(not NAME.fullmatch(each["name"]) for _, each in places(request))


# Answers

NAMES_SENT = read(messages=[USER], tools=[tool(name) for name in NAMES]).names


def whole(*names: str, legacy: bool = False) -> bytes:
    """A unary answer that calls functions of these names."""
    calls = [{"id": "1", "function": {"name": name, "arguments": "{}"}} for name in names]
    said = {"function_call": {"name": names[0]}} if legacy else {"tool_calls": calls}
    message = {"role": "assistant", "content": None, **said}
    return json.dumps({"choices": [{"index": 0, "message": message}], "x": 1.0}).encode()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_caller_gets_its_own_name_back(name: str, legacy: bool) -> None:
    """All else as it came."""
    found = CallersNames(NAMES_SENT).answer(whole(plain_name(name), legacy=legacy))
    assert json.loads(found) == json.loads(whole(name, legacy=legacy))
    assert found.endswith((b'"x":1.0}', b'"x": 1.0}'))


@pytest.mark.parametrize("name", ["weather", "x_0123abcd", "files_read", ""])
def test_answer_without_a_made_name_keeps_its_bytes(name: str) -> None:
    """The model's own word, or a declared one."""
    body = whole(name)
    assert CallersNames(NAMES_SENT).answer(body) == body


def chunk(delta: Json, finish: str | None = None, index: int = 0) -> bytes:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return json.dumps({"choices": [choice], "x": 1.0}).encode()


def piece(name: str | None, arguments: str | None = None, call: int = 0) -> Json:
    function: Json = {} if name is None else {"name": name}
    if arguments is not None:
        function["arguments"] = arguments
    return {"tool_calls": [{"index": call, "function": function}]}


def joined(chunks: list[bytes], call: int = 0) -> tuple[str, str]:
    """Name and arguments of a call, as an SDK puts them together."""
    name = arguments = ""
    for each in chunks:
        for choice in json.loads(each)["choices"]:
            for found in choice["delta"].get("tool_calls") or ():
                if found["index"] == call:
                    name += found["function"].get("name") or ""
                    arguments += found["function"].get("arguments") or ""
    return name, arguments


def streamed(*chunks: bytes) -> list[bytes]:
    stream = ChunkStream(names=NAMES_SENT)
    return [out for each in chunks for out in fed(stream, [each])]


STOP = chunk({}, "tool_calls")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("arguments", ["", "{}"])
def test_streamed_name_comes_back(name: str, arguments: str) -> None:
    """In the first delta, which is where SDKs look for it."""
    chunks = streamed(chunk(piece(plain_name(name), arguments)), chunk(piece(None, "1")), STOP)
    assert joined(chunks[:1]) == (name, arguments)
    assert joined(chunks) == (name, f"{arguments}1")


@pytest.mark.parametrize("name", ["files.read", "weather", "mcp:server/do it"])
def test_name_in_pieces_comes_back(name: str) -> None:
    """Cut at every place, beside another call."""
    made = plain_name(name)
    for at in range(1, len(made)):
        chunks = streamed(
            chunk(piece("run", "", call=1)),
            chunk(piece(made[:at], "")),
            chunk(piece(made[at:], "")),
            chunk(piece(None, "{}")),
            STOP,
        )
        assert joined(chunks) == (name, "{}")
        assert joined(chunks, call=1) == ("run", "")


@pytest.mark.parametrize(
    "chunks",
    [
        [chunk(piece(MADE[:5], "")), chunk(piece(None, "{}")), STOP],
        [chunk(piece(MADE[:5], "{}")), STOP],
        [chunk(piece(MADE[:5])), chunk(piece(None, "{}"), "tool_calls")],
        [chunk(piece("")), chunk(piece(MADE[:5])), chunk(piece("", "{}")), STOP],
    ],
)
def test_beginning_of_a_made_name_goes_out_at_last(chunks: list[bytes]) -> None:
    """The model left out the rest: what it said is what the caller gets."""
    assert joined(streamed(*chunks)) == (MADE[:5], "{}")


def test_beginning_is_not_kept_back_for_ever() -> None:
    """Nor where no arguments follow, of one choice or another, in today's words or before."""
    chunks = streamed(
        chunk(piece(MADE[:5]), index=1),
        chunk({"function_call": {"name": MADE[:5]}}),
        chunk({"content": "x"}),
        chunk({}, "stop"),
        chunk({}, "tool_calls", index=1),
    )
    assert json.loads(chunks[3])["choices"][0]["delta"] == {"function_call": {"name": MADE[:5]}}
    assert joined(chunks) == (MADE[:5], "")


def test_name_that_is_told_again_comes_back_each_time() -> None:
    """As some do; and in the words of before there were tools."""
    chunks = streamed(chunk(piece(MADE, "{")), chunk(piece(MADE, "}")), STOP)
    assert joined(chunks) == ("files.readfiles.read", "{}")
    [legacy, _] = streamed(chunk({"function_call": {"name": MADE, "arguments": ""}}), STOP)
    assert json.loads(legacy)["choices"][0]["delta"]["function_call"]["name"] == "files.read"


def test_chunks_without_names_keep_their_bytes() -> None:
    """Text, usage, calls of names that were taken, and what is odd."""
    chunks = [
        chunk({"content": "\ud83d", "name": "x"}),
        chunk(piece("weather", "")),
        chunk(piece("x_0123abcd", "")),
        chunk(piece(None, '"name"')),
        b'{"choices":[{"delta":{"tool_calls":[5,{"function":5},{"index":[],"function":{"name":5}}]}}]}',
        b'{"choices":[{"delta":5},5,{"index":"x","delta":{"tool_calls":"name"}}],"name":1}',
        STOP,
    ]
    assert streamed(*chunks) == chunks
