"""Items of an input as messages of a chat."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import InvalidRequest, UnsupportedParameter
from proxy.wire.history import NOT_RUN
from tests.wire.responses.test_request import KINDS, chat, taken, translated

Json = dict[str, Any]

PNG = "data:image/png;base64,iVBORw0KGgo="
IMAGE = {"type": "input_image", "image_url": PNG, "detail": "auto"}
USER = {"role": "user", "content": "Hi"}


def messages(*items: Json, kind: str = "openai") -> list[Json]:
    made: list[Json] = chat(kind, input=[*items])["messages"]
    return made


def text(said: str, kind: str = "input_text") -> Json:
    return {"type": kind, "text": said}


def call(call_id: str, name: str = "f", **more: Any) -> Json:
    return {
        "type": "function_call",
        "call_id": call_id,
        "name": name,
        "arguments": "{}",
        **more,
    }


def output(call_id: str, said: Any = "done") -> Json:
    return {"type": "function_call_output", "call_id": call_id, "output": said}


def called(*ids: str, name: str = "f", content: str | None = None) -> Json:
    function = {"name": name, "arguments": "{}"}
    calls = [{"id": each, "type": "function", "function": function} for each in ids]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def result(call_id: str, content: Any = "done") -> Json:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


@pytest.mark.parametrize(
    "item",
    [
        {"role": "user", "content": "Hi"},
        {
            "type": "message",
            "role": "user",
            "content": [text("Hi")],
            "id": "m",
            "status": "completed",
        },
        {"role": "user", "content": [text("Hi", "text")]},
        {"role": "user", "content": [text("Hi", "summary_text")]},
        {"role": "user", "content": [text("Hi", "reasoning_text")]},
    ],
)
def test_message_with_and_without_type_id_and_status(item: Json) -> None:
    """One text is a string, which all upstreams take."""
    assert messages(item) == [USER]


def test_developer_speaks_as_the_system() -> None:
    """Look-alikes of chat know no other role, and templates of local models one message of it."""
    said = [{"role": role, "content": [text(role)]} for role in ("developer", "system")]
    assert messages(*said, USER) == [{"role": "system", "content": "developer\n\nsystem"}, USER]


def test_parts_of_the_user_stay_parts() -> None:
    """Images, files, sound, and marks for the cache."""
    mark = {"mode": "explicit"}
    parts = [
        {**text("Look"), "prompt_cache_breakpoint": mark},
        {**IMAGE, "detail": "original"},
        {
            "type": "input_file",
            "filename": "a.pdf",
            "file_data": "data:application/pdf;base64,JVBERi0=",
        },
        {"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}},
    ]
    (made,) = messages({"role": "user", "content": parts})
    assert made["content"] == [
        {"type": "text", "text": "Look", "prompt_cache_breakpoint": mark},
        {"type": "image_url", "image_url": {"url": PNG, "detail": "high"}},
        {
            "type": "file",
            "file": {"file_data": "data:application/pdf;base64,JVBERi0=", "filename": "a.pdf"},
        },
        {"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}},
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_file_by_url_is_for_those_who_fetch_it(kind: str) -> None:
    """OpenAI's chat has no place for one, so that another client is asked, or nobody."""
    part = {"type": "input_file", "file_url": "https://a.example/b.pdf"}
    asked = {"input": [{"role": "user", "content": [part]}]}
    if kind == "openai":
        with pytest.raises(UnsupportedParameter) as refused:
            translated(asked, kind)
        assert refused.value.param == "input[0].content[0].file_url"
    else:
        assert "https://a.example/b.pdf" in json.dumps(
            taken(translated(asked, kind).request.body, kind)
        )


def test_assistant_said_text_or_refused() -> None:
    """As its own answers have it."""
    parts = [text("I", "output_text"), text(" may.", "output_text")]
    refused = [{"type": "refusal", "refusal": "No."}]
    assert messages(
        USER, *({"role": "assistant", "content": each} for each in (parts, refused))
    ) == [
        USER,
        {"role": "assistant", "content": "I may."},
        {"role": "assistant", "content": None, "refusal": "No."},
    ]


def test_turn_of_the_assistant_is_one_message() -> None:
    """Text and calls, and then the results, in the order of the calls."""
    made = messages(
        USER,
        {"role": "assistant", "content": "I look."},
        call("a"),
        call("b"),
        output("b", "B"),
        output("a", "A"),
        call("c"),
        output("c"),
    )
    assert made == [
        USER,
        called("a", "b", content="I look."),
        result("a", "A"),
        result("b", "B"),
        called("c"),
        result("c"),
    ]


def test_result_goes_to_its_call_wherever_it_stands() -> None:
    """What the user typed meanwhile comes behind it."""
    assert messages(call("a"), USER, output("a")) == [called("a"), result("a"), USER]


def test_call_without_a_result_was_not_run() -> None:
    """Chat refuses one that nobody answers."""
    assert messages(call("a"), USER) == [called("a"), result("a", NOT_RUN), USER]


def test_result_without_a_call_is_told_by_the_user() -> None:
    """When the beginning of a history was cut off."""
    (made,) = messages(output("a", "lost"))
    assert made["role"] == "user"
    assert "lost" in made["content"]


def test_equal_ids_are_told_apart() -> None:
    """Results go to the calls in order."""
    made = messages(call(""), call(""), output("", "A"), output("", "B"))
    first, second = (each["id"] for each in made[0]["tool_calls"])
    assert first != second
    assert made[1:] == [result(first, "A"), result(second, "B")]


def test_items_without_a_type_are_told_by_their_members() -> None:
    """As some programs send them."""
    asked, given = call("a"), output("a")
    del asked["type"], given["type"]
    assert messages(USER, asked, given) == [USER, called("a"), result("a")]


def test_custom_call_has_free_text() -> None:
    """And its result."""
    made = messages(
        {"type": "custom_tool_call", "call_id": "a", "name": "patch", "input": 'x"y'},
        {"type": "custom_tool_call_output", "call_id": "a", "output": [text("A"), text("B")]},
    )
    function = made[0]["tool_calls"][0]["function"]
    assert (function["name"], json.loads(function["arguments"])) == ("patch", {"input": 'x"y'})
    assert made[1]["content"] == "A\nB"


def test_call_in_a_namespace_has_its_full_name() -> None:
    """Whether or not there is such a namespace among the tools."""
    made = messages(call("a", "find", namespace="crm"), output("a"))
    assert made[0] == called("a", name="crm__find")


@pytest.mark.parametrize(
    ("items", "name", "arguments", "said"),
    [
        (
            [
                {"type": "local_shell_call", "call_id": "a", "action": {"command": ["ls"]}},
                {"type": "local_shell_call_output", "id": "a", "output": "file"},
            ],
            "local_shell",
            {"command": ["ls"]},
            "file",
        ),
        (
            [
                {"type": "shell_call", "call_id": "a", "action": {"commands": ["ls", "x"]}},
                {
                    "type": "shell_call_output",
                    "call_id": "a",
                    "output": [
                        {
                            "stdout": "file",
                            "stderr": "",
                            "outcome": {"type": "exit", "exit_code": 0},
                        },
                        {"stdout": "", "stderr": "?", "outcome": {"type": "timeout"}},
                    ],
                },
            ],
            "shell",
            {"commands": ["ls", "x"]},
            "file\nexit code 0\n?\ntimed out",
        ),
        (
            [
                {
                    "type": "apply_patch_call",
                    "call_id": "a",
                    "operation": {"type": "delete_file", "path": "x"},
                },
                {
                    "type": "apply_patch_call_output",
                    "call_id": "a",
                    "status": "failed",
                    "output": "?",
                },
            ],
            "apply_patch",
            {"type": "delete_file", "path": "x"},
            "Error: ?",
        ),
    ],
)
def test_what_the_caller_ran_is_a_call_with_its_result(
    items: list[Json], name: str, arguments: Json, said: str
) -> None:
    """By the name that the tool has in chat."""
    made = messages(*items)
    function = made[0]["tool_calls"][0]["function"]
    assert (function["name"], json.loads(function["arguments"])) == (name, arguments)
    assert made[1:] == [result("a", said)]


@pytest.mark.parametrize(
    ("item", "told"),
    [
        ({"type": "web_search_call", "status": "completed", "action": {"query": "q"}}, ""),
        ({"type": "file_search_call", "results": [{"filename": "a.md", "text": "T"}]}, "a.md\nT"),
        ({"type": "code_interpreter_call", "outputs": [{"type": "logs", "logs": "4"}]}, "4"),
        ({"type": "mcp_call", "name": "n", "arguments": "{}", "output": "found"}, "found"),
        ({"type": "mcp_call", "name": "n", "arguments": "{}", "error": "failed"}, "failed"),
        ({"type": "image_generation_call", "result": "iVBO"}, ""),
        ({"type": "mcp_list_tools", "tools": []}, ""),
        ({"type": "program_output", "result": "4"}, "4"),
        ({"type": "mcp_call", "error": {"message": "No."}}, "No."),
        ({"type": "x_call", "results": [{"title": "T", "source": "S", "url": "U"}]}, "T\nS\nU"),
        ({"type": "computer_call_output", "output": {"image_url": PNG}}, ""),
        ({"type": "nobody_knows", "output": "something"}, "something"),
        ({"type": "nobody_knows", "output": [5, None, {"x": 1}]}, ""),
    ],
)
def test_what_the_vendor_ran_is_told_if_it_gave_anything(item: Json, told: str) -> None:
    """Else the item is left out, and named."""
    found = translated({"input": [USER, item]})
    made = json.loads(found.request.body)["messages"]
    if told:
        assert made[1]["role"] == "user"
        assert told in made[1]["content"]
        assert found.dropped == []
    else:
        assert made == [USER]
        assert found.dropped == [item["type"]]


@pytest.mark.parametrize("kind", KINDS)
def test_images_in_results(kind: str) -> None:
    """Stay in place for those who see them there, else come behind all results."""
    items = [call("a"), call("b"), output("a", [text("Look"), IMAGE]), output("b")]
    made = messages(USER, *items, kind=kind)
    image = {"type": "image_url", "image_url": {"url": PNG, "detail": "auto"}}
    if kind == "openai":
        assert made[2:] == [
            result("a", "Look"),
            result("b"),
            {"role": "user", "content": [{"type": "text", "text": "From the result of f:"}, image]},
        ]
    else:
        assert made[2] == result("a", [{"type": "text", "text": "Look"}, image])
    taken(translated({"input": [USER, *items]}, kind).request.body, kind)


def test_a_result_of_texts_has_nothing_behind_it() -> None:
    """Though one of them is marked for the cache, and so stays a part by itself."""
    marked = {**text("Look"), "prompt_cache_breakpoint": {"mode": "explicit"}}
    made = messages(USER, call("a"), output("a", [marked, text("there")]))
    assert made[2:] == [result("a", "Look\nthere")]


def test_plain_reasoning_goes_on_in_its_tool_loop() -> None:
    """To look-alikes of OpenAI's, some of which want it back; a vendor's own is left out."""
    plain: Json = {"type": "reasoning", "summary": [], "content": [text("Hm", "reasoning_text")]}
    theirs: Json = {
        "type": "reasoning",
        "id": "rs",
        "summary": [],
        "content": None,
        "encrypted_content": "x",
    }
    loop = [plain, theirs, call("a"), output("a")]
    assert messages(USER, *loop)[1]["reasoning_content"] == "Hm"
    for kind in ("claude", "gemini"):
        assert "Hm" not in json.dumps(messages(USER, *loop, kind=kind))
    assert "Hm" not in json.dumps(messages(*loop, plain, call("b"), output("b"), USER))
    assert "Hm" not in json.dumps(messages(USER, *loop, USER))


_SAID = st.sampled_from(["Hi", "Zürich 🌍", "a" * 50])
_ID = st.sampled_from(["a", "b", "c", ""])
_PARTS = st.lists(st.one_of(st.builds(text, _SAID), st.just(IMAGE)), min_size=1, max_size=2)
_ITEMS = st.one_of(
    st.builds(
        lambda role, said: {"role": role, "content": said},
        st.sampled_from(["user", "developer"]),
        _SAID,
    ),
    st.builds(lambda parts: {"role": "user", "content": parts}, _PARTS),
    st.builds(lambda said: {"role": "assistant", "content": [text(said, "output_text")]}, _SAID),
    st.builds(call, _ID, st.sampled_from(["f", "größe", "x" * 70])),
    st.builds(output, _ID, st.one_of(_SAID, _PARTS)),
    st.builds(
        lambda name: {"type": "reasoning", "summary": [], name: None},
        st.sampled_from(["content", "id"]),
    ),
    st.sampled_from(
        [
            {"type": "web_search_call", "id": "ws_1"},
            {"type": "local_shell_call", "call_id": "a", "action": None},
            {"type": "custom_tool_call", "call_id": "b", "name": "patch", "input": "x"},
            {"type": "custom_tool_call_output", "call_id": "b", "output": "y"},
        ]
    ),
)


@settings(max_examples=80)
@given(st.lists(_ITEMS, max_size=10), st.sampled_from(KINDS))
def test_any_history_is_taken_by_every_kind_of_upstream(items: list[Json], kind: str) -> None:
    """And nothing that a caller or a model said is lost on the way to chat."""
    body = translated({"input": [USER, *items]}, kind).request.body
    taken(body, kind)
    made = json.loads(body)["messages"]
    _calls_are_answered(made)
    texts = json.dumps(made)
    for item in items:
        for part in item.get("content") or () if isinstance(item.get("content"), list) else ():
            assert json.dumps(part.get("text", ""))[1:-1] in texts
    assert texts.count('"function":') == sum(
        "call" in item.get("type", "")
        and "output" not in item["type"]
        and item["type"] != "web_search_call"
        for item in items
    )


def _calls_are_answered(made: list[Json]) -> None:
    """As OpenAI demands it: behind each message with calls there is a result for each, in order."""
    at = 0
    ids: set[str] = set()
    while at < len(made):
        assert made[at]["role"] != "tool"
        wanted = [each["id"] for each in made[at].get("tool_calls", ())]
        found = made[at + 1 : at + 1 + len(wanted)]
        assert [each.get("tool_call_id") for each in found] == wanted
        assert ids.isdisjoint(wanted)
        ids.update(wanted)
        at += 1 + len(wanted)


def test_nothing_but_reasoning_is_no_question() -> None:
    """A 400, not a request without messages."""
    with pytest.raises(InvalidRequest, match="nothing to answer"):
        messages({"type": "reasoning", "summary": []})
