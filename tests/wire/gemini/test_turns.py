"""Messages, tools and formats as Gemini gets them, read by google-genai's own types."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import unquote

import pytest

from proxy.wire.gemini import calls
from proxy.wire.gemini.models import wire_name
from tests.support import gemini_upstream as upstream
from tests.support.gemini_rules import violations
from tests.wire.gemini.requests import (
    FLASH,
    HELLO,
    TOOL,
    Json,
    called,
    config,
    contents,
    refused,
    result,
    signed,
    tool_call,
    translate,
    user,
)

MODELS = ["gemini-2.5-flash", FLASH]

# -- messages ---------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_system_messages_stay_where_they_are(model: str) -> None:
    """The first ones are the instruction; a later one changes nothing before it, for the cache."""
    first: list[Json] = [
        {"role": "system", "content": "One."},
        {"role": "developer", "content": [{"type": "text", "text": "Two."}]},
        *HELLO,
        {"role": "assistant", "content": "Hello."},
    ]
    made = translate(model, messages=[*first, {"role": "system", "content": "Greet in French."}])
    assert made["systemInstruction"] == {"parts": [{"text": "One."}, {"text": "Two."}]}
    marked = {"text": "<system>\nGreet in French.\n</system>"}
    assert made["contents"][-1] == {"role": "user", "parts": [marked]}
    before = translate(model, messages=first)
    assert before["systemInstruction"] == made["systemInstruction"]
    assert before["contents"][:2] == made["contents"][:2]
    alone = translate(model, messages=[{"role": "system", "content": "One."}])
    assert alone["contents"] == [{"role": "user", "parts": [{"text": "One."}]}]
    assert "systemInstruction" not in alone


def test_system_message_joins_what_the_user_said() -> None:
    """Before it or behind it; empty ones are nothing."""
    system = {"role": "system", "content": "Be brief."}
    made = contents(*HELLO, system, {"role": "system", "content": ""}, *HELLO)
    texts = ["Hello", "<system>\nBe brief.\n</system>", "Hello"]
    assert made == [{"role": "user", "parts": [{"text": text} for text in texts]}]


def test_consecutive_messages_of_a_role_are_one_turn() -> None:
    """And empty assistant messages none."""
    made = contents(
        *HELLO,
        *HELLO,
        {"role": "assistant", "content": "A"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "B"}]},
        {"role": "assistant", "content": ""},
        *HELLO,
    )
    assert [turn["role"] for turn in made] == ["user", "model", "user"]
    assert [len(turn["parts"]) for turn in made] == [2, 2, 1]


def test_media_parts() -> None:
    """Data URLs and base64 go inline; https URLs are Gemini's to fetch."""
    pdf = base64.b64encode(b"%PDF").decode()
    (turn,) = contents(
        user(
            {"type": "text", "text": "See"},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{upstream.PNG}"}},
            {
                "type": "image_url",
                "image_url": {"url": "https://a.test/b.jpg?c=d", "detail": "low"},
            },
            {"type": "image_url", "image_url": "HTTPS://a.test/b"},
            {"type": "input_audio", "input_audio": {"data": pdf, "format": "mp3"}},
            {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{pdf}"}},
            {"type": "file", "file": {"file_data": pdf, "filename": "a.pdf"}},
            {"type": "image_url", "image_url": {"url": "data:image/svg+xml,%3Csvg/%3E"}},
            {"type": "image_url", "image_url": {"url": f"DATA:image/png;BASE64,{upstream.PNG}"}},
        )
    )
    assert turn["parts"] == [
        {"text": "See"},
        {"inlineData": {"mimeType": "image/png", "data": upstream.PNG}},
        {"fileData": {"fileUri": "https://a.test/b.jpg?c=d", "mimeType": "image/jpeg"}},
        {"fileData": {"fileUri": "HTTPS://a.test/b"}},
        {"inlineData": {"mimeType": "audio/mp3", "data": pdf}},
        {"inlineData": {"mimeType": "application/pdf", "data": pdf}},
        {"inlineData": {"mimeType": "application/pdf", "data": pdf}},
        {"inlineData": {"mimeType": "image/svg+xml", "data": "PHN2Zy8+"}},
        {"inlineData": {"mimeType": "image/png", "data": upstream.PNG}},
    ]


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("image/jpg", "image/jpeg"),
        ("IMAGE/PNG", "image/png"),
        ("image/x-png; name=a.png", "image/png"),
        ("image/pjpeg", "image/jpeg"),
        ("image/jpe", "image/jpeg"),
        ("image/x-webp", "image/webp"),
        ("application/x-pdf", "application/pdf"),
        ("audio/x-wav", "audio/wav"),
        ("audio/wave", "audio/wav"),
        ("audio/vnd.wave", "audio/wav"),
        ("audio/x-mp3", "audio/mp3"),
        ("audio/mpeg3", "audio/mp3"),
        ("audio/x-mpeg", "audio/mp3"),
        ("audio/x-flac", "audio/flac"),
        ("audio/x-aiff", "audio/aiff"),
        ("audio/x-aac", "audio/aac"),
        ("text/pdf", "application/pdf"),
        ("text/x-markdown", "text/markdown"),
        ("application/x-javascript", "text/javascript"),
        ("image/heic", "image/heic"),
    ],
)
def test_media_types_are_sent_as_registered(written: str, sent: str) -> None:
    """Gemini refuses a type that it does not know, such as image/jpg."""
    url = f"data:{written};base64,{upstream.PNG}"
    parts: list[Json] = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "image_url", "image_url": url},
        {"type": "file", "file": {"file_data": url}},
    ]
    (turn,) = contents(user(*parts))
    assert [part["inlineData"]["mimeType"] for part in turn["parts"]] == [sent] * 3


@pytest.mark.parametrize(
    "data",
    [
        f"{upstream.SIGNATURE[:10]}\r\n{upstream.SIGNATURE[10:]}",
        f" {upstream.SIGNATURE[:9]} \t{upstream.SIGNATURE[9:]}\n",
        upstream.SIGNATURE.rstrip("="),
        upstream.SIGNATURE.replace("=", "%3D").replace("+", "%2B"),
        upstream.SIGNATURE.replace("+", "-").replace("/", "_"),
    ],
)
def test_base64_is_taken_as_programs_write_it(data: str) -> None:
    """With line breaks, blanks, without padding, for URLs; sent plain."""
    parts: list[Json] = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        {"type": "input_audio", "input_audio": {"data": unquote(data), "format": "wav"}},
        {"type": "file", "file": {"file_data": unquote(data), "filename": "a.pdf"}},
    ]
    (turn,) = contents(user(*parts))
    assert [part["inlineData"]["data"] for part in turn["parts"]] == [upstream.SIGNATURE] * 3


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("mp3", "audio/mp3"),
        ("wav", "audio/wav"),
        ("pcm16", "audio/l16"),
        ("flac", "audio/flac"),
        ("x-wav", "audio/wav"),
    ],
)
def test_names_of_audio_formats(name: str, sent: str) -> None:
    """OpenAI's are no subtypes of audio/, those of others are."""
    audio = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": name}}
    (turn,) = contents(user(audio))
    assert turn["parts"] == [{"inlineData": {"mimeType": sent, "data": "AAAA"}}]


def test_empty_texts_are_left_out() -> None:
    """Gemini refuses an empty text part."""
    empty, full = {"type": "text", "text": ""}, {"type": "text", "text": "Hi"}
    made = translate(
        messages=[
            {"role": "system", "content": [empty, full]},
            {"role": "system", "content": ""},
            user(empty, full, empty),
            called(tool_call("aa")) | {"content": [empty]},
            result("aa", [empty, full]),
        ]
    )
    assert made["systemInstruction"] == {"parts": [{"text": "Hi"}]}
    assert made["contents"][0]["parts"] == [{"text": "Hi"}]
    assert len(made["contents"][1]["parts"]) == 1


@pytest.mark.parametrize("content", ["", None, [], [{"type": "text", "text": ""}]])
def test_message_of_nothing_is_named(content: Any) -> None:
    """What the user said cannot be left out in silence."""
    error = refused(messages=[*HELLO, {"role": "user", "content": content}])
    assert error.param == "messages[1].content"


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "image_url", "image_url": {"url": "http://a.test/b.png"}}, ""),
        ({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, ""),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,!"}}, ""),
        ({"type": "image_url", "image_url": {"url": "data:;base64,AAAA"}}, ""),
        ({"type": "image_url", "image_url": {"url": "data:image/png"}}, ""),
        ({"type": "image_url", "image_url": {"url": "https://[a"}}, ""),
        ({"type": "image_url", "image_url": {"url": 7}}, ".image_url"),
        ({"type": "image_url"}, ""),
        ({"type": "video", "text": "x"}, ""),
        ({"type": "file", "file": {"file_id": "file-1"}}, ".file.file_id"),
        ({"type": "file", "file": {}}, ".file"),
        ({"type": "file", "file": {"file_data": "AAAA"}}, ".file"),
        ({"text": "no type"}, ""),
    ],
)
def test_part_without_a_place_is_named(part: Json, param: str) -> None:
    """A 400 with the path of the part."""
    error = refused(messages=[*HELLO, user({"type": "text", "text": "x"}, part)])
    assert (error.param or "").startswith(f"messages[1].content[1]{param}")
    assert error.status == 400


def test_refusal_is_part_of_the_history() -> None:
    """OpenAI has it beside a content of null; what was said goes before it."""
    for content, said in ((None, "No."), ("", "No."), ("Well.", "Well.")):
        message = {"role": "assistant", "content": content, "refusal": "No."}
        turn = contents(*HELLO, message, *HELLO)[1]
        assert turn == {"role": "model", "parts": [{"text": said}]}


def test_old_models_fetch_no_urls() -> None:
    """Gemini 2.0 reads files of its own service only; each refusal says what is taken instead."""
    for scheme, model, taken in (
        ("https", "gemini-2.0-flash", "data URLs"),
        ("http", "gemini-2.0-flash", "data URLs"),
        ("http", "gemini-2.5-flash", "public https URLs and data URLs"),
    ):
        part = {"type": "image_url", "image_url": {"url": f"{scheme}://a.test/b.png"}}
        error = refused(model, messages=[user(part)])
        assert error.param == "messages[0].content[0]"
        assert f" takes {taken} only" in str(error)


def test_tool_results_find_name_and_id_of_their_calls() -> None:
    """Results of parallel calls share a turn; text that follows opens another."""
    made = contents(
        *HELLO,
        called(
            tool_call("aa", ' {"x": 12345678901234567890} '), tool_call("bb", ""), content="So:"
        ),
        result("bb", [{"type": "text", "text": "2"}]),
        result("aa", '{"y": 1}'),
        *HELLO,
    )
    assert made[1]["parts"] == [
        {"text": "So:"},
        {"functionCall": {"id": "aa", "name": "f_aa", "args": {"x": 12345678901234567890}}},
        {"functionCall": {"id": "bb", "name": "f_bb", "args": {}}},
    ]
    assert made[2] == {
        "role": "user",
        "parts": [
            {"functionResponse": {"id": "aa", "name": "f_aa", "response": {"output": '{"y": 1}'}}},
            {"functionResponse": {"id": "bb", "name": "f_bb", "response": {"output": "2"}}},
        ],
    }
    assert made[3]["role"] == "user"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"command": "ls -', {"arguments": '{"command": "ls -'}),
        ("null", {}),
        (" null\n", {}),
        ("", {}),
        (" ", {}),
        ("[1]", {"arguments": "[1]"}),
        ('"text"', {"arguments": '"text"'}),
        ("7", {"arguments": "7"}),
        ("[" * 9999, {"arguments": "[" * 9999}),
        ({"city": "Köln"}, {"city": "Köln"}),
        ([1], {"arguments": "[1]"}),
        (None, {}),
    ],
)
@pytest.mark.parametrize("model", ["gemini-2.5-flash", "gemini-3.5-flash"])
def test_arguments_of_an_earlier_call_are_never_refused(
    arguments: Any, expected: Json, model: str
) -> None:
    """A call that was cut off stays in the history: a 400 for it would end the conversation."""
    history = [called(tool_call("aa", arguments)), result("aa", "error: no valid JSON")]
    made = contents(*HELLO, *history, *HELLO, model=model)
    assert made[1]["parts"][0]["functionCall"]["args"] == expected


def test_text_that_was_cut_within_an_emoji_is_taken() -> None:
    """A stream that was cut leaves half of one; a protobuf string cannot hold it."""
    cut = {"city": "\ud83d", "whole": "\U0001f30d"}
    made = contents(
        {"role": "user", "content": "A \udf0d"},
        called(tool_call("aa", json.dumps(cut)), content="So \ud83d"),
        result("aa", [{"type": "text", "text": "\ud83d\ud83d"}]),
    )
    assert [part["text"] for part in (made[0]["parts"][0], made[1]["parts"][0])] == [
        "A \ufffd",
        "So \ufffd",
    ]
    assert made[1]["parts"][1]["functionCall"]["args"] == {"city": "\ufffd", "whole": "\U0001f30d"}
    assert made[2]["parts"][0]["functionResponse"]["response"] == {"output": "\ufffd\ufffd"}


def paired(*messages: Json, model: str = FLASH) -> list[Json]:
    """The contents, found right by Gemini's rules."""
    made = translate(model, messages=list(messages))
    assert violations(made, model=model) == []
    found: list[Json] = made["contents"]
    return found


def outputs(turn: Json) -> list[str]:
    """What the results in this turn say."""
    found = [part["functionResponse"]["response"] for part in turn["parts"]]
    return [one.get("output") or "!" for one in found]


WEATHER = [
    {"id": f"call_{n}", "function": {"name": "weather", "arguments": f'{{"city":"{city}"}}'}}
    for n, city in enumerate(["Tokyo", "Paris"], 1)
]
TOKYO, PARIS = result("call_1", "TOKYO: sun"), result("call_2", "PARIS: rain")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "messages",
    [
        [called(*WEATHER), PARIS, TOKYO],
        [called(*WEATHER), TOKYO, *HELLO, PARIS],
        [called(*WEATHER), *HELLO, PARIS, TOKYO],
        [called(*WEATHER), {"role": "system", "content": "Be brief."}, PARIS, TOKYO],
        [called(*WEATHER), result("call_1", "TOKYO: first"), PARIS, TOKYO],
        [called(WEATHER[0]), called(WEATHER[1]), PARIS, TOKYO],
    ],
)
def test_results_come_at_once_and_in_the_order_of_their_calls(
    messages: list[Json], model: str
) -> None:
    """Before Gemini 3 they are matched by name and order alone; the last of two results counts."""
    made = paired(*HELLO, *messages, model=model)
    assert len(made[1]["parts"]) == 2
    assert outputs(made[2]) == ["TOKYO: sun", "PARIS: rain"]


def test_talk_between_a_call_and_its_result_comes_behind() -> None:
    """The user typed meanwhile."""
    made = paired(*HELLO, called(*WEATHER), user({"type": "text", "text": "Hurry"}), PARIS, TOKYO)
    assert made[3] == {"role": "user", "parts": [{"text": "Hurry"}]}
    assert len(made) == 4


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([called(*WEATHER), PARIS], [["!", "PARIS: rain"]]),
        ([called(*WEATHER), *HELLO], [["!", "!"]]),
        ([called(*WEATHER)], [["!", "!"]]),
        ([called(WEATHER[0]), called(WEATHER[1], content="And:"), PARIS], [["!"], ["PARIS: rain"]]),
        ([called(WEATHER[0]), {"role": "assistant", "content": "So."}], [["!"]]),
    ],
)
def test_call_without_a_result_gets_one_that_says_so(
    messages: list[Json], expected: list[list[str]], model: str
) -> None:
    """Gemini counts them: as many results as calls, in the turn behind the calls."""
    made = paired(*HELLO, *messages, model=model)
    found = [turn for turn in made if "functionResponse" in turn["parts"][0]]
    assert [outputs(turn) for turn in found] == expected
    lost = found[0]["parts"][0]["functionResponse"]["response"]
    assert "not run" in lost["error"]


def test_result_whose_call_was_cut_off_is_told_as_text() -> None:
    """A history that was trimmed begins with it."""
    made = paired(result("zz", "sunny"), *HELLO)
    texts = ["<result>\nsunny\n</result>", "Hello"]
    assert made == [{"role": "user", "parts": [{"text": text} for text in texts]}]
    made = paired(*HELLO, called(WEATHER[0]), TOKYO, result("other", "x"))
    assert made[3] == {"role": "user", "parts": [{"text": "<result>\nx\n</result>"}]}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("call_id", ["", "call_1", None, "x" * 300])
def test_equal_ids_are_told_apart_by_place(call_id: str | None, model: str) -> None:
    """In one message, and where a later one uses them again."""
    calls_made = [{**call, "id": call_id} for call in WEATHER]
    found = [{**TOKYO, "tool_call_id": call_id}, {**PARIS, "tool_call_id": call_id}]
    again = [{**TOKYO, "tool_call_id": call_id, "content": "again"}]
    made = paired(
        *HELLO,
        called(*calls_made),
        *found,
        called(calls_made[0]),
        *again,
        called(*calls_made),
        *found,
        *again,
        model=model,
    )
    assert outputs(made[2]) == ["TOKYO: sun", "PARIS: rain"]
    assert outputs(made[4]) == ["again"]
    assert outputs(made[6]) == ["TOKYO: sun", "again"]
    ids = [part["functionCall"].get("id") for turn in made[1::2] for part in turn["parts"]]
    assert len(set(ids)) == (5 if model == FLASH else 1)


def test_result_finds_its_call_though_one_of_them_lost_what_its_id_carried() -> None:
    """A program cut the ids of calls, or of results, at the separator."""
    carried = calls.make_id("call_1", upstream.SIGNATURE)
    for first, second in ((carried, "call_1"), ("call_1", carried)):
        made = paired(*HELLO, called({**WEATHER[0], "id": first}), result(second, "sun"))
        assert outputs(made[2]) == ["sun"]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "first",
    [
        {"role": "assistant", "content": "How can I help?"},
        called(WEATHER[0]),
        called(WEATHER[0], content="I will look."),
    ],
)
def test_history_that_begins_or_ends_with_the_assistant(first: Json, model: str) -> None:
    """Gemini wants the user's turn first and last."""
    for messages in ([{"role": "system", "content": "S"}, first, *HELLO], [first], [*HELLO, first]):
        made = paired(*messages, model=model)
        if messages[0] not in HELLO:
            assert made[0] == {"role": "user", "parts": [{"text": "Continue."}]}


MISTRAL = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([MISTRAL, {"type": "text", "text": "Yes."}], ["Yes."]),
        ([MISTRAL], []),
        ([{"type": "thinking", "thinking": "Hm."}, {"type": "output_text", "text": "A"}], ["A"]),
        ([{"type": "reasoning", "text": "Hm."}, {"type": "refusal", "refusal": "No."}], ["No."]),
        ([{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "A"}], ["A"]),
        ([{"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": ""}], []),
    ],
)
@pytest.mark.parametrize("with_call", [False, True])
def test_parts_that_other_vendors_gave_out(
    content: list[Json], expected: list[str], with_call: bool
) -> None:
    """The text is kept, the thinking left out: what we passed on we take back."""
    message = {"role": "assistant", "content": content}
    if with_call:
        message["tool_calls"] = [WEATHER[0]]
    made = paired(*HELLO, message, *HELLO)
    texts = [
        p["text"] for turn in made if turn["role"] == "model" for p in turn["parts"] if "text" in p
    ]
    assert texts == expected


def test_call_of_another_vendors_free_text_tool() -> None:
    """OpenAI's custom tools; its model gave it out, so it is taken back."""
    call = {"id": "call_1", "type": "custom", "custom": {"name": "sh", "input": 'ls "ü"\n'}}
    made = paired(*HELLO, called(call), result("call_1", "a"), *HELLO)
    assert made[1]["parts"][0]["functionCall"]["args"] == {"input": 'ls "ü"\n'}
    assert outputs(made[2]) == ["a"]


IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/jpg;base64,{upstream.PNG}"}}
PAGE = {"type": "image_url", "image_url": {"url": "https://a.test/b.png"}}
PDF = {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{upstream.PNG}"}}


@pytest.mark.parametrize("model", MODELS)
def test_calls_of_before_there_were_tools_are_taken(model: str) -> None:
    """Results go to the last call of their name; one that is missing is told."""

    def legacy(name: str, arguments: str) -> Json:
        return {"role": "assistant", "function_call": {"name": name, "arguments": arguments}}

    said: list[Json] = [
        legacy("f", '{"n": 1}'),
        {"role": "function", "name": "f", "content": "one"},
        legacy("f", ""),
        {"role": "function", "name": "f", "content": "two"},
        legacy("1g", "{}"),
        {"role": "assistant", "content": "So.", "function_call": {"name": "", "arguments": ""}},
        {"role": "function", "name": "h", "content": "lost"},
    ]
    made = translate(model, messages=[*HELLO, *said])
    assert violations(made, model=model) == []
    parts = [part for turn in made["contents"] for part in turn["parts"]]
    asked = [part["functionCall"] for part in parts if "functionCall" in part]
    assert [(call["name"], call["args"]) for call in asked] == [
        ("f", {"n": 1}),
        ("f", {}),
        (wire_name("1g"), {}),
    ]
    given = [part["functionResponse"] for part in parts if "functionResponse" in part]
    assert [each["response"].get("output") for each in given] == ["one", "two", None]
    assert [each.get("id") for each in given] == [call.get("id") for call in asked]
    assert parts[-1] == {"text": "<result>\nlost\n</result>"}


SOUND = {"type": "input_audio", "input_audio": {"data": upstream.PNG, "format": "wav"}}


def test_images_and_files_in_a_result() -> None:
    """Within the result where Gemini takes them there, else behind all results."""
    content = [{"type": "text", "text": "Seen:"}, IMAGE, PDF, SOUND, PAGE]
    messages = [*HELLO, called(*WEATHER), result("call_2", content), TOKYO, *HELLO]
    new, old = paired(*messages), paired(*messages, model="gemini-2.5-flash")
    assert outputs(new[2]) == outputs(old[2]) == ["TOKYO: sun", "Seen:"]
    inside = [p["inlineData"]["mimeType"] for p in new[2]["parts"][1]["functionResponse"]["parts"]]
    assert inside == ["image/jpeg", "application/pdf"]
    assert [next(iter(part)) for part in new[3]["parts"]] == [
        "text",
        "inlineData",
        "fileData",
        "text",
    ]
    assert len(old[3]["parts"]) == 6
    assert old[3]["parts"][0] == {"text": "From the result of weather:"}


@pytest.mark.parametrize(
    ("kind", "is_inside"),
    [
        ("image/png", True),
        ("image/jpeg", True),
        ("image/webp", True),
        ("application/pdf", True),
        ("text/plain", True),
        ("image/gif", False),
        ("text/html", False),
    ],
)
def test_types_that_a_result_may_hold(kind: str, is_inside: bool) -> None:
    """Those of Gemini's documentation; the others come behind it."""
    file = {"type": "file", "file": {"file_data": f"data:{kind};base64,AAAA"}}
    made = paired(*HELLO, called(WEATHER[0]), result("call_1", [file]))
    assert ("parts" in made[2]["parts"][0]["functionResponse"]) == is_inside
    assert len(made) == (3 if is_inside else 4)


@pytest.mark.parametrize("model", MODELS)
def test_image_is_all_that_a_result_holds(model: str) -> None:
    """At the end of the history, and before another step of the model's."""
    step = [called(WEATHER[0]), result("call_1", [IMAGE])]
    made = paired(*HELLO, *step, model=model)
    assert len(made) == (3 if model == FLASH else 4)
    made = paired(*HELLO, *step, *step, model=model)
    assert len(made) == (5 if model == FLASH else 7)


def test_old_models_get_no_call_ids() -> None:
    """Before Gemini 3 calls and results are matched by name and order."""
    made = contents(*HELLO, called(tool_call("aa")), result("aa", "1"), model="gemini-2.5-pro")
    assert made[1]["parts"] == [{"functionCall": {"name": "f_aa", "args": {}}}]
    assert "id" not in made[2]["parts"][0]["functionResponse"]


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ([{"role": "assistant", "content": ""}], "messages"),
        ([{"role": "robot", "content": "x"}], "messages[0].role"),
        ([{"role": "user", "content": 7}], "messages[0].content"),
        ([called({"id": "x", "type": "custom"})], "messages[0].tool_calls[0]"),
        ([{"role": "system", "content": [{"type": "image_url"}]}], "messages[0].content[0]"),
    ],
)
def test_message_without_a_place_is_named(messages: list[Json], param: str) -> None:
    """A 400 with the path of what is wrong."""
    assert refused(messages=messages).param == param


# -- thought signatures -----------------------------------------------------------------------


def test_signatures_come_back_by_extra_field_or_by_id() -> None:
    """With the extra field, without it, and for text."""
    other = base64.b64encode(b"other").decode()
    carried = calls.make_id("fc-1", upstream.SIGNATURE)
    for call in (tool_call(carried), tool_call("fc-1", **signed(upstream.SIGNATURE))):
        (_, model, answer) = contents(*HELLO, called(call), result(call["id"], "1"))
        (part,) = model["parts"]
        assert part["thoughtSignature"] == upstream.SIGNATURE
        assert part["functionCall"]["id"] == "fc-1"
        assert answer["parts"][0]["functionResponse"]["id"] == "fc-1"
    (_, model, _) = contents(
        *HELLO, {"role": "assistant", "content": "Hi", **signed(other)}, *HELLO
    )
    assert model["parts"] == [{"text": "Hi", "thoughtSignature": other}]


def test_lost_signature_of_the_present_turn_is_skipped_officially() -> None:
    """Only where Gemini 3 asks for it: the first call of a step since the last user message."""
    history = [called(tool_call("aa"), tool_call("bb")), result("aa", "1"), result("bb", "2")]
    made = contents(*HELLO, *history, *HELLO, *history, *history)
    found = [
        [part.get("thoughtSignature") for part in turn["parts"]]
        for turn in made
        if turn["role"] == "model"
    ]
    skip = "skip_thought_signature_validator"
    assert found == [[None, None], [skip, None], [skip, None]]
    old = contents(*HELLO, *history, model="gemini-2.5-flash")
    assert "thoughtSignature" not in old[1]["parts"][0]


def test_signature_that_is_no_base64_is_not_sent() -> None:
    """A caller that mangled it gets the official way out, not Gemini's parse error."""
    (_, model, _) = contents(*HELLO, called(tool_call("aa", **signed("not base64!"))))
    assert model["parts"][0]["thoughtSignature"] == "skip_thought_signature_validator"


# -- tools and formats ------------------------------------------------------------------------


def test_tools_become_declarations() -> None:
    """Parameters as JSON Schema; `strict` has no counterpart."""
    (tools,) = translate(tools=[TOOL])["tools"]
    assert tools["functionDeclarations"] == [
        {
            "name": "weather",
            "description": "The weather.",
            "parametersJsonSchema": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
            },
        }
    ]
    assert refused(tools=[{"type": "custom", "custom": {"name": "x"}}]).param == "tools[0]"


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", None),
        ("none", {"mode": "NONE"}),
        ("required", {"mode": "ANY"}),
        (
            {"type": "function", "function": {"name": "weather"}},
            {"mode": "ANY", "allowedFunctionNames": ["weather"]},
        ),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "auto",
                    "tools": [{"type": "function", "function": {"name": "weather"}}],
                },
            },
            {"mode": "VALIDATED", "allowedFunctionNames": ["weather"]},
        ),
    ],
)
def test_tool_choice(choice: Any, expected: Json | None) -> None:
    """All of OpenAI's forms."""
    made = translate(tools=[TOOL], tool_choice=choice)
    assert made.get("toolConfig", {}).get("functionCallingConfig") == expected


@pytest.mark.parametrize(
    "choice",
    ["required", "sometimes", {"type": "function", "function": {"name": "other"}}, {"type": "x"}],
)
def test_tool_choice_that_chooses_nothing(choice: Any) -> None:
    """A 400 that says so, not an answer without the call."""
    tools = [] if choice == "required" else [TOOL]
    assert refused(tools=tools, tool_choice=choice).param == "tool_choice"


def test_json_schema_format() -> None:
    """Cleaned, with the description where the schema has none."""
    wanted = {
        "type": "json_schema",
        "json_schema": {
            "name": "x",
            "strict": True,
            "description": "A thing.",
            "schema": {"$schema": "x", "type": "object", "additionalProperties": False},
        },
    }
    assert config(response_format=wanted) == {
        "responseMimeType": "application/json",
        "responseJsonSchema": {
            "type": "object",
            "additionalProperties": False,
            "description": "A thing.",
        },
    }
    assert config(response_format={"type": "text"}) == {}
    assert refused(response_format={"type": "xml"}).param == "response_format"
