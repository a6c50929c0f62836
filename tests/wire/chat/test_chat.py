"""OpenAI's dialect: what is read of requests, and that everything else passes as it came."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import InvalidRequest
from proxy.wire.chat import error_body, read_any, read_request
from proxy.wire.lenient_json import shield, unshield
from tests.support import cases

MESSAGES = b'"messages":[{"role":"user","content":"Hi"}]'


def body(*members: bytes) -> bytes:
    return b"{" + b",".join([*members, MESSAGES]) + b"}"


@pytest.mark.parametrize(
    ("data", "model", "stream"),
    [
        (body(b'"model":"m"'), "m", False),
        (body(b'"model":"m","stream":true'), "m", True),
        (body(b'"stream":false,"model":"m"'), "m", False),
        (body(b'"model":"m","stream":null'), "m", False),
        (body(b'"model" : "m" , "stream" : true '), "m", True),
        (b" \r\n\t" + body(b'"model":"m"') + b"\n", "m", False),
        (body(b'"model":"a/b:c \\u00e9 \xc3\xa9 \\ud83d\\ude00"'), "a/b:c é é 😀", False),
        (body(rb'"mod\u0065l":"m","\u0073tream":true'), "m", True),
        (body(rb'"model":"\u006d\n"'), "m\n", False),
        (b'{"model":"m","messages":[ \t\r\n' + b" " * 100 + b"0]}", "m", False),
    ],
)
def test_model_and_stream_are_read(data: bytes, model: str, stream: bool) -> None:
    """Wherever they are, however they are spelled."""
    request = read_request(data)
    assert (request.model, request.stream, request.body) == (model, stream, data)


MALFORMED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not valid JSON"),
    "blank": (b" \n", "not valid JSON"),
    "form": (b"model=m&stream=true", "not valid JSON"),
    "array": (b"[" + body(b'"model":"m"') + b"]", "must be a JSON object"),
    "string": (b'"model"', "must be a JSON object"),
    "null": (b"null", "must be a JSON object"),
    "number": (b"1", "must be a JSON object"),
    "nan": (body(b'"model":"m","top_p":NaN'), "not valid JSON"),
    "nan inside": (body(b'"model":"m","x":[{"y":NaN}]'), "not valid JSON"),
    "infinity": (body(b'"model":"m","top_p":-Infinity'), "not valid JSON"),
    "trailing rubbish": (body(b'"model":"m"') + b"x", "not valid JSON"),
    "second object": (body(b'"model":"m"') * 2, "not valid JSON"),
    "cut off": (body(b'"model":"m"')[:-1], "not valid JSON"),
    "trailing comma": (body(b'"model":"m"')[:-1] + b",}", "not valid JSON"),
    "single quotes": (b"{'model':'m'}", "not valid JSON"),
    "bare key": (b'{model:"m"}', "not valid JSON"),
    "comment": (body(b'"model":"m"/**/'), "not valid JSON"),
    "bad escape": (body(rb'"model":"m","x":"\q"'), "not valid JSON"),
    "short escape": (body(rb'"model":"m","x":"\u12"'), "not valid JSON"),
    "control character": (body(b'"model":"m","x":"\n"'), "not valid JSON"),
    "octal": (body(b'"model":"m","x":01'), "not valid JSON"),
    "bare point": (body(b'"model":"m","x":1.'), "not valid JSON"),
    "bom": (b"\xef\xbb\xbf" + body(b'"model":"m"'), "not valid JSON"),
    "utf-16": (body(b'"model":"m"').decode().encode("utf-16"), "not valid"),
    "invalid utf-8 in a value": (body(b'"model":"m","x":"\xff"'), "not valid UTF-8"),
    "invalid utf-8 deep": (body(b'"model":"m","x":[[{"y":"\xc3"}]]'), "not valid UTF-8"),
    "invalid utf-8 in a key": (body(b'"model":"m","\xff":1'), "not valid UTF-8"),
    "surrogate in utf-8": (body(b'"model":"m","x":"\xed\xa0\x80"'), "not valid UTF-8"),
    "deep arrays": (body(b'"model":"m","x":' + b"[" * 10_000 + b"]" * 10_000), "too deeply"),
    "deep objects": (body(b'"model":"m","x":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000), "too"),
    "deep and cut": (body(b'"model":"m","x":' + b"[" * 100_000), "too deeply"),
    "no model": (body(b'"stream":true'), "`model` must"),
    "empty model": (body(b'"model":""'), "`model` must"),
    "null model": (body(b'"model":null'), "`model` must"),
    "number model": (body(b'"model":1'), "`model` must"),
    "list model": (body(b'"model":["m"]'), "`model` must"),
    "endless number model": (body(b'"model":' + b"9" * 5000), "`model` must"),
    "infinite number model": (body(b'"model":1e999'), "`model` must"),
    "half a character as model": (body(rb'"model":"\ud83d"'), "`model` must"),
    "string stream": (body(b'"model":"m","stream":"true"'), "`stream` must"),
    "number stream": (body(b'"model":"m","stream":1'), "`stream` must"),
    "endless number stream": (body(b'"model":"m","stream":' + b"9" * 5000), "`stream` must"),
    "object stream": (body(b'"model":"m","stream":{}'), "`stream` must"),
    "no messages": (b'{"model":"m"}', "`messages` must"),
    "no array": (b'{"model":"m","messages":"Hi"}', "`messages` must"),
    "empty array": (b'{"model":"m","messages":[]}', "`messages` must"),
    "empty array of space": (b'{"model":"m","messages":[' + b" \n" * 99 + b"]}", "`messages` must"),
    "null messages": (b'{"model":"m","messages":null}', "`messages` must"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_request_is_refused(name: str) -> None:
    """By a 400 that says what is wrong, and never by another exception."""
    data, message = MALFORMED[name]
    with pytest.raises(InvalidRequest, match=re.escape(message)) as caught:
        read_request(data)
    assert caught.value.status == 400
    assert json.loads(error_body(caught.value))["error"]["type"] == "invalid_request_error"
    named = re.match("`(.*)` must", message)
    assert caught.value.param == (named[1] if named else None)


def test_messages_are_chats_business() -> None:
    """Completions have a prompt."""
    assert read_request(b'{"model":"m"}', needs_messages=False).model == "m"


@pytest.mark.parametrize("key", ["model", "stream"])
def test_duplicate_is_refused(key: str) -> None:
    """However either is spelled, wherever it stands: two readers could see two requests."""
    value = b'"m"' if key == "model" else b"true"
    plain = b'"%b"' % key.encode()
    escaped = b'"' + b"".join(b"\\u%04x" % ord(char) for char in key) + b'"'
    partly = b'"' + key[:-1].encode() + b"\\u%04X" % ord(key[-1]) + b'"'
    for first in (plain, escaped, partly):
        for second in (plain, escaped, partly):
            for between in (b"", b'"x":{"model":"stream"},', b'"y":"\\"model\\"",'):
                data = body(first + b":" + value + b"," + between + second + b" : " + value)
                data = data if key == "model" else b'{"model":"m",' + data[1:]
                with pytest.raises(InvalidRequest, match="given twice") as caught:
                    read_request(data)
                assert caught.value.param == key


@pytest.mark.parametrize("surrogates", [0, 1, 2, 5])
@pytest.mark.parametrize(
    ("first", "second"),
    [(b'"model":"ab"', b'"model":"m"'), (b'"model":"m","stream":true', b'"stream":false')],
)
def test_duplicate_is_refused_whatever_the_length(
    first: bytes, second: bytes, surrogates: int
) -> None:
    """No spacing, no number of other members and no escapes make up for the one that is hidden."""
    text = b'"messages":["%b"]' % (rb"\ud83d" * surrogates)
    for count in range(12):
        others = b"".join(b'"%c":1,' % (97 + each) for each in range(count))
        for spaces in range(80):
            parts = (b"{", first, b",", text, b",", others, b" " * spaces, second, b"}")
            with pytest.raises(InvalidRequest, match="given twice"):
                read_request(b"".join(parts))


@pytest.mark.parametrize(
    "member",
    [
        b'"x":{"model":"a","model":"b","stream":true}',
        b'"x":["model","model","stream",{"stream":1}]',
        b'"x":"model","y":"stream"',
        rb'"x":"\u006dodel","y":{"\u006dodel":1,"stre\u0061m":2}',
        rb'"x":"\"model\":1,\"model\":2"',
        rb'"x\"model":1,"y\"model":2',
        rb'"\\u006dodel":1,"\\model":2',
        b'"model2":1,"xmodel":2,"MODEL":3,"model ":4',
        b'"x":"' + rb"\u0041" * 3 + b'"',
    ],
)
def test_likeness_is_no_duplicate(member: bytes) -> None:
    """Nested keys, values, and names that only look alike."""
    for data in (body(b'"model":"m"', member), body(member, b'"stream":true,"model":"m"')):
        assert read_request(data).model == "m"


PASSED: list[bytes] = [
    b"12345678901234567890123456789012345678901234567890",
    b"9" * 5000,
    b"-0",
    b"-0.0",
    b"1.0",
    b"1.00",
    b"1e5",
    b"1E+05",
    b"1e-400",
    b"1e999",
    b"0.1000000000000000055511151231257827",
    rb'"\u00e9\u0041\/\b\f\n\r\t\\\""',
    rb'"\ud83d\ude00"',
    rb'"\ud83d"',
    rb'"\ude00\ud83d x \uD800"',
    rb'"\\ud83d \\\ud83d \\\\ud83d"',
    '"é\u2028\u0085😀\x7f"'.encode(),
    b'{ "b" : 1 , "a" : [ 1 , 2 ] , "b" : 3 }',
    b"[ ]",
    b"null",
    b'{"model":"inner"}',
]


def raw_values(data: bytes) -> list[tuple[str, bytes]]:
    """The top-level members in order, values as bytes."""
    found = msgspec.json.decode(shield(data), type=dict[str, msgspec.Raw])
    return [(name, unshield(bytes(value))) for name, value in found.items()]


@pytest.mark.parametrize("value", PASSED)
def test_other_values_pass_byte_for_byte(value: bytes) -> None:
    """Only the model's name changes; order stays."""
    data = body(b'"x": %b' % value, b'"model":"m"', rb'"odd\ud800\u00e9 key":%b' % value)
    request = read_request(data)
    assert request.for_model("m") == data
    swapped = request.for_model('n"é')
    names = ["x", "model", "messages"]
    before, after = raw_values(data), raw_values(swapped)
    assert [name for name, _ in after if name in names] == names
    expected = [(n, v if n != "model" else '"n\\"é"'.encode()) for n, v in before]
    assert after == expected
    assert read_request(swapped).model == 'n"é'


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False)
    | st.sampled_from(["\ud83d", "a\ude00\\", "model", "stream"]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=5) | st.just("model"), inner, max_size=4),
    max_leaves=10,
).filter(lambda value: "Infinity" not in json.dumps(value))  # fmt: skip
# Of `stop` empty strings are left out.
NAMES = st.text().filter(lambda name: name not in ("model", "stream", "messages", "stop"))


@pytest.mark.long
@given(
    st.dictionaries(NAMES, JSON),
    st.text(min_size=1),
    st.booleans(),
    st.sampled_from([None, 1]),
)
def test_any_request_passes(
    fields: dict[str, Any], name: str, ascii_only: bool, indent: int | None
) -> None:
    """Every value as it was, in order, only the model's name another."""
    asked = {"a": 1, **fields, "model": "m", "messages": ["Hi"]}
    text = json.dumps(asked, ensure_ascii=ascii_only, indent=indent)
    data = text.encode("utf-8", "backslashreplace")
    request = read_request(data)
    assert request.for_model("m") == data
    swapped = request.for_model(name)
    pairs = json.loads(swapped, object_pairs_hook=list)
    assert pairs == json.loads(
        json.dumps({**json.loads(data), "model": name}), object_pairs_hook=list
    )
    if name != "m":
        for value in (json.dumps(each, ensure_ascii=ascii_only) for each in fields.values()):
            assert indent or value.encode("utf-8", "backslashreplace") in swapped


@given(st.binary(max_size=60) | st.text(max_size=30).map(str.encode))
def test_any_bytes_are_a_request_or_a_400(data: bytes) -> None:
    """Nothing but InvalidRequest is raised."""
    for each in (data, body(b'"model":"m"', data), body(b'"model":' + data)):
        with contextlib.suppress(InvalidRequest):
            read_request(each).for_model("other")


def test_out_of_range_numbers_are_the_callers_fault() -> None:
    """Where a value must be read after all."""
    with pytest.raises(InvalidRequest, match="range"):
        read_any(msgspec.Raw(b"1e999"))
    assert read_any(msgspec.Raw(b"[1]")) == [1]


@pytest.mark.parametrize("value", [each for each in PASSED if b"\\" in each])
def test_shield_is_undone(value: bytes) -> None:
    """And leaves JSON without lone surrogates."""
    assert unshield(shield(value)) == value
    msgspec.json.decode(shield(value))


INPUTS: dict[str, Callable[[int], bytes]] = {
    "text": lambda size: body(b'"model":"m","x":"' + b"x" * size + b'"'),
    "lone surrogates": lambda size: body(b'"model":"m","x":"' + rb"\ud83d" * (size // 6) + b'"'),
    "backslashes": lambda size: body(b'"model":"m","x":"\\ud83d' + b"\\\\" * (size // 2) + b'"'),
    "model keys": lambda size: body(b'"model":"m","x":[' + b'"model",' * (size // 8) + b"1]"),
    "escaped keys": lambda size: body(b'"model":"m","x":"' + rb"\u006d" * (size // 6) + b'"'),
    "members": lambda size: body(
        b'"model":"m"', *[b'"a%d":"%040d"' % (n, n) for n in range(size // 50)]
    ),
    "space": lambda size: b'{"model":"m","messages":[' + b" " * size + b"1]}",
    "quotes": lambda size: body(b'"model":"m","x":"' + b'\\"' * (size // 2) + b'"'),
}


@pytest.mark.parametrize("name", INPUTS)
def test_time_is_linear(name: str) -> None:
    """Whatever the caller sends."""

    def make(size: int) -> Callable[[], object]:
        data = INPUTS[name](size)
        return lambda: read_request(data).for_model("other")

    cases.assert_linear(make, 50_000)
