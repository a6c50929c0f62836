"""Gateways in many processes that share their state, and the upstream that witnesses them.

A `Cluster` runs them on hosts. `loaded` calls them, and adds up at its end what must not have been:
more in flight than permitted, somebody overtaken, an answer or a stream that is not whole.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from proxy.server.control.sockets import ask_all
from tests.state.crowd import CALLER, WORDS, Call, Crowd, ask, overtaken
from tests.state.hosts import Host, child_of
from tests.support.commandline import wait_for
from tests.support.gateway import COMMAND, PATIENCE_S, Gateway
from tests.support.redis import RedisServer
from tests.support.upstream import Gate, Hold, Pause, Received, Reply, chat, chunk, events
from tests.support.witness import Witness

# Ten permits of `shared`, and eight times as many callers: a request waits for 4 s.
NARROW = [f"sk-state-narrow-{number}-0123456789" for number in range(8)]
WIDE = "sk-state-wide-0123456789"
STEADY = "sk-state-steady-0123456789"
PERMITS = {**dict.fromkeys(NARROW, 1), WIDE: 2, STEADY: 8}
SERVICE_S = 0.5
CALLERS = 80

# Somebody may be so much younger and be served before: the machine may be busy.
SLACK_S = 2.0

# How soon the permits of the dead are back: where a neighbour on their host sees that they are
# gone, and where only their silence tells.
BACK_S = 5.0
EXPIRY_S = 15.0


def redis_on(host: Host) -> RedisServer:
    """A Redis there, which everybody on its network may ask."""
    return RedisServer("--protected-mode", "no", host=host.address, enter=host.plug_in)


class Placed(Gateway):
    """A gateway on a host."""

    def __init__(self, name: str, host: Host, config: Mapping[str, Any], *, workers: int) -> None:
        self.name = name
        self.site = host
        super().__init__(config, command=[*host.enter, *COMMAND], workers=workers)
        if host.enter:
            self.pid = child_of(self._process.pid)
        wait_for(lambda: len(self.workers()) == workers, lambda: self.log)

    def terminate(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)

    def hang_up(self) -> None:
        os.kill(self.pid, signal.SIGHUP)

    def kill(self, worker: int) -> None:
        """Its log knows the worker by the number that it has on its host."""
        with suppress(FileNotFoundError):
            status = Path(f"/proc/{worker}/status").read_text()
            numbers = next(line for line in status.splitlines() if line.startswith("NSpid:"))
            self.killed.add(int(numbers.split()[-1]))
        super().kill(worker)

    def waiting(self, model: str) -> int:
        """How many requests wait for a model in its processes."""
        answers = ask_all(self.port, {"do": "status"})
        return sum(one["queues"].get(model, {"waiting": 0})["waiting"] for one in answers)

    def kill_all(self) -> None:
        """Kill every process of it at once, and wait until they are gone."""
        self._kill()

    def pause(self) -> None:
        """Stop every process of it; `nsenter` would do it to itself once more when it goes on."""
        for pid in (self.pid, *self.workers()):
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        for pid in (*self.workers(), self.pid):
            os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        try:
            super().close()
        except subprocess.TimeoutExpired as hung:
            raise AssertionError(f"{self.name} does not end:\n{self.log[-20_000:]}") from hung


def configuration(url: str, host: Host, state: str | None) -> dict[str, Any]:
    """Of a gateway on this host. The model `shared` is for a crowd, `steady` for long streams."""
    shared = [{"name": "up", "alias": "shared"}]
    steady = [{"name": "up", "alias": "steady"}]
    wide, long = PERMITS[WIDE], PERMITS[STEADY]
    providers: list[dict[str, Any]] = [
        {"name": "narrow", "api-keys": NARROW, "models": shared},
        {"name": "wide", "api-keys": [WIDE], "models": shared, "max-concurrency": wide},
        {"name": "steady", "api-keys": [STEADY], "models": steady, "max-concurrency": long},
    ]
    config = {
        "host": host.address,
        "api-keys": [{"name": "crowd", "key": CALLER}],
        "queue-timeout": 60,
        "openai-compatibility": [{"base-url": url, **one} for one in providers],
    }
    return config | ({"state": state} if state else {})


def served(received: Received) -> Reply:
    """The words, after `SERVICE_S`."""
    if not received.json().get("stream"):
        return chat("".join(WORDS)).after(Pause(SERVICE_S))
    deltas = [chunk({"content": word}) for word in WORDS]
    gap_s = SERVICE_S / (len(deltas) + 1)
    return events(*deltas, chunk({}, finish="stop"), "[DONE]", gap_s=gap_s)


def held(gate: Gate) -> Reply:
    """A stream whose end comes when the gate is open."""
    first, *rest = (chunk({"content": word}) for word in WORDS)
    return events(first, Hold(gate), *rest, chunk({}, finish="stop"), "[DONE]")


class Cluster:
    """`gateways` by name, those that run; `witness` is the upstream of all.

    `state`: the key of that name in their configurations; None: there is none.
    """

    def __init__(
        self,
        hosts: list[Host],
        state: str | None,
        *,
        each: int = 2,
        workers: int = 2,
    ) -> None:
        self.hosts = hosts
        self.gateways: dict[str, Placed] = {}
        self._state = state
        self._workers = workers
        self._started = 0
        self._held = ExitStack()
        everywhere = any(host.enter for host in hosts)
        self.witness = Witness(keep=100_000, host="0.0.0.0" if everywhere else "127.0.0.1")
        self._held.callback(self.witness.close)
        self.witness.default = served
        self.witness.permit(PERMITS)
        try:
            self.fill(each)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all, and look through the gateways' logs."""
        self._held.close()

    def fill(self, each: int) -> None:
        """Start what is missing of so many gateways for each host."""
        for host in self.hosts:
            for _ in range(each - len(self.on(host))):
                self.start(host)

    def on(self, host: Host) -> list[Placed]:
        """The gateways on a host."""
        return [one for one in self.gateways.values() if one.site is host]

    def start(self, on: Host, **more: Any) -> Placed:
        """One more gateway on a host."""
        self._started += 1
        name = f"g{self._started}"
        made = Placed(name, on, self.config(on) | more, workers=self._workers)
        self._held.callback(made.close)
        self.gateways[name] = made
        return made

    def config(self, host: Host) -> dict[str, Any]:
        """What a gateway on this host is started with."""
        url = f"http://{host.upstream}:{self.witness.port}/v1"
        return configuration(url, host, self._state)

    def kill(self, gateway: Placed) -> None:
        """Kill all of it, without a word."""
        del self.gateways[gateway.name]
        gateway.kill_all()

    def stop(self, gateway: Placed) -> None:
        """End it in good order."""
        del self.gateways[gateway.name]
        gateway.close()


_NUMBERS = itertools.count()


class Stream:
    """A caller in a thread of its own, who reads a stream of `steady` to its end."""

    def __init__(self, gateway: Placed, name: str, *, key: str = CALLER) -> None:
        self.name = f"{gateway.name}.{name}"
        self.gateway = gateway
        self._found: list[Call] = []
        self._thread = threading.Thread(target=self._run, args=(gateway, key))
        self._thread.start()

    def call(self) -> Call:
        """Block until it is over."""
        self._thread.join()
        return self._found[0]

    def _run(self, gateway: Placed, key: str) -> None:
        self._found.append(ask(gateway, "steady", self.name, stream=True, key=key))


class Streams:
    """Streams of `steady`, each held by the upstream until it is let go."""

    def __init__(self, cluster: Cluster) -> None:
        self._witness = cluster.witness
        self._gates: dict[str, Gate] = {}
        self._all: list[Stream] = []
        self._witness.always(STEADY, lambda received: held(self._gates[_name_of(received)]))

    @property
    def complaints(self) -> list[str]:
        """The witness's, of these streams."""
        return [one for one in self._witness.complaints if STEADY[:10] in one]

    def __enter__(self) -> Streams:
        self._witness.complaints.clear()
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go(self._all)
        for one in self._all:
            one.call()

    def ask(self, gateway: Placed, many: int = 1, *, key: str = CALLER) -> list[Stream]:
        """Have callers ask, who may have to wait."""
        found = []
        for _ in range(many):
            name = f"s{next(_NUMBERS)}"
            self._gates[f"{gateway.name}.{name}"] = Gate()
            found.append(Stream(gateway, name, key=key))
            self._all.append(found[-1])
        return found

    def begin(self, gateway: Placed, many: int = 1, *, key: str = CALLER) -> list[Stream]:
        """The same; block until all of them are at the upstream."""
        return self.wait_begun(self.ask(gateway, many, key=key))

    def wait_begun(self, streams: list[Stream], timeout_s: float = PATIENCE_S) -> list[Stream]:
        """Block until they are at the upstream; raises TimeoutError."""
        for each in streams:
            self._witness.wait_begun(lambda one, name=each.name: one.name == name, timeout_s)  # type: ignore[misc]
        return streams

    def wait_queued(self, streams: list[Stream]) -> list[Stream]:
        """Block until as many requests wait at their gateway; raises TimeoutError."""
        gateways = {each.gateway for each in streams}
        for one in gateways:
            many = sum(each.gateway is one for each in streams)
            wait_for(lambda one=one, many=many: one.waiting("steady") >= many)  # type: ignore[misc]
        return streams

    def have_begun(self, streams: list[Stream]) -> list[str]:
        """The names of those that are, or were, at the upstream."""
        begun = {one.name for one in self._witness.begun()}
        return [each.name for each in streams if each.name in begun]

    def let_go(self, streams: list[Stream]) -> None:
        """Let them end."""
        for each in streams:
            self._gates[each.name].set()


def _name_of(received: Received) -> str:
    return received.header["x-request-id"]


class Load:
    """A crowd at all gateways, from its construction to `end`."""

    def __init__(self, cluster: Cluster, callers: int) -> None:
        self._cluster = cluster
        self._callers = callers
        self._harmed: list[tuple[str, float]] = []
        self._late: list[tuple[set[str], float, float, bool]] = []
        # So many may be overtaken: who missed a message looks again some seconds later.
        self.may_miss = 0
        self.not_everywhere: set[str] = set()  # accounts that some gateways know alone
        self.crowd = Crowd(lambda: list(cluster.gateways.items()), "shared", callers)
        try:
            self.crowd.wait_for(callers)
        except BaseException:
            self.end()
            raise
        self._warm_at = time.monotonic()  # from then on the machine is only busy with the load

    def end(self) -> None:
        """Let everybody end."""
        self.crowd.end()

    @contextmanager
    def watched(self) -> Iterator[Load]:
        """Fail at the end if anything was not as it has to be meanwhile.

        A stream through each gateway lasts as long.
        """
        began, gate = time.monotonic(), Gate()
        self._cluster.witness.always(STEADY, held(gate))
        self._cluster.witness.complaints.clear()
        number = next(_NUMBERS)
        streams = [Stream(one, f"stream{number}") for one in self._cluster.gateways.values()]
        try:
            yield self
            self.crowd.wait_for(self._callers // 2)  # who waited then is first
        finally:
            gate.set()
            calls = [each.call() for each in streams]
        self._judge(began, calls)

    def harm(self, gateway: Placed) -> None:
        """Processes of this gateway are killed now: its callers may see broken connections."""
        self._harmed.append((gateway.name, time.monotonic()))

    @contextmanager
    def out_of_reach(self, gateways: list[Placed], *, for_long: bool = False) -> Iterator[None]:
        """Requests that wait at these gateways meanwhile may be overtaken.

        `for_long`: nobody waits for so long; they are told that the state is away.
        """
        names, began = {one.name for one in gateways}, time.monotonic()
        yield
        self._late.append((names, began, time.monotonic(), for_long))

    def _judge(self, since: float, streams: list[Call]) -> None:
        calls, witness = self.crowd.calls[:], self._cluster.witness
        ended = [call for call in calls if call.ended >= since]
        problems = witness.complaints[:]
        problems += [
            f"{call.name} was {call.end}: {call.status} {call.detail}"
            for call in (*ended, *streams)
            if call.end != "whole" and not self._is_explained(call)
        ]
        flights = [
            one for one in witness.begun(since) if one.key not in (STEADY, *self.not_everywhere)
        ]
        in_reach = [
            call for call in calls if call.sent > self._warm_at and not self._was_late(call)
        ]
        late = overtaken(flights, in_reach, SLACK_S)
        problems += late if len(late) > self.may_miss else []
        assert not problems, f"{len(problems)} of {len(ended)}:\n" + "\n".join(problems[:20])

    def longest_silence(self, since: float) -> dict[str, float]:
        """By key, the longest time in which no request of the crowd began; s."""
        moments: dict[str, list[float]] = {key: [since] for key in (*NARROW, WIDE)}
        for one in self._cluster.witness.begun(since):
            if one.key in moments:
                moments[one.key].append(one.began)
        return {key: _longest_gap(times) for key, times in moments.items()}

    def longest_silence_of(self, gateways: list[Placed], since: float) -> float:
        """The longest time in which no request of the crowd began through any of these; s."""
        names = {one.name for one in gateways}
        begun = self._cluster.witness.begun(since)
        return _longest_gap(
            [since, *(one.began for one in begun if one.name.partition(".")[0] in names)]
        )

    def _is_explained(self, call: Call) -> bool:
        if call.detail == "state_unavailable":
            return self._was_late(call, for_long=True)
        return call.end == "broken" and any(
            call.gateway == name and call.sent - 1 <= moment <= call.ended
            for name, moment in self._harmed
        )

    def _was_late(self, call: Call, *, for_long: bool = False) -> bool:
        return any(
            call.gateway in names and call.sent <= ended and began <= call.ended
            for names, began, ended, was_long in self._late
            if was_long or not for_long
        )


def _longest_gap(times: list[float]) -> float:
    return max(b - a for a, b in zip(times, [*times[1:], time.monotonic()], strict=True))


@contextmanager
def loaded(cluster: Cluster, callers: int = CALLERS) -> Iterator[Load]:
    """A load that is watched from its beginning to its end."""
    load = Load(cluster, callers)
    try:
        with load.watched():
            yield load
            load.crowd.wait_for(callers)  # all that waited
    finally:
        load.end()
