"""The callers of a soak: each asks for words of its own, and judges what it gets.

They use bare sockets, so that a broken answer, a slow reader and an early leaver are what they are.
"""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from typing import Any, NamedTuple

from tests.soak.words import answer_to, make_nonce

Json = dict[str, Any]

# An answer that takes longer hangs: all limits of the configuration are below this.
PATIENCE_S = 40.0

# What a gateway may say while accounts fail; each has to be in the dialect's envelope.
STATUSES = {400, 401, 404, 429, 500, 502, 503, 504}


class Heard(NamedTuple):
    """A stream so far: what it says, whether it has its ending, whether it has an error."""

    text: str
    is_whole: bool
    error: str


class Speech(NamedTuple):
    """A dialect, as a caller needs it."""

    path: str
    ask: Callable[[str, str, bool], Json]  # of model, nonce, stream
    whole: Callable[[Json], str]
    stream: Callable[[list[Json | str]], Heard]


class Outcome(NamedTuple):
    """How a request ended for its caller."""

    path: str
    model: str
    caller: str
    nonce: str
    began: float
    ended: float
    end: str  # whole, error, refused, left, broken
    status: int
    detail: str


def chat_ask(model: str, nonce: str, stream: bool) -> Json:
    return {"model": model, "messages": [{"role": "user", "content": nonce}], "stream": stream}


def chat_stream(events: list[Json | str]) -> Heard:
    text, is_whole, error = "", False, ""
    for event in events:
        assert not is_whole, "something comes behind the end"
        if isinstance(event, str):
            is_whole = event == "[DONE]"
        elif "error" in event:
            error = str(event["error"]["code"])
        elif event.get("choices"):
            choice = event["choices"][0]
            text += choice.get("text") or (choice.get("delta") or {}).get("content") or ""
    return Heard(text, is_whole, error)


def text_ask(model: str, nonce: str, stream: bool) -> Json:
    return {"model": model, "prompt": nonce, "stream": stream}


def messages_ask(model: str, nonce: str, stream: bool) -> Json:
    return {**chat_ask(model, nonce, stream), "max_tokens": 4096}


def messages_stream(events: list[Json | str]) -> Heard:
    text, is_whole, error = "", False, ""
    for event in _named(events):
        assert not is_whole, "something comes behind the end"
        if event["type"] == "content_block_delta":
            text += event["delta"].get("text", "")
        is_whole = event["type"] == "message_stop"
        if event["type"] == "error":
            error = event["error"]["type"]
    return Heard(text, is_whole, error)


def responses_ask(model: str, nonce: str, stream: bool) -> Json:
    return {"model": model, "input": nonce, "stream": stream}


def responses_stream(events: list[Json | str]) -> Heard:
    text, is_whole, error = "", False, ""
    for event in _named(events):
        assert not is_whole, "something comes behind the end"
        if event["type"] == "response.output_text.delta":
            text += event["delta"]
        is_whole = event["type"] == "response.completed"
        if is_whole:
            assert _text_of(event["response"]) == text
        if event["type"] in ("response.failed", "error"):
            error = event["type"]
    return Heard(text, is_whole, error)


def _named(events: list[Json | str]) -> list[Json]:
    assert not any(isinstance(event, str) for event in events), events[-1]
    return [event for event in events if isinstance(event, dict)]


def _text_of(response: Json) -> str:
    parts = [part for item in response["output"] for part in item.get("content") or ()]
    return "".join(part["text"] for part in parts)


CHAT = Speech(
    "/v1/chat/completions",
    chat_ask,
    lambda answer: str(answer["choices"][0]["message"]["content"]),
    chat_stream,
)
COMPLETIONS = Speech(
    "/v1/completions", text_ask, lambda answer: str(answer["choices"][0]["text"]), chat_stream
)
MESSAGES = Speech(
    "/v1/messages",
    messages_ask,
    lambda answer: "".join(block.get("text", "") for block in answer["content"]),
    messages_stream,
)
RESPONSES = Speech("/v1/responses", responses_ask, _text_of, responses_stream)
SPEECHES = (CHAT, COMPLETIONS, MESSAGES, RESPONSES)


class Callers:
    """Threads that call until `stop`. `pick` gives a model and a caller's key at the moment."""

    def __init__(
        self, port: int, seed: int, pick: Callable[[random.Random], tuple[str, str]], count: int
    ) -> None:
        self.outcomes: list[Outcome] = []
        self.complaints: list[str] = []
        self._port = port
        self._pick = pick
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(random.Random(f"{seed}-{number}"),))
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let the requests that are under way end."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def ends(self) -> Counter[str]:
        return Counter(outcome.end for outcome in self.outcomes)

    def _run(self, chance: random.Random) -> None:
        connection: HTTPConnection | None = None
        while not self._stopped.is_set():
            if connection is None:
                connection = HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_S)
            speech = chance.choice(SPEECHES)
            model, key = self._pick(chance)
            nonce = make_nonce(chance)
            began = time.monotonic()
            try:
                end, status, detail = self._ask(connection, speech, model, key, nonce, chance)
            except TimeoutError:
                end, status, detail = "hung", 0, ""
            except (OSError, HTTPException) as error:
                end, status, detail = "broken", 0, repr(error)
            except (AssertionError, ValueError, LookupError) as error:
                end, status, detail = "wrong", 0, repr(error)
            if end != "whole" or chance.random() < 0.2:
                connection.close()
                connection = None
            outcome = Outcome(
                speech.path, model, key, nonce, began, time.monotonic(), end, status, detail
            )
            self.outcomes.append(outcome)
            if end in ("hung", "wrong"):
                self.complaints.append(str(outcome))
            self._stopped.wait(chance.expovariate(20))
        if connection is not None:
            connection.close()

    def _ask(
        self,
        connection: HTTPConnection,
        speech: Speech,
        model: str,
        key: str,
        nonce: str,
        chance: random.Random,
    ) -> tuple[str, int, str]:
        stream = chance.random() < 0.6
        leaves = chance.random() < 0.06
        is_slow = chance.random() < 0.03
        headers = {"Authorization": f"Bearer {key}", "x-request-id": nonce}
        body = json.dumps(speech.ask(model, nonce, stream)).encode()
        if connection.sock is None:
            connection.connect()
            assert connection.sock is not None
            if is_slow:
                connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.request("POST", speech.path, body, headers)
        if leaves and chance.random() < 0.5:
            self._stopped.wait(chance.uniform(0, 0.3))
            return "left", 0, ""
        response = connection.getresponse()
        expected = answer_to(nonce)
        if response.status != 200:
            told = json.loads(response.read())["error"]
            assert response.status in STATUSES, (response.status, told)
            assert told["message"], told
            assert told["type"], told
            return "refused", response.status, str(told.get("code"))
        if not stream:
            said = speech.whole(json.loads(response.read()))
            assert said == expected, f"{nonce} was answered by {said[:200]!r}"
            return "whole", 200, ""
        data = b""
        leaves_at = chance.randrange(2000) if leaves else None
        while piece := response.read1(256 if is_slow else 65536):
            data += piece
            if leaves_at is not None and len(data) > leaves_at:
                return "left", 200, ""
            if is_slow:
                self._stopped.wait(0.02)
        heard = speech.stream(_events(data))
        assert expected.startswith(heard.text), f"{nonce} was answered by {heard.text[:200]!r}"
        if heard.is_whole:
            assert heard.text == expected, f"{nonce}: half an answer looks whole"
            assert not heard.error
            return "whole", 200, ""
        assert heard.error, f"{nonce}: a stream ended without a word: {data[-300:]!r}"
        return "error", 200, heard.error


def _events(data: bytes) -> list[Json | str]:
    """The data of whole events."""
    found: list[Json | str] = []
    for block in data.split(b"\n\n")[:-1]:
        for line in block.split(b"\n"):
            if line.startswith(b"data: "):
                text = line.removeprefix(b"data: ").decode()
                found.append(json.loads(text) if text.startswith("{") else text)
    return found
