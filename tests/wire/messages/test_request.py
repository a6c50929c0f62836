"""Messages requests as chat: what each kind of client gets, what is left out, what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.dialects.messages import MESSAGES, MessagesAsk
from proxy.errors import InvalidRequest, UnsupportedParameter
from proxy.wire.reasoning import pack

Json = dict[str, Any]

HI = {"role": "user", "content": "Hi"}
KINDS = ("openai", "gemini", "demo")


def read(*messages: Json, **more: Any) -> MessagesAsk:
    body: Json = {"model": "m", "messages": list(messages) or [HI], **more}
    found = MESSAGES.read(json.dumps(body).encode(), {})
    assert isinstance(found, MessagesAsk)
    return found


def chat(*messages: Json, kind: str = "openai", plain: bool = False, **more: Any) -> Json:
    """The chat request's members but for the model."""
    made: Json = json.loads(read(*messages, **more).translated(kind, plain=plain).request.body)
    assert made.pop("model") == "m"
    return made


def turn(role: str, *blocks: Json) -> Json:
    return {"role": role, "content": list(blocks)}


def text(said: str) -> Json:
    return {"type": "text", "text": said}


def use(name: str = "run", call_id: str = "c1", **given: Any) -> Json:
    return {"type": "tool_use", "id": call_id, "name": name, "input": given}


def result(content: Any, call_id: str = "c1", **more: Any) -> Json:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, **more}


PNG = {"type": "base64", "media_type": "image/png", "data": "iVBORw0="}
IMAGE = {"type": "image", "source": PNG}
URL = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0="}}


def test_all_that_chat_can_say() -> None:
    """Of every parameter."""
    made = chat(
        max_tokens=9,
        temperature=0.5,
        top_p=0.9,
        top_k=3,
        stop_sequences=["a"],
        metadata={"user_id": "u"},
        system=[text("One."), {**text("Two."), "cache_control": {"type": "ephemeral"}}],
        output_config={"format": {"type": "json_schema", "schema": {"type": "object"}}},
        tools=[{"name": "f", "input_schema": {"type": "object"}, "strict": True}],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        stream=True,
    )
    function = {"name": "f", "parameters": {"type": "object"}, "strict": True}
    assert made == {
        "messages": [{"role": "system", "content": "One.\n\nTwo."}, HI],
        "tools": [{"type": "function", "function": function}],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 3,
        "stop": ["a"],
        "user": "u",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": {"type": "object"}},
        },
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize(
    ("asked", "openai", "gemini"),
    [
        ({}, {}, {}),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 31999, "display": "omitted"}},
            {"reasoning_effort": "xhigh"},
            {"thinking": {"type": "enabled", "budget_tokens": 31999}},
        ),
        (
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}},
            {"reasoning_effort": "xhigh"},
            {"thinking": {"type": "adaptive"}, "reasoning_effort": "max"},
        ),
        (
            {
                "thinking": {"type": "enabled", "budget_tokens": 31999},
                "output_config": {"effort": "low"},
            },
            {"reasoning_effort": "low"},
            {"thinking": {"type": "enabled", "budget_tokens": 31999}, "reasoning_effort": "low"},
        ),
        ({"thinking": {"type": "adaptive"}}, {}, {"thinking": {"type": "adaptive"}}),
        (
            {"thinking": {"type": "disabled"}},
            {"reasoning_effort": "none"},
            {"reasoning_effort": "none"},
        ),
        (
            {"output_config": {"effort": "low"}},
            {"reasoning_effort": "low"},
            {"reasoning_effort": "low"},
        ),
        (
            {"thinking": {"type": "between_tools"}},
            {},
            {"thinking": {"type": "adaptive"}},
        ),
    ],
)
def test_thinking(asked: Json, openai: Json, gemini: Json) -> None:
    """In the words that the client's translator knows; none of it where it was refused."""
    assert chat(**asked) == {"messages": [HI], **openai}
    assert chat(kind="gemini", **asked) == {"messages": [HI], **gemini}
    assert chat(plain=True, **asked) == {"messages": [HI]}


@pytest.mark.parametrize(
    ("thinking", "thoughts"),
    [
        (None, []),
        ({"type": "disabled"}, []),
        ({"type": "adaptive", "display": "summarized"}, ["Hm"]),
        ({"type": "enabled", "budget_tokens": 1024, "display": "omitted"}, [""]),
    ],
)
def test_what_becomes_of_thoughts(thinking: Json | None, thoughts: list[str]) -> None:
    """By `thinking` and its `display`."""
    chunk = b'{"choices":[{"delta":{"reasoning_content":"Hm","content":"Hi"}}]}'
    said = json.loads(read(thinking=thinking).events("openai").whole([chunk]))["content"]
    assert [block["thinking"] for block in said if block["type"] == "thinking"] == thoughts


def test_results_come_before_what_the_user_says() -> None:
    """Each as a message of the tool; media behind all of them where it takes text alone."""
    said = turn("user", text("And?"), result([text("a"), IMAGE]), result("b", "c2", is_error=True))
    history = [HI, turn("assistant", text("I look."), use(x=1), use("look", "c2")), said]
    calls = [
        {"id": "c1", "type": "function", "function": {"name": "run", "arguments": '{"x": 1}'}},
        {"id": "c2", "type": "function", "function": {"name": "look", "arguments": "{}"}},
    ]
    called = {"role": "assistant", "content": "I look.", "tool_calls": calls}
    assert chat(*history)["messages"][1:] == [
        called,
        {"role": "tool", "tool_call_id": "c1", "content": "a"},
        {"role": "tool", "tool_call_id": "c2", "content": "Error: b"},
        {"role": "user", "content": [text("From the result of run:"), URL, text("And?")]},
    ]
    assert chat(*history, kind="gemini")["messages"][1:] == [
        called,
        {"role": "tool", "tool_call_id": "c1", "content": [text("a"), URL]},
        {"role": "tool", "tool_call_id": "c2", "content": "b", "is_error": True},
        {"role": "user", "content": "And?"},
    ]


def test_media_and_documents_as_openai_takes_them() -> None:
    """A file has a name, a text document its title before it; what says nothing is not there."""
    pdf = {"type": "document", "source": {**PNG, "media_type": "application/pdf"}}
    noted = {"type": "document", "title": "T", "source": {"type": "text", "data": "D"}}
    tools = [{"type": kind} for kind in ("tool_addition", "tool_removal", "mcp_tool_listing")]
    link = {"type": "image", "source": {"type": "url", "url": "https://x/a.png"}}
    (made,) = chat(turn("user", noted, pdf, {**pdf, "title": "a.pdf"}, link, text(""), *tools))[
        "messages"
    ]
    data = "data:application/pdf;base64,iVBORw0="
    assert made["content"] == [
        text("T\nD"),
        {"type": "file", "file": {"filename": "document.pdf", "file_data": data}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": data}},
        {"type": "image_url", "image_url": {"url": "https://x/a.png"}},
    ]


def test_what_a_vendors_tool_found_is_read() -> None:
    """Of every member that holds text, a line each, and of no data."""
    ran = {
        "type": "bash_code_execution_tool_result",
        "content": {"stdout": "out", "stderr": "err", "content": [{"type": "x", "file_id": "f"}]},
    }
    fetched = {
        "type": "web_fetch_tool_result",
        "content": {
            "url": "https://x",
            "content": {
                "title": "T",
                "source": {"type": "text", "data": "D"},
                "text": "t",
                "content": {"type": "base64", "data": "AAAA"},
            },
        },
    }
    (_, made) = chat(HI, turn("assistant", ran, fetched))["messages"]
    assert made["content"] == (
        "\n<result>\nout\nerr\n</result>\n\n<result>\nhttps://x\nT\nD\nt\n</result>\n"
    )


def test_calls_and_results_that_leave_things_out() -> None:
    """A call without input, a result of several texts, and one of none."""
    bare = {"type": "tool_use", "id": "c1", "name": "run"}
    nothing = {"type": "tool_result", "tool_use_id": "c2"}
    given = turn("user", result([text("a"), text("b")]), nothing)
    _, called, *results = chat(HI, turn("assistant", bare, {**bare, "id": "c2"}), given)["messages"]
    assert called["content"] is None
    assert [call["function"]["arguments"] for call in called["tool_calls"]] == ["{}", "{}"]
    assert [each["content"] for each in results] == ["a\n\nb", ""]


@pytest.mark.parametrize("kind", KINDS)
def test_what_else_is_in_histories(kind: str) -> None:
    """Of vendors' own tools the output as text; a system among the messages stays in place."""
    search = {
        "type": "web_search_tool_result",
        "tool_use_id": "s1",
        "content": [{"type": "web_search_result", "title": "T", "url": "https://x", "x": 1}],
    }
    failed = {"type": "web_search_tool_result", "tool_use_id": "s2", "content": {"x": "odd"}}
    asked = {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}}
    document = {"type": "document", "source": {"type": "content", "content": [text("D")]}}
    found = {"type": "search_result", "title": "T", "source": "S", "content": [text("X")]}
    made = chat(
        turn("user", document, found, {"type": "tool_addition", "tool": {}}),
        turn("assistant", asked, search, asked, failed, text("So.")),
        turn("system", text("Be brief.")),
        turn("user", result([{"type": "tool_reference", "tool_name": "f"}], "c9")),
        turn("assistant", {"type": "compaction", "content": "Before: much."}, text("Go on.")),
        turn("assistant", {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}),
        kind=kind,
    )
    assert made["messages"] == [
        {"role": "user", "content": "D\n\nT\nS\nX"},
        {"role": "assistant", "content": "\n<result>\nT\nhttps://x\n</result>\nSo."},
        {"role": "system", "content": "Be brief."},
        {"role": "tool", "tool_call_id": "c9", "content": "loaded: f"},
        {"role": "user", "content": "Before: much."},
        {"role": "assistant", "content": "Go on."},
    ]


def signed(kind: str, payload: bytes, thinking: str = "") -> Json:
    return {"type": "thinking", "thinking": thinking, "signature": pack(kind, payload)}


EXTRA = {"google": {"thought_signature": "c2ln"}}


def test_thoughts_of_a_history_that_begins_with_them() -> None:
    """As programs trim theirs: the tool loop is older than what is left. Damage is no reason to
    fail.
    """
    thoughts = [signed("openai", b"\xff"), signed("openai", b"", "Hm.")]
    made = chat(turn("assistant", *thoughts, use()), turn("user", result("1")))
    assert made["messages"][0]["reasoning_content"] == "\ufffdHm."


def test_thoughts_go_back_to_their_kind_alone() -> None:
    """Gemini's with the call behind them; plain ones while the tool loop runs."""
    gemini = signed("gemini", json.dumps(EXTRA).encode())
    plain = signed("openai", b"", "Hm.")
    hidden = signed("openai", b"Hidden.")
    claude = {"type": "redacted_thinking", "data": "c2ln"}
    thoughts = [plain, gemini, claude, {**claude, "data": pack("gemini", b"broken {")}]
    history = [HI, turn("assistant", *thoughts, use(), use(call_id="c2"), gemini)]
    loop = [
        *history,
        turn("user", result("1"), result("2", "c2")),
        turn("assistant", hidden, use()),
    ]
    first, second = [m for m in chat(*loop)["messages"] if m["role"] == "assistant"]
    assert (first["reasoning_content"], second["reasoning_content"]) == ("Hm.", "Hidden.")
    assert "extra_content" not in json.dumps(first)
    over = [*loop, turn("user", text("Thanks."))]
    for made in (chat(*over), chat(*loop, kind="demo"), chat(*loop, plain=True)):
        assert "reasoning_content" not in json.dumps(made)
    first, _ = [m for m in chat(*loop, kind="gemini")["messages"] if m["role"] == "assistant"]
    assert "reasoning_content" not in first
    assert [call.get("extra_content") for call in first["tool_calls"]] == [EXTRA, None]
    assert first["extra_content"] == EXTRA
    assert "extra_content" not in json.dumps(chat(*loop, kind="gemini", plain=True))


def test_tools_that_the_caller_runs() -> None:
    """Become functions with the schemas that Anthropic's models know."""
    made = chat(
        tools=[
            {"type": "bash_20250124", "name": "bash"},
            {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"},
            {"type": "memory_20250818", "name": "memory"},
            {"type": "custom", "name": "f", "defer_loading": True},
        ]
    )
    functions = [tool["function"] for tool in made["tools"]]
    string, integer = {"type": "string"}, {"type": "integer"}
    editing: Json = dict.fromkeys(
        ("path", "file_text", "old_str", "new_str", "insert_text"), string
    )
    editing |= {"insert_line": integer, "view_range": {"type": "array", "items": integer}}
    commands = ["view", "create", "str_replace", "insert"]
    edits = {"type": "string", "enum": [*commands, "undo_edit"]}
    keeps = {"type": "string", "enum": [*commands, "delete", "rename"]}
    assert [function["parameters"] for function in functions] == [
        {
            "type": "object",
            "properties": {"command": string, "restart": {"type": "boolean"}},
            "required": [],
        },
        {
            "type": "object",
            "properties": {"command": edits, **editing},
            "required": ["command"],
        },
        {
            "type": "object",
            "properties": {"command": keeps, **editing, "old_path": string, "new_path": string},
            "required": ["command"],
        },
        {"type": "object"},
    ]
    assert functions[3] == {"name": "f", "parameters": {"type": "object"}}
    named = [function["name"] for function in functions[:3]]
    assert named == ["bash", "str_replace_based_edit_tool", "memory"]


SEARCH = {"type": "web_search_20250305", "name": "web_search"}
COMPUTER = {"type": "computer_20250124", "name": "computer"}


@pytest.mark.parametrize(
    ("choice", "chosen"),
    [
        ({"type": "auto"}, {}),
        ({"type": "none"}, {"tool_choice": "none"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        (
            {"type": "tool", "name": "f", "disable_parallel_tool_use": False},
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        ),
        (
            {"type": "auto", "disable_parallel_tool_use": True},
            {"parallel_tool_calls": False},
        ),
    ],
)
def test_choice_of_a_tool(choice: Json, chosen: Json) -> None:
    """In the words of chat; what is the default is not said."""
    made = chat(tools=[{"name": "f", "input_schema": {}}], tool_choice=choice)
    del made["tools"], made["messages"]
    assert made == chosen


@pytest.mark.parametrize(
    ("asked", "has_format"),
    [
        ({"output_format": {"type": "json_schema", "schema": {"a": 1}}}, True),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"a": 1}}}}, True),
        ({"output_format": {"type": "text", "schema": {"a": 1}}}, False),
    ],
)
def test_format_of_the_answer(asked: Json, has_format: bool) -> None:
    """Under its old name and its new one."""
    shape = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"a": 1}}}
    assert chat(**asked).get("response_format") == (shape if has_format else None)


def test_tools_that_only_a_vendor_runs() -> None:
    """Are left out and named; Gemini searches by itself, where it can beside functions."""
    function = {"name": "f", "input_schema": {"type": "object"}}
    asked = read(tools=[SEARCH, COMPUTER, function, {"type": "new_thing"}], context_management={})
    request, dropped, _ = asked.translated("openai")
    assert json.loads(request.body).keys() == {"model", "messages", "tools"}
    assert dropped == [
        *("context_management", "web_search_20250305", "computer_20250124", "new_thing")
    ]
    assert asked.translated("gemini", plain=True).dropped == [
        *("context_management", "thinking", "computer_20250124", "new_thing")
    ]
    made = chat(kind="gemini", tools=[SEARCH, function])
    assert made["web_search_options"] == {"optional": True}
    choice = {"type": "tool", "name": "web_search"}
    made = chat(kind="gemini", tools=[SEARCH, function], tool_choice=choice)
    assert made == {"messages": [HI], "web_search_options": {}}
    assert chat(kind="gemini", tools=[SEARCH], tool_choice={"type": "any"})["web_search_options"]


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tools": [SEARCH], "tool_choice": {"type": "tool", "name": "web_search"}}, "tool_choice"),
        ({"tools": [SEARCH], "tool_choice": {"type": "any"}}, "tool_choice"),
        ({"mcp_servers": [{"url": "https://x"}]}, "mcp_servers"),
        ({"max_tokens": "x"}, "max_tokens"),
        ({"tools": [1]}, "tools[0]"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [turn("user", text("x"), {"type": "audio"})]}, "messages[0].content[1]"),
        (
            {"messages": [turn("user", {"type": "image", "source": {"type": "file"}})]},
            "messages[0].content[0].source",
        ),
        (
            {"messages": [turn("user", {"type": "document", "source": {"type": "url"}})]},
            "messages[0].content[0].source",
        ),
        (
            {"messages": [turn("user", result([{"type": "image", "source": 1}]))]},
            "messages[0].content[0].content[0].source",
        ),
        ({"messages": [turn("user", text(""))]}, "messages"),
    ],
)
def test_what_cannot_be_done_is_named(more: Json, param: str) -> None:
    """By its path, before any attempt."""
    with pytest.raises(InvalidRequest) as caught:
        chat(**more)
    assert caught.value.param == param
    assert param in str(caught.value)


def test_document_by_url_is_for_those_who_fetch() -> None:
    """Gemini does, OpenAI does not."""
    source = {"type": "url", "url": "https://x/a.pdf"}
    document = turn("user", {"type": "document", "source": source, "title": "a.pdf"})
    (message,) = chat(document, kind="gemini")["messages"]
    assert message["content"][0]["file"]["file_data"] == "https://x/a.pdf"
    with pytest.raises(UnsupportedParameter):
        chat(document)


def test_names_and_users_that_openai_does_not_take() -> None:
    """Are changed: names come back, users are told apart."""
    long = "x" * 100
    made = read(turn("user", text("x")), tools=[{"name": long}], metadata={"user_id": "u" * 65})
    request = made.translated("openai").request
    assert request.names[long] != long
    assert len(json.loads(request.body)["user"]) == 64
    assert chat(metadata={"user_id": "u" * 64})["user"] == "u" * 64
    half = chat(metadata={"user_id": "\ud83d" * 65})["user"]
    assert len(half) == 64
    assert read(tools=[{"name": "f"}]).translated("openai").request.names == {}
    called = read(turn("assistant", use(long))).translated("openai").request
    assert called.names.keys() == {long}


def test_lone_surrogates_survive() -> None:
    """As escapes, in texts and in calls."""
    body = b'{"model":"m","messages":[{"role":"user","content":"\\ud83d"}]}'
    made = MESSAGES.read(body, {}).request(0, "openai", natively=False)
    assert b'"content":"\\ud83d"' in made.body
