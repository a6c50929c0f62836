"""A dialect is a module and a row: one that lives here alone is served as those of the package are.

Over real sockets on both sides, with upstreams of each kind.
"""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import werkzeug.serving

from proxy import create_app
from proxy.api import endpoints
from tests.dialects.turns import PATH, TURNS
from tests.support.dialects import BY_KIND, Said, configuration
from tests.support.upstream import CUT, Gate, Hold, Reply, Upstream

Json = dict[str, Any]

KEY = "caller-key-0123456789"
SAID = Said(text="Hello there, you", completion_tokens=7)
KINDS = sorted(BY_KIND)


class Response(NamedTuple):
    status: int
    type: str
    body: bytes
    headers: Mapping[str, str]

    @property
    def events(self) -> list[tuple[str, Json]]:
        """By name; whatever is not such an event fails the test."""
        found = []
        for block in self.body.decode().removesuffix("\n\n").split("\n\n"):
            name, data = block.split("\n")
            found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
        return found

    @property
    def text(self) -> str:
        return "".join(data["text"] for name, data in self.events if name == "said")


class Server:
    """A gateway with the dialect, and an upstream of each kind, whose model is named for it."""

    def __init__(self, upstream: Upstream, port: int) -> None:
        self._upstream = upstream
        self._port = port

    def answer(self, kind: str, *replies: Reply) -> None:
        self._upstream.reply(f"key-{kind}", *replies)

    def asked(self, kind: str) -> list[Json]:
        return [each.json() for each in self._upstream.received(f"key-{kind}")]

    def ask(
        self, kind: str, *, key: str = KEY, method: str = "POST", path: str = PATH, **fields: Any
    ) -> Response:
        fields = {"model": kind, "say": "Hi", **fields}
        headers = {"Authorization": f"Bearer {key}"}
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)) as caller:
            caller.request(method, path, json.dumps(fields), headers)
            got = caller.getresponse()
            kind = got.headers["Content-Type"]
            return Response(got.status, kind, got.read(), dict(got.headers))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch, Upstream() as upstream:
        patch.setitem(endpoints.DIALECTS, PATH, TURNS)
        clients = [BY_KIND[kind].client(upstream.origin, f"key-{kind}", kind) for kind in KINDS]
        streaming = {"commit-after-seconds": 1, "keepalive-seconds": 1}
        settings = {"request-retry": 1, "api-keys": [KEY], "streaming": streaming}
        app = create_app(configuration(*clients, **settings))
        http_server = werkzeug.serving.make_server("127.0.0.1", 0, app, threaded=True)
        assert isinstance(http_server, werkzeug.serving.ThreadedWSGIServer)
        http_server.daemon_threads = False
        thread = threading.Thread(target=http_server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield Server(upstream, http_server.port)
        finally:
            http_server.shutdown()
            thread.join()
            http_server.server_close()
            app.extensions["proxy"]["proxy"].gateway.close()


@pytest.mark.parametrize("kind", KINDS)
def test_unary_answer_has_the_dialects_own_body(server: Server, kind: str) -> None:
    """Of whatever upstream."""
    server.answer(kind, BY_KIND[kind].whole(SAID))
    answer = server.ask(kind)
    assert (answer.status, answer.type) == (200, "application/json")
    assert json.loads(answer.body) == {"said": SAID.text, "why": "stop", "tokens": 7}


@pytest.mark.parametrize("kind", KINDS)
def test_stream_has_the_dialects_own_events(server: Server, kind: str) -> None:
    """With their names, and its own end in place of [DONE]."""
    server.answer(kind, BY_KIND[kind].streamed(SAID))
    answer = server.ask(kind, live=True)
    assert (answer.status, answer.type) == (200, "text/event-stream; charset=utf-8")
    *said, end = answer.events
    assert {name for name, _ in said} == {"said"}
    assert answer.text == SAID.text
    assert end == ("end", {"why": "stop", "tokens": 7})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("live", [False, True])
def test_error_before_the_answer_has_the_dialects_own_shape(
    server: Server, kind: str, live: bool
) -> None:
    """And its own status, in a stream too; attempts went on until then."""
    refused = BY_KIND[kind].refused(500, "All is lost.")
    server.answer(kind, refused, refused)
    answer = server.ask(kind, live=live)
    assert (answer.status, answer.type) == (500, "application/json")
    assert json.loads(answer.body) == {"problem": {"status": 500, "text": "All is lost."}}
    server.answer(kind, refused, BY_KIND[kind].whole(SAID))
    answer = server.ask(kind)
    assert json.loads(answer.body)["said"] == SAID.text


@pytest.mark.parametrize("kind", KINDS)
def test_error_in_mid_stream_is_the_dialects_own_event(server: Server, kind: str) -> None:
    """And nothing that looks like the end behind it."""
    whole = BY_KIND[kind].streamed(SAID)
    server.answer(kind, replace(whole, body=[*whole.body[: len(whole.body) // 2 + 1], CUT]))
    answer = server.ask(kind, live=True)
    assert answer.status == 200
    *said, (name, problem) = answer.events
    assert {each for each, _ in said} == {"said"}
    assert answer.text
    assert SAID.text.startswith(answer.text)
    assert (name, problem["status"]) == ("failed", 502)


@pytest.mark.parametrize("kind", KINDS)
def test_stream_that_waits_is_committed_in_the_dialects_own_words(
    server: Server, kind: str
) -> None:
    """So that it is no comment of another dialect that keeps it alive."""
    gate = Gate()
    late = BY_KIND[kind].refused(400, "No.")
    server.answer(kind, late.after(Hold(gate)))
    timer = threading.Timer(1.5, gate.set)
    timer.start()
    try:
        answer = server.ask(kind, live=True)
    finally:
        gate.set()
        timer.join()
    assert answer.status == 200
    *before, last = answer.events
    assert before[0] == ("still", {})
    assert last == ("failed", {"status": 400, "text": "No."})


@pytest.mark.parametrize("live", [False, True])
def test_what_was_dropped_is_named(server: Server, live: bool) -> None:
    """In a header, bounded and in ASCII, whatever the caller wrote."""
    odd: Json = {f"odd {number:02}\n\x7f": 1 for number in range(20)}
    reply = BY_KIND["openai"]
    server.answer("openai", reply.streamed(SAID) if live else reply.whole(SAID))
    answer = server.ask("openai", live=live, **odd)
    shown = [f"odd?{number:02}??" for number in range(12)]
    assert answer.headers["x-proxy-dropped"] == ", ".join([*shown, "and 8 more"])
    server.answer("openai", reply.streamed(SAID) if live else reply.whole(SAID))
    assert "x-proxy-dropped" not in server.ask("openai", live=live).headers


@pytest.mark.parametrize("live", [False, True])
def test_refused_reasoning_is_left_out(server: Server, live: bool) -> None:
    """On the same lease, once, and only if the refusal is about that and there is any."""
    openai = BY_KIND["openai"]
    refused = openai.refused(400, "Unrecognized request argument supplied: reasoning_effort")
    before = len(server.asked("openai"))
    server.answer("openai", refused, openai.streamed(SAID) if live else openai.whole(SAID))
    answer = server.ask("openai", live=live, think="high")
    assert (answer.status, answer.headers["x-proxy-attempts"]) == (200, "1")
    first, second = server.asked("openai")[before:]
    assert first.pop("reasoning_effort") == "high"
    assert first == second
    server.answer("openai", refused, refused)
    assert server.ask("openai", live=live, think="high").status == 400
    server.answer("openai", refused)
    assert server.ask("openai", live=live).status == 400
    server.answer("openai", openai.refused(400, "No."))
    assert server.ask("openai", live=live, think="high").status == 400
    assert len(server.asked("openai")) == before + 6


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({"key": "wrong-key-0123456789"}, 401),
        ({"model": "unknown"}, 404),
        ({"method": "PUT"}, 405),
        ({"path": f"{PATH}/x"}, 404),
        ({"say": ["no", "string"]}, 400),
        ({"say": ["no", "string"], "live": True}, 400),
    ],
)
def test_our_own_errors_have_the_dialects_own_shape(
    server: Server, asked: Json, status: int
) -> None:
    """Who calls, which model, path, method; what chat cannot say is refused before any attempt."""
    answer = server.ask("openai", **asked)
    assert answer.status == status
    assert json.loads(answer.body)["problem"]["status"] == status


def test_elsewhere_errors_are_openais(server: Server) -> None:
    """Paths that are no dialect's, and the list of models."""
    for path, status in (("/v1/turn", 404), ("/v1/models", 401)):
        answer = server.ask("openai", path=path, method="GET", key="wrong-key-0123456789")
        assert answer.status == status
        assert set(json.loads(answer.body)["error"]) == {"message", "type", "param", "code"}


def test_the_gateway_lists_it(server: Server) -> None:
    """Among the endpoints."""
    assert PATH in json.loads(server.ask("openai", path="/", method="GET").body)["endpoints"]
