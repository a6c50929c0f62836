"""The use case by itself: a call is served by `Gateway`, whoever makes it."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from proxy.config import Caller, load_config
from proxy.dialects.chat import CHAT
from proxy.errors import CallerError, CallerLimitReached, ModelNotFound, UpstreamError
from proxy.gateway import ANYONE, Gateway
from proxy.net.watch import CallerConnection
from proxy.record.record import Record
from tests.support.upstream import Reply, Upstream, chat, error, stream

PROGRAM = """
import json, sys
from contextlib import ExitStack
from proxy.config import load_config
from proxy.dialects.chat import CHAT
from proxy.gateway import ANYONE, Gateway
from proxy.net.watch import CallerConnection
from proxy.record.record import Record

gateway = Gateway(load_config(json.loads(sys.argv[1])))

def call(stream):
    asked = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
    record = Record("r", endpoint="", arrived=gateway.clock.monotonic())
    with ExitStack() as held:
        gateway.keep(record, held)
        gateway.admit(ANYONE, record, held)
        ask = CHAT.read(json.dumps(asked).encode(), {})
        nobody = CallerConnection(None)
        body = gateway.serve(ask, ANYONE, nobody, record=record, held=held)[0]
        if stream:
            with ExitStack() as closing:
                closing.callback(body.close)
                body = b"".join(body)
    return body.decode(), record.status, record.end, record.ended is not None

found = [call(False), call(True)]
gateway.close()
modules = {name.partition(".")[0] for name in sys.modules}
print(json.dumps([found, sorted(modules & {"flask", "werkzeug", "gunicorn"})]))
"""


def config_of(upstream: Upstream, **more: Any) -> dict[str, Any]:
    provider = {"name": "p", "base-url": upstream.url, "models": [{"name": "x", "alias": "m"}]}
    return {"openai-compatibility": [provider], **more}


def test_a_call_is_served_without_flask() -> None:
    """Unary and streamed, in a process that knows no web framework and no server."""
    with Upstream() as upstream:
        upstream.reply(None, chat("Hello"), stream("Hel", "lo"))
        program = [sys.executable, "-c", PROGRAM, json.dumps(config_of(upstream))]
        done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    (unary, streamed), frameworks = json.loads(done.stdout)
    assert frameworks == []
    assert json.loads(unary[0])["choices"][0]["message"]["content"] == "Hello"
    assert streamed[0].endswith("data: [DONE]\n\n")
    assert unary[1:] == streamed[1:] == [200, "ok", True]


@pytest.mark.parametrize(
    ("caller", "reply", "failure", "status", "end"),
    [
        (Caller("c", models=["n"]), None, ModelNotFound, 404, "model_not_found"),
        (ANYONE, error(400, "No.", code="bad"), UpstreamError, 400, "bad"),
        (ANYONE, error(500), UpstreamError, 500, "upstream_error"),
        (ANYONE, error(400, "No.", code="400"), UpstreamError, 400, "upstream_error"),
    ],
)
@pytest.mark.parametrize("is_stream", [False, True])
def test_what_fails_is_in_the_record(
    caller: Caller,
    reply: Reply | None,
    failure: type[CallerError | UpstreamError],
    status: int,
    end: str,
    is_stream: bool,
) -> None:
    """Whoever calls: the caller's name, its model, the status and the reason."""
    with Upstream() as upstream, ExitStack() as open_at_end:
        if reply is not None:
            upstream.reply(None, reply)
        gateway = Gateway(load_config(config_of(upstream, **{"request-retry": 0})))
        open_at_end.callback(gateway.close)
        record = Record("r", endpoint="", arrived=gateway.clock.monotonic())
        asked = {"model": "m", "messages": ["Hi"], "stream": is_stream}
        ask = CHAT.read(json.dumps(asked).encode(), {})
        with suppress(failure), ExitStack() as held:
            gateway.keep(record, held)
            gateway.admit(caller, record, held)
            gateway.serve(ask, caller, CallerConnection(None), record=record, held=held)
            raise AssertionError("it was served")
        told = (record.caller, record.model, record.stream, record.status, record.end)
        assert told == (caller.name, "m", is_stream, status, end)
        assert f"{status} {status}" not in record.line()
        assert record.ended is not None
        assert sum(facts["in_flight"] for facts in gateway.pool.snapshot()) == 0


def test_caller_that_cannot_be_told_is_none() -> None:
    """A number as a name would break the log; `in` finds parts of a string."""
    for wrong in (7, None, b"ann"):
        with pytest.raises(TypeError, match="a caller's name is a string"):
            Caller(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a list of aliases"):
        Caller("ann", models="fast-and-good")
    ann = Caller("ann", models={"fast"})
    assert (ann.may_use("fast"), ann.may_use("fas"), Caller("ann").may_use("fas")) == (1, 0, 1)


def test_callers_with_nothing_in_flight_are_forgotten() -> None:
    """Each user of an application is a caller; counters of all that ever came would pile up."""
    gateway = Gateway(load_config({"demo": [{}]}, environ={}))
    record = Record("r", endpoint="", arrived=0.0)
    ann, ben = Caller("ann", max_concurrency=1), Caller("ben", max_concurrency=2)
    with ExitStack() as held:
        for caller in (ann, ben, ben, Caller("carl")):
            gateway.admit(caller, record, held)
        assert gateway._places._taken == {"ann": 1, "ben": 2, None: 4}
        for caller in (ann, ben):
            with pytest.raises(CallerLimitReached, match="max-concurrency"):
                gateway.admit(caller, record, held)
        gateway.admit(Caller("ann", max_concurrency=2), record, held)  # the limit is the request's
    assert not gateway._places._taken
