"""What follows from each thing that an upstream may say: the table of attempts, row by row."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import Any

import msgspec
import pytest

from proxy.config import Secret, load_config
from proxy.dialects.chat import CHAT
from proxy.errors import (
    CallerGone,
    InvalidRequest,
    ProxyError,
    UpstreamAuthentication,
    UpstreamInvalid,
    UpstreamRefusal,
    UpstreamReset,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from proxy.gateway import ANYONE, Gateway
from proxy.net.watch import CallerConnection
from proxy.record.record import Record
from proxy.wire.chat import error_body
from tests.support.attempts import Stage
from tests.support.clock import caller_leaving
from tests.support.upstream import (
    CUT,
    HANG,
    RESET,
    Pause,
    Reply,
    Upstream,
    chat,
    error,
    error_object,
    json_reply,
    raw,
    stream,
)

OK = chat("Hello")
TIME_OUT = UpstreamTimeout("connecting took too long")
NO_SWITCH: dict[str, Any] = {"quota_exceeded": {"switch-project": False}}
HOURS = {"Retry-After": "7200"}


# 429


def test_quota_of_one_client_moves_on_to_the_next() -> None:
    """429: client and model cool down; next client, not counted against request-retry."""
    stage = Stage([error(429, headers=HOURS)], [error(429, headers=HOURS)], [OK], request_retry=0)
    assert json.loads(stage.ask())["choices"]
    assert stage.sent_to == "abc"
    assert stage.now_s == 0
    assert stage.state_of("a") == {"state": "cooling down", "failures": 1, "for_s": 1800}


def test_quota_without_switch_project_is_forwarded_as_it_came() -> None:
    """429 without switch-project: status, body and hints of the upstream, no other client."""
    reply = error(429, "Slow down.", code="rate", headers={**HOURS, "openai-version": "1"})
    stage = Stage([reply], [OK], **NO_SWITCH)
    caught = stage.refused()
    assert stage.sent_to == "a"
    assert (caught.status, error_body(caught)) == (429, reply.content())
    assert caught.headers() == {"retry-after": "7200", "openai-version": "1"}
    assert stage.state_of("a")["state"] == "cooling down"


def test_quota_tries_the_same_client_twice_at_most() -> None:
    """429 with switch-project: the same client at most twice in one request."""
    soon = error(429, headers={"Retry-After": "1"})
    stage = Stage([soon] * 9, max_retry_interval=100)
    caught = stage.refused()
    assert (caught.status, stage.sent_to) == (429, "aa")
    assert [sent.at_s for sent in stage.sent] == [0, 1]


# 401 and 402


def test_refused_key_takes_the_client_out_of_service() -> None:
    """401: out of service, next client, not counted, once per client."""
    stage = Stage([error(401)], [error(401)], [OK], request_retry=0)
    stage.ask()
    assert stage.sent_to == "abc"
    assert stage.state_of("a") == {"state": "out of service", "failures": 1, "for_s": 60}


@pytest.mark.parametrize("as_stream", [False, True])
def test_refused_key_is_never_forwarded_as_401(as_stream: bool) -> None:
    """401: it would tell callers that their own key is wrong; 502 when nothing is left."""
    stage = Stage([error(401, "Incorrect API key: sk-123", code="invalid_api_key")])
    with pytest.raises(UpstreamAuthentication) as caught:
        stage.stream() if as_stream else stage.ask()
    assert caught.value.status == 502
    assert caught.value.code == "upstream_authentication_error"
    assert b"sk-123" not in error_body(caught.value)
    assert stage.sent_to == "a"


def test_refused_key_hidden_in_a_success_is_not_forwarded_either() -> None:
    """A 2xx with an error object counts as its code: 401 included."""
    stage = Stage([json_reply(error_object("no", code=401))])
    assert stage.refused().code == "upstream_authentication_error"
    assert stage.state_of("a")["state"] == "out of service"


@pytest.mark.parametrize("stops", ["401", "by hand"])
def test_a_client_without_the_model_does_not_speak_for_one_out_of_service(stops: str) -> None:
    """404 is forwarded if all say so: a client that is out of service has said nothing."""
    stage = Stage([error(401)], [error(404, code="model_not_found")] * 2)
    if stops == "401":
        stage.refused()
        assert stage.sent_to == "ab"
    else:
        stage.pool.set_disabled("a", True)
    assert (stage.refused().code, stage.sent_to) == ("no_client_in_service", "b")


def test_refused_key_is_tried_again_after_one_minute_doubling_to_thirty() -> None:
    """401: half-open after 1 min doubling to 30 min; before that nothing is sent."""
    stage = Stage([error(401)] * 7 + [OK])
    waits_s = []
    for _ in range(7):
        stage.refused()
        wait_s = stage.state_of("a")["for_s"]
        waits_s.append(wait_s)
        stage.clock.sleep(wait_s - 0.5)
        assert stage.refused().code == "no_client_in_service"
        stage.clock.sleep(0.5)
    assert waits_s == [60, 120, 240, 480, 960, 1800, 1800]
    assert stage.ask()
    assert stage.state_of("a") == {"state": "ready", "failures": 0}


def test_refused_key_holds_for_all_models_of_the_client() -> None:
    """401: the client is out of service, 402: the client and that model only."""
    for status, other_model in ((401, "out of service"), (402, "ready")):
        stage = Stage([error(status)])
        stage.free(stage.occupy("a", alias="other"))
        stage.refused()
        (facts,) = stage.pool.snapshot()
        assert facts["models"]["other"]["state"] == other_model
        assert facts["models"]["a-m"]["state"] == "out of service"


def test_payment_required_moves_on_and_is_not_counted() -> None:
    """402: out of service for the model, next client, not counted."""
    stage = Stage([error(402)], [error(402)], [OK], request_retry=0)
    stage.ask()
    assert stage.sent_to == "abc"
    assert stage.state_of("b") == {"state": "out of service", "failures": 1, "for_s": 60}


def test_payment_required_is_forwarded_if_all_say_so() -> None:
    """402: if all say so, forwarded."""
    stage = Stage([error(402)], [error(402, "Top up.")])
    caught = stage.refused()
    assert (caught.status, caught.message, stage.sent_to) == (402, "Top up.", "ab")


# 403, 408, 500, 502, 503, 504, 529


@pytest.mark.parametrize("status", [403, 408, 500, 502, 503, 504, 529])
def test_failing_upstream_moves_on_and_counts(status: int) -> None:
    """Next client, counted: `request-retry` attempts after the first, then the last error."""
    reply = error(status, "I am unwell.", code="odd")
    stage = Stage([reply], [reply], [OK], request_retry=2)
    stage.ask()
    assert stage.sent_to == "abc"
    stage = Stage([reply], [reply], [OK], request_retry=1)
    caught = stage.refused()
    assert stage.sent_to == "ab"
    assert (caught.status, error_body(caught)) == (status, reply.content())


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (403, "ready"), (408, "ready"), (500, "resting"), (502, "resting"), (503, "resting"),
        (504, "resting"), (529, "resting"),
    ],
)  # fmt: skip
def test_only_server_errors_rest_the_client(status: int, state: str) -> None:
    """403 and 408 don't rest the client."""
    stage = Stage([error(status)], [OK])
    stage.ask()
    assert stage.state_of("a")["state"] == state


# 404


def test_model_not_found_is_the_accounts_matter() -> None:
    """404 with code model_not_found: next client, not counted, its health is not told."""
    reply = error(404, code="model_not_found")
    stage = Stage([reply], [reply], [OK], request_retry=0)
    stage.ask()
    assert stage.sent_to == "abc"
    assert stage.state_of("a") == {"state": "ready", "failures": 0}


def test_key_that_reads_like_a_code_changes_no_verdict() -> None:
    """The error is judged before the key is masked in it."""
    stage = Stage([error(404, code="model_not_found")], [OK])
    client = stage["a"]
    client.config = msgspec.structs.replace(client.config, key=Secret("model_not_found"))
    stage.ask()
    assert stage.sent_to == "ab"


def test_model_not_found_is_forwarded_if_all_say_so() -> None:
    """404 with code model_not_found: forwarded if all say so, each asked once."""
    reply = error(404, "No such model.", code="model_not_found")
    stage = Stage([reply], [reply])
    caught = stage.refused()
    assert (caught.status, error_body(caught)) == (404, reply.content())
    assert stage.sent_to == "ab"


@pytest.mark.parametrize("status", [402, 404])
def test_verdict_of_some_clients_is_not_that_of_all(status: int) -> None:
    """402 and model_not_found are forwarded if all say so, not while another merely cools down."""
    stage = Stage([error(status, code="model_not_found")], [OK])
    stage.cool("b", 50)
    caught = stage.refused()
    assert (caught.status, caught.code) == (429, "rate_limit_exceeded")
    assert caught.headers()["retry-after"] == "50"
    stage.clock.sleep(50)
    assert stage.ask()


def test_other_404_is_forwarded_at_once() -> None:
    """404 without that code is the caller's or the operator's fault: forwarded."""
    stage = Stage([error(404, "Invalid URL")], [OK])
    assert (stage.refused().status, stage.sent_to) == (404, "a")


# Transport faults


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (UpstreamUnreachable("cannot connect"), "upstream_unreachable"),
        (UpstreamReset("closed"), "upstream_reset"),
        (UpstreamInvalid("not HTTP"), "upstream_invalid_response"),
        (Reply([], before_head=[RESET]), "upstream_reset"),
        (Reply([b'{"cho', CUT]), "upstream_reset"),
    ],
)
def test_transport_fault_is_like_502(fault: Reply | ProxyError, code: str) -> None:
    """Refused, reset, DNS, TLS, garbage: like 502; counted, the client rests."""
    stage = Stage([fault], [OK], request_retry=1)
    stage.ask()
    assert stage.sent_to == "ab"
    assert stage.state_of("a")["state"] == "resting"
    stage = Stage([fault], [OK], request_retry=0)
    caught = stage.refused()
    assert (caught.status, caught.code) == (502, code)


@pytest.mark.parametrize("fault", [TIME_OUT, OK.after(HANG)])
def test_unary_time_out_is_tried_once_more_at_most(fault: Reply | ProxyError) -> None:
    """Time-outs are like 504, counted; a unary request that timed out: once more at most."""
    stage = Stage([fault], [fault], [OK], first_byte_timeout=5)
    caught = stage.refused()
    assert (caught.status, caught.code, stage.sent_to) == (504, "upstream_timeout", "ab")
    assert stage.state_of("a")["failures"] == 1
    stage = Stage([fault], [OK], first_byte_timeout=5)
    assert stage.ask()


def test_time_outs_of_a_stream_use_all_retries() -> None:
    """A stream that timed out before its first event costs the upstream nothing yet."""
    stage = Stage([TIME_OUT], [TIME_OUT], [TIME_OUT], [stream("Hi")])
    assert b"[DONE]" in stage.stream()[-1]
    assert stage.sent_to == "abcd"


def test_stale_connection_is_replaced_within_the_attempt() -> None:
    """A reused connection that ends before any answer byte: once more, same lease, not counted."""
    with Upstream() as upstream:
        models = [{"name": "a-m", "alias": "m"}]
        provider = {"name": "a", "base-url": upstream.url, "models": models}
        gateway = Gateway(load_config({"openai-compatibility": [provider], "request-retry": 0}))
        upstream.reply(None, OK, raw(CUT), chat("Fresh"))
        for text in (b"Hello", b"Fresh"):
            record = Record("req_1", endpoint="", arrived=gateway.clock.monotonic())
            ask = CHAT.read(b'{"model":"m","messages":[1]}', {})
            with ExitStack() as held:
                gateway.admit(ANYONE, record, held)
                body, _ = gateway.serve(
                    ask, ANYONE, CallerConnection(None), record=record, held=held
                )
                assert isinstance(body, bytes)
                assert text in body
            assert len(record.attempts) == 1
        gateway.close()
        assert [received.connection for received in upstream.received()] == [1, 1, 2]
    (facts,) = gateway.pool.snapshot()
    assert facts["models"]["a-m"] == {"state": "ready", "failures": 0}


# Any other status


@pytest.mark.parametrize("status", [400, 404, 409, 413, 422, 451])
def test_other_4xx_is_forwarded_at_once(status: int) -> None:
    """Any other 4xx: forwarded at once, status and body as they came, nobody's health is told."""
    reply = Reply(
        [b'{ "error":', b'{"message":"no","odd":1e2}}'],
        status,
        [("Content-Type", "application/problem+json"), ("Set-Cookie", "a=b")],
    )
    stage = Stage([reply], [OK])
    caught = stage.refused()
    assert isinstance(caught, UpstreamRefusal)
    assert (caught.status, stage.sent_to) == (status, "a")
    assert error_body(caught) == b'{ "error":{"message":"no","odd":1e2}}'
    assert caught.headers() == {}
    assert stage.state_of("a") == {"state": "ready", "failures": 0}


@pytest.mark.parametrize("status", [300, 301, 302, 304, 307, 308])
def test_redirect_is_not_followed(status: int) -> None:
    """A redirect would carry the key elsewhere: like 502, and the message says what to check."""
    stage = Stage([Reply([], status, [("Location", "http://b.invalid/")])], request_retry=0)
    caught = stage.refused()
    assert (caught.status, stage.sent_to) == (502, "a")
    assert "base-url" in caught.message


def test_what_one_kind_of_upstream_cannot_do_another_may() -> None:
    """A client that cannot send the request is passed over; if all are, it is a 400."""
    cannot = InvalidRequest("no such feature here", param="tools")
    stage = Stage([cannot], [OK], request_retry=0)
    assert stage.ask()
    assert (stage.sent_to, stage.state_of("a")["state"]) == ("ab", "ready")
    stage = Stage([cannot], [cannot])
    assert (stage.refused().status, stage.sent_to) == (400, "ab")


def test_caller_that_left_ends_the_attempts() -> None:
    """Nothing is tried for a caller who hung up, and no client is blamed."""
    stage = Stage([OK.after(Pause(9))], [OK])
    with caller_leaving(stage.clock, 3) as caller, pytest.raises(CallerGone):
        stage.ask(caller)
    assert (stage.now_s, stage.sent_to) == (3, "a")
    assert stage.state_of("a") == {"state": "ready", "failures": 0}
