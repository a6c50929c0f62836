"""The fake upstream is faithful: the official SDK takes its answers; it breaks where it is told."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import openai
import pydantic
import pytest
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.chat_completion_chunk import ChoiceDeltaToolCallFunction

from tests.support.certificates import Authority
from tests.support.server import ServerFault
from tests.support.upstream import (
    CUT,
    HANG,
    RESET,
    Ending,
    Framing,
    Gate,
    Hold,
    Pause,
    Reply,
    Step,
    Upstream,
    chat,
    chunk,
    completion,
    error,
    error_object,
    events,
    garbage,
    raw,
    stream,
    stream_completion,
    stream_tool_calls,
    tool_calls,
)

Shape = TypeVar("Shape", bound=pydantic.BaseModel)
ASKED: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
WEATHER = ("get_weather", {"city": "Zürich", "unit": "celsius"})
CLOCK = ("get_time", {"zone": "UTC"})


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    before = set(threading.enumerate())
    with Upstream() as running:
        yield running
    assert set(threading.enumerate()) <= before


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def sdk(upstream: Upstream) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="sk-a", base_url=upstream.url, max_retries=0, timeout=5) as client:
        yield client


def strictly(shape: type[Shape], payload: object) -> Shape:
    """`payload` as the SDK's type, without coercion; fails on a field unknown to the type."""
    parsed = shape.model_validate(payload, strict=True)
    assert list(_unknown(parsed)) == []
    return parsed


def _unknown(value: object) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _unknown(item)
    elif isinstance(value, pydantic.BaseModel):
        yield from value.model_extra or {}
        for _, item in value:
            yield from _unknown(item)


def payloads(reply: Reply) -> list[Any]:
    """The JSON of each event of a stream."""
    data = [step.removeprefix(b"data: ") for step in reply.body if isinstance(step, bytes)]
    assert data.pop() == b"[DONE]\n\n"
    return [json.loads(each) for each in data]


def whole(reply: Reply) -> Any:
    """The JSON of a unary reply."""
    return json.loads(reply.content())


def connect(upstream: Upstream, context: ssl.SSLContext | None = None) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", upstream.port), timeout=5)
    return context.wrap_socket(sock, server_hostname="127.0.0.1") if context else sock


def post(sock: socket.socket, body: bytes = b"{}", *headers: str) -> None:
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: upstream", *headers]
    lines += (
        [] if any("chunked" in header for header in headers) else [f"Content-Length: {len(body)}"]
    )
    sock.sendall("\r\n".join([*lines, "", ""]).encode() + body)


def read_all(sock: socket.socket) -> bytes:
    """Everything up to the end of the connection."""
    return b"".join(iter(lambda: sock.recv(65536), b""))


# With the official SDK


def test_chat_is_a_chat_completion(upstream: Upstream, sdk: openai.OpenAI) -> None:
    """Every choice, field and type is the SDK's own, and nothing else."""
    reply = chat("Hello", "Salut", usage=(7, 5), model="kimi")
    upstream.reply("sk-a", reply)
    answer = sdk.chat.completions.create(**ASKED, n=2)
    assert answer == strictly(ChatCompletion, whole(reply))
    assert [choice.message.content for choice in answer.choices] == ["Hello", "Salut"]
    assert (answer.model, answer.choices[1].index, answer.choices[1].finish_reason) == (
        "kimi",
        1,
        "stop",
    )
    assert answer.usage is not None
    assert answer.usage.total_tokens == 12


def test_stream_is_role_texts_and_finish(upstream: Upstream, sdk: openai.OpenAI) -> None:
    """Each chunk is the SDK's own type; usage is absent unless asked for."""
    reply = stream("Hel", "lo\u2028", finish="length")
    upstream.reply("sk-a", reply)
    chunks = list(sdk.chat.completions.create(**ASKED, stream=True))
    assert chunks == [strictly(ChatCompletionChunk, payload) for payload in payloads(reply)]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(each.choices[0].delta.content or "" for each in chunks) == "Hello\u2028"
    assert [each.choices[0].finish_reason for each in chunks] == [None, None, None, "length"]
    assert not any("usage" in payload for payload in payloads(reply))


def test_stream_ends_with_usage_when_asked(upstream: Upstream, sdk: openai.OpenAI) -> None:
    """stream_options.include_usage: a last chunk without choices, `usage: null` in the others."""
    reply = stream("a", usage=(4, 1))
    upstream.reply("sk-a", reply)
    *before, last = list(sdk.chat.completions.create(**ASKED, stream=True))
    assert last.choices == []
    assert strictly(ChatCompletionChunk, payloads(reply)[-1]).usage == last.usage
    assert last.usage is not None
    assert last.usage.total_tokens == 5
    assert all("usage" in each.model_fields_set and each.usage is None for each in before)


def test_tool_calls_are_a_chat_completion(upstream: Upstream, sdk: openai.OpenAI) -> None:
    """Content is null, finish_reason tool_calls, arguments a JSON text."""
    reply = tool_calls(WEATHER, CLOCK)
    upstream.reply("sk-a", reply)
    answer = sdk.chat.completions.create(**ASKED)
    assert answer == strictly(ChatCompletion, whole(reply))
    [choice] = answer.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    made = [call.function for call in choice.message.tool_calls or () if call.type == "function"]
    assert [(call.name, json.loads(call.arguments)) for call in made] == [WEATHER, CLOCK]


def test_streamed_tool_calls_add_up(upstream: Upstream, sdk: openai.OpenAI) -> None:
    """Id and name come once per index, the arguments in pieces under the same index."""
    reply = stream_tool_calls(WEATHER, CLOCK, piece_size=5)
    upstream.reply("sk-a", reply)
    chunks = list(sdk.chat.completions.create(**ASKED, stream=True))
    assert chunks == [strictly(ChatCompletionChunk, payload) for payload in payloads(reply)]
    calls = [call for each in chunks for call in each.choices[0].delta.tool_calls or ()]
    assert [(call.index, call.id) for call in calls if call.id] == [(0, "call_0"), (1, "call_1")]
    for index, (name, arguments) in enumerate((WEATHER, CLOCK)):
        parts = [
            call.function or ChoiceDeltaToolCallFunction() for call in calls if call.index == index
        ]
        assert parts[0].name == name
        assert json.loads("".join(part.arguments or "" for part in parts)) == arguments
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_completions_are_legacy_completions(upstream: Upstream, sdk: openai.OpenAI) -> None:
    """text_completion, unary and streamed; a stream's finish_reason is null until its end."""
    upstream.reply("sk-a", completion("one", "two"), stream_completion("a", "b", usage=(1, 2)))
    answer = sdk.completions.create(model="m", prompt="p", n=2)
    assert answer == strictly(Completion, whole(completion("one", "two")))
    *parts, usage = list(sdk.completions.create(model="m", prompt="p", stream=True))
    assert [part.choices[0].text for part in parts] == ["a", "b", ""]
    assert [part.choices[0].finish_reason for part in parts] == [None, None, "stop"]
    assert usage.choices == []
    for payload in payloads(stream_completion("a", "b", usage=(1, 2)))[2:]:
        strictly(Completion, payload)


def test_models_are_listed(upstream: Upstream, sdk: openai.OpenAI) -> None:
    """GET /v1/models tells `models` as they are now; the page can be any other answer."""
    upstream.models = ["a", "vendor/b"]
    assert [model.id for model in sdk.models.list()] == ["a", "vendor/b"]
    for model in sdk.models.list():
        strictly(Model, model.to_dict())
    upstream.pages["/v1/models"] = error(500)
    with pytest.raises(openai.InternalServerError):
        sdk.models.list()


@pytest.mark.parametrize(
    ("status", "raised"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (409, openai.ConflictError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
    ],
)
def test_error_is_the_sdks_error(
    upstream: Upstream, sdk: openai.OpenAI, status: int, raised: type[openai.APIStatusError]
) -> None:
    """Message, type, code and headers arrive where the SDK looks for them."""
    headers = {"Retry-After": "3", "x-request-id": "req_1"}
    upstream.reply("sk-a", error(status, "No.", code="some_code", type="some", headers=headers))
    with pytest.raises(raised) as caught:
        sdk.chat.completions.create(**ASKED)
    failure = caught.value
    assert (failure.status_code, failure.code, failure.type) == (status, "some_code", "some")
    assert failure.body == {"message": "No.", "type": "some", "param": None, "code": "some_code"}
    assert (failure.request_id, failure.response.headers["retry-after"]) == ("req_1", "3")


def test_unknown_path_is_404_unless_an_answer_was_given(
    upstream: Upstream, sdk: openai.OpenAI
) -> None:
    """A POST anywhere takes what is queued for its key: other dialects need no more."""
    with pytest.raises(openai.NotFoundError, match="Invalid URL"):
        sdk.post("/messages", cast_to=object)
    upstream.reply("sk-a", chat("queued"))
    assert sdk.post("/messages", cast_to=ChatCompletion).choices[0].message.content == "queued"
    with pytest.raises(openai.NotFoundError):
        sdk.get("/nowhere", cast_to=object)


def test_default_answers_as_asked(upstream: Upstream, sdk: openai.OpenAI) -> None:
    """Chat or completion, unary or streamed, under the asked model's name."""
    assert sdk.chat.completions.create(**ASKED).choices[0].message.content == "Hello there!"
    options: Any = {"stream": True, "stream_options": {"include_usage": True}}
    *_, last = list(sdk.chat.completions.create(**ASKED, **options))
    assert (last.model, last.usage is not None) == ("m", True)
    assert sdk.completions.create(model="m", prompt="p").choices[0].text == "Hello there!"
    streamed = sdk.completions.create(model="m", prompt="p", stream=True)
    assert "".join(each.choices[0].text for each in streamed) == "Hello there!"


@pytest.mark.parametrize("how", [CUT, RESET])
def test_cut_stream_raises(upstream: Upstream, sdk: openai.OpenAI, how: Ending) -> None:
    """A chunked stream without its last chunk is a broken connection to the SDK."""
    upstream.reply("sk-a", stream("a", "b", finish=None, done=False).then(how))
    received: list[ChatCompletionChunk] = []
    with pytest.raises(openai.APIConnectionError):
        received += sdk.chat.completions.create(**ASKED, stream=True)
    assert upstream.received("sk-a")[0].wait_ended().aborted is False


def test_error_in_mid_stream_raises(upstream: Upstream, sdk: openai.OpenAI) -> None:
    """A data event with an error object raises APIError after the chunks before it."""
    failure = error_object("Overloaded.", code=503)
    upstream.reply("sk-a", events(chunk({"content": "a"}), failure))
    answer = sdk.chat.completions.create(**ASKED, stream=True)
    assert next(answer).choices[0].delta.content == "a"
    with pytest.raises(openai.APIError, match="Overloaded") as caught:
        next(answer)
    assert (caught.value.code, caught.value.type) == ("503", "server_error")


def test_garbage_is_a_connection_error(upstream: Upstream, sdk: openai.OpenAI) -> None:
    """Bytes that are no HTTP are no answer."""
    upstream.reply("sk-a", garbage())
    with pytest.raises(openai.APIConnectionError):
        sdk.chat.completions.create(**ASKED)


VARIANTS: dict[str, Callable[[], Reply]] = {
    "length": lambda: stream("a", "é", framing="length"),
    "close": lambda: stream("a", "é", framing="close"),
    "crlf": lambda: stream("a", "é", newline="\r\n"),
    "cr": lambda: stream("a", "é", newline="\r"),
    "one write": lambda: stream("a", "é", one_write=True),
    "gaps": lambda: stream("a", "é", gap_s=0.001),
    "gzip": lambda: stream("a", "é").compressed("gzip"),
    "deflate": lambda: stream("a", "é").compressed("deflate"),
    "raw deflate": lambda: stream("a", "é").compressed("raw-deflate"),
    "pieces": lambda: stream("a", "é").in_pieces(3),
    "byte by byte": lambda: stream("a", "é").byte_by_byte(),
    "gzip, byte by byte": lambda: stream("a", "é").compressed().byte_by_byte(),
    "late": lambda: stream("a", "é").after(Pause(0.01)),
    "comments": lambda: events(b": ping\n\n", *payloads(stream("a", "é")), "[DONE]"),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_read_the_same(upstream: Upstream, sdk: openai.OpenAI, variant: str) -> None:
    """Framing, line ends, compression and pieces change the bytes, not what is said."""
    upstream.reply("sk-a", VARIANTS[variant]())
    answer = sdk.chat.completions.create(**ASKED, stream=True)
    assert [each.choices[0].delta.content for each in answer] == ["", "a", "é", None]


def test_sdk_speaks_tls(authority: Authority) -> None:
    """TLS 1.3 by default; a client that does not trust the authority is no fault of a handler."""
    with Upstream(tls=authority.server()) as upstream:
        trusting = openai.DefaultHttpxClient(verify=authority.client())
        with openai.OpenAI(
            api_key="k", base_url=upstream.url, max_retries=0, http_client=trusting
        ) as client:
            assert client.chat.completions.create(**ASKED).model == "m"
        with pytest.raises(ssl.SSLCertVerificationError):
            connect(upstream, Authority().client())
        upstream.wait_for_connections(0)
        assert upstream.connections == 2


# On the wire


def test_requests_share_a_connection(upstream: Upstream) -> None:
    """Keep-alive: unary, stream and list on one connection; pipelined requests in order."""
    caller = http.client.HTTPConnection("127.0.0.1", upstream.port, timeout=5)
    upstream.reply(None, chat("1"), stream("2"), error(429))
    for _ in range(3):
        caller.request("POST", "/v1/chat/completions", b"{}")
        caller.getresponse().read()
    caller.request("GET", "/v1/models?limit=1")
    assert json.loads(caller.getresponse().read())["object"] == "list"
    upstream.reply(None, chat("5"), chat("6").then(CUT))
    post(caller.sock)
    post(caller.sock)
    assert re.findall(rb'"content": "(.)"', read_all(caller.sock)) == [b"5", b"6"]
    caller.close()
    assert [one.connection for one in upstream.wait_for(6)] == [1] * 6
    assert (upstream.history[3].path, upstream.history[3].query) == ("/v1/models", "limit=1")
    assert upstream.connections == 1


def test_connection_close_is_kept(upstream: Upstream) -> None:
    """A caller that says `Connection: close` gets the end after its answer."""
    with connect(upstream) as sock:
        post(sock, json.dumps(ASKED).encode(), "Connection: close")
        assert read_all(sock).startswith(b"HTTP/1.1 200 OK\r\n")


def test_chunked_body_is_read_whole(upstream: Upstream) -> None:
    """Chunks, extensions and trailers of a request body, and the next request after it."""
    chunks = b'2\r\n{"\r\n4;x="y"\r\na":1\r\n01\r\n}\r\n0\r\nTrailer: x\r\n\r\n'
    upstream.reply(None, chat("a"), chat("b").then(CUT))
    with connect(upstream) as sock:
        post(sock, chunks, "Transfer-Encoding: chunked")
        post(sock, b"second")
        read_all(sock)
    assert [one.body for one in upstream.history] == [b'{"a":1}', b"second"]
    assert upstream.history[0].json() == {"a": 1}


def test_expect_is_answered_before_the_body(upstream: Upstream) -> None:
    """`Expect: 100-continue` gets 100 while the body is still to come."""
    with connect(upstream) as sock:
        head = "POST /x HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
        sock.sendall(head.encode())
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert upstream.received() == []
        upstream.reply(None, chat("x"))
        sock.sendall(b"body")
        assert sock.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")
    assert upstream.wait_for()[0].body == b"body"


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        (["Authorization: Bearer sk-1"], "sk-1"),
        (["authorization: bearer sk-1", "x-api-key: sk-2"], "sk-1"),
        (["X-Api-Key: sk-2", "x-goog-api-key: sk-3"], "sk-2"),
        (["x-goog-api-key: sk-3"], "sk-3"),
        (["Authorization: Basic c2s="], None),
    ],
)
def test_key_is_found(upstream: Upstream, headers: list[str], key: str | None) -> None:
    """The bearer token, else Claude's header, else Gemini's."""
    upstream.default = chat("x").then(CUT)
    with connect(upstream) as sock:
        post(sock, b"{}", *headers)
        read_all(sock)
    [received] = upstream.wait_for(key=key)
    assert (received.key, received.header["host"]) == (key, "upstream")
    assert ("Host", "upstream") in received.headers


def test_answers_are_taken_in_order(upstream: Upstream) -> None:
    """The key's queue, then anyone's queue, then the key's standing answer, then the default."""
    upstream.default = chat("default")
    upstream.always("sk-a", chat("always"))
    upstream.reply("sk-a", chat("first"), lambda received: chat(received.body.decode()))
    upstream.reply(None, chat("anyone"))
    upstream.reply("sk-b", chat("not mine"))
    caller = http.client.HTTPConnection("127.0.0.1", upstream.port, timeout=5)
    said = []
    for key in ("sk-a", "sk-a", "sk-a", "sk-a", "sk-c"):
        caller.request("POST", "/any", b"echo", {"Authorization": f"Bearer {key}"})
        said.append(json.loads(caller.getresponse().read())["choices"][0]["message"]["content"])
    caller.close()
    assert said == ["first", "echo", "anyone", "always", "default"]
    assert len(upstream.received("sk-a")) == 4


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("how", [CUT, RESET, HANG])
def test_reply_is_cut_at_every_border(upstream: Upstream, how: Ending, framing: Framing) -> None:
    """Exactly the bytes before the cut arrive; then FIN, RST or silence, and nothing else."""
    reply = stream("a", framing=framing)
    borders = [*reply.borders(), len(reply.wire_bytes())]
    assert borders[0] == 0
    for number, at in enumerate(borders, 1):
        upstream.reply(None, reply.cut_at(at, how))
        with connect(upstream) as sock:
            post(sock)
            got = b""
            try:
                while (how is not HANG or len(got) < at) and (data := sock.recv(65536)):
                    got += data
                ended_by = CUT
            except ConnectionResetError:
                ended_by = RESET
            received = upstream.wait_for(number)[-1]
            assert (received.ended is None) if how is HANG else (ended_by is how)
        assert got == reply.wire_bytes()[:at]
        assert received.wait_ended().aborted is (how is HANG)
    with pytest.raises(ValueError, match="ends 1 bytes before"):
        reply.cut_at(len(reply.wire_bytes()) + 1)


def test_pieces_are_chunks(upstream: Upstream) -> None:
    """`in_pieces` cuts the body before it is framed; steps between the bytes stay."""
    reply = Reply([b"abcde", Pause(0), b"f"], framing="chunked").in_pieces(2)
    _, _, body = reply.wire_bytes().partition(b"\r\n\r\n")
    assert body == b"2\r\nab\r\n2\r\ncd\r\n1\r\ne\r\n1\r\nf\r\n0\r\n\r\n"
    assert Pause(0) in reply.wire()


def test_end_of_chunks_waits_for_the_last_step() -> None:
    """The last chunk goes with the last bytes, by itself after a Pause, never after an ending."""
    assert Reply([b"x"], framing="chunked").wire()[1:] == [b"1\r\nx\r\n0\r\n\r\n"]
    paused = Reply([b"x", Pause(1)], framing="chunked").wire()
    assert paused[1:] == [b"1\r\nx\r\n", Pause(1), b"0\r\n\r\n"]
    assert Reply([b"x", HANG], framing="chunked").wire()[1:] == [b"1\r\nx\r\n", HANG]


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compressed_events_are_readable_at_once(coding: Any) -> None:
    """Each step can be decoded when it arrives, and the whole ends as it must."""
    plain = stream("a", "b")
    unpack = zlib.decompressobj(wbits=47)
    packed = plain.compressed(coding)
    assert ("Content-Encoding", coding) in packed.headers
    got = [unpack.decompress(step) for step in packed.body if isinstance(step, bytes)]
    assert got == list(plain.body)
    assert unpack.eof


def test_named_events_have_their_type() -> None:
    """Claude's streams name each event by the `type` in its data."""
    reply = events({"type": "ping"}, newline="\r\n", named=True)
    assert list(reply.body) == [b'event: ping\r\ndata: {"type": "ping"}\r\n\r\n']


@pytest.mark.parametrize("kind", [Gate, threading.Event])
def test_held_answer_goes_on_when_released(upstream: Upstream, kind: type[threading.Event]) -> None:
    """A Hold parts what is before it from what is after it."""
    go_on = kind()
    upstream.reply(None, raw(b"before", Hold(go_on), b"after", CUT))
    with connect(upstream) as sock:
        post(sock)
        assert sock.recv(100) == b"before"
        assert upstream.wait_for()[0].ended is None
        go_on.set()
        assert read_all(sock) == b"after"


SILENCES: dict[str, list[Step]] = {
    "hang": [HANG],
    "pause": [Pause(60)],
    "hold": [Hold(threading.Event())],
    "gate": [Hold(Gate())],
    "blocked": [b"x" * (64 << 20)],
}


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("leave", ["close", "half-close", "reset"])
@pytest.mark.parametrize("silence", SILENCES)
def test_leaving_is_noticed_at_once(
    authority: Authority, silence: str, leave: str, tls: bool
) -> None:
    """The end of an abandoned answer is recorded within 10 ms: tests measure cancellation by it."""
    with Upstream(tls=authority.server() if tls else None) as upstream:
        upstream.default = raw(b"HTTP/1.1 200 OK\r\n\r\n", *SILENCES[silence])
        delays_s = []
        for _ in range(5):  # the best of a few: the machine may be busy
            with connect(upstream, authority.client() if tls else None) as sock:
                post(sock)
                sock.recv(1)
                if leave == "reset":
                    linger = b"\1\0\0\0\0\0\0\0"
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                left = time.monotonic()
                if leave == "half-close":
                    sock.shutdown(socket.SHUT_WR)
                else:
                    sock.close()
                received = upstream.history[-1].wait_ended()
            assert received.aborted
            assert received.ended is not None
            delays_s.append(received.ended - left)
        upstream.wait_for_connections(0)
    assert min(delays_s) < 0.010


def test_end_over_tls_says_goodbye(authority: Authority) -> None:
    """An orderly end sends close_notify: a body that ends by it is whole."""
    with Upstream(tls=authority.server()) as upstream:
        upstream.default = Reply([b"whole"], framing="close")
        context = authority.client()
        plain = socket.create_connection(("127.0.0.1", upstream.port), timeout=5)
        with context.wrap_socket(
            plain, server_hostname="localhost", suppress_ragged_eofs=False
        ) as sock:
            assert sock.version() == "TLSv1.3"
            post(sock)
            assert read_all(sock).endswith(b"\r\n\r\nwhole")


# Python's `wrap_socket` leaves the socket to the collector if the reset comes before its handshake.
@pytest.mark.filterwarnings(
    r"ignore:Exception ignored in. <ssl\.SSLSocket:pytest.PytestUnraisableExceptionWarning"
)
def test_connection_can_fail_before_tls(authority: Authority) -> None:
    """`on_connect` runs before the handshake: silence times out, a reset resets."""
    with Upstream(tls=authority.server()) as upstream:
        upstream.on_connect = [RESET]
        with pytest.raises((ConnectionError, ssl.SSLError)):
            connect(upstream, authority.client())
        upstream.on_connect = [HANG]
        with socket.create_connection(("127.0.0.1", upstream.port)) as plain:
            plain.settimeout(0.05)
            with pytest.raises(TimeoutError):
                authority.client().wrap_socket(plain, server_hostname="localhost")
        upstream.wait_for_connections(0)
    assert upstream.history == []


# Its own end


def test_close_ends_what_is_under_way() -> None:
    """Held answers, idle connections and threads end with the upstream; twice is once."""
    before = set(threading.enumerate())
    upstream = Upstream()
    upstream.default = raw(HANG)
    upstream.reply("sk-idle", raw(b"done"))
    with connect(upstream) as busy, connect(upstream) as idle:
        post(busy)
        post(idle, b"{}", "x-api-key: sk-idle")
        assert idle.recv(100) == b"done"
        upstream.wait_for(2)
        upstream.close()
        upstream.close()
        assert (busy.recv(1), idle.recv(1)) == (b"", b"")
    assert upstream.connections_open == 0
    assert not [one for one in upstream.history if one.wait_ended().aborted]
    left = set(threading.enumerate()) - before
    assert not [thread for thread in left if thread.name.startswith("Upstream")]


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nBad Name: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nx: b\nc\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n+1\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
    ],
)
def test_malformed_request_is_raised_at_close(request_bytes: bytes) -> None:
    """A gateway that writes bad HTTP fails its test, though the connection just ended."""
    upstream = Upstream()
    with connect(upstream) as sock:
        sock.sendall(request_bytes)
        assert sock.recv(1) == b""
    with pytest.raises(ServerFault, match="MalformedRequest"):
        upstream.close()


def test_failing_answer_is_raised_at_close() -> None:
    """What a scripted answer raises is not lost in its thread."""
    upstream = Upstream()
    with connect(upstream) as sock:
        post(sock, b"no JSON")
        assert sock.recv(1) == b""
    with pytest.raises(ServerFault) as caught:
        upstream.close()
    assert isinstance(caught.value.__cause__, json.JSONDecodeError)


def test_waiting_in_vain_tells_what_came(upstream: Upstream) -> None:
    """A TimeoutError says what was waited for and what arrived instead."""
    upstream.default = chat("x").then(CUT)
    with connect(upstream) as sock:
        post(sock, b"{}", "x-api-key: sk-b")
        read_all(sock)
    with pytest.raises(TimeoutError, match=r"1 requests of sk-a.*'sk-b', 'POST'"):
        upstream.wait_for(key="sk-a", timeout_s=0.01)
