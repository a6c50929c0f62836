"""Every failure that the proxy can name: one tree, a status and a code per class.

Messages say what was tried and what to do, and never hold an upstream key. How an error looks to a
caller is its dialect's affair.

    ProxyError
    ├── ConfigError                   the configuration cannot be served
    ├── CallerError                   the caller's request is at fault
    │   ├── InvalidRequest            400 invalid_request
    │   │   └── UnsupportedParameter  400 unsupported_parameter
    │   ├── InvalidKey                401 invalid_api_key
    │   ├── Refused                   403 forbidden
    │   ├── ModelNotFound             404 model_not_found
    │   ├── PathNotFound              404 not_found
    │   ├── MethodNotAllowed          405 method_not_allowed
    │   ├── BodyTooSlow               408 body_too_slow
    │   ├── BodyTooLarge              413 body_too_large
    │   └── UnsupportedCoding         415 unsupported_content_encoding
    ├── CallerGone                    499 the caller hung up: nobody reads the answer
    ├── OutOfResources                503 server_out_of_resources: of descriptors, memory, threads
    ├── ShuttingDown                  503 server_shutting_down
    ├── PoolError                     no client could be used
    │   ├── AllCoolingDown            429 rate_limit_exceeded
    │   ├── NoClientFree              503 no_client_free
    │   ├── NoClientInService         503 no_client_in_service
    │   ├── ModelsUnknown             503 models_unknown
    │   ├── StateUnavailable          503 state_unavailable: what several processes share
    │   ├── TooManyInFlight           503 too_many_requests_in_flight
    │   └── CallerLimitReached        429 rate_limit_exceeded: a limit of one caller's own
    └── UpstreamError                 502 upstream_error
        ├── UpstreamRefusal           the upstream answered with an error status of its own
        ├── UpstreamAuthentication    502 upstream_authentication_error
        ├── UpstreamUnreachable       502 upstream_unreachable: DNS, connect, TLS, proxy
        ├── UpstreamReset             502 upstream_reset: the connection broke
        ├── UpstreamInvalid           502 upstream_invalid_response
        ├── UpstreamTooLarge          502 upstream_too_large
        ├── UpstreamTruncated         502 upstream_truncated
        └── UpstreamTimeout           504 upstream_timeout
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

# Those that `proxy` offers by their names.
__all__ = [
    "AllCoolingDown", "CallerError", "CallerGone", "CallerLimitReached", "ConfigError",
    "InvalidRequest", "ModelNotFound", "ModelsUnknown", "NoClientFree", "NoClientInService",
    "OutOfResources", "PoolError", "ProxyError", "Refused", "RetryHint", "ShuttingDown",
    "StateUnavailable", "TooManyInFlight", "UnsupportedParameter", "UpstreamAuthentication",
    "UpstreamError", "UpstreamInvalid", "UpstreamRefusal", "UpstreamReset", "UpstreamTimeout",
    "UpstreamTooLarge", "UpstreamTruncated", "UpstreamUnreachable",
]  # fmt: skip

# The official SDKs honour a Retry-After of at most 60 s (openai-node) or 120 s (openai-python);
# past that they retry on a schedule of their own unless `x-should-retry: false` stops them.
MAX_USEFUL_RETRY_S = 60.0

RETRY_HINTS = frozenset({"retry-after", "retry-after-ms", "x-should-retry"})


class RetryHint(NamedTuple):
    """When a retry is worth while: `after_s` from now; None: this proxy does not know."""

    after_s: float | None = None

    def headers(self) -> dict[str, str]:
        """`retry-after` (s, rounded up), `retry-after-ms`, `x-should-retry`."""
        if self.after_s is None:
            return {"x-should-retry": "false"}
        after_s = max(0.0, self.after_s)
        return {
            "retry-after": str(math.ceil(after_s)),
            "retry-after-ms": str(math.ceil(after_s * 1000)),
            "x-should-retry": "true" if after_s <= MAX_USEFUL_RETRY_S else "false",
        }


class ProxyError(Exception):
    """A failure with a status, a type and a code in the sense of OpenAI's error object."""

    status: int = 500
    type: ClassVar[str] = "server_error"
    code: str | None = "internal_error"

    def __init_subclass__(cls, status: int = 0, type: str = "", code: str = "") -> None:
        cls.status, cls.type, cls.code = status or cls.status, type or cls.type, code or cls.code

    def __init__(
        self, message: str, *, param: str | None = None, hint: RetryHint | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.hint = hint
        # Those of an upstream's answer, or of an application's; retry hints of ours go before them.
        self.passed_headers: dict[str, str] = {}

    def headers(self) -> dict[str, str]:
        """The headers that go with the answer, besides its content type."""
        if self.hint is None:
            return self.passed_headers
        passed = self.passed_headers.items()
        others = {name: value for name, value in passed if name not in RETRY_HINTS}
        return {**others, **self.hint.headers()}


class ConfigError(ProxyError, code="config_error"):
    """The configuration cannot be served; `problems` holds every reason, a line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class CallerError(ProxyError, status=400, type="invalid_request_error"):
    """The caller's request is at fault: trying it again as it is would not help."""


class InvalidRequest(CallerError, code="invalid_request"):
    @classmethod
    def at(cls, path: str, why: str) -> InvalidRequest:
        """The error for what stands at this path of the request's body."""
        return cls(f"{path}: {why}", param=path)


class UnsupportedParameter(InvalidRequest, code="unsupported_parameter"): ...


class InvalidKey(CallerError, status=401, code="invalid_api_key"):
    """Without a retry hint: told `false`, Claude Code asks no `apiKeyHelper` for a new key."""


class Refused(CallerError, status=403, code="forbidden"):
    """The caller is known and may not do this. An application's `authenticate` may raise it."""


class ModelNotFound(CallerError, status=404, code="model_not_found"): ...


class PathNotFound(CallerError, status=404, code="not_found"): ...


class MethodNotAllowed(CallerError, status=405, code="method_not_allowed"):
    """`allowed`: the methods that the path has, for the `Allow` header (RFC 9110, 15.5.6)."""

    def __init__(self, message: str, *, allowed: Sequence[str]) -> None:
        super().__init__(message)
        self.passed_headers = {"Allow": ", ".join(allowed)}


class BodyTooSlow(CallerError, status=408, code="body_too_slow"):
    """408: the caller may send it again on a new connection (RFC 9110 section 15.5.9)."""


class BodyTooLarge(CallerError, status=413, code="body_too_large"): ...


class UnsupportedCoding(CallerError, status=415, code="unsupported_content_encoding"):
    """The body's Content-Encoding; `Accept-Encoding` says what is taken (RFC 9110, 15.5.16)."""

    def headers(self) -> dict[str, str]:
        return {"Accept-Encoding": "gzip, deflate, identity"}


class CallerGone(ProxyError, status=499, code="caller_gone"):
    """The caller hung up. Neither an OSError nor an HTTPException, so that no library eats it.

    `server_knows`: it said so itself, and will fail at a write in the way that it understands.
    """

    server_knows = False


class OutOfResources(ProxyError, status=503, code="server_out_of_resources"):
    """A want of our own (`shortage`): no client is at fault, and another would not help."""


class ShuttingDown(ProxyError, status=503, code="server_shutting_down"):
    """This process is about to end. Another one, or the next one here, will serve."""

    def __init__(
        self, message: str = "this server is shutting down; try again", *, param: str | None = None
    ) -> None:
        super().__init__(message, param=param, hint=RetryHint(1.0))


class PoolError(ProxyError, status=503): ...


class AllCoolingDown(
    PoolError, status=429, type="rate_limit_error", code="rate_limit_exceeded"
): ...


class NoClientFree(PoolError, code="no_client_free"): ...


class NoClientInService(PoolError, code="no_client_in_service"): ...


class ModelsUnknown(PoolError, code="models_unknown"): ...


class StateUnavailable(PoolError, code="state_unavailable"): ...


class TooManyInFlight(PoolError, code="too_many_requests_in_flight"): ...


class CallerLimitReached(
    PoolError, status=429, type="rate_limit_error", code="rate_limit_exceeded"
):
    """429, not 503: one caller sends too much (RFC 6585 section 4), while the server is well.

    What stands in front must not take it for failing, and SDKs know it as a rate limit. `limit` is
    the limit's key in the configuration.
    """

    limit = "other"


class UpstreamError(ProxyError, status=502, type="upstream_error", code="upstream_error"):
    """The upstream, or the way to it, failed."""


class UpstreamRefusal(UpstreamError):
    """The upstream answered with an error status, forwarded with its body when nothing else helps.

    `upstream_code` is the `code` of the upstream's error object; `retry_after_s` what it asked for.
    `body` is whole and in OpenAI's envelope, whatever the upstream sent; `as_sent` what it sent in
    an envelope of its own dialect, for callers who speak that.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        body: bytes | None = None,
        as_sent: bytes | None = None,
        upstream_code: str | None = None,
        retry_after_s: float | None = None,
        passed_headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s
        self.code = self.upstream_code = upstream_code
        self.passed_headers = passed_headers or {}
        self.body = body
        self.as_sent = as_sent


class UpstreamAuthentication(UpstreamError, code="upstream_authentication_error"): ...


class UpstreamUnreachable(UpstreamError, code="upstream_unreachable"): ...


class UpstreamReset(UpstreamError, code="upstream_reset"): ...


class UpstreamInvalid(UpstreamError, code="upstream_invalid_response"): ...


class UpstreamTooLarge(UpstreamError, code="upstream_too_large"): ...


class UpstreamTruncated(UpstreamError, code="upstream_truncated"): ...


class UpstreamTimeout(UpstreamError, status=504, code="upstream_timeout"): ...
