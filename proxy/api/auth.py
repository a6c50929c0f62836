"""Who may call: the callers' keys, or, where there are none, this machine only.

An open proxy on loopback is in reach of every web page in the user's browser, by a plain POST or by
DNS rebinding. So a request with a foreign `Origin` or `Host` is refused there.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping

from ..config import CallerKey, Config, Secret, is_loopback
from ..errors import InvalidKey, ModelNotFound, Refused

# RFC 9110 section 7.2, `uri-host [ ":" port ]`, and RFC 6454 section 7.1, the same after a scheme,
# as browsers send them: no user, no path, one only. A dot at a name's end changes nothing.
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9A-Za-z._-]+?)\.?)(?::[0-9]*)?")
_ORIGIN = re.compile(rf"[A-Za-z][0-9A-Za-z+.-]*://{_HOST.pattern}")

ANYONE = CallerKey(name="", key=Secret(""), models=None, max_concurrency=0)


class Doorkeeper:
    """Checks callers' keys."""

    def __init__(self, config: Config) -> None:
        self.is_open = not config.callers
        self._checks_host = not config.allow_unauthenticated
        self._keys = [(caller.key.reveal().encode(), caller) for caller in config.callers]

    def admit(self, environ: Mapping[str, str]) -> CallerKey:
        """Whose key the request carries; raises InvalidKey, Refused."""
        if self.is_open:
            self._check_origin(environ)
            return ANYONE
        given = _given_key(environ)
        if given is None:
            raise InvalidKey("no API key was given: send it as `Authorization: Bearer KEY`")
        found = None
        for key, caller in self._keys:  # all of them, so that the time taken tells nothing
            if hmac.compare_digest(key, given):
                found = caller
        if found is None:
            raise InvalidKey("the API key is not one of this proxy's `api-keys`")
        return found

    def _check_origin(self, environ: Mapping[str, str]) -> None:
        origin = environ.get("HTTP_ORIGIN")
        if origin is not None and not _is_local(_ORIGIN, origin):
            raise Refused("a web page of another origin must not use this proxy, which has no keys")
        host = environ.get("HTTP_HOST")
        if self._checks_host and host is not None and not _is_local(_HOST, host):
            raise Refused(
                "this proxy has no `api-keys` and answers to this machine's own names only: "
                "call it as localhost, or configure keys"
            )


def check_model(caller: CallerKey, alias: str) -> None:
    """Raise ModelNotFound for a model that this caller may not use."""
    if caller.models is not None and alias not in caller.models:
        raise ModelNotFound(f"the model {alias!r} does not exist; see /v1/models", param="model")


def _given_key(environ: Mapping[str, str]) -> bytes | None:
    """The key in the request, in the order in which the SDKs' headers count; the first decides."""
    key = environ.get("HTTP_AUTHORIZATION")
    if key is not None:
        scheme, _, key = key.partition(" ")
        if scheme.lower() != "bearer":
            key = ""
    else:
        key = environ.get("HTTP_X_API_KEY", environ.get("HTTP_X_GOOG_API_KEY"))
    # Latin-1 stands for bytes (PEP 3333): of these, only what HTTP takes for white space goes.
    return None if key is None else key.strip(" \t").encode("latin-1")


def _is_local(form: re.Pattern[str], value: str) -> bool:
    """Whether a header's value names this machine."""
    found = form.fullmatch(value)
    if found is None:
        return False
    host = (found[1] or found[2]).lower()
    return is_loopback(host) or host.endswith(".localhost")
