"""What follows from a failed attempt: the contract's table of attempts, row by row."""

from __future__ import annotations

import pytest

from proxy.errors import (
    InvalidRequest,
    OutOfResources,
    ProxyError,
    ShuttingDown,
    UnsupportedParameter,
    UpstreamAuthentication,
    UpstreamInvalid,
    UpstreamRefusal,
    UpstreamReset,
    UpstreamTimeout,
    UpstreamTooLarge,
    UpstreamTruncated,
    UpstreamUnreachable,
)
from proxy.pool import Effect
from proxy.request.verdict import Verdict, judge, shown


def refusal(status: int, code: str | None = None) -> UpstreamRefusal:
    return UpstreamRefusal("no", status=status, upstream_code=code)


FORWARDED = Verdict(Effect.NONE, moves_on=False)


@pytest.mark.parametrize(
    ("status", "code", "verdict"),
    [
        (401, None, Verdict(Effect.OUT, counts=False, excludes=True)),
        (402, None, Verdict(Effect.OUT_OF_MODEL, counts=False, excludes=True)),
        (403, None, Verdict(Effect.NONE)),
        (404, "model_not_found", Verdict(Effect.NONE, counts=False, excludes=True)),
        (404, None, FORWARDED),
        (404, "no_such_thread", FORWARDED),
        (408, None, Verdict(Effect.NONE)),
        (429, None, Verdict(Effect.COOL, counts=False)),
        (429, "insufficient_quota", Verdict(Effect.COOL, counts=False)),
        *[(status, None, Verdict(Effect.REST)) for status in (500, 502, 503, 504, 529)],
        *[(status, None, FORWARDED) for status in (400, 405, 409, 413, 415, 422, 451)],
        (400, "model_not_found", FORWARDED),
    ],
)
def test_refusals(status: int, code: str | None, verdict: Verdict) -> None:
    """Each status of the table; any other 4xx is forwarded at once."""
    assert judge(refusal(status, code), switch_project=True) == verdict


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 408, 429, 500, 503])
def test_without_switch_project_only_429_differs(status: int) -> None:
    """It is forwarded as it came; the client cools down all the same."""
    error = refusal(status)
    verdict = judge(error, switch_project=False)
    if status == 429:
        assert verdict == Verdict(Effect.COOL, moves_on=False)
    else:
        assert verdict == judge(error, switch_project=True)


@pytest.mark.parametrize(
    "kind",
    [
        UpstreamUnreachable,
        UpstreamReset,
        UpstreamInvalid,
        UpstreamTooLarge,
        UpstreamTruncated,
        UpstreamTimeout,
    ],
)
def test_transport_faults_are_like_502_and_504(kind: type[ProxyError]) -> None:
    """The next client; counted; this one rests."""
    assert judge(kind("broken"), switch_project=True) == Verdict(Effect.REST)


@pytest.mark.parametrize("kind", [InvalidRequest, UnsupportedParameter])
def test_what_one_upstream_cannot_do_another_may(kind: type[ProxyError]) -> None:
    """Not counted, and no fault of the client's."""
    verdict = judge(kind("no images here"), switch_project=True)
    assert verdict == Verdict(Effect.NONE, counts=False, excludes=True)


@pytest.mark.parametrize("kind", [OutOfResources, ShuttingDown])
def test_what_is_our_own_fault_is_no_clients(kind: type[ProxyError]) -> None:
    """No other client would help, and none rests."""
    assert judge(kind("no more"), switch_project=True) == FORWARDED


def test_a_401_is_never_shown() -> None:
    """It would tell callers that their own key is wrong."""
    error = shown(refusal(401, "invalid_api_key"), "openai sk-...b780")
    assert isinstance(error, UpstreamAuthentication)
    assert (error.status, error.code) == (502, "upstream_authentication_error")
    assert "sk-...b780" in error.message


@pytest.mark.parametrize("status", [400, 402, 403, 404, 429, 500])
def test_other_errors_are_shown_as_they_came(status: int) -> None:
    """The same error, body and all."""
    error = refusal(status)
    assert shown(error, "a") is error
