"""What follows from a failed attempt: the table in docs/requests.md, as code. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

from ..errors import (
    CallerError,
    InvalidRequest,
    OutOfResources,
    PoolError,
    ProxyError,
    ShuttingDown,
    UpstreamAuthentication,
    UpstreamError,
    UpstreamRefusal,
)
from ..pool import Effect
from ..wire.chat.errors import is_too_long


class Verdict(NamedTuple):
    """`moves_on`: to the next client, else the error goes to the caller at once. `counts`: against
    `request-retry`. `excludes`: this request has no more use for this client.
    """

    effect: Effect
    moves_on: bool = True
    counts: bool = True
    excludes: bool = False


_RESTS = Verdict(Effect.REST)
_FORWARDED = Verdict(Effect.NONE, moves_on=False)
_BY_STATUS = {
    401: Verdict(Effect.OUT, counts=False, excludes=True),
    402: Verdict(Effect.OUT_OF_MODEL, counts=False, excludes=True),
    403: Verdict(Effect.NONE),
    408: Verdict(Effect.NONE),
    429: Verdict(Effect.COOL, counts=False),
}
_ELSEWHERE = Verdict(Effect.NONE, counts=False, excludes=True)


def judge(error: ProxyError, *, switch_project: bool) -> Verdict:
    """The verdict on an attempt that ended with this error."""
    if isinstance(error, UpstreamRefusal):
        if error.status >= 500:
            return _RESTS
        if error.status == 404 and error.upstream_code == "model_not_found":
            return _ELSEWHERE
        if error.status == 429 and not switch_project:
            return Verdict(Effect.COOL, moves_on=False)
        return _BY_STATUS.get(error.status, _FORWARDED)
    if isinstance(error, (OutOfResources, ShuttingDown)):
        return _FORWARDED
    if isinstance(error, CallerError):  # this kind of upstream cannot do it; another may
        return _ELSEWHERE
    return _RESTS


def falls_back(error: ProxyError, *, switch_project: bool) -> bool:
    """Whether another model may serve a request whose attempts with this one ended so."""
    if isinstance(error, UpstreamRefusal) and error.status in (400, 413, 422):
        return error.upstream_code == "context_length_exceeded" or is_too_long(error.message)
    moves_on = judge(error, switch_project=switch_project).moves_on
    return isinstance(error, PoolError) or (isinstance(error, UpstreamError) and moves_on)


# In upstreams' words: "Invalid `signature` in `thinking` block", "Thought signature is not valid",
# "The encrypted content ... could not be verified", "Unrecognized request argument supplied:
# reasoning_effort". In ours: the parameter.
_REASONING = re.compile(r"signature|encrypted.content|reasoning|thinking|thought", re.IGNORECASE)


def is_about_reasoning(error: ProxyError) -> bool:
    """Whether the request may be taken without the model's reasoning of earlier turns."""
    is_refusal = isinstance(error, UpstreamRefusal) and error.status in (400, 422)
    if not (is_refusal or isinstance(error, InvalidRequest)):
        return False
    return _REASONING.search(error.message) is not None


def shown(error: ProxyError, label: str) -> ProxyError:
    """The error as a caller may see it: a 401 would tell it that its own key is wrong."""
    if isinstance(error, UpstreamRefusal) and error.status == 401:
        return UpstreamAuthentication(f"the upstream refuses the key of {label}")
    return error
