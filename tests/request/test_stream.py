"""The WSGI body: what is written when, and that everything held is freed exactly once."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import cast

import pytest

from proxy.config import Config, load_config
from proxy.dialects.chat import CHAT, ChatWriter
from proxy.errors import (
    AllCoolingDown,
    CallerGone,
    NoClientFree,
    NoClientInService,
    ProxyError,
    ShuttingDown,
    UpstreamError,
    UpstreamInvalid,
    UpstreamReset,
    UpstreamTimeout,
    UpstreamTooLarge,
    UpstreamTruncated,
    UpstreamUnreachable,
)
from proxy.net.lost import Lost
from proxy.net.watch import CallerConnection
from proxy.record.record import Record
from proxy.request.attempts import Attempts, Call
from proxy.request.relay import Relay, Relayed, WholeRelay
from proxy.request.stream import StreamBody
from proxy.wire.chat import ChunkStream
from proxy.wire.sse import DONE, KEEP_ALIVE, encode
from tests.support.clock import VirtualClock

KEEPALIVE_S = 15.0
IDLE_S = 100.0


def chunk(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return json.dumps({"choices": [choice]}).encode()


A, B, END = chunk("a"), chunk("b"), chunk("", "stop")
COMMENT = b": processing\n\n"


class ScriptedReply:
    """An upstream's body: bytes, seconds of silence, or an error; the end after the last."""

    status = 200
    headers: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, clock: VirtualClock, script: list[bytes | float | ProxyError]) -> None:
        self._clock = clock
        self._script = script
        self._due_at: float | None = None

    def open(self, until: float) -> bool:
        return True

    def head(self, until: float) -> bool:
        return True

    def read(self, until: float) -> bytes | None:
        while self._script and isinstance(self._script[0], float):
            self._due_at = self._due_at or self._clock.now + self._script[0]
            self._clock.now = max(self._clock.now, min(until, self._due_at))
            if self._due_at > until:
                return None
            self._due_at = None
            del self._script[0]
        step = self._script.pop(0) if self._script else b""
        if isinstance(step, ProxyError):
            raise step
        assert isinstance(step, bytes)
        return step

    @property
    def is_whole(self) -> bool:
        return not self._script

    def close(self, *, linger_s: float = 0.0) -> None:
        """Nothing is open."""


class ScriptedOpening:
    """Attempts: seconds that pass, then the opened stream or the error."""

    call: Call
    config: Config

    def __init__(
        self, clock: VirtualClock, wait_s: float = 0.0, outcome: Relayed | ProxyError | None = None
    ) -> None:
        self.clock = clock
        self._due_at = clock.now + wait_s
        self._outcome = outcome
        self.told: list[ProxyError] = []

    def advance(self, pause_at: float) -> Relayed | None:
        self.clock.now = max(self.clock.now, min(pause_at, self._due_at))
        if self._due_at > pause_at:
            return None
        if isinstance(self._outcome, ProxyError):
            raise self._outcome
        return self._outcome

    def interrupted(self, error: ProxyError) -> None:
        self.told.append(error)

    def close(self, *, linger_s: float = 0.0) -> None:
        """Nothing is held."""


class Made:
    """A body over a scripted upstream, and what it holds."""

    def __init__(
        self,
        *script: bytes | float | ProxyError,
        first: list[bytes] | None = None,
        opening: Callable[[VirtualClock, Relayed], ScriptedOpening] | None = None,
        keepalive_s: float = KEEPALIVE_S,
        max_event_bytes: int = 10_000,
    ) -> None:
        self.clock = VirtualClock()
        config = load_config(
            {
                "idle-timeout": IDLE_S,
                "max-event-size": max_event_bytes,
                "streaming": {"keepalive-seconds": keepalive_s},
            }
        )
        reply = ScriptedReply(self.clock, list(script))
        self.relay = Relay(reply, ChunkStream(), config, self.clock, b"")
        self.relay.first = first or []
        writer = ChatWriter()
        if opening is None:
            writer.begin(0, is_native=True)
        self.opening = opening(self.clock, self.relay) if opening else ScriptedOpening(self.clock)
        self.record = Record("r", endpoint="e", arrived=self.clock.now)
        self.freed: list[str] = []
        held = ExitStack()
        held.callback(self.freed.append, "held")
        ask = CHAT.read(b'{"model": "m", "messages": [{"role": "user", "content": "Hi"}]}', {})
        self.opening.call = Call(ask, writer, CallerConnection(None), self.record)
        self.opening.config = config
        self.body = StreamBody(
            cast("Attempts", self.opening),
            None if opening else self.relay,
            b"" if opening else writer.feed(self.relay.first),
            held,
        )

    def writes(self) -> list[bytes]:
        """All of it, closed at the end."""
        written = list(self.body)
        self.body.close()
        assert b"" not in written
        assert self.freed == ["held"]
        assert self.record.bytes_out == sum(map(len, written))
        return written


def error_in(write: bytes) -> dict[str, object]:
    """The error of the one event that a write is."""
    assert write.startswith(b"data: ")
    assert write.endswith(b"\n\n")
    found: dict[str, object] = json.loads(write[6:])["error"]
    return found


def test_whole_events_of_a_read_leave_in_one_write() -> None:
    """What is cut waits for its end; other fields and comments of the upstream don't leave."""
    noise = b": hi\n\nevent: x\nid: 1\ndata: "
    reads = [noise + A + b"\n\n" + encode([B]) + b"data: ", END + b"\n\n", encode([DONE])]
    made = Made(*reads, first=[A])
    assert made.writes() == [encode([A]), encode([A, B]), encode([END]), encode([DONE])]
    assert made.record.end == "ok"


def test_answer_that_is_whole_goes_out_in_one_write() -> None:
    """A stream of one JSON body."""
    whole = WholeRelay([A])
    made = Made(opening=lambda clock, _: ScriptedOpening(clock, 0.0, whole))
    assert made.writes() == [KEEP_ALIVE, encode([A, DONE])]
    with pytest.raises(AssertionError):
        whole.read(0.0)


def test_done_ends_the_stream_at_once() -> None:
    """What comes behind it is not read."""
    made = Made(encode([END, DONE, B]), UpstreamReset("too late"), first=[A])
    assert made.writes() == [encode([A]), encode([END, DONE])]


@pytest.mark.parametrize("last", [encode([END]), encode([END]) + b"data: [DONE]"])
def test_done_is_added_when_every_choice_has_finished(last: bytes) -> None:
    """Also where the upstream's own is unfinished."""
    assert Made(encode([A]), last).writes() == [encode([A]), encode([END]), encode([DONE])]


@pytest.mark.parametrize("rest", [b"", b"data: " + END, b"data: " + END + b"\n"])
def test_stream_cut_off_ends_in_an_error_event(rest: bytes) -> None:
    """No [DONE], so that SDKs raise; an unfinished event is dropped."""
    made = Made(encode([A]), rest) if rest else Made(encode([A]))
    *chunks, last = made.writes()
    assert chunks == [encode([A])]
    assert error_in(last) == {
        "message": "upstream connection error: the upstream's stream was cut off before its end",
        "type": "upstream_error",
        "param": None,
        "code": "upstream_truncated",
    }
    assert made.record.end == "upstream_truncated"
    assert [type(error) for error in made.opening.told] == [UpstreamTruncated]


@pytest.mark.parametrize(
    ("failing", "code"),
    [
        (UpstreamReset("broken"), "upstream_reset"),
        (UpstreamInvalid("broken"), "upstream_invalid_response"),
        (b"data: no json\n\n", "upstream_invalid_response"),
        (encode([b'{"error":{"message":"m","code":"overloaded"}}']), "overloaded"),
        (encode([b'{"error":{"message":"m"}}']), "502"),
        (b"data: " + b"x" * 20_000, "upstream_too_large"),
        (b"event: error\ndata: busy\n\n", "502"),
        (b'event: error\ndata: {"message":"m","code":"overloaded"}\n\n', "overloaded"),
        (b"event: error\ndata: [DONE]\n\n", "502"),
        (b'event: error\ndata: {"choices":[]}\n\n', "502"),
        (encode([b'{"object":"error","message":"m","code":400}']), "400"),
    ],
)
def test_failure_after_the_first_event_is_an_error_event(
    failing: bytes | ProxyError, code: str
) -> None:
    """Nothing is retried, no [DONE] follows."""
    *chunks, last = Made(encode([A]), failing, encode([END, DONE])).writes()
    assert chunks == [encode([A])]
    assert error_in(last)["code"] == code
    assert error_in(last)["type"] == "upstream_error"


# Words by which agents know a fault that passes, and try again (cases of 2026-11, R1).
PASSING = ("connection error", "upstream connect", "overloaded", "timeout", "server error")


@pytest.mark.parametrize(
    ("failing", "begin"),
    [
        ([UpstreamReset("broken")], "upstream connection error: broken"),
        ([UpstreamInvalid("no HTTP")], "upstream connection error: no HTTP"),
        ([UpstreamUnreachable("DNS")], "upstream connection error: DNS"),
        ([ShuttingDown()], "upstream connection error: this server is shutting down"),
        ([b""], "upstream connection error: the upstream's stream was cut off"),
        ([b"data: no json\n\n"], "upstream connection error: the upstream sent an event"),
        ([1000.0], "upstream timeout: the upstream sent no event for 100 s"),
        ([UpstreamTimeout("slow")], "upstream timeout: slow"),
        ([encode([b'{"error":{"message":"m","code":504}}'])], "upstream timeout: m"),
        ([encode([b'{"error":{"message":"m","code":529}}'])], "upstream overloaded: m"),
        ([encode([b'{"error":{"message":"m","code":429}}'])], "upstream overloaded: m"),
        ([encode([b'{"error":{"message":"m","code":"503"}}'])], "upstream overloaded: m"),
        ([encode([b'{"error":{"message":"m","code":"overloaded"}}'])], "upstream overloaded: m"),
        ([encode([b'{"object":"error","message":"m","code":500}'])], "upstream server error: m"),
        ([encode([b'{"error":{"message":"m"}}'])], "upstream server error: m"),
        ([b"event: error\ndata: busy\n\n"], "upstream server error: busy"),
    ],
)
def test_message_says_that_the_fault_passes(
    failing: list[bytes | float | ProxyError], begin: str
) -> None:
    """Transport, silence, a cut, an overload: in words by which agents know to go on."""
    *_, last = Made(encode([A]), *failing).writes()
    message = str(error_in(last)["message"])
    assert message.startswith(begin)
    assert any(word in message for word in PASSING)


@pytest.mark.parametrize(
    "failing",
    [
        encode([b'{"error":{"message":"m","code":400}}']),
        encode([b'{"error":{"message":"m","code":"404"}}']),
        UpstreamTooLarge("m"),
    ],
)
def test_message_of_a_fault_that_stays_says_no_such_thing(failing: bytes | ProxyError) -> None:
    """To try again would be in vain."""
    *_, last = Made(encode([A]), failing).writes()
    assert not any(word in str(error_in(last)["message"]) for word in PASSING)


@pytest.mark.parametrize(
    ("error", "begin"),
    [
        (AllCoolingDown("all are"), "upstream overloaded: all are"),
        (NoClientFree("none is"), "upstream overloaded: none is"),
        (NoClientInService("none is"), "none is"),
        (UpstreamTimeout("slow"), "upstream timeout: slow"),
        (UpstreamUnreachable("DNS"), "upstream connection error: DNS"),
    ],
)
def test_message_of_a_stream_that_was_committed_by_a_comment(error: ProxyError, begin: str) -> None:
    """There is no status that would say it."""
    made = Made(opening=lambda clock, _: ScriptedOpening(clock, 20.0, error))
    assert error_in(made.writes()[-1])["message"] == begin


@pytest.mark.parametrize(
    ("failing", "error"),
    [
        (encode([b'{"error":"x"}']), UpstreamError),
        (b"data: " + b"x" * 20_000, UpstreamTooLarge),
        (b"data: {\n\n", UpstreamInvalid),
    ],
)
def test_good_events_before_a_failure_in_one_read_are_delivered(
    failing: bytes, error: type[UpstreamError]
) -> None:
    """They were whole."""
    made = Made(encode([A, B]) + failing, encode([END, DONE]))
    *chunks, last = made.writes()
    assert chunks == [encode([A, B])]
    assert error_in(last)
    assert [isinstance(told, error) for told in made.opening.told] == [True]


def test_stream_that_never_waits_is_told_that_the_process_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A wait would end by itself; here the next events are always there already."""
    lost = Lost()
    monkeypatch.setattr("proxy.request.stream.LOST", lost)
    made = Made(encode([A]), encode([A]), encode([END, DONE]))
    assert next(made.body) == encode([A])
    lost.stop()
    assert error_in(next(made.body))["code"] == "server_shutting_down"
    assert list(made.body) == []
    assert made.record.end == "server_shutting_down"
    lost.forget()


def test_keep_alive_is_due_when_nothing_was_written() -> None:
    """Each 15 s of our own silence; the upstream's comments change nothing."""
    comments: list[bytes | float | ProxyError] = [10.0, COMMENT]
    made = Made(40.0, encode([A]), *comments * 4, encode([END, DONE]), first=[B])
    begin = made.clock.now
    written = [(made.clock.now - begin, data) for data in made.body]
    assert written == [
        (0, encode([B])),
        (15, KEEP_ALIVE),
        (30, KEEP_ALIVE),
        (40, encode([A])),
        (55, KEEP_ALIVE),
        (70, KEEP_ALIVE),
        (80, encode([END, DONE])),
    ]
    made.body.close()


def test_keep_alive_is_due_though_the_upstream_never_pauses() -> None:
    """Comments without a pause between them: the moment is looked at, not waited for."""
    clock_steps: list[bytes | float | ProxyError] = [5.0, COMMENT, COMMENT] * 4
    made = Made(*clock_steps, encode([END, DONE]), first=[A])
    assert made.writes() == [encode([A]), KEEP_ALIVE, encode([END, DONE])]


def test_no_keep_alive_when_turned_off() -> None:
    """keepalive-seconds: 0."""
    made = Made(90.0, encode([END, DONE]), first=[A], keepalive_s=0)
    assert made.writes() == [encode([A]), encode([END, DONE])]


@pytest.mark.parametrize("noise", [[], [10.0, COMMENT] * 50], ids=["silence", "comments"])
def test_silence_ends_in_a_timeout(noise: list[bytes | float | ProxyError]) -> None:
    """idle-timeout counts from the last data event; comments, theirs or ours, are none."""
    made = Made(*noise, 1000.0, first=[A])
    begin = made.clock.now
    *_, last = made.writes()
    assert error_in(last)["code"] == "upstream_timeout"
    assert made.clock.now == begin + IDLE_S
    assert [type(error) for error in made.opening.told] == [UpstreamTimeout]


def test_slow_caller_is_not_the_upstreams_silence() -> None:
    """The time that a write took does not count."""
    made = Made(encode([END, DONE]), first=[A])
    assert next(made.body) == encode([A])
    made.clock.now += 10 * IDLE_S
    assert next(made.body) == encode([END, DONE])
    made.body.close()


def test_comments_commit_the_answer_until_it_opens() -> None:
    """One at once, one each 15 s, then the chunks."""
    made = Made(encode([END, DONE]), opening=lambda clock, to: ScriptedOpening(clock, 40.0, to))
    assert not made.body.is_opened
    begin = made.clock.now
    assert made.writes() == [KEEP_ALIVE, KEEP_ALIVE, KEEP_ALIVE, encode([END, DONE])]
    assert made.body.is_opened
    assert made.record.first_event == begin + 40


@pytest.mark.parametrize(
    ("error", "code"),
    [(AllCoolingDown("all are"), "429"), (UpstreamTimeout("slow"), "504")],
)
def test_final_error_after_a_comment_has_its_status_as_code(error: ProxyError, code: str) -> None:
    """200 is out already."""
    made = Made(opening=lambda clock, _: ScriptedOpening(clock, 20.0, error))
    *comments, last = made.writes()
    assert comments == [KEEP_ALIVE, KEEP_ALIVE]
    assert error_in(last)["code"] == code
    assert made.record.end == error.code
    assert made.opening.told == []


@pytest.mark.parametrize("is_opened", [True, False])
def test_gone_caller_resets(is_opened: bool) -> None:
    """The body never ends as if complete."""
    gone = CallerGone("gone")
    if is_opened:
        made = Made(gone, first=[A])
    else:
        made = Made(opening=lambda clock, _: ScriptedOpening(clock, 0.0, gone))
    next(made.body)
    with pytest.raises(ConnectionResetError):
        next(made.body)
    made.body.close()
    assert made.record.end == "caller_gone"
    assert made.opening.told == []
    assert made.freed == ["held"]


@pytest.mark.parametrize("writes", range(4))
def test_close_frees_once_in_every_state(writes: int) -> None:
    """Never started, in the middle, at the end; twice."""
    made = Made(encode([B]), encode([END, DONE]), first=[A])
    for _ in range(writes):
        next(made.body)
    made.body.close()
    made.body.close()
    assert made.freed == ["held"]
    assert made.record.end == ("ok" if writes == 3 else "caller_gone")


def test_end_is_written_when_all_is_freed() -> None:
    """However slowly the caller takes it; what a reply has still to say is awaited behind it."""
    made = Made(encode([END, DONE]), first=[A])
    next(made.body)
    assert made.freed == []
    next(made.body)
    assert (made.freed, made.record.end) == (["held"], "ok")
    late = Made(encode([END, DONE]), b": bye\n\n", first=[A])
    assert list(late.body)[-1].endswith(encode([DONE]))
    assert late.freed == []
    late.body.close()
    assert late.freed == ["held"]
    broken = Made(b"data: {\n\n", b": bye\n\n", first=[A])
    assert b"error" in list(broken.body)[-1]
    assert broken.freed == ["held"]


def test_comments_and_silence_are_no_chunks() -> None:
    """None: nothing came until then; an empty list: nothing for the caller in it."""
    made = Made(COMMENT, 5.0, encode([A]), encode([DONE]))
    assert made.relay.read(made.clock.now + 1) == []
    assert made.relay.read(made.clock.now + 1) is None
    assert made.relay.read(made.clock.now + 9) == [A]
    assert not made.relay.is_over
    assert made.relay.read(made.clock.now + 9) == []
    assert made.relay.is_over


def test_failure_stays() -> None:
    """Read again after its failure, a relay fails again."""
    made = Made(encode([A]) + b"data: {\n\n")
    assert made.relay.read(0.0) == [A]
    for _ in range(2):
        with pytest.raises(UpstreamInvalid):
            made.relay.read(0.0)
