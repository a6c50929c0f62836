"""Conversations of OpenAI callers, as Claude gets them: turns, parts, tools, thinking."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Generator
from typing import Any

import pytest

from proxy.errors import InvalidRequest
from proxy.wire.claude.answer import ChatStream, to_chat
from proxy.wire.claude.request import to_request
from proxy.wire.claude.thinking import ThinkingBlock, carry
from proxy.wire.made_names import plain_name
from tests.support import claude_upstream as claude
from tests.support.claude_rules import violations
from tests.support.translators import fed
from tests.wire.claude.test_request import USER, Json, say, translate
from tests.wire.claude.test_stream import join

_PNG = "data:image/png;base64,iVBORw0KGgo="


def test_conversation_is_merged_and_begins_with_the_user() -> None:
    """The first system texts to the front, turns alternate, blank texts vanish."""
    wire = translate(
        say(
            {"role": "system", "content": "Be brief."},
            {"role": "assistant", "content": "Welcome."},
            {"role": "user", "content": "One"},
            {"role": "developer", "content": [{"type": "text", "text": "In French."}]},
            {
                "role": "user",
                "content": [{"type": "text", "text": "two"}, {"type": "text", "text": " "}],
            },
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        )
    )
    assert [block["text"] for block in wire["system"]] == ["Be brief."]
    assert [turn["role"] for turn in wire["messages"]] == ["user", "assistant"] * 2 + ["user"]
    said = [block["text"] for block in wire["messages"][2]["content"]]
    assert said == ["One", "<system>\nIn French.\n</system>", "two"]


_CALLED = {
    "role": "assistant",
    "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
}
_DONE = {"role": "tool", "tool_call_id": "a", "content": "done"}
_HELLO = {"role": "assistant", "content": "Hello."}
_FRENCH = {"role": "system", "content": "Now greet in French."}


@pytest.mark.parametrize(
    ("messages", "roles"),
    [
        ([USER, _HELLO, _FRENCH], "user assistant user system"),
        ([USER, _FRENCH, _HELLO, USER], "user system assistant user"),
        ([USER, _HELLO, _FRENCH, USER], "user assistant user system"),
        ([USER, _FRENCH, USER], "user system"),
        ([USER, _CALLED, _FRENCH, _DONE], "user assistant user system"),
        (
            [USER, _CALLED, _DONE, _FRENCH, _HELLO, USER],
            "user assistant user system assistant user",
        ),
        ([USER, _CALLED, _FRENCH, _HELLO, USER], "user assistant user system assistant user"),
        ([USER, _HELLO, _FRENCH, _HELLO, USER], "user assistant user system assistant user"),
        ([_FRENCH, USER], "user"),
        ([_FRENCH, _FRENCH, _HELLO, USER], "user assistant user"),
    ],
)
def test_system_message_behind_the_first_stays_in_place(messages: list[Json], roles: str) -> None:
    """As the system's where the family takes that, behind a turn of the user; else marked."""
    new = translate(say(*messages), model="claude-opus-4-8")
    assert [turn["role"] for turn in new["messages"]] == roles.split()
    assert violations(new) == []
    for turn in new["messages"]:
        if turn["role"] == "system":
            assert turn["content"] == [{"type": "text", "text": "Now greet in French."}]
    old = translate(say(*messages), model="claude-opus-4-7")
    assert violations(old) == []
    is_inside = "system" in roles.split()
    assert ("<system>\\nNow greet in French.\\n</system>" in json.dumps(old)) is is_inside
    assert ("system" in old) is not is_inside
    assert old["messages"][-1]["role"] == "user"


def test_last_turn_of_the_assistant_is_a_prefill_where_there_are_such() -> None:
    """Newer models refuse it, older ones refuse trailing space in it."""
    chat = say(USER, {"role": "assistant", "content": "The answer is "})
    assert translate(chat)["messages"][-1]["role"] == "user"
    old = translate(chat, model="claude-haiku-4-5")["messages"][-1]
    assert old == {"role": "assistant", "content": [{"type": "text", "text": "The answer is"}]}


def test_lone_system_message_is_answered() -> None:
    """OpenAI answers it, Claude needs a turn of the user."""
    wire = translate(say({"role": "system", "content": "Say hi."}))
    assert "system" not in wire
    assert wire["messages"] == [{"role": "user", "content": [{"type": "text", "text": "Say hi."}]}]


@pytest.mark.parametrize("content", ["", " \n", None, [], [{"type": "text", "text": ""}]])
def test_message_of_a_user_that_says_nothing_is_named(content: Any) -> None:
    """Empty parts are left out; if nothing is left, the 400 says where."""
    with pytest.raises(InvalidRequest) as caught:
        translate(say(USER, {"role": "user", "content": content}))
    assert caught.value.param == "messages[1].content"
    parts = [{"type": "text", "text": ""}, {"type": "text", "text": "x"}]
    (turn,) = translate(say({"role": "user", "content": parts}))["messages"]
    assert turn["content"] == [{"type": "text", "text": "x"}]


_PDF = b64encode(b"%PDF-1.7 tiny").decode()


@pytest.mark.parametrize(
    ("part", "block"),
    [
        (
            {"type": "image_url", "image_url": _PNG},
            {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="},
        ),
        (
            {"type": "image_url", "image_url": "https://example.org/a.png"},
            {"type": "url", "url": "https://example.org/a.png"},
        ),
        (
            {"type": "image_url", "image_url": {"url": "data:image/jpg;base64,/9j/\n4AAQ Sk=="}},
            {"type": "base64", "media_type": "image/jpeg", "data": "/9j/4AAQSk=="},
        ),
        (
            {"type": "image_url", "image_url": {"url": "DATA:IMAGE/PJPEG;BASE64,/9j/\r\n4AAQ"}},
            {"type": "base64", "media_type": "image/jpeg", "data": "/9j/4AAQ"},
        ),
        (
            {"type": "image_url", "image_url": {"url": "data:image/x-png;base64, iVBO "}},
            {"type": "base64", "media_type": "image/png", "data": "iVBO"},
        ),
        (
            {"type": "file", "file": {"file_data": f"{_PDF[:4]}\n{_PDF[4:]}"}},
            {"type": "base64", "media_type": "application/pdf", "data": _PDF},
        ),
        (
            {"type": "file", "file": {"file_data": f"data:application/x-pdf;base64,{_PDF} "}},
            {"type": "base64", "media_type": "application/pdf", "data": _PDF},
        ),
        (
            {"type": "file", "file": {"file_data": "https://example.org/a.pdf"}},
            {"type": "url", "url": "https://example.org/a.pdf"},
        ),
        (
            {"type": "file", "file": {"file_data": "data:image/jpg;base64,/9j/"}},
            {"type": "base64", "media_type": "image/jpeg", "data": "/9j/"},
        ),
        *[
            (
                {"type": "image_url", "image_url": {"url": f"data:{written};base64,iVBO"}},
                {"type": "base64", "media_type": media_type, "data": "iVBO"},
            )
            for written, media_type in (
                ("image/gif", "image/gif"),
                ("image/webp", "image/webp"),
                ("image/x-webp", "image/webp"),
                ("image/jpe", "image/jpeg"),
                (" image/png ;charset=x", "image/png"),
            )
        ],
        (
            {"type": "file", "file": {"file_data": f"data:text/pdf;base64,{_PDF}"}},
            {"type": "base64", "media_type": "application/pdf", "data": _PDF},
        ),
        (
            {"type": "file", "file": {"file_data": "data:text/markdown;base64,SGk="}},
            {"type": "text", "media_type": "text/plain", "data": "Hi"},
        ),
        (
            {"type": "file", "file": {"file_data": "SGk="}},
            {"type": "text", "media_type": "text/plain", "data": "Hi"},
        ),
        (
            {"type": "file", "file": {"file_data": "http://example.org/a.pdf"}},
            {"type": "url", "url": "http://example.org/a.pdf"},
        ),
        (
            {"type": "file", "file": {"file_data": "data:text/plain;base64,SGk\n="}},
            {"type": "text", "media_type": "text/plain", "data": "Hi"},
        ),
    ],
)
def test_media_as_programs_write_them(part: Json, block: Json) -> None:
    """Addresses without an object, misspelt types, base64 with line breaks; in results as well."""
    (turn,) = translate(say({"role": "user", "content": [part]}))["messages"]
    assert turn["content"][0]["source"] == block
    wire = translate(say(USER, _calls("a"), _result("a", [part])))
    assert wire["messages"][2]["content"][0]["content"][0]["source"] == block


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}], None),
        ([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "42"}], "42"),
        ([{"type": "reasoning", "text": "hm"}, {"type": "output_text", "text": "42"}], "42"),
        ([{"type": "text", "text": "4"}, {"type": "new"}, {"type": "text", "text": "2"}], "42"),
        ([{"type": "refusal", "refusal": "No."}], "No."),
        ([{"type": "text", "text": None}, {"type": "text"}], None),
        ([{"type": "image_url", "image_url": {"url": _PNG}}, {"type": "text", "text": "x"}], "x"),
    ],
)
def test_parts_that_another_vendor_gave_out_are_taken_back(content: Any, text: str | None) -> None:
    """What an assistant said is kept, what it thought is left out."""
    wire = translate(say(USER, {"role": "assistant", "content": content}, USER))
    roles = [turn["role"] for turn in wire["messages"]]
    if text is None:
        assert roles == ["user"]
    else:
        assert roles == ["user", "assistant", "user"]
        assert wire["messages"][1]["content"] == [{"type": "text", "text": text}]


_MARK = {"type": "ephemeral", "ttl": "1h"}


def test_marks_for_the_cache_are_kept() -> None:
    """Of a tool, a message of any role, a part, and the request."""
    tool = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    assistant = {**_calls("a"), "content": "So", "cache_control": _MARK}
    chat = say(
        {"role": "system", "content": "Be brief.", "cache_control": _MARK},
        {"role": "user", "content": [{"type": "text", "text": "x", "cache_control": _MARK}]},
        assistant,
    )
    wire = translate({**chat, "tools": [{**tool, "cache_control": _MARK}]})
    assert wire["tools"][0]["cache_control"] == _MARK
    assert wire["system"][0]["cache_control"] == _MARK
    assert wire["messages"][0]["content"][0]["cache_control"] == _MARK
    assert wire["messages"][1]["content"][-1]["cache_control"] == _MARK
    inside = {"type": "function", "function": {"name": "weather", "cache_control": _MARK}}
    chat = say(USER, _calls("a"), {**_result("a"), "cache_control": _MARK})
    wire = translate({**chat, "tools": [inside], "cache_control": _MARK})
    assert wire["messages"][2]["content"][0]["cache_control"] == _MARK
    assert wire["tools"][0]["cache_control"] == wire["cache_control"] == _MARK


def test_more_marks_than_the_api_takes_are_left_out_from_the_front() -> None:
    """Four, the request's among them; the later ones hold what the earlier ones do."""
    marked = {"role": "user", "content": "x", "cache_control": _MARK}
    chat = say(*[marked] * 6, {"role": "user", "content": "y"})
    for more, places in (({}, [2, 3, 4, 5]), ({"cache_control": _MARK}, [3, 4, 5])):
        wire = translate({**chat, **more})
        assert violations(wire) == []
        content = wire["messages"][0]["content"]
        assert [at for at, block in enumerate(content) if "cache_control" in block] == places
    parts = [{"type": "text", "text": "x", "cache_control": _MARK}] * 6
    wire = translate(say(USER, _calls("a"), {**_result("a", parts), "cache_control": _MARK}))
    assert violations(wire) == []
    (result,) = wire["messages"][2]["content"]
    assert "cache_control" in result
    assert ["cache_control" in block for block in result["content"]] == [False] * 3 + [True] * 3


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": "data:image/jpg;base64,data:image/jpg;base64,AA A="},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVB!"}},
        {"type": "file", "file": {"file_data": "not base64, but words"}},
    ],
)
def test_data_that_is_not_base64_is_refused_by_name(part: dict[str, Any]) -> None:
    """Before it costs an attempt."""
    with pytest.raises(InvalidRequest, match=r"messages\[0\]\.content\[0\]"):
        translate(say({"role": "user", "content": [part]}))


def test_images_and_files() -> None:
    """Data URLs and http URLs of images, PDF and text files, marks of the cache."""
    parts = [
        {"type": "image_url", "image_url": {"url": _PNG, "detail": "high"}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.jpg"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "JVBERi0xLjQK"}},
        {
            "type": "file",
            "file": {"file_data": "data:text/plain;base64," + b64encode("Grüße".encode()).decode()},
            "prompt_cache_breakpoint": {"mode": "explicit"},
        },
    ]
    content = translate(say({"role": "user", "content": parts}))["messages"][0]["content"]
    assert content[0]["source"] == {
        "type": "base64",
        "media_type": "image/png",
        "data": "iVBORw0KGgo=",
    }
    assert content[1]["source"] == {"type": "url", "url": "https://example.org/a.jpg"}
    assert (content[2]["source"]["media_type"], content[2]["title"]) == ("application/pdf", "a.pdf")
    assert content[3]["source"]["data"] == "Grüße"
    assert content[3]["cache_control"] == {"type": "ephemeral"}


@pytest.mark.parametrize(
    ("part", "path"),
    [
        ({"type": "input_audio", "input_audio": {"data": "", "format": "mp3"}}, ""),
        (
            {"type": "image_url", "image_url": {"url": "data:image/tiff;base64,AA"}},
            ".image_url.url",
        ),
        ({"type": "image_url", "image_url": {"url": "ftp://x"}}, ".image_url.url"),
        ({"type": "image_url", "image_url": "ftp://x"}, ".image_url.url"),
        ({"type": "file", "file": {"file_data": "data:text/plain;base64,IA=="}}, ".file.file_data"),
        ({"type": "image_url", "image_url": {"url": "data:image/png,raw"}}, ".image_url.url"),
        ({"type": "file", "file": {"file_id": "file-1"}}, ".file"),
        (
            {"type": "file", "file": {"file_data": "data:application/zip;base64,AA"}},
            ".file.file_data",
        ),
        ({"type": "file", "file": {"file_data": "data:text/plain;base64,/w=="}}, ".file.file_data"),
        ({"type": "video_url", "video_url": {}}, ".type"),
        ({"type": "text", "text": 1}, ".text"),
    ],
)
def test_part_that_claude_can_not_take_is_named(part: Json, path: str) -> None:
    """The path leads to the part in the caller's own request."""
    with pytest.raises(InvalidRequest) as caught:
        translate(say(USER, {"role": "user", "content": [{"type": "text", "text": "x"}, part]}))
    assert caught.value.param == f"messages[1].content[1]{path}"


def _calls(*ids: str) -> Json:
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": each, "type": "function", "function": {"name": "weather", "arguments": "{}"}}
            for each in ids
        ],
    }


def _result(call_id: str, content: Any = "sunny") -> Json:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def test_results_of_parallel_calls_stand_first_in_one_turn() -> None:
    """Even if the caller has put a word before them; images in results pass."""
    image = [{"type": "image_url", "image_url": {"url": _PNG}}]
    wire = translate(
        say(
            USER,
            _calls("a", "b"),
            _result("a"),
            {"role": "user", "content": "And?"},
            _result("b", image),
        )
    )
    turn = wire["messages"][2]["content"]
    assert [block["type"] for block in turn] == ["tool_result", "tool_result", "text"]
    assert [block.get("tool_use_id") for block in turn] == ["a", "b", None]
    assert violations(wire) == []
    assert turn[1]["content"][0]["type"] == "image"
    assert wire["tools"] == [{"name": "weather", "input_schema": {"type": "object"}}]
    assert wire["tool_choice"] == {"type": "none"}


def test_ids_of_other_makers_are_made_fit() -> None:
    """Claude takes [a-zA-Z0-9_-] and each id once; call and result stay together."""
    odd, long = "functions.weather:0", "x" * 200
    wire = translate(
        say(USER, _calls(odd, long), _result(odd), _result(long), _calls(odd), _result(odd))
    )
    calls = [b["id"] for t in wire["messages"] for b in t["content"] if b["type"] == "tool_use"]
    results = [
        b["tool_use_id"]
        for t in wire["messages"]
        for b in t["content"]
        if b["type"] == "tool_result"
    ]
    assert calls == results
    assert len(set(calls)) == 3
    assert all(len(each) <= 64 and each.replace("_", "").isalnum() for each in calls)


@pytest.mark.parametrize(
    ("ids", "sent"),
    [
        (["x" * 64], ["x" * 64]),
        (["x" * 64] * 3, ["x" * 64, f"{'x' * 56}_2", f"{'x' * 56}_3"]),
        (["a.b", "a.b"], ["call_2e7336dc8eba87ef472df568", "call_2e7336dc8eba87ef472df568_2"]),
        (["x" * 65], ["call_9537c5fdf120482f7d58d25e"]),
        ([""], ["call_e3b0c44298fc1c149afbf4c8"]),
    ],
)
def test_ids_are_the_same_every_time(ids: list[str], sent: list[str]) -> None:
    """As they were if possible, else by what they were: the cache needs equal beginnings."""
    wire = translate(say(USER, _calls(*ids)))
    assert [block["id"] for block in wire["messages"][1]["content"]] == sent


def test_title_of_a_document_is_the_files_name() -> None:
    """By URL or inline; an image has none."""
    for data, title in (("https://example.org/a.pdf", "n"), (_PDF, "n"), (_PNG, None)):
        part = {"type": "file", "file": {"file_data": data, "filename": "n"}}
        (turn,) = translate(say({"role": "user", "content": [part]}))["messages"]
        assert turn["content"][0].get("title") == title


def test_arguments_keep_their_bytes() -> None:
    """Numbers and escapes in arguments are not respelled."""
    call = _calls("a")
    call["tool_calls"][0]["function"]["arguments"] = '{"n": 1.50, "big": 123456789012345678901234}'
    body = to_request(
        json.dumps(say(USER, call, _result("a"))).encode(), model="claude-opus-5", stream=False
    )
    assert b'"input":{"n": 1.50, "big": 123456789012345678901234}' in body


@pytest.mark.parametrize(
    ("arguments", "taken"),
    [
        ("null", {}),
        (" null ", {}),
        ("", {}),
        (" \n", {}),
        (None, {}),
        ('{"command": "ls -', {"arguments": '{"command": "ls -'}),
        ("[1]", {"arguments": "[1]"}),
        ('"x"', {"arguments": '"x"'}),
        ("{", {"arguments": "{"}),
        ("nonsense", {"arguments": "nonsense"}),
        ('{"a":1}{"b":2}', {"arguments": '{"a":1}{"b":2}'}),
        ("[" * 5000, {"arguments": "[" * 5000}),
        ({"a": [1]}, {"a": [1]}),
        ([1], {"arguments": "[1]"}),
        ('{"a":"\\ud83d"}', {"a": "\ufffd"}),
    ],
)
def test_arguments_of_an_earlier_call_never_refuse_the_request(arguments: Any, taken: Json) -> None:
    """They stay in the history for ever: null and empty is none, other text is one member."""
    call = _calls("a")
    call["tool_calls"][0]["function"]["arguments"] = arguments
    wire = translate(say(USER, call, _result("a")))
    assert wire["messages"][1]["content"][0]["input"] == taken


def test_call_without_arguments_is_taken() -> None:
    """The field is not there."""
    call = _calls("a")
    del call["tool_calls"][0]["function"]["arguments"]
    assert translate(say(USER, call))["messages"][1]["content"][0]["input"] == {}


def _legacy(name: str, arguments: str = "{}") -> Json:
    """A call of before there were tools."""
    call = {"name": name, "arguments": arguments}
    return {"role": "assistant", "content": None, "function_call": call}


def test_calls_of_before_there_were_tools_are_taken() -> None:
    """Results go to the last call of their name; one that is missing is told."""
    said = [
        _legacy("f", '{"n": 1}'),
        {"role": "function", "name": "f", "content": "one"},
        _legacy("f", '{"n": '),
        {"role": "function", "name": "f", "content": "two"},
        _legacy("files.read"),
        {"role": "assistant", "content": "So.", "function_call": {}},
        {"role": "function", "name": "g", "content": "lost"},
    ]
    wire = translate(say(USER, *said))
    assert violations(wire) == []
    calls = [b for t in wire["messages"] for b in t["content"] if b["type"] == "tool_use"]
    assert [call["input"] for call in calls] == [{"n": 1}, {"arguments": '{"n": '}, {}]
    assert [call["name"] for call in calls] == ["f", "f", plain_name("files.read")]
    results = _results(wire)
    assert [call_id for call_id, _ in results] == [call["id"] for call in calls]
    assert [text for _, text in results[:2]] == ["one", "two"]
    assert wire["messages"][-1]["content"][0]["text"] == "<result>\nlost\n</result>"


def test_call_in_both_forms_is_one() -> None:
    """Some programs keep the old form beside the new one."""
    both = {**_calls("a"), "function_call": {"name": "f", "arguments": "{}"}}
    wire = translate(say(USER, both, _result("a", "x")))
    assert _results(wire) == [("a", "x")]


def test_earlier_call_of_a_custom_tool_is_one_of_a_function() -> None:
    """Its text is the one parameter: OpenAI's own agents leave such calls in histories."""
    call = {"id": "a", "type": "custom", "custom": {"name": "sh", "input": 'ls "ü"\n'}}
    wire = translate(say(USER, {"role": "assistant", "tool_calls": [call]}, _result("a")))
    block = wire["messages"][1]["content"][0]
    assert (block["name"], block["input"]) == ("sh", {"input": 'ls "ü"\n'})


@pytest.mark.parametrize("ids", [["", ""], ["x", "x"], [None, None], ["a.b", "a.b"]])
def test_calls_with_equal_ids_are_told_apart_by_place(ids: list[Any]) -> None:
    """Two ids, and the first result for the first."""
    chat = say(USER, _calls(*ids), _result(ids[0], "rain"), _result(ids[1], "sun"))
    wire = translate(chat)
    first, second = [block["id"] for block in wire["messages"][1]["content"]]
    assert first != second
    results = wire["messages"][2]["content"]
    assert [each["tool_use_id"] for each in results] == [first, second]
    assert [each["content"][0]["text"] for each in results] == ["rain", "sun"]


def _results(wire: Json) -> list[tuple[str, str]]:
    return [
        (block["tool_use_id"], block["content"][0]["text"])
        for turn in wire["messages"]
        for block in turn["content"]
        if block["type"] == "tool_result"
    ]


_NOT_RUN = "This call was not run, or its result is lost."


@pytest.mark.parametrize(
    ("messages", "results"),
    [
        # out of order, doubled, missing, none
        ([_calls("a", "b"), _result("b", "B"), _result("a", "A")], [("a", "A"), ("b", "B")]),
        ([_calls("a"), _result("a", "A"), _result("a", "again")], [("a", "again")]),
        ([_calls("a", "b"), _result("b", "B")], [("a", _NOT_RUN), ("b", "B")]),
        ([_calls("a", "b")], [("a", _NOT_RUN), ("b", _NOT_RUN)]),
        ([_calls("a"), USER], [("a", _NOT_RUN)]),
        ([_calls("a"), {"role": "assistant", "content": "Hm."}, USER], [("a", _NOT_RUN)]),
        # talk between a call and its result
        ([_calls("a"), USER, _result("a", "A")], [("a", "A")]),
        (
            [_calls("a"), USER, {"role": "assistant", "content": "Hm."}, _result("a", "A")],
            [("a", "A")],
        ),
        # ids that come again
        (
            [_calls("a"), _result("a", "A"), _calls("a"), _result("a", "B")],
            [("a", "A"), ("a_2", "B")],
        ),
        ([_calls("a"), _calls("a"), _result("a", "B")], [("a", "B"), ("a_2", _NOT_RUN)]),
        # one message for each of several calls
        (
            [_calls("a"), _calls("b"), _result("a", "A"), _result("b", "B")],
            [("a", "A"), ("b", "B")],
        ),
    ],
)
def test_every_call_has_one_result(messages: list[Json], results: list[tuple[str, str]]) -> None:
    """The last that came, in the turn behind it; an unanswered one is told so."""
    for model in ("claude-opus-4-6", "claude-opus-4-8"):
        wire = translate(say(USER, *messages), model=model)
        assert violations(wire) == []
        assert _results(wire) == results


@pytest.mark.parametrize("lost", ["call", "result"])
def test_result_finds_its_call_though_one_of_them_lost_what_its_id_carried(lost: str) -> None:
    """A program cut the ids of calls, or of results, at the separator."""
    carried = carry("b", [ThinkingBlock(type="thinking", signature="s")])
    first, second = ("b", carried) if lost == "call" else (carried, "b")
    wire = translate(say(USER, _calls("a", first), _result(second, "B"), _result("a", "A")))
    assert _results(wire) == [("a", "A"), ("b", "B")]


def test_unanswered_call_is_an_error() -> None:
    """`is_error` is Claude's word for it."""
    (result,) = translate(say(USER, _calls("a")))["messages"][2]["content"]
    assert result["is_error"] is True


def test_result_whose_call_is_cut_off_is_what_the_user_says() -> None:
    """Agents cut their histories anywhere."""
    image = {"type": "image_url", "image_url": {"url": _PNG}}
    wire = translate(say(_result("a", [{"type": "text", "text": "sunny"}, image]), USER))
    content = wire["messages"][0]["content"]
    assert content[0]["text"] == "<result>\nsunny\n</result>"
    assert [block["type"] for block in content] == ["text", "image", "text"]


def _assistant_messages(answer: Json) -> Generator[Json]:
    """What a caller holds after `answer`, from a unary answer and from a stream."""
    body = to_chat(json.dumps(answer).encode(), model="alias", created=1)
    yield json.loads(body)["choices"][0]["message"]
    stream = ChatStream(model="alias", created=1, include_usage=True)
    chunks = [json.loads(chunk) for chunk in fed(stream, claude.data(claude.events(answer)))]
    yield join(chunks)["choices"][0]["message"]


_THINKING_ANSWERS = {
    "between": claude.ANSWERS["parallel calls with thinking between"],
    "after text": claude.message(
        claude.text("Ünï"),
        claude.thinking("hm"),
        claude.text("code"),
        claude.redacted_thinking(),
        claude.tool_use("toolu_01A", "weather", {"city": "Paris"}),
        stop_reason="tool_use",
    ),
    "hidden": claude.message(
        claude.thinking("", "A" * 5000),
        claude.tool_use("toolu_01A", "weather", {"city": "Paris"}),
        stop_reason="tool_use",
    ),
}


@pytest.mark.parametrize("keeps_extras", [True, False])
@pytest.mark.parametrize("name", _THINKING_ANSWERS)
def test_thinking_survives_a_tool_loop_through_a_caller(name: str, keeps_extras: bool) -> None:
    """Text, signature, order and place: by the extra field or, if it is dropped, by the ids."""
    answer = _THINKING_ANSWERS[name]
    for given in _assistant_messages(answer):
        fields = given.keys() if keeps_extras else ("role", "content", "tool_calls")
        message = {key: given[key] for key in fields}
        results = [_result(call["id"]) for call in message["tool_calls"]]
        wire = translate(say(USER, message, *results), model="claude-opus-5-5")
        shown = [
            {key: value for key, value in block.items() if key not in ("citations", "caller")}
            for block in answer["content"]
        ]
        assert wire["messages"][1]["content"] == shown
        assert wire["thinking"]["block_binding"] == {"prefix_mismatch_behavior": "drop_block"}
        assert [block["tool_use_id"] for block in wire["messages"][2]["content"]] == [
            block["id"] for block in answer["content"] if block["type"] == "tool_use"
        ]


def test_thinking_with_a_budget_needs_the_thinking_of_the_loop() -> None:
    """Calls that another upstream made have none: thinking rests until the loop is over."""
    loop = say(USER, _calls("a"), _result("a"))
    wire = translate({**loop, "reasoning_effort": "low"}, model="claude-haiku-4-5")
    assert "thinking" not in wire
    over = say(USER, _calls("a"), _result("a"), {"role": "assistant", "content": "Sunny."}, USER)
    wire = translate({**over, "reasoning_effort": "low"}, model="claude-haiku-4-5")
    assert wire["thinking"]["type"] == "enabled"


@pytest.mark.parametrize("begins", [claude.thinking("hm"), claude.redacted_thinking()])
def test_thinking_with_a_budget_goes_on_in_a_loop_that_thinks(begins: Json) -> None:
    """Each turn that calls begins with thinking, of either kind."""
    call = claude.tool_use("toolu_01A", "weather", {"city": "Paris"})
    (message, _) = _assistant_messages(claude.message(begins, call, stop_reason="tool_use"))
    loop = say(USER, message, _result(message["tool_calls"][0]["id"]))
    wire = translate({**loop, "reasoning_effort": "low"}, model="claude-haiku-4-5")
    assert wire["thinking"]["type"] == "enabled"


@pytest.mark.parametrize(
    ("model", "off"), [("claude-haiku-5-5", "disabled"), ("claude-sonnet-5-5", "between_tools")]
)
def test_thinking_that_is_off_is_not_sent_back_where_it_is_checked(model: str, off: str) -> None:
    """These models check blocks against the conversation even if they don't use them."""
    (message, _) = _assistant_messages(_THINKING_ANSWERS["after text"])
    chat = say(USER, message, _result(message["tool_calls"][0]["id"]))
    wire = translate({**chat, "reasoning_effort": "none"}, model=model)
    assert wire["thinking"] == {"type": off}
    assert [b["type"] for b in wire["messages"][1]["content"]] == ["text", "text", "tool_use"]


def test_turn_never_ends_in_thinking() -> None:
    """The API refuses that; an answer which was cut while thinking looks so."""
    block = {"type": "thinking", "thinking": "t", "signature": "s"}
    cut = {"role": "assistant", "content": "", "thinking_blocks": [block, {"type": "new"}]}
    wire = translate(say(USER, cut, {"role": "user", "content": "Go on"}))
    assert [turn["role"] for turn in wire["messages"]] == ["user"]
