"""A worker that dies takes its own callers with it, nobody else, and is replaced at once."""

from __future__ import annotations

import http.client
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from proxy.server.control.sockets import ask_all
from tests.support.commandline import wait_for
from tests.support.gateway import CHAT, PATIENCE_S, Gateway, Lots, asked, data_of, text_of
from tests.support.upstream import Gate, Hold, Upstream, chunk, events

STREAMS = 12

# How soon another worker serves. The machine may be busy, so that the best of a few has to be.
REPLACED_S = 2.0
TRIES = 3

BREAKING = """
import os
from proxy.server import settings
from proxy.worker import Worker

class Breaking(Worker):
    def murder_pending(self):
        super().murder_pending()
        if os.path.exists({trigger!r}):
            os.unlink({trigger!r})
            raise RuntimeError("the loop broke")

_config = settings.load_or_exit()
settings.set_up_process(_config)
globals().update(settings.settings(_config))
worker_class = Breaking
"""


def holders(gateway: Gateway) -> dict[str, int]:
    """The worker of each request that has a client, by the request's id."""
    return {
        lease["holder"]: answer["pid"]
        for answer in ask_all(gateway.port, {"do": "status"})
        for client in answer["clients"]
        for lease in client["leases"]
    }


def pids(gateway: Gateway) -> set[int]:
    """The workers that serve."""
    return {answer["pid"] for answer in ask_all(gateway.port, {"do": "status"})}


class Asking:
    """Callers of a quick model, one request after the other, while the `with` lasts."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(4)]
        self.answered = 0
        self.broken = 0

    def __enter__(self) -> Asking:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def _run(self) -> None:
        while not self._is_over.is_set():
            try:
                assert self._gateway.chat("demo").status == 200
                self.answered += 1
            except (OSError, http.client.HTTPException):
                self.broken += 1


@pytest.mark.long
def test_killed_worker_harms_its_own_callers_only(upstream: Upstream) -> None:
    """Their connections break, which is no end of a stream; those of the other worker go on, and a
    new one takes its place.
    """
    lots = Lots(upstream.url, {1: 1}, options={"max-concurrency": 0})
    lot, gate = lots.take(), Gate()
    end = events(chunk({"content": "b"}, finish="stop"), "[DONE]").body
    upstream.always(lot.key, events(chunk({"content": "a"}), Hold(gate), *end))
    config = {"demo": [{"name": "demo", "delay-ms": 1}], "openai-compatibility": lots.providers}
    ids = [f"stream-{number}" for number in range(STREAMS)]
    with ExitStack() as held, Gateway(config, workers=2) as gateway:
        streams = {}
        for one in ids:
            body = asked(lot.model, stream=True)
            opened = gateway.open("POST", CHAT, body, {"x-request-id": one})
            streams[one] = held.enter_context(opened)
        where = holders(gateway)
        assert where.keys() == set(ids)
        victim = where["stream-0"]
        with Asking(gateway) as load:
            wait_for(lambda: load.answered > 20)
            gateway.kill(victim)
            known = load.answered
            wait_for(lambda: load.answered > known + 50)
        assert load.broken <= 4, "who asked the other worker, or came later, noticed"
        gate.set()
        for one, response in streams.items():
            if where[one] == victim:
                with pytest.raises((http.client.HTTPException, OSError)):
                    response.read()
            else:
                data = data_of(response.read())
                assert (text_of(data), data[-1]) == ("ab", b"[DONE]")


@pytest.mark.long
def test_killed_worker_is_replaced_soon() -> None:
    """Callers who come meanwhile wait for it, where there is no other."""
    took: list[float] = []
    with Gateway({"demo": [{"name": "demo"}]}) as gateway:
        while not took or min(took) > REPLACED_S:
            assert len(took) < TRIES, took
            [victim] = pids(gateway)
            began = time.monotonic()
            gateway.kill(victim)
            assert gateway.chat("demo").status == 200
            took.append(time.monotonic() - began)


class Breaks(Gateway):
    """Its log may show the fault that the test makes, and nothing else."""

    @property
    def log(self) -> str:
        fault = r"(?m:^).*Exception in worker process\n(?:.*\n)*?RuntimeError: the loop broke\n"
        return re.sub(rf"(?:{fault}|the loop broke\n)+", "", super().log)


@pytest.fixture
def breaking(tmp_path: Path) -> Iterator[tuple[Breaks, Path]]:
    """A gateway whose worker's loop breaks when there is this file."""
    trigger, settings = tmp_path / "trigger", tmp_path / "settings.py"
    settings.write_text(BREAKING.format(trigger=str(trigger)))
    command = [sys.executable, "-m", "gunicorn", "-c", str(settings)]
    config = {"demo": [{"name": "demo", "delay-ms": 100}]}
    gateway = Breaks(config, command=command)
    with gateway:
        yield gateway, trigger


@pytest.mark.long
def test_worker_whose_loop_breaks_is_replaced(breaking: tuple[Breaks, Path]) -> None:
    """It does not wait for its streams, which may go on for hours: they are told."""
    gateway, trigger = breaking
    [victim] = pids(gateway)
    gateway.killed.add(victim)
    words = {"role": "user", "content": "word " * 1000}
    body = {"model": "demo", "stream": True, "messages": [words]}
    with gateway.open("POST", CHAT, body) as response:
        assert response.readline().startswith(b"data: ")
        trigger.touch()
        assert b"server_shutting_down" in response.read()
    assert gateway.chat("demo").status == 200
    assert victim not in pids(gateway)
