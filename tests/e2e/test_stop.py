"""A stopped gateway lets what is under way end, tells the rest, and cuts nobody off in silence."""

from __future__ import annotations

import http.client
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from proxy.server.control.sockets import ask_all
from tests.support.commandline import wait_for
from tests.support.gateway import (
    CHAT,
    COMMAND,
    PATIENCE_S,
    Gateway,
    Lot,
    Lots,
    Reached,
    asked,
    data_of,
    text_of,
)
from tests.support.upstream import (
    Gate,
    Hold,
    Received,
    Reply,
    Upstream,
    chat,
    chunk,
    events,
)

SERVE = [sys.executable, "-m", "proxy", "serve"]

# Of a gateway's time after SIGTERM; it tells callers 2 s before its end.
GRACE_S = 10

# What a stopping gateway says to those whom it does not serve to the end.
TOLD = "server_shutting_down"


def with_grace(seconds: int) -> dict[str, str]:
    return {"GUNICORN_CMD_ARGS": f"--graceful-timeout {seconds}"}


@pytest.mark.long
def test_full_gateway_then_graceful_stop(upstream: Upstream) -> None:
    """503 `too_many_requests_in_flight` for one too many; health is told all the same. After
    SIGTERM the running stream goes on to its end, and the server leaves without a complaint.
    """
    lots = Lots(upstream.url, {1: 2})
    gate = Gate()
    lot = lots.take()
    end = events(chunk({"content": "b"}, finish="stop"), "[DONE]").body
    upstream.reply(lot.key, events(chunk({"content": "a"}), Hold(gate), *end))
    config = {"max-requests-in-flight": 1, "openai-compatibility": lots.providers}
    with Gateway(config) as gateway:
        with gateway.open("POST", CHAT, asked(lot.model, stream=True)) as response:
            first = response.readline() + response.readline()

            refused = gateway.chat(lots.take().model)
            assert refused.status == 503
            assert refused.error["code"] == "too_many_requests_in_flight"
            assert refused.headers["x-should-retry"] == "true"
            assert gateway.call("GET", "/healthz").status == 200

            with gateway.connect() as idle:
                idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert idle.recv(65536).startswith(b"HTTP/1.1 200")
                gateway.terminate()
                while idle.recv(65536):
                    pass  # it closes what is idle, so it knows
            with pytest.raises(ConnectionRefusedError):  # a proxy in front goes elsewhere at once
                gateway.connect()
            gate.set()
            data = data_of(first + response.read())
        assert text_of(data) == "ab"
        assert data[-1] == b"[DONE]"
        assert gateway.wait_ended() == 0
        assert gateway.records()[-1]["end"] == "ok"


@pytest.mark.long
@pytest.mark.parametrize("delay_s", [0, 3600])
def test_last_answer_says_that_its_connection_closes(upstream: Upstream, delay_s: int) -> None:
    """Also where the request came before the stop: or the caller would send its next one there."""
    lots = Lots(upstream.url, {1: 1})
    lot, gate = lots.take(), Gate()
    upstream.reply(lot.key, chat("whole").after(Hold(gate)))
    config = {"shutdown-delay": delay_s, "openai-compatibility": lots.providers}
    body = json.dumps(asked(lot.model))
    with Gateway(config) as gateway, gateway.connect() as caller:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        caller.sendall(f"{head}{body}".encode())
        wait_for(lambda: asking(gateway) == (1, 0), lambda: gateway.log)
        gateway.terminate()
        if delay_s:
            wait_for(lambda: gateway.call("GET", "/readyz").status == 503)
        else:
            wait_for(lambda: is_refused(gateway))
        gate.set()
        with http.client.HTTPResponse(caller) as answer:
            answer.begin()
            assert answer.status == 200
            assert answer.headers["connection"] == "close"
            answer.read()
        gateway.terminate()
        assert gateway.wait_ended() == 0


# Under load


class Crowd:
    """Callers who ask at once, and what each of them got: a status and a body, or what broke."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._threads: list[threading.Thread] = []
        self.got: dict[str, list[tuple[int, bytes]]] = {}

    def ask(self, kind: str, number: int, lot: Lot, text: str, *, stream: bool) -> None:
        self.got[kind] = []
        body = {"model": lot.model, "stream": stream, "messages": [message(text)]}
        for _ in range(number):
            thread = threading.Thread(target=self._ask, args=(self.got[kind], body))
            self._threads.append(thread)
            thread.start()

    def _ask(self, got: list[tuple[int, bytes]], body: Any) -> None:
        try:
            with self._gateway.open("POST", CHAT, body) as response:
                got.append((response.status, response.read()))
        except (OSError, http.client.HTTPException) as error:
            got.append((0, repr(error).encode()))

    def wait(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE_S)


def message(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def behaving(gate: Gate) -> Callable[[Received], Reply]:
    """An upstream's answer: it ends when the gate opens, or never, as the caller wants it."""
    never = Reached()

    def answer(received: Received) -> Reply:
        body = received.json()
        holds = Hold(gate) if body["messages"][0]["content"] == "ends" else never.hold()
        if not body.get("stream"):
            return chat("whole").after(holds)
        end = events(chunk({"content": "b"}, finish="stop"), "[DONE]").body
        return events(chunk({"content": "a"}), holds, *end)

    return answer


def is_told(got: tuple[int, bytes]) -> bool:
    """Whether a 503 or a stream's last event says so, in words for agents to try again."""
    status, body = got
    if status == 200:
        error = json.loads(data_of(body)[-1])["error"]
        return error["code"] == TOLD and "connection error" in error["message"]
    return status == 503 and json.loads(body)["error"]["code"] == TOLD


def is_whole(got: tuple[int, bytes]) -> bool:
    status, body = got
    if body.startswith(b"data:"):
        return text_of(data_of(body)) == "ab" and data_of(body)[-1] == b"[DONE]"
    return status == 200 and json.loads(body)["object"] == "chat.completion"


def asking(gateway: Gateway) -> tuple[int, int]:
    """How many requests have a client, and how many wait for one."""
    answers = ask_all(gateway.port, {"do": "status"})
    clients = [client for answer in answers for client in answer["clients"]]
    queues = [queue for answer in answers for queue in answer["queues"].values()]
    return sum(one["in_flight"] for one in clients), sum(one["waiting"] for one in queues)


@pytest.mark.long
@pytest.mark.parametrize(
    ("command", "workers"), [(COMMAND, 1), (SERVE, 2)], ids=["gunicorn", "serve"]
)
def test_stop_under_load(upstream: Upstream, command: list[str], workers: int) -> None:
    """Who can end within `graceful_timeout` ends whole; who waits for a client, and who cannot end,
    is told, also one who has not sent all of its request; none is cut off. Before that `readyz`
    says so, while callers are still taken.
    """
    many = Lots(upstream.url, {1: 1}, options={"max-concurrency": 0})
    few = Lots(upstream.url, {1: 1})
    free, busy = many.take(), few.take()
    gate = Gate()
    for lot in (free, busy):
        upstream.always(lot.key, behaving(gate))
    config = {"shutdown-delay": 3600, "openai-compatibility": many.providers + few.providers}
    with (
        ExitStack() as held,
        Gateway(config, env=with_grace(GRACE_S), workers=workers, command=command) as gateway,
    ):
        crowd = Crowd(gateway)
        crowd.ask("streams that end", 25, free, "ends", stream=True)
        crowd.ask("streams that stay", 25, free, "stays", stream=True)
        crowd.ask("answers that end", 5, free, "ends", stream=False)
        crowd.ask("answers that stay", 5, free, "stays", stream=False)
        crowd.ask("queued answers", 7, busy, "stays", stream=False)
        crowd.ask("queued streams", 7, busy, "stays", stream=True)
        slow = held.enter_context(gateway.connect())
        slow.sendall(
            f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{{".encode()
        )
        wait_for(lambda: sum(asking(gateway)) == 74, lambda: gateway.log)
        _, waiting = asking(gateway)
        assert 14 - workers <= waiting <= 13

        gateway.terminate()
        asked_for = [gateway.call("GET", "/readyz")]
        while asked_for[-1].status == 200:  # a worker hears of it when it has its turn
            asked_for.append(gateway.call("GET", "/readyz"))
        assert asked_for[-1].json() == {"status": "shutting down"}
        assert asked_for[-1].headers["connection"] == "close"
        assert not any(crowd.got.values())
        gateway.terminate()  # the delay is over
        wait_for(lambda: is_refused(gateway))
        queued = crowd.got["queued answers"], crowd.got["queued streams"]
        wait_for(lambda: sum(map(len, queued)) == waiting)
        assert {status for got in queued for status, _ in got} == {503}
        gate.set()
        crowd.wait()
        half = http.client.HTTPResponse(slow)
        half.begin()
        assert is_told((half.status, half.read()))
        half.close()
        assert gateway.wait_ended() == 0
        assert "stopping: new callers are taken for 3600 s more" in gateway.log

    for kind, (number, ends_well) in {
        "streams that end": (25, is_whole),
        "streams that stay": (25, is_told),
        "answers that end": (5, is_whole),
        "answers that stay": (5, is_told),
        "queued answers": (7, is_told),
        "queued streams": (7, is_told),
    }.items():
        got = crowd.got[kind]
        assert len(got) == number
        assert all(map(ends_well, got)), (kind, got)


def is_refused(gateway: Gateway) -> bool:
    try:
        gateway.connect().close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.long
def test_second_sigterm_ends_the_delay(tmp_path: Path) -> None:
    """Until then all goes on as ever: a worker that dies is replaced, and the new one is as little
    `ready`; a Unix socket stays where it is.
    """
    path = tmp_path / "socket"
    arguments = f"--bind 127.0.0.1:0 --bind unix:{path}"
    config = {"shutdown-delay": 3600, "demo": [{"name": "demo"}]}
    with Gateway(config, env={"GUNICORN_CMD_ARGS": arguments}) as gateway:
        [before] = (answer["pid"] for answer in ask_all(gateway.port, {"do": "status"}))
        gateway.terminate()
        wait_for(lambda: gateway.call("GET", "/readyz").status == 503)
        assert gateway.chat("demo").status == 200
        gateway.kill(before)
        assert gateway.chat("demo").status == 200
        assert gateway.call("GET", "/readyz").status == 503
        assert path.is_socket()
        gateway.terminate()
        assert gateway.wait_ended() == 0
        assert not path.exists()


# For gunicorn: a worker waits before its first hook, if there is a gate.
WAITING = """
import os
from pathlib import Path

exec(Path("gunicorn.conf.py").read_text())
begin = post_fork

def post_fork(server, worker):
    if os.path.exists({gate!r}):
        print("waits at the gate", flush=True)
        Path({gate!r}).read_bytes()
    begin(server, worker)
"""


@pytest.mark.long
def test_worker_that_has_only_just_begun_hears_of_it(tmp_path: Path) -> None:
    """Of a SIGTERM that the master gets when it has forked, and before the worker has handlers."""
    path, gate = tmp_path / "conf.py", tmp_path / "gate"
    path.write_text(WAITING.format(gate=str(gate)))
    command = [sys.executable, "-m", "gunicorn", "-c", str(path)]
    config = {"shutdown-delay": 3600, "demo": [{"name": "demo"}]}
    with Gateway(config, command=command) as gateway:
        (before,) = gateway.workers()
        os.mkfifo(gate)
        gateway.kill(before)
        gateway.wait_for_line(lambda line: "waits at the gate" in line)
        gateway.terminate()
        gateway.wait_for_line(lambda line: "stopping: new callers are taken" in line)
        gate.write_bytes(b"")
        assert gateway.call("GET", "/readyz").status == 503
        gateway.terminate()
        assert gateway.wait_ended() == 0


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_quick_end_is_told(upstream: Upstream, number: signal.Signals) -> None:
    """By ^C all ends at once; a stream has its error event all the same."""
    lots = Lots(upstream.url, {1: 1})
    lot, never = lots.take(), Reached()
    upstream.reply(lot.key, events(chunk({"content": "a"}), never.hold()))
    with Gateway({"openai-compatibility": lots.providers}) as gateway:
        with gateway.open("POST", CHAT, asked(lot.model, stream=True)) as response:
            first = response.readline() + response.readline()
            os.killpg(gateway.pid, number)  # as a terminal does
            assert is_told((200, first + response.read()))
        assert gateway.wait_ended() == 0
