"""The pool from Python: as over HTTP, but for the HTTP. Upstreams are on real sockets."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import flask
import pytest
from flask import Flask

import proxy as package
from proxy import Attempt, Call, Caller, CallerGone, Proxy, ProxyError, Stream, Usage
from tests.support import embeddings
from tests.support.dialects import BY_KIND, Said, configuration
from tests.support.gateway import PATIENCE_S, Reached
from tests.support.server import free_port
from tests.support.upstream import (
    HANG,
    MODEL,
    RESET,
    Hold,
    Received,
    Reply,
    Upstream,
    chat,
    chunk,
    endless,
    error,
    events,
    raw,
    stream,
)

HI: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}]
SILENT = events(chunk({"content": "a"}), HANG)


@pytest.fixture
def make(upstream: Upstream) -> Iterator[Callable[..., Proxy]]:
    """Makes proxies of clients `key-1` and so on, closed at the end with nothing left in use."""
    made: list[Proxy] = []

    def make(clients: int = 1, *, provider: Any = None, **settings: Any) -> Proxy:
        keys = [f"key-{number}" for number in range(1, clients + 1)]
        entry = {"name": "up", "base-url": upstream.url, "api-keys": keys, "models": [MODEL]}
        tree = {name.replace("_", "-"): value for name, value in settings.items()}
        made.append(Proxy({"openai-compatibility": [{**entry, **(provider or {})}], **tree}))
        return made[-1]

    yield make
    for proxy in made:
        proxy.close()
        assert not any(facts["in_flight"] for facts in proxy.gateway.pool.snapshot())
        assert not proxy.gateway._places._taken


def ask(proxy: Proxy, model: str = MODEL, **more: Any) -> dict[str, Any]:
    return proxy.chat(model=model, messages=HI, **more)


def listen(proxy: Proxy, model: str = MODEL, **more: Any) -> Stream:
    return proxy.stream(model=model, messages=HI, **more)


def text_of(answer: dict[str, Any]) -> str:
    text: str = answer["choices"][0]["message"]["content"]
    return text


def said(chunks: Iterator[dict[str, Any]]) -> str:
    return "".join(one["choices"][0]["delta"].get("content") or "" for one in chunks)


# Answers


def test_an_answer_is_a_dict_as_the_wire_has_it(upstream: Upstream, make: Any) -> None:
    """What is asked goes on, every parameter of the API."""
    answer = json.loads(chat("Hello").content()) | {"big": 10**30, "half": "\ud83d"}
    upstream.reply(None, Reply([json.dumps(answer).encode()]))
    found = ask(make(), temperature=0.5, tools=[], user="\ud83d")
    assert text_of(found) == "Hello"
    assert found == answer
    [received] = upstream.received()
    asked = {"model": MODEL, "messages": HI, "temperature": 0.5, "tools": [], "user": "\ud83d"}
    assert received.json() == asked
    assert received.header["x-request-id"].startswith("req_")


@pytest.mark.parametrize("kind", ["openai", "gemini"])
def test_embeddings_are_a_dict_too(upstream: Upstream, kind: str) -> None:
    """Of every kind of upstream, with usage in the record; parameters go on."""
    client = BY_KIND[kind].client(upstream.origin, "key-1", "e")
    if kind == "gemini":
        client["gemini-api-key"][0]["models"][0]["name"] = embeddings.GEMINI_MODEL
    embeds = embeddings.openai if kind == "openai" else embeddings.tells(tokens=True)
    upstream.reply("key-1", embeds, embeds, embeds)
    calls: list[Call] = []
    with Proxy(configuration(client)) as proxy:

        @proxy.call_ended.connect
        def keep(app: object, *, call: Call) -> None:
            calls.append(call)

        found = proxy.embed(model="e", input=["a", "bb"], dimensions=3, caller="nightly")
        texts = ["a", "bb"]
        assert [one["embedding"] for one in found["data"]] == [
            embeddings.vector(text, 3) for text in texts
        ]
        found = proxy.embed(model="e", input="a", encoding_format="base64", timeout=20)
        assert isinstance(found["data"][0]["embedding"], str)
        with pytest.raises(ProxyError, match="does not exist"):
            proxy.embed(model="e", input="a", caller=Caller("x", models=["f"]))
    assert [(call.endpoint, call.caller, call.end) for call in calls] == [
        ("proxy.embed", "nightly", "ok"),
        ("proxy.embed", "", "ok"),
        ("proxy.embed", "x", "model_not_found"),
    ]
    assert calls[0].usage == Usage(2)


def test_a_stream_gives_dicts_as_they_come(upstream: Upstream, make: Any) -> None:
    """Each while the upstream is silent behind it; then it is over."""
    gate = threading.Event()
    half = f"data: {json.dumps(chunk({'content': chr(0xD83D)}))}\n\n".encode()
    rest = chunk({"content": "b"}, finish="stop")
    upstream.reply(None, events(half, Hold(gate), rest, "[DONE]"))
    with listen(make()) as chunks:
        first = next(chunks)
        assert first["choices"][0]["delta"] == {"content": "\ud83d"}
        gate.set()
        assert said(chunks) == "b"
        assert list(chunks) == []
    assert list(chunks) == []
    assert upstream.received()[0].json()["stream"] is True


@pytest.mark.parametrize("wants", [False, True])
def test_usage_is_told_to_those_who_ask(upstream: Upstream, make: Any, wants: bool) -> None:
    """As over HTTP."""
    options: Any = {"stream_options": {"include_usage": True}} if wants else {}
    with listen(make(), **options) as chunks:
        told = [one for one in chunks if not one["choices"]]
    assert [one["usage"]["total_tokens"] for one in told] == [12] * wants


@pytest.mark.parametrize("kind", BY_KIND)
def test_clients_of_every_kind(upstream: Upstream, kind: str) -> None:
    """Translated to chat."""
    dialect = BY_KIND[kind]
    client = dialect.client(upstream.origin, "key", "m")
    upstream.reply(None, dialect.whole(Said(text="Hello")), dialect.streamed(Said(text="Hi you")))
    with Proxy(configuration(client)) as proxy:
        assert text_of(ask(proxy, "m")) == "Hello"
        with listen(proxy, "m") as chunks:
            assert said(chunks) == "Hi you"


@pytest.mark.long
def test_nothing_is_asked_before_it_is_needed(upstream: Upstream, make: Any) -> None:
    """A stream that is never opened holds nothing, and closing it is all right."""
    chunks = listen(make())
    chunks.close()
    with pytest.raises(CallerGone):
        next(chunks)
    del chunks
    gc.collect()
    assert upstream.received() == []


@pytest.mark.parametrize("call", ["chat", "stream"])
def test_arguments_that_make_no_sense(make: Any, call: str) -> None:
    """A mistake of the program is a TypeError, before anything is asked."""
    serve = getattr(make(), call)
    for wrong in ({"stream": True}, {"temperature": object()}, {"caller": 7}):
        with pytest.raises(TypeError), suppress(StopIteration):
            next(iter(serve(model=MODEL, messages=HI, **wrong)))


def test_a_proxy_closes_its_idle_connections(upstream: Upstream, make: Any) -> None:
    """And serves on, if it is asked to."""
    with make() as proxy:
        ask(proxy)
    upstream.wait_for_connections()
    assert text_of(ask(proxy)) == "Hello there!"


# Who calls


def test_a_caller_of_the_configuration_has_its_limits(upstream: Upstream, make: Any) -> None:
    """By its name; another has none, nor has nobody, and a `Caller` has its own."""
    nightly = {"name": "nightly", "key": "caller-key-0123456789", "models": ["else"]}
    busy = {"name": "busy", "key": "caller-key-9876543210", "max-concurrency": 1}
    proxy = make(3, api_keys=[nightly, busy, "caller-key-0000000000"])
    for limited in ("nightly", Caller("new", models=["else"])):
        with pytest.raises(package.ModelNotFound):
            ask(proxy, caller=limited)
    upstream.reply(None, SILENT)
    with listen(proxy, caller="busy") as chunks:
        next(chunks)
        with pytest.raises(package.CallerLimitReached) as full:
            ask(proxy, caller="busy")
        assert full.value.hint is not None
        assert full.value.limit == "max-concurrency"
        for free in (None, "", "other", Caller("mine", max_concurrency=1)):
            assert text_of(ask(proxy, caller=free)) == "Hello there!"
    assert text_of(ask(proxy, caller="busy")) == "Hello there!"


def test_requests_in_flight_are_limited_with_those_over_http(make: Any) -> None:
    """One count for all."""
    proxy = make(2, max_requests_in_flight=1)
    app = Flask("theirs")
    proxy.init_app(app)
    with listen(proxy) as chunks:
        next(chunks)
        with pytest.raises(package.TooManyInFlight):
            ask(proxy)
        answer = app.test_client().post(
            "/v1/chat/completions", json={"model": MODEL, "messages": HI}
        )
        assert answer.status_code == 503


# Errors


def refused(proxy: Proxy, **more: Any) -> ProxyError:
    with pytest.raises(ProxyError) as raised:
        ask(proxy, **more)
    return raised.value


ONCE = {"request_retry": 0}
ERRORS: dict[type[ProxyError], tuple[Reply, int, str | None]] = {
    package.UpstreamRefusal: (error(400, "No.", code="bad"), 400, "bad"),
    package.UpstreamAuthentication: (error(401), 502, "upstream_authentication_error"),
    package.UpstreamReset: (raw(RESET), 502, "upstream_reset"),
    package.UpstreamInvalid: (Reply([b"{}"]), 502, "upstream_invalid_response"),
    package.UpstreamTooLarge: (chat("x" * 2000), 502, "upstream_too_large"),
    package.UpstreamTimeout: (chat("late").after(HANG), 504, "upstream_timeout"),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_of_upstreams(upstream: Upstream, make: Any, kind: type[ProxyError]) -> None:
    """The very exceptions, with what an HTTP caller is told."""
    reply, status, code = ERRORS[kind]
    upstream.reply(None, reply)
    settings = {"max_answer_size": 1000, "first_byte_timeout": 0.2, "max_retry_interval": 0}
    found = refused(make(**ONCE, **settings))
    assert type(found) is kind
    assert (found.status, found.code) == (status, code)
    assert str(found) == found.message


def test_errors_of_the_pool(upstream: Upstream, make: Any) -> None:
    """With hints that are true."""
    proxy = make(queue_timeout=0, max_retry_interval=0, **ONCE)
    upstream.reply(None, SILENT)
    with listen(proxy) as chunks:
        next(chunks)
        busy = refused(proxy)
    assert (type(busy), busy.status) == (package.NoClientFree, 503)
    assert busy.hint is not None
    upstream.reply(None, error(429, headers={"Retry-After": "30"}))
    assert type(refused(proxy)) is package.UpstreamRefusal
    cooling = refused(proxy)
    assert (type(cooling), cooling.status) == (package.AllCoolingDown, 429)
    assert cooling.hint is not None
    assert 25 < (cooling.hint.after_s or 0) <= 30
    other = make(**ONCE)
    upstream.reply(None, error(401))
    refused(other)
    out = refused(other)
    assert (type(out), out.status) == (package.NoClientInService, 503)


def test_errors_of_callers(make: Any) -> None:
    """What is asked cannot be done."""
    proxy = make()
    unknown = refused(proxy, model="none")
    assert (type(unknown), unknown.status) == (package.ModelNotFound, 404)
    with pytest.raises(package.InvalidRequest) as empty:
        proxy.chat(model=MODEL, messages=[])
    assert (empty.value.status, empty.value.param) == (400, "messages")


def test_models_that_nobody_can_tell(upstream: Upstream) -> None:
    """A provider's own list that cannot be had."""
    upstream.pages["/v1/models"] = error(500)
    with Proxy({"openai-compatibility": [{"name": "up", "base-url": upstream.url}]}) as proxy:
        assert type(refused(proxy)) is package.ModelsUnknown


def test_an_upstream_that_is_not_there(make: Any) -> None:
    """Nobody listens."""
    gone = {"base-url": f"http://127.0.0.1:{free_port()}"}
    found = refused(make(provider=gone, **ONCE))
    assert (type(found), found.status) == (package.UpstreamUnreachable, 502)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (stream("a", finish=None, done=False), package.UpstreamTruncated),
        (events(chunk({"content": "a"}), RESET), package.UpstreamReset),
        (
            events(chunk({"content": "a"}), {"error": {"message": "No.", "code": 503}}),
            package.UpstreamRefusal,
        ),
    ],
)
def test_a_stream_that_breaks_raises(
    upstream: Upstream, make: Any, reply: Reply, kind: type[ProxyError]
) -> None:
    """After what came before; it does not look whole."""
    upstream.reply(None, reply)
    with listen(make()) as chunks:
        got = [next(chunks)]
        with pytest.raises(kind):
            got += chunks
        assert said(iter(got)) == "a"
        assert list(chunks) == []


@pytest.mark.long
def test_want_of_descriptors_is_told() -> None:
    """A process of its own, which has none left."""
    code = """
import resource, socket
from proxy import OutOfResources, Proxy
proxy = Proxy({"demo": [{"name": "demo", "delay-ms": 0}]})
asked = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}]}
proxy.chat(**asked)
resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
held = []
try:
    while True: held.append(socket.socket())
except OSError: pass
try:
    next(proxy.stream(**asked))
except OutOfResources as error:
    held.clear()
    print(error.status, error.hint.after_s, len(list(proxy.stream(**asked))))
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("503 1.0 "), done.stderr


# Time


@pytest.mark.parametrize("call", ["chat", "stream"])
def test_a_call_may_have_a_time_of_its_own(upstream: Upstream, make: Any, call: str) -> None:
    """To the whole answer, or a stream's first chunk; the upstream is let go."""
    upstream.default = chat("late").after(HANG)
    serve = getattr(make(), call)
    with pytest.raises(package.UpstreamTimeout, match="within") as late:
        next(iter(serve(model=MODEL, messages=HI, timeout=1.0)))
    assert late.value.status == 504
    assert upstream.received()[0].wait_ended().aborted


def test_time_in_the_queue_counts(upstream: Upstream, make: Any) -> None:
    """The one permit is another's."""
    upstream.reply(None, SILENT)
    proxy = make()
    with listen(proxy, timeout=PATIENCE_S) as chunks:
        next(chunks)
        with pytest.raises(package.UpstreamTimeout):
            ask(proxy, timeout=0.1)


# The end of streams


def test_a_stream_that_is_closed_early_ends_the_upstreams_work(
    upstream: Upstream, make: Any
) -> None:
    """The permit is back when `with` ends; who reads on is told that this is not the whole."""
    proxy = make()
    upstream.reply(None, SILENT, chat("next"))
    with listen(proxy) as chunks:
        next(chunks)
    assert upstream.received()[0].wait_ended().aborted
    with pytest.raises(CallerGone):
        next(chunks)
    assert text_of(ask(proxy)) == "next"


def in_thread(work: Callable[[], object]) -> tuple[threading.Thread, list[BaseException]]:
    ends: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            ends.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, ends


@pytest.mark.parametrize("place", ["first", "later", "queue"])
def test_another_thread_may_close(upstream: Upstream, make: Any, place: str) -> None:
    """Who waits in `next` is told at once, for a client or for an upstream that is silent."""
    proxy = make()
    reached = Reached()
    if place == "queue":
        upstream.reply(None, SILENT)
    steps = [chunk({"content": "a"})] if place == "later" else []
    upstream.reply(None, events(*steps, reached.hold(), HANG))
    holder = listen(proxy)
    if place == "queue":
        next(holder)
    chunks = listen(proxy)
    thread, ends = in_thread(lambda: list(chunks))
    if place == "queue":
        while not proxy.gateway.pool.queue_facts()[MODEL]["waiting"]:
            assert thread.is_alive()
    else:
        reached.wait_reached()
    chunks.close()
    thread.join(PATIENCE_S)
    assert [type(end) for end in ends] == [CallerGone]
    if place != "queue":
        assert upstream.received()[0].wait_ended().aborted
    holder.close()


def test_closing_races_with_everything(upstream: Upstream, make: Any) -> None:
    """Whenever it comes: nothing is left in use, which `make` looks at."""
    upstream.default = endless()
    proxy = make(4)

    def run(number: int) -> None:
        chunks = listen(proxy)
        closer = threading.Timer(number % 20 / 2000, chunks.close)
        closer.start()
        with pytest.raises(CallerGone):
            for _ in chunks:
                pass
        closer.join()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(run, range(120)))


def test_one_thread_at_a_time_iterates(upstream: Upstream, make: Any) -> None:
    """A second one is told of its mistake."""
    reached = Reached()
    upstream.reply(None, events(reached.hold(), HANG))
    chunks = listen(make())
    thread, ends = in_thread(lambda: next(chunks))
    reached.wait_reached()
    with pytest.raises(RuntimeError, match="another thread"):
        next(chunks)
    chunks.close()
    thread.join(PATIENCE_S)
    assert len(ends) == 1


@pytest.mark.long
def test_a_stream_left_to_the_collector_gives_its_permit_to_who_waits(
    upstream: Upstream, make: Any
) -> None:
    """And is warned of."""
    proxy = make()
    upstream.reply(None, SILENT, chat("next"))
    kept = [listen(proxy)]
    next(kept[0])
    answers: list[Any] = []
    thread, ends = in_thread(lambda: answers.append(ask(proxy)))
    while not proxy.gateway.pool.queue_facts()[MODEL]["waiting"]:
        assert thread.is_alive()

    def lose() -> None:
        kept.clear()
        gc.collect()
        thread.join(PATIENCE_S)

    with pytest.warns(ResourceWarning, match="neither closed nor read"):
        lose()
    assert not ends
    assert text_of(answers[0]) == "next"
    assert upstream.received()[0].wait_ended().aborted


@pytest.mark.long
@pytest.mark.filterwarnings("always::ResourceWarning")
def test_what_was_read_to_its_end_needs_no_close(
    upstream: Upstream, make: Any, recwarn: pytest.WarningsRecorder
) -> None:
    """A plain loop will do."""
    proxy = make()
    assert said(listen(proxy)) == "Hello there!"
    upstream.reply(None, error(400, "No."))
    with pytest.raises(package.UpstreamRefusal):
        list(listen(proxy))
    gc.collect()
    ask(proxy)
    assert [str(one.message) for one in recwarn] == []


# Threads and processes


@pytest.mark.parametrize("is_stream", [False, True])
def test_50_threads_share_five_mutexes(upstream: Upstream, make: Any, is_stream: bool) -> None:
    """Never two at once on one of them; each caller has its own answer."""
    lock = threading.Lock()
    now: Counter[str | None] = Counter()
    most: Counter[str | None] = Counter()

    def answer(received: Received) -> Reply:
        with lock:
            now[received.key] += 1
            most[received.key] = max(most[received.key], now[received.key])
        threading.Event().wait(0.002)  # long enough for another to come, if one may
        with lock:
            now[received.key] -= 1  # before the answer is out, so that no next one can have begun
        name = received.json()["user"]
        return stream(name) if is_stream else chat(name)

    upstream.default = answer
    proxy = make(5)
    ready = threading.Barrier(50)

    def run(number: int) -> list[bool]:
        ready.wait(PATIENCE_S)
        found = []
        for turn in range(4):
            name = f"{number}.{turn}"
            if is_stream:
                with listen(proxy, user=name, timeout=60) as chunks:
                    found.append(said(chunks) == name)
            else:
                found.append(text_of(ask(proxy, user=name, timeout=60)) == name)
        return found

    with ThreadPoolExecutor(50) as threads:
        assert [sum(each) for each in threads.map(run, range(50))] == [4] * 50
    assert len(upstream.received()) == 200
    assert most == {f"key-{number}": 1 for number in range(1, 6)}


def test_after_a_fork(upstream: Upstream, make: Any) -> None:
    """A child has connections of its own; its parent's stream is closed by the parent alone."""
    proxy = make(2)
    ask(proxy)
    gate = threading.Event()
    upstream.reply(None, events(chunk({"content": "a"}), Hold(gate), HANG))
    with listen(proxy) as chunks:
        next(chunks)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = 0 if text_of(ask(proxy)) == "Hello there!" else 2
                status = status or (0 if said(listen(proxy)) == "Hello there!" else 3)
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        first, held, *childs = upstream.received()
        assert held.connection == first.connection
        assert first.connection not in {one.connection for one in childs}
    assert held.wait_ended().aborted


# In an application


class Told:
    """What receivers heard, and where they ran."""

    def __init__(self, proxy: Proxy) -> None:
        self.heard: list[tuple[str, object, Call]] = []
        for name in ("call_started", "attempt_ended", "call_ended"):
            getattr(proxy, name).connect(self._receiver(name), weak=False)

    def _receiver(self, name: str) -> Any:
        def receive(app: Flask | None, *, call: Call, attempt: Attempt | None = None) -> None:
            assert not flask.has_request_context()
            assert flask.has_app_context() is (app is not None)
            self.heard.append((name, app, call))

        return receive


def test_signals_and_records_are_as_over_http(upstream: Upstream, make: Any) -> None:
    """Without an application their sender is None."""
    proxy = make()
    told = Told(proxy)
    upstream.reply(None, chat("Hello"), stream("Hello", usage=(9, 3)))
    upstream.reply(None, error(400, "No.", code="bad"))
    ask(proxy, caller="nightly")
    with listen(proxy) as chunks:
        list(chunks)
    refused(proxy)
    names = [(name, app) for name, app, _ in told.heard]
    assert names == [
        ("call_started", None), ("attempt_ended", None), ("call_ended", None),
    ] * 3  # fmt: skip
    whole, streamed, failed = (call for name, _, call in told.heard if name == "call_ended")
    usage = Usage(9, 3, cached_tokens=0, reasoning_tokens=0)
    assert (whole.caller, whole.endpoint, whole.status, whole.end) == (
        "nightly", "proxy.chat", 200, "ok",
    )  # fmt: skip
    assert (whole.usage, streamed.usage) == (usage, usage)
    assert (streamed.stream, streamed.endpoint, streamed.end) == (True, "proxy.stream", "ok")
    assert streamed.times.first_event_s is not None
    assert whole.bytes_in > 0
    assert (failed.status, failed.end, failed.attempts[0].message) == (400, "bad", "No.")


def test_in_the_request_of_an_application(upstream: Upstream, make: Any) -> None:
    """The gateway is the application's; so are the signals, and no request is in sight of them."""
    proxy = Proxy()
    names = ("one", "two")
    apps = {}
    for name in names:
        app = apps[name] = Flask(name)
        provider = {"name": name, "base-url": upstream.url, "api-keys": [name], "models": [MODEL]}
        app.config["POOLPROXY_CONFIG"] = {"openai-compatibility": [provider]}
        proxy.init_app(app, url_prefix="/llm")
        app.add_url_rule("/ask", view_func=lambda: text_of(ask(proxy)))
    told = Told(proxy)
    for name in names:
        assert apps[name].test_client().get("/ask").data == b"Hello there!"
        assert [one.key for one in upstream.received()][-1] == name
        assert {app for _, app, _ in told.heard[-3:]} == {apps[name]}
    with pytest.raises(RuntimeError, match="2 applications"):
        ask(proxy)
    with apps["two"].app_context():
        assert text_of(ask(proxy)) == "Hello there!"
    proxy.close()


def test_outside_of_the_only_application_it_is_meant(upstream: Upstream, make: Any) -> None:
    """A job of the host's, in a thread without a context."""
    proxy = make()
    app = Flask("theirs")
    proxy.init_app(app)
    told = Told(proxy)
    ask(proxy)
    assert {app for _, app, _ in told.heard} == {app}


def test_request_log_has_calls_from_python(
    upstream: Upstream, make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole, with answers, chunks and errors."""
    monkeypatch.chdir(tmp_path)
    proxy = make(request_log=True)
    upstream.reply(None, chat("Hello"), stream("Hello"), error(400, "No."))
    ask(proxy)
    with listen(proxy) as chunks:
        list(chunks)
    refused(proxy)
    whole, streamed, failed = (
        path.read_text() for path in sorted((tmp_path / "request-logs").iterdir())
    )
    assert '"messages":[' in whole
    assert '"content": "Hello"' in whole
    assert '"content": "Hello"' in streamed
    assert '"message": "No."' in failed
    assert all("end=" in text for text in (whole, streamed, failed))


# Event loops


async def collect(proxy: Proxy, heard: list[str]) -> None:
    """How the docs say it: threads read, and the loop may close."""
    chunks = listen(proxy)
    try:
        while (one := await asyncio.to_thread(next, chunks, None)) is not None:
            heard.append(one["choices"][0]["delta"].get("content") or "")
    finally:
        chunks.close()


def test_an_event_loop_reads_in_threads(make: Any) -> None:
    """A few at once."""

    async def run(proxy: Proxy) -> list[list[str]]:
        heard: list[list[str]] = [[], [], []]
        await asyncio.gather(*(collect(proxy, each) for each in heard))
        return heard

    assert ["".join(each) for each in asyncio.run(run(make(2)))] == ["Hello there!"] * 3


@pytest.mark.parametrize("place", ["first", "later"])
def test_an_event_loop_that_cancels_ends_the_upstreams_work(
    upstream: Upstream, make: Any, place: str
) -> None:
    """At once, though the upstream is silent; the thread is free for the next."""
    reached = Reached()
    steps = [chunk({"content": "a"})] if place == "later" else []
    upstream.reply(None, events(*steps, reached.hold(), HANG), chat("next"))
    proxy = make()

    async def run() -> list[str]:
        heard: list[str] = []
        task = asyncio.create_task(collect(proxy, heard))
        await asyncio.to_thread(reached.wait_reached)
        while len(heard) < len(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return heard

    assert asyncio.run(run()) == ["a"] * len(steps)
    assert upstream.received()[0].wait_ended().aborted
    assert text_of(ask(proxy)) == "next"
