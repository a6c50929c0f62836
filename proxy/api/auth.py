"""Who may call: the callers' keys, or, where there are none, this machine only.

An open proxy on loopback is in reach of every web page in the user's browser, by a plain POST or by
DNS rebinding. So a request with a foreign `Origin` or `Host` is refused there. One that is open to
everybody (`allow-unauthenticated`) does not know its own names: any `Host` is taken, and an
`Origin` that names the same one, as pages of an embedding application send it.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Mapping
from contextlib import suppress

from ..config import Caller, Config, is_loopback
from ..errors import InvalidKey, Refused
from ..gateway import ANYONE, Gateway

# RFC 9110 section 7.2, `uri-host [ ":" port ]`, and RFC 6454 section 7.1, the same after a scheme,
# as browsers send them: no user, no path, one only. A dot at a name's end changes nothing.
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9A-Za-z._-]+?)\.?)(?::([0-9]*))?")
_SCHEME = re.compile(r"[A-Za-z][0-9A-Za-z+.-]*")

# A browser leaves these out (RFC 9110 section 4.2), a proxy in front may not.
_DEFAULT_PORTS = {"http": "80", "https": "443"}

# Nearly all callers ask for this machine by one of these.
_OWN_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


class Doorkeeper:
    """Checks callers' keys."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._known: tuple[Config, list[tuple[bytes, Caller]]] | None = None

    def admit(self, environ: Mapping[str, str]) -> Caller:
        """Whose key, of the present configuration, it carries; raises InvalidKey, Refused."""
        config = self._gateway.config
        if self._known is None or self._known[0] is not config:
            self._known = config, [(one.key.reveal().encode(), one) for one in config.callers]
        _, keys = self._known
        if not keys:
            _check_origin(environ, takes_any_host=config.allow_unauthenticated)
            return ANYONE
        given = _given_key(environ)
        if given is None:
            raise InvalidKey("no API key was given: send it as `Authorization: Bearer KEY`")
        found = None
        for key, caller in keys:  # all of them, so that the time taken tells nothing
            if hmac.compare_digest(key, given):
                found = caller
        if found is None:
            raise InvalidKey("the API key is not one of this proxy's `api-keys`")
        return found


def _check_origin(environ: Mapping[str, str], *, takes_any_host: bool) -> None:
    origin = environ.get("HTTP_ORIGIN")
    host = environ.get("HTTP_HOST")
    if origin is not None and not _is_own_page(origin, host if takes_any_host else None):
        way_out = (
            "a proxy in front has to pass on the `Host` that the browser sent, with its port"
            if takes_any_host
            else "`allow-unauthenticated: true` lets in those of the site that it is part of"
        )
        raise Refused(
            "web pages of other sites must not use this proxy, which has no `api-keys`: "
            f"configure keys for their callers; {way_out}"
        )
    if not takes_any_host and host is not None and not _is_local(_place(host)):
        raise Refused(
            "this proxy has no `api-keys` and answers to this machine's own names only: "
            "call it as localhost, or configure keys; `allow-unauthenticated: true` opens it "
            "to everybody who can connect, by any name"
        )


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


def _place(value: str) -> tuple[str, str] | None:
    """The name or address in a `Host`, and the port, "" if there is none; None: it is no such."""
    found = _HOST.fullmatch(value)
    if found is None:
        return None
    name = (found[1] or found[2]).lower()
    with suppress(ValueError):
        name = str(ipaddress.ip_address(name))  # written in its one way
    return name, found[3] or ""


def _is_local(place: tuple[str, str] | None) -> bool:
    """Whether it is this machine."""
    if place is None:
        return False
    name, _ = place
    return name in _OWN_NAMES or is_loopback(name) or name.endswith(".localhost")


def _is_own_page(origin: str, host: str | None) -> bool:
    """Whether a page of this machine, or of the `host` that was asked, sent the request."""
    scheme, separator, rest = origin.partition("://")
    place = _place(rest)
    if not separator or not _SCHEME.fullmatch(scheme) or place is None:
        return False
    if _is_local(place):
        return True
    default = _DEFAULT_PORTS.get(scheme.lower())
    asked = None if host is None else _place(host)
    if default is None or asked is None:
        return False
    return (place[0], place[1] or default) == (asked[0], asked[1] or default)
