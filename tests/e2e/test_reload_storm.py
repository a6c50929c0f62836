"""Configurations that change all the time, under callers who ask all the time.

Keys, weights, permits, headers, aliases, callers and limits come, change and go, with files between
that are wrong. Nobody notices but those whose model or key is gone. The witness is the upstream: it
sees how many requests a key has in flight, who is asked, and on how many connections.
"""

from __future__ import annotations

import gc
import json
import operator
import sys
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import Client as Caller

from proxy import ConfigError, Proxy
from proxy.gateway import Generation
from proxy.net.transport import Transport
from tests.e2e.test_reload import KEPT, WAYS
from tests.support.commandline import wait_for
from tests.support.gateway import CHAT, PATIENCE_S, Gateway, asked, data_of, text_of
from tests.support.upstream import Hold, Received, Reply, Upstream, as_asked, error

# These are in every configuration, as mutexes: whatever else changes of them, two requests at once
# would be one too many.
STEADY = [f"sk-steady-{number}-0123456789" for number in range(4)]
COLD = "sk-cold-key-0123456789"
BUSY = "sk-busy-key-0123456789"  # its permits change
PASSING = [f"sk-passing-{number}-0123456789" for number in range(5)]
ALWAYS, SOMETIMES = "sk-caller-always-0123", "sk-caller-sometimes-0"
MOST = 3  # permits of BUSY, in any configuration

WORDS = ("Hello", " there", "!")


def permits_of_busy(number: int) -> int:
    return 1 + number % MOST


def configuration(number: int, stays: Upstream, passes: Upstream) -> dict[str, Any]:
    """The configuration of this number; each thing changes in a rhythm of its own."""
    keys = [{"api-key": key, "weight": 1 + (number + at) % 5} for at, key in enumerate(STEADY)]
    headers = {"x-number": str(number)}
    aliases = [{"name": "up", "alias": "steady"}, {"name": "up", "alias": f"also-{number % 4}"}]
    busy = {"api-key": BUSY, "max-concurrency": permits_of_busy(number)}
    cold = {"api-key": COLD, "max-concurrency": 1 + number % 2, "weight": 1000}
    providers: list[dict[str, Any]] = [
        {
            "name": f"steady-{number % 3}",
            "base-url": stays.url,
            "api-keys": [*keys, busy, cold],
            "models": aliases,
            "headers": headers,
        }
    ]
    if number % 3:
        passing = {"name": "passing", "base-url": passes.url, "models": ["steady", "passing"]}
        more = {"api-keys": PASSING[number % 5 :], "max-concurrency": 1 + number % 2}
        providers.append({**passing, **more})
    callers: list[Any] = [{"name": "always", "key": ALWAYS}]
    if number % 4:
        callers.append({"name": "sometimes", "key": SOMETIMES, "models": ["steady", "passing"]})
    return {
        "api-keys": callers,
        "openai-compatibility": providers,
        "queue-timeout": 60 + number % 7,
        "max-cooldown": 1800 + number,
        "request-retry": 5,
        "max-requests-in-flight": 500 + number % 9,
        "streaming": {"keepalive-seconds": 10 + number % 5},
    }


class Last(threading.Event):
    """For a `Hold` before the last bytes of an answer: the permit can't come back before them."""

    def __init__(self, tell: Callable[[], None]) -> None:
        super().__init__()
        self._tell = tell

    def is_set(self) -> bool:
        self._tell()
        return True


class Witness:
    """An upstream that tells, by key, how many requests were in flight at once."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.most = Counter[str | None]()
        self.numbers = set[str | None]()  # of the configurations by which it was asked
        self._now = Counter[str | None]()
        self._lock = threading.Lock()
        upstream.default = self._answer
        upstream.always(COLD, error(429, headers={"Retry-After": "1800"}))

    def _answer(self, received: Received) -> Reply:
        with self._lock:
            self.numbers.add(received.header.get("x-number"))
            self._now[received.key] += 1
            self.most[received.key] = max(self.most[received.key], self._now[received.key])
        reply = as_asked(*WORDS)(received).in_pieces(64, gap_s=0.002)
        last = Hold(Last(partial(self._end, received.key)))
        return replace(reply, body=[*reply.body[:-1], last, reply.body[-1]])

    def _end(self, key: str | None) -> None:
        with self._lock:
            self._now[key] -= 1


class Place(ABC):
    """Where the gateway runs."""

    workers = 1

    @abstractmethod
    def ask(self, key: str, model: str, *, stream: bool) -> tuple[int, bytes]:
        """The status and the body."""

    @abstractmethod
    def reload(self, config: Mapping[str, Any]) -> None:
        """Put it into force everywhere."""

    @abstractmethod
    def spoil(self) -> None:
        """Make the file wrong, and have it read."""

    @abstractmethod
    def size(self) -> dict[str, int]:
        """What must not grow."""


class Embedded(Place):
    """In this process."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self._path = folder / "config.yaml"
        self._path.write_text(json.dumps(config))
        app = Flask(__name__)
        self.proxy = Proxy(self._path, app)
        self._app = app

    def ask(self, key: str, model: str, *, stream: bool) -> tuple[int, bytes]:
        caller = Caller(self._app)
        headers = {"Authorization": f"Bearer {key}"}
        answer = caller.post(CHAT, json=asked(model, stream=stream), headers=headers)
        with answer:
            return answer.status_code, answer.get_data()

    def reload(self, config: Mapping[str, Any]) -> None:
        self._path.write_text(json.dumps(config))
        assert self.proxy.reload() != "nothing changed"

    def spoil(self) -> None:
        self._path.write_text("openai-compatibility: 3")
        with pytest.raises(ConfigError):
            self.proxy.reload()

    def size(self) -> dict[str, int]:
        gc.collect()
        kinds = Counter(type(one) for one in gc.get_objects())
        return {"generations": kinds[Generation], "transports": kinds[Transport]}


class Server(Place):
    """Processes of their own."""

    def __init__(self, gateway: Gateway, workers: int) -> None:
        self.gateway = gateway
        self.workers = workers
        wait_for(lambda: len(gateway.workers()) == workers)
        self.pids = gateway.workers()

    def ask(self, key: str, model: str, *, stream: bool) -> tuple[int, bytes]:
        headers = {"Authorization": f"Bearer {key}"}
        answer = self.gateway.chat(model, headers=headers, stream=stream)
        return answer.status, answer.body

    def reload(self, config: Mapping[str, Any]) -> None:
        # Each has one of its own; a worker may read a file twice, by itself and by the signal.
        self._until_told(config, f"-> {config['max-cooldown']}")

    def spoil(self) -> None:
        self._until_told("openai-compatibility: 3", KEPT)

    def _until_told(self, config: Mapping[str, Any] | str, what: str) -> None:
        before = self.gateway.count_lines(what)
        self.gateway.write(config)
        self.gateway.hang_up()
        wait_for(
            lambda: self.gateway.count_lines(what) >= before + self.workers,
            lambda: self.gateway.log[-20_000:],
        )

    def size(self) -> dict[str, int]:
        """Of the largest worker; memory in steps that are no noise."""
        places = [Path(f"/proc/{pid}") for pid in self.pids]
        fields = [(place / "statm").read_text().split() for place in places]
        return {
            "descriptors": max(len(list((place / "fd").iterdir())) for place in places),
            "threads": max(len(list((place / "task").iterdir())) for place in places),
            "MiB": max(int(field[1]) for field in fields) // 256,
        }


class Crowd:
    """Callers who ask until they are told to stop. `odd`: what must not happen."""

    def __init__(self, place: Place, many: int) -> None:
        self.served = Counter[str]()
        self.odd: list[object] = []
        self._place = place
        self._is_over = threading.Event()
        self._changing = threading.Condition()  # guards odd, served, _answered
        self._answered = [0] * many
        self._threads = [threading.Thread(target=self._go, args=(at,)) for at in range(many)]
        for thread in self._threads:
            thread.start()

    def wait_for_answers(self) -> None:
        """Block until there is one more for every second caller, about."""
        with self._changing:
            enough = self.served.total() + len(self._threads) // 2
            assert self._changing.wait_for(lambda: self.served.total() >= enough, PATIENCE_S)

    def wait_for_everybody(self) -> None:
        """Block until nobody waits any more for an answer to what was asked before."""
        with self._changing:
            before = self._answered[:]
            assert self._changing.wait_for(
                lambda: all(map(operator.lt, before, self._answered)), PATIENCE_S
            )

    def end(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _go(self, at: int) -> None:
        asked_for = at
        while not self._is_over.is_set():
            asked_for += 1
            model = "passing" if asked_for % 5 == 0 else "steady"
            key = SOMETIMES if asked_for % 7 == 0 else ALWAYS
            is_stream = bool((asked_for // 2) % 2)
            try:
                status, body = self._place.ask(key, model, stream=is_stream)
                told = self._odd(status, body, model, key, is_stream=is_stream)
            except Exception as failure:
                told = repr(failure)
            with self._changing:
                if told:
                    self.odd.append(told)
                self.served[f"{model}-{status}"] += 1
                self._answered[at] += 1
                self._changing.notify_all()

    def _odd(self, status: int, body: bytes, model: str, key: str, *, is_stream: bool) -> object:
        if status == 401 and key == SOMETIMES:
            return None
        if status == 404 and model == "passing":
            return None
        if status != 200:
            return status, model, body
        if is_stream:
            data = data_of(body)
            return None if text_of(data) == "".join(WORDS) and data[-1] == b"[DONE]" else body
        text = json.loads(body)["choices"][0]["message"]["content"]
        return None if text == "".join(WORDS) else body


def storm(place: Place, stays: Witness, passes: Witness, *, callers: int, reloads: int) -> None:
    """Change everything `reloads` times; fails if anybody but the concerned noticed."""
    crowd = Crowd(place, callers)
    try:
        early: dict[str, int] = {}
        cold = 0
        for number in range(1, reloads + 1):
            place.reload(configuration(number, stays.upstream, passes.upstream))
            if number % 10 == 0:
                place.spoil()
            crowd.wait_for_answers()
            wait_for(partial(operator.contains, stays.numbers, str(number)))  # it is in force
            if number % 5 == 0:
                crowd.wait_for_everybody()  # what was lent before has come back
                stays.most[BUSY] = 0
                crowd.wait_for_answers()
                assert stays.most[BUSY] <= permits_of_busy(number) * place.workers
            if number == reloads // 4:
                early = place.size()
                cold = len(stays.upstream.received(COLD))
        late = place.size()
    finally:
        crowd.end()
    assert crowd.odd == []
    assert crowd.served["passing-200"] > 0
    assert crowd.served["passing-404"] + crowd.served["passing-401"] > 0
    # A pool of its own has each worker, so a mutex of each key.
    for key in STEADY:
        assert 0 < stays.most[key] <= place.workers
    for key in PASSING:
        assert passes.most[key] <= 2 * place.workers
    # Cooldowns outlive all changes of weight, headers, models, names and permits.
    # Two permits may be in use when the first 429 comes.
    assert len(stays.upstream.received(COLD)) == cold <= 2 * place.workers
    # Connections too: no more than are in use at once, and some for those that a caller cut.
    in_use = (len(STEADY) + MOST + 2) * place.workers
    assert stays.upstream.connections <= 2 * in_use
    for what, size in late.items():
        # A worker has as many threads as it ever had requests at once, and some of its own.
        slack = {"descriptors": 24, "threads": callers + 16 - early[what], "MiB": 12}.get(what, 6)
        assert size <= early[what] + slack, (what, early, late)


@contextmanager
def witnesses() -> Iterator[tuple[Witness, Witness]]:
    with Upstream() as one, Upstream() as other:
        yield Witness(one), Witness(other)


@pytest.mark.parametrize(
    ("callers", "reloads"),
    [
        pytest.param(12, 16, marks=pytest.mark.slow),
        pytest.param(50, 200, marks=[pytest.mark.slow, pytest.mark.further]),
    ],
)
def test_nobody_notices_when_an_application_reloads(
    tmp_path: Path, callers: int, reloads: int
) -> None:
    """By `Proxy.reload`; and at the end nothing is left of what was."""
    with witnesses() as (stays, passes):
        place = Embedded(tmp_path, configuration(0, stays.upstream, passes.upstream))
        storm(place, stays, passes, callers=callers, reloads=reloads)
        place.proxy.gateway.close()
        facts = place.proxy.gateway.pool.snapshot()
        assert all(not one["in_flight"] and not one["leaving"] for one in facts)
        passes.upstream.wait_for_connections()


@pytest.mark.slow
@pytest.mark.further
@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("way", WAYS)
def test_nobody_notices_when_a_server_reloads(way: str, workers: int) -> None:
    """By SIGHUP, however the server was started; every worker is the same at the end."""
    with witnesses() as (stays, passes):
        config = configuration(0, stays.upstream, passes.upstream)
        with Gateway(config, command=WAYS[way], workers=workers) as gateway:
            place = Server(gateway, workers)
            storm(place, stays, passes, callers=50, reloads=200)
            assert gateway.workers() == place.pids
