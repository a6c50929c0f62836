"""Callers of a cluster, and what each of them saw."""

from __future__ import annotations

import http.client
import itertools
import json
import operator
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from tests.support.gateway import CHAT, Gateway, asked, data_of, text_of
from tests.support.witness import Flight

CALLER = "sk-caller-of-the-state-0123456789"

# An answer for which nobody waits any longer: all waits of the configurations are below this.
PATIENCE_S = 90.0

# By so much the ways to the upstream may differ of two who were given permits at once.
AT_ONCE_S = 0.05

# What is said to every request of a `Crowd`.
WORDS = ("Hello", " there", "!")


class Call(NamedTuple):
    """A request as its caller saw it. `sent`, `ended`: `time.monotonic()`.

    `end`: whole, refused (by a status), told (by an error in a stream), broken, hung, wrong.
    """

    name: str
    gateway: str
    sent: float
    ended: float
    end: str
    status: int = 0
    detail: str = ""
    client: str = ""


def ask(
    gateway: Gateway,
    model: str,
    name: str,
    *,
    stream: bool = False,
    key: str = CALLER,
    words: str = "".join(WORDS),
    session: str = "",
) -> Call:
    """Ask on a new connection, and read the answer to its end."""
    sent = time.monotonic()
    headers = {"Authorization": f"Bearer {key}", "x-request-id": name}
    if session:
        headers["x-session-id"] = session
    connection = http.client.HTTPConnection(gateway.host, gateway.port, timeout=PATIENCE_S)
    status, client = 0, ""
    try:
        connection.request("POST", CHAT, json.dumps(asked(model, stream=stream)), headers)
        response = connection.getresponse()
        status, client = response.status, response.getheader("x-proxy-client", "")
        end, detail = _judged(status, response.read(), words, is_stream=stream)
    except TimeoutError:
        end, detail = "hung", ""
    except (OSError, http.client.HTTPException) as error:
        end, detail = "broken", repr(error)
    except (AssertionError, ValueError, LookupError) as error:
        end, detail = "wrong", repr(error)
    finally:
        connection.close()
    who = name.partition(".")[0]
    return Call(name, who, sent, time.monotonic(), end, status, detail, client)


def _judged(status: int, body: bytes, words: str, *, is_stream: bool) -> tuple[str, str]:
    if status != 200:
        return "refused", str(json.loads(body)["error"]["code"])
    if not is_stream:
        said = json.loads(body)["choices"][0]["message"]["content"]
        return ("whole" if said == words else "wrong"), said
    data = data_of(body)
    if data[-1] == b"[DONE]":
        return ("whole" if text_of(data) == words else "wrong"), body.decode()
    return "told", data[-1].decode()


_NUMBERS = itertools.count()


class Crowd:
    """Callers who ask until they are told to stop, each one thing after the other.

    `places`: the gateways by name; a caller goes to the next one each time, whichever there are.
    """

    def __init__(
        self, places: Callable[[], Sequence[tuple[str, Gateway]]], model: str, many: int
    ) -> None:
        self.calls: list[Call] = []
        self._places = places
        self._model = model
        self._is_over = threading.Event()
        self._changing = threading.Condition()  # guards calls
        self._threads = [threading.Thread(target=self._go, args=(at,)) for at in range(many)]
        for thread in self._threads:
            thread.start()

    def wait_for(self, many: int, fits: Callable[[Call], bool] = bool) -> None:
        """Block until so many more have had a whole answer; raises TimeoutError."""
        with self._changing:
            before = len(self.calls)

            def are_there() -> bool:
                new = self.calls[before:]
                return sum(call.end == "whole" and fits(call) for call in new) >= many

            if not self._changing.wait_for(are_there, PATIENCE_S):
                raise TimeoutError(f"{len(self.calls) - before} answers: {self.calls[-5:]}")

    def end(self) -> list[Call]:
        """Let what is under way end; all that was called."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()
        return self.calls

    def _go(self, at: int) -> None:
        while not self._is_over.is_set():
            number = next(_NUMBERS)
            places = self._places()
            who, gateway = places[number % len(places)]
            call = ask(gateway, self._model, f"{who}.{number}", stream=number % 3 > 0)
            with self._changing:
                self.calls.append(call)
                self._changing.notify_all()
            if call.end != "whole":  # whoever was refused does not ask again at once
                self._is_over.wait(0.2)


def overtaken(flights: Iterable[Flight], calls: Iterable[Call], slack_s: float) -> list[str]:
    """Who was served clearly after somebody who had come later, by more than `slack_s`.

    A request has come when its caller sent it; how long it takes to the pool is the slack. What is
    lent at once, as after a stall, comes to the upstream in any order.
    """
    sent = {call.name: call.sent for call in calls}
    first: dict[str, Flight] = {}
    for flight in flights:
        if flight.name in sent:
            first.setdefault(flight.name, flight)  # later ones are retries
    in_order = sorted(first.values(), key=operator.attrgetter("began"))
    found: list[str] = []
    before = iter(in_order)
    latest, whose, other = 0.0, "", next(before, None)
    for flight in in_order:
        while other and other.began < flight.began - AT_ONCE_S:
            if sent[other.name] > latest:
                latest, whose = sent[other.name], other.name
            other = next(before, None)
        if (younger_s := latest - sent[flight.name]) > slack_s:
            found.append(f"{flight.name} was overtaken by {whose}, {younger_s:.2f} s younger")
    return found
