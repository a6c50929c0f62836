"""What programs write and services refuse, as every kind of upstream gets it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.chat import read_request
from tests.wire.completions.requests import completion_of

Json = dict[str, Any]
PNG = "data:image/png;base64,iVBORw0KGgo="


def sent(**fields: Any) -> Json:
    """The body that goes out."""
    found: Json = json.loads(read_request(json.dumps({"model": "m", **fields}).encode()).body)
    return found


def part_sent(part: Any) -> Any:
    return sent(messages=[{"role": "user", "content": [{"type": "text", "text": "x"}, part]}])[
        "messages"
    ][0]["content"][1]


def image(url: str, **more: Any) -> Json:
    return {"type": "image_url", "image_url": {"url": url, **more}}


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"type": "image_url", "image_url": PNG}, image(PNG)),
        ({"type": "image_url", "image_url": "https://e.org/a"}, image("https://e.org/a")),
        (image("data:image/png;base64,iVBO\nRw0K\r\nGgo="), image(PNG)),
        (image("data:image/png;base64,iVBO Rw0K Ggo=", detail="low"), image(PNG, detail="low")),
        (image("data:image/jpg;base64,/9j/"), image("data:image/jpeg;base64,/9j/")),
        (image("data:image/png; BASE64 ,iV\nBO"), image("data:image/png; BASE64 ,iVBO")),
        (image("data:a/b;c=d;base64,iV BO"), image("data:a/b;c=d;base64,iVBO")),
        ({"type": "file", "file": {"file_data": "JVBE" * 99 + " JVBE"}},
         {"type": "file", "file": {"file_data": "JVBE" * 100}}),
        (image("data:IMAGE/PJPEG;base64,/9j/"), image("data:image/jpeg;base64,/9j/")),
        ({"type": "image_url", "image_url": "data:image/jpg;base64,/9 j/"},
         image("data:image/jpeg;base64,/9j/")),
        ({"type": "file", "file": {"file_data": "JVBE\nRi0x", "filename": "a b.pdf"}},
         {"type": "file", "file": {"file_data": "JVBERi0x", "filename": "a b.pdf"}}),
        ({"type": "file", "file": {"file_data": "data:application/x-pdf;base64,JV BE"}},
         {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBE"}}),
        ({"type": "input_audio", "input_audio": {"data": "UklG\nRg==", "format": "wav"}},
         {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}),
    ],
)  # fmt: skip
def test_media_are_spelled_as_services_take_them(part: Json, expected: Json) -> None:
    """An address in its object, base64 in one piece, types by their registered names."""
    assert part_sent(part) == expected


@pytest.mark.parametrize(
    ("written", "registered"),
    [
        ("image/jpg", "image/jpeg"),
        ("image/pjpeg", "image/jpeg"),
        ("image/jpe", "image/jpeg"),
        ("image/x-png", "image/png"),
        ("image/x-webp", "image/webp"),
        ("application/x-pdf", "application/pdf"),
        ("image/gif", "image/gif"),
    ],
)
def test_types_have_their_registered_names(written: str, registered: str) -> None:
    """All that programs are known to write in another way."""
    assert part_sent(image(f"data:{written};base64,AAAA")) == image(
        f"data:{registered};base64,AAAA"
    )


@pytest.mark.parametrize("space", [b"", b" ", b"\t", b"\n", b"\r\n"])
def test_media_are_found_however_the_request_is_laid_out(space: bytes) -> None:
    """Whatever is between the brackets of lists and what is in them: white space of JSON's."""
    body = b'{"model":"m","messages":[%b{"role":"user","content":[%b%b]}]}'
    bare = b'{"type":"image_url","image_url":"https://e.org/a"}'
    full = b'{"type":"image_url","image_url":{"url":"https://e.org/a"}}'
    expected = json.loads(body % (space, space, full))
    assert json.loads(read_request(body % (space, space, bare)).body) == expected


@pytest.mark.parametrize(
    "part",
    [
        image(PNG),
        image("https://example.org/a b.png"),
        image("data:image/svg+xml,<svg a='b c'/>"),
        image("data:image/jpg,a b"),
        image("data:image/jpg;base64;charset=x,a b"),
        image("data:,a b"),
        image("data:image/png;base64,iVBORw0KGgo=", detail="a data:image/jpg thing"),
        {"type": "text", "text": "data:image/jpg;base64,iV BO"},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "file", "file": {"file_data": "https://example.org/a b.pdf"}},
        {"type": "input_audio", "input_audio": 5},
        {"type": "image_url", "image_url": None},
        {"type": "new", "image_url": 5, "file": [], "input_audio": "x"},
    ],
)
def test_what_is_well_spelled_keeps_its_bytes(part: Json) -> None:
    """And what is none of our business."""
    messages = [{"role": "user", "content": [part, "x" if "new" in part["type"] else part]}]
    body = json.dumps({"model": "m", "messages": messages, "n": 1.0}, indent=1).encode()
    if part["type"] != "new":
        assert read_request(body).body == body
    assert json.loads(read_request(body).body) == json.loads(body)


def test_all_else_keeps_its_bytes() -> None:
    """Numbers, escapes, halves of characters; beside a part that is spelled anew."""
    kept = rb'{"role":"user","content":"\ud83d \/ \u00e9","x":1.50}'
    odd = b'{"role":"user","y":12345678901234567890.10,"content":[%b,{"text":"\\ud83d"}]}'
    plain = b'{"type":"image_url","image_url":"https://e.org/a","z":1e2}'
    full = b'{"type":"image_url","image_url":{"url":"https://e.org/a"},"z":1e2}'
    body = b'{"model":"m","big":1.0,"messages":[%b,%b],"last":"\\u00e9"}'
    assert read_request(body % (kept, odd % plain)).body == body % (kept, odd % full)


@pytest.mark.parametrize(
    ("stop", "expected"),
    [("", None), ([""], None), (["", "a", ""], ["a"]), (["a"], ["a"]), ("a", "a"), ([], [])],
)
def test_empty_stop_is_left_out(stop: Any, expected: Any) -> None:
    """Chat and completions."""
    messages = [{"role": "user", "content": "Hi"}]
    assert sent(messages=messages, stop=stop)["stop"] == expected
    body = json.dumps({"model": "m", "prompt": "p", "stop": stop}).encode()
    for is_native in (True, False):
        completion = completion_of(body, is_native=is_native)
        [request] = completion.natives if is_native else completion.hubs
        assert json.loads(request.body)["stop"] == expected


@pytest.mark.parametrize("stop", [b'["",1e999]', b'{"":""}', b'"\\u0022"'])
def test_odd_stop_is_passed_on(stop: bytes) -> None:
    """Numbers out of all range, objects: nothing is raised."""
    body = b'{"model":"m","messages":[1],"stop":%b}' % stop
    assert b'"messages":[1]' in read_request(body).body


@pytest.mark.parametrize("messages", [[1], ["x"], [[]], [{"content": 5}], [{"content": [5]}]])
def test_what_are_no_messages_is_passed_on(messages: Any) -> None:
    """The upstream says what it thinks of them."""
    assert sent(messages=messages)["messages"] == messages


_JSON = st.recursive(
    st.none() | st.integers(0, 9) | st.sampled_from(["", "a b", PNG, "data:image/jpg;base64,A A"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["content", "type", "image_url", "url", "file", "file_data"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(st.lists(_JSON, min_size=1, max_size=3))
def test_any_messages_pass_or_are_spelled_anew(messages: Any) -> None:
    """Nothing is raised, and what was spelled anew stays so."""
    once = sent(messages=messages)
    assert sent(**once) == once
