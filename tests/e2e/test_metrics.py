"""`GET /metrics` of real servers: right with any number of workers, whatever becomes of them.

What it says is compared with what callers were told, and what the upstream has seen.
"""

from __future__ import annotations

import http.client
import itertools
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxy.server.control.sockets import ask_all
from proxy.usage.metrics import INTERVAL_S, MOST_VALUES, OTHER
from tests.support.commandline import wait_for
from tests.support.gateway import CHAT, PATIENCE_S, Gateway, Reached, asked
from tests.support.upstream import Received, Reply, Upstream, chunk, completion, error, events

SERVE = [sys.executable, "-m", "proxy", "serve"]
MODELS = ("one", "two")
KEYS = ("sk-0123456789-one1", "sk-0123456789-two2")
# An interval, and what a busy machine makes of it.
LOST_S = 5 * INTERVAL_S


def config_of(upstream: Upstream, **more: Any) -> dict[str, Any]:
    provider = {"name": "up", "base-url": upstream.url, "max-concurrency": 0}
    return {
        "request-retry": 0,
        "openai-compatibility": [{**provider, "api-keys": [*KEYS], "models": [*MODELS]}],
        **more,
    }


class Scrape:
    """What one answer of `/metrics` says."""

    def __init__(self, gateway: Gateway, headers: Mapping[str, str] | None = None) -> None:
        answer = gateway.call("GET", "/metrics", headers=headers)
        assert answer.status == 200, answer
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        self.growing: dict[str, float] = {}
        self._samples: list[tuple[str, dict[str, str], float]] = []
        for family in text_string_to_metric_families(answer.body.decode()):
            for sample in family.samples:
                self._samples.append((sample.name, sample.labels, sample.value))
                if family.type != "gauge":
                    self.growing[f"{sample.name} {sorted(sample.labels.items())}"] = sample.value

    def sum(self, name: str, **labels: str) -> float:
        """Of all with this name and these labels."""
        return sum(
            value
            for found, theirs, value in self._samples
            if found == name and labels.items() <= theirs.items()
        )

    def by(self, name: str, label: str) -> dict[str, float]:
        """Sums by the values of a label."""
        values = {labels[label] for found, labels, _ in self._samples if found == name}
        return {value: self.sum(name, **{label: value}) for value in values}

    def check_grown(self, before: Scrape) -> None:
        """Fail if anything is less than it was, or gone."""
        worse = {
            row: (value, self.growing.get(row))
            for row, value in before.growing.items()
            if self.growing.get(row, -1) < value
        }
        assert not worse


def answer(received: Received) -> Reply:
    """An upstream of which a fifth fails, each in its own way."""
    number = int(received.header["x-request-id"].rpartition("-")[2])
    if number % 10 == 3:
        return error(503)
    if number % 10 == 7:
        return error(400, "No such field.", code="unknown_parameter")
    if received.json().get("stream"):
        usage = chunk(None, usage={"prompt_tokens": 7, "completion_tokens": 2})
        return events(chunk({"content": "Hi"}), chunk({}, finish="stop"), usage, "[DONE]")
    return completion("Hi", usage=(9, 3))


class Callers:
    """Some threads that call, and count what they are told, until `close`."""

    def __init__(self, gateway: Gateway, threads: int = 4) -> None:
        self._gateway = gateway
        self._numbers = itertools.count()
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self.told = Counter[tuple[str, bool, int]]()  # by model, stream and status
        self.moments: list[float] = []  # at which they were told
        self.broken = 0
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def _run(self) -> None:
        while not self._is_over.is_set():
            self.call()

    def call(self) -> None:
        number = next(self._numbers)
        model, stream = MODELS[number // 2 % 2], bool(number % 2)
        headers = {"x-request-id": f"n-{number}"}
        try:
            found = self._gateway.chat(model, stream=stream, headers=headers)
        except (OSError, http.client.HTTPException):
            with self._lock:
                self.broken += 1
        else:
            with self._lock:
                self.told[model, stream, found.status] += 1
                self.moments.append(time.monotonic())


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as running:
        running.default = answer
        yield running


class Watch:
    """Scrapes all the time, in a thread, and looks that nothing becomes less."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.last = Scrape(gateway)
        self.scrapes = 0
        self.faults: list[BaseException] = []

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(PATIENCE_S)

    def wait_for_more(self, scrapes: int) -> None:
        most = self.scrapes + scrapes
        wait_for(lambda: self.scrapes >= most or bool(self.faults), lambda: f"{self.scrapes}")

    def _run(self) -> None:
        while not self._is_over.is_set():
            try:
                found = Scrape(self._gateway)
                found.check_grown(self.last)
            except (OSError, http.client.HTTPException):  # the worker that was asked is killed
                continue
            except BaseException as fault:
                self.faults.append(fault)
                return
            self.last = found
            self.scrapes += 1


def wait_for_scrape(gateway: Gateway, name: str, number: float) -> Scrape:
    """Block until what has this name comes to so much; a scrape that says so.

    A call is counted when it is over, a moment after its caller has all of it. A worker that does
    not get its turn for half a second is left out of a scrape.
    """
    found = [Scrape(gateway)]

    def says_so() -> bool:
        found[0] = Scrape(gateway)
        return found[0].sum(name) == number

    wait_for(says_so, lambda: f"{name}: {found[0].sum(name)}, not {number}")
    return found[0]


def check_sums(found: Scrape, callers: Callers, upstream: Upstream) -> None:
    """Of three witnesses: the gateway, the callers, and the upstream."""
    told = callers.told
    name = "poolproxy_requests_total"
    for model in MODELS:
        for status in {status for _, _, status in told}:
            times = sum(told[model, stream, status] for stream in (False, True))
            assert found.sum(name, model=model, status=str(status), endpoint=CHAT) == times
    assert found.sum(name) == told.total()
    of_streams = sum(n for (_, stream, status), n in told.items() if stream and status == 200)
    assert found.by("poolproxy_stream_ends_total", "reason")["ok"] == of_streams
    seen = Counter((one.key, one.json()["model"]) for one in upstream.received())
    for key, label in zip(KEYS, ("up/sk-...one1", "up/sk-...two2"), strict=True):
        for model in MODELS:
            tried = found.sum("poolproxy_attempts_total", client=label, model=model)
            assert tried == seen[key, model]
    total = sum(seen.values())
    for name in ("client_operation_duration", "server_request_duration"):
        count = found.sum(f"gen_ai_{name}_seconds_count", gen_ai_operation_name="chat")
        assert count == (total if name.startswith("client") else told.total())
    assert found.sum("gen_ai_server_time_to_first_token_seconds_count") == of_streams
    assert found.sum("gen_ai_client_operation_time_to_first_chunk_seconds_count") == of_streams
    assert found.sum("poolproxy_queue_wait_seconds_count") == told.total()
    of_unary = sum(n for (_, stream, status), n in told.items() if not stream and status == 200)
    tokens = found.by("poolproxy_tokens_total", "type")
    assert tokens["input"] == 9 * of_unary + 7 * of_streams
    assert tokens["output"] == 3 * of_unary + 2 * of_streams


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_sums_are_those_of_all_witnesses(upstream: Upstream, workers: int) -> None:
    """Whichever worker is asked, as soon as nobody calls any more, and never less than before."""
    with Gateway(config_of(upstream), workers=workers) as gateway:
        before = Scrape(gateway)
        with Callers(gateway) as callers:
            until = time.monotonic() + 3
            while time.monotonic() < until or callers.told.total() < 50:
                found = Scrape(gateway)
                found.check_grown(before)
                before = found
        assert callers.broken == 0
        wait_for_scrape(gateway, "poolproxy_requests_in_flight", 0)
        found = wait_for_scrape(gateway, "poolproxy_requests_total", callers.told.total())
        found.check_grown(before)
        check_sums(found, callers, upstream)


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_killed_workers_and_reloads_take_nothing_back(upstream: Upstream, workers: int) -> None:
    """kill -9 of one worker after the other during scrapes, and changed configurations: no number
    becomes smaller, and what is lost is what was told within the last interval.
    """
    config = config_of(upstream)
    with Gateway(config, workers=workers) as gateway:
        with Callers(gateway) as callers, Watch(gateway) as watch:
            kills = []
            for number in range(5):
                watch.wait_for_more(5)
                (victim, *_) = sorted(gateway.workers(), key=lambda pid: pid % (number + 2))
                kills.append(time.monotonic())
                gateway.kill(victim)
                wait_for(
                    lambda victim=victim: len(gateway.workers() - {victim}) == workers,  # type: ignore[misc]
                    lambda: f"{gateway.workers()}",
                )
                gateway.write({**config, "queue-timeout": 20 + number})
                gateway.hang_up()
            watch.wait_for_more(5)
        assert not watch.faults
        last = Scrape(gateway)
        last.check_grown(watch.last)
    told, counted = callers.told.total(), last.sum("poolproxy_requests_total")
    late = [one for one in callers.moments if any(0 < kill + 0.1 - one < LOST_S for kill in kills)]
    print(
        f"{told} told, {callers.broken} broken, {told - counted:.0f} lost of {len(late)} late ones"
    )
    assert counted <= told + callers.broken
    assert told - counted <= len(late)


@pytest.mark.long
def test_next_server_begins_at_zero_and_leaves_nothing(upstream: Upstream, tmp_path: Path) -> None:
    """All that it has counted ends with it."""
    config = config_of(upstream, **{"control-dir": str(tmp_path)})
    tmp_path.chmod(0o700)
    for _ in range(3):
        with Gateway(config, workers=2) as gateway:
            assert Scrape(gateway).sum("poolproxy_requests_total") == 0
            gateway.chat("one", headers={"x-request-id": "n-1"})
            wait_for_scrape(gateway, "poolproxy_requests_total", 1)
        assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_server_that_starts_takes_nothing_from_another(upstream: Upstream, tmp_path: Path) -> None:
    """Though it has no worker at that moment: all were killed. Both have the same `control-dir`."""
    config = config_of(upstream, **{"control-dir": str(tmp_path)})
    tmp_path.chmod(0o700)
    with Gateway(config, workers=2) as gateway:
        gateway.chat("one", headers={"x-request-id": "n-1"})
        before = Scrape(gateway)
        os.kill(gateway.pid, signal.SIGSTOP)
        workers = gateway.workers()
        for worker in workers:
            gateway.kill(worker)
        with Gateway(config) as other:
            assert Scrape(other).sum("poolproxy_requests_total") == 0
        os.kill(gateway.pid, signal.SIGCONT)
        wait_for(lambda: len(gateway.workers() - workers) == 2, lambda: f"{gateway.workers()}")
        Scrape(gateway).check_grown(before)


def statuses(gateway: Gateway) -> list[dict[str, Any]]:
    return ask_all(gateway.port, {"do": "status"})


@pytest.mark.long
def test_counts_survive_an_upgrade(upstream: Upstream) -> None:
    """SIGUSR2 starts another server beside the old one: both tell the same, and the new one goes on
    from there when the old one has ended.
    """
    quiet = {"PYTHONWARNINGS": "ignore"}  # gunicorn leaves a socket to the collector
    with Gateway(config_of(upstream), workers=2, command=SERVE, env=quiet) as gateway:
        numbers = itertools.count(0, 10)

        def check_grown(before: Scrape) -> Scrape:
            for _ in range(4):
                gateway.chat("one", headers={"x-request-id": f"n-{next(numbers)}"})
                found = Scrape(gateway)
                found.check_grown(before)
                before = found
            return before

        last = check_grown(Scrape(gateway))
        os.kill(gateway.pid, signal.SIGUSR2)
        wait_for(lambda: len(statuses(gateway)) == 4, lambda: gateway.log)
        last = check_grown(last)
        gateway.terminate()
        wait_for(lambda: len(statuses(gateway)) == 2, lambda: gateway.log)
        last = check_grown(last)
        wait_for_scrape(gateway, "poolproxy_requests_total", 12).check_grown(last)


@contextmanager
def stopped(worker: int) -> Iterator[None]:
    """It stands still."""
    os.kill(worker, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(worker, signal.SIGCONT)


@pytest.mark.long
def test_gauges_tell_of_all_workers_that_answer(upstream: Upstream) -> None:
    """One that stands still is left out of them, after half a second; what it counted is not."""
    hold = Reached()
    upstream.default = events(chunk({"content": "a"}), hold.hold())
    limited = config_of(upstream)
    limited["openai-compatibility"][0] |= {"max-concurrency": 20, "api-keys": [KEYS[0]]}
    with Gateway(limited, workers=2) as gateway, ExitStack() as held:

        def by_worker() -> dict[int, int]:
            return {one["pid"]: one["in_flight"] for one in statuses(gateway)}

        wait_for(lambda: len(by_worker()) == 2)
        for worker in by_worker():
            with stopped(worker):  # so that the other one takes the request
                held.enter_context(gateway.open("POST", CHAT, asked("one", stream=True)))
        in_flight, label = by_worker(), "up/sk-...one1"
        assert [*in_flight.values()] == [1, 1]
        found = wait_for_scrape(gateway, "poolproxy_requests_in_flight", 2)
        assert found.sum("poolproxy_client_in_flight", client=label) == 2
        assert found.sum("poolproxy_client_permits", client=label) == 40
        worker, *_ = in_flight
        with stopped(worker):
            later = Scrape(gateway)
        later.check_grown(found)
        assert later.sum("poolproxy_requests_in_flight") == 1
        assert later.sum("poolproxy_client_permits", client=label) == 20


@pytest.mark.long
def test_names_of_strangers_are_bounded(upstream: Upstream) -> None:
    """Thousands of models and paths that nobody has ever heard of, by all workers."""
    with Gateway(config_of(upstream), workers=2) as gateway:
        number = itertools.count()

        def call() -> None:
            for _ in range(500):
                n = next(number)
                assert gateway.chat(f"stranger-{n}").status == 404
                assert gateway.call("GET", f"/stranger-{n}").status == 404

        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = Scrape(gateway)
    requests = found.by("poolproxy_requests_total", "model")
    assert requests == {OTHER: 2000, "": 2000}
    assert found.by("poolproxy_requests_total", "endpoint") == {CHAT: 2000, OTHER: 2000}
    assert len(found.growing) < 200


@pytest.mark.long
def test_models_beyond_the_most_are_other_whoever_is_asked(upstream: Upstream) -> None:
    """Three workers see them in orders of their own; none goes again that was there."""
    models = [f"m{number}" for number in range(MOST_VALUES + 60)]
    config = config_of(upstream)
    config["openai-compatibility"][0]["models"] = models
    with Gateway(config, workers=3) as gateway:
        before, lock, left = Scrape(gateway), threading.Lock(), [*models]

        def call() -> None:
            while True:
                with lock:
                    if not left:
                        return
                    model = left.pop()
                gateway.chat(model, headers={"x-request-id": "n-0"})

        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            found = Scrape(gateway)
            found.check_grown(before)
            before = found
        for thread in threads:
            thread.join()
        found = Scrape(gateway)
        found.check_grown(before)
    by_model = found.by("poolproxy_requests_total", "model")
    assert sum(by_model.values()) == len(models)
    assert len(by_model) == MOST_VALUES + 1
    assert OTHER in by_model
