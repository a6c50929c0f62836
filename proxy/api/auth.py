"""Who may call: by the callers' keys, or as the application says that we are a part of.

Where there are neither, this machine only. An open proxy on loopback is in reach of every web page
in the user's browser, by a plain POST or by DNS rebinding: a foreign `Origin` or `Host` is refused.
One that is open to everybody (`allow-unauthenticated`) does not know its own names: any `Host` is
taken, and an `Origin` that names the same one.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

from werkzeug.exceptions import HTTPException

from ..config import Caller, Config, digest_of, is_loopback
from ..config.formats import ANY_ORIGIN, DEFAULT_PORTS
from ..errors import RETRY_HINTS, CallerError, InvalidKey, ProxyError, Refused
from ..gateway import ANYONE, Gateway
from .faults import of_http

log = logging.getLogger("proxy")

# An application's own log-in: a caller, or its name; None: nobody that it knows.
Authenticate: TypeAlias = Callable[[], "Caller | str | None"]


@dataclass
class LogIn:
    """What an application has to tell who calls; None: nothing yet."""

    authenticate: Authenticate | None = None


# What a browser's script may read besides the safelisted headers: all of them, as no cookies go
# with its requests (fetch.spec.whatwg.org, "CORS protocol"). Old browsers take what is named only.
_NAMED = ("x-request-id", "x-proxy-client", "x-proxy-attempts", "x-proxy-model")
_EXPOSING = ("Access-Control-Expose-Headers", ", ".join(["*", *_NAMED, *sorted(RETRY_HINTS)]))

# RFC 9110 section 7.2, `uri-host [ ":" port ]`, and RFC 6454 section 7.1, the same after a scheme,
# as browsers send them: no user, no path, one only. A dot at a name's end changes nothing.
_PLACE = re.compile(
    r"(?:([A-Za-z][0-9A-Za-z+.-]*)://)?"
    r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9A-Za-z._-]+?)\.?)(?::([0-9]*))?"
)

_OWN_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})  # by which nearly all callers ask
_PASSED_ON = ("HTTP_X_FORWARDED_", "HTTP_FORWARDED", "HTTP_X_REAL_IP", "HTTP_VIA")  # by a proxy


class Doorkeeper:
    """Says who calls a gateway: by its keys, or by the log-in of an application, which vouches."""

    def __init__(self, gateway: Gateway, log_in: LogIn | None = None) -> None:
        self.gateway = gateway
        self._log_in = log_in or LogIn()
        self._known: tuple[Config, list[tuple[bytes, Caller]]] | None = None

    def admit(self, environ: Mapping[str, str]) -> Caller:
        """Who calls, by the configuration or by the application's log-in; raises CallerError."""
        config = self.gateway.config
        authenticate = self._log_in.authenticate
        if self._known is None or self._known[0] is not config:
            self._known = config, [(digest_of(one.key), one) for one in config.callers]
            if authenticate is not None and config.callers:
                log.warning("`api-keys` are not used: the application's `authenticate` is")
        if authenticate is not None:
            _check_asked(environ)
            return _vouched_for(authenticate)
        _, keys = self._known
        if not keys:
            _check_origin(environ, config)
            return ANYONE
        given = _given_key(environ)
        if given is None:
            raise InvalidKey("no API key was given: send it as `Authorization: Bearer KEY`")
        digest = hashlib.sha256(given).digest()
        # All of them are compared, so that the time taken tells nothing.
        found = [caller for known, caller in keys if hmac.compare_digest(known, digest)]
        if not found:
            raise InvalidKey("the API key is not one of this proxy's `api-keys`")
        return found[0]

    def admit_operator(self, environ: Mapping[str, str]) -> Caller:
        """Who calls, if it is an operator; raises CallerError, which says who is one."""
        caller = self.admit(environ)
        if not caller.admin and (caller is not ANYONE or not _is_here(environ)):
            raise Refused(
                "this is for operators: send a key of `api-keys` that has `admin: true`; without "
                "`api-keys`, ask from this machine, not by way of a proxy"
            )
        return caller

    def cors_headers(self, environ: Mapping[str, str]) -> list[tuple[str, str]]:
        """What lets pages of other origins read the answer, by `cors`; beside a log-in nothing."""
        origin = environ.get("HTTP_ORIGIN")
        if origin is None or self._log_in.authenticate is not None:
            return []
        config = self.gateway.config
        if ANY_ORIGIN in config.cors:
            return [("Access-Control-Allow-Origin", "*"), _EXPOSING] if config.callers else []
        if origin not in config.cors:
            return []
        return [("Access-Control-Allow-Origin", origin), ("Vary", "Origin"), _EXPOSING]


def _vouched_for(authenticate: Authenticate) -> Caller:
    """Whom the application knows, by its log-in."""
    try:
        found: object = authenticate()
    except CallerError:
        raise
    except HTTPException as error:
        raise of_http(error) from error
    except ProxyError as error:  # of a call of its own, and nothing for this caller to read
        raise RuntimeError("`authenticate` failed") from error
    if found is None:
        raise InvalidKey("the application does not know who calls: log in first")
    caller = Caller(found) if isinstance(found, str) else found
    if not isinstance(caller, Caller) or not caller.name:
        raise TypeError(f"`authenticate` has to return a Caller, a name or None, not {found!r:.80}")
    return caller


def _check_asked(environ: Mapping[str, str]) -> None:
    """Raise Refused for what another site's page can send before its browser asks whether it may.

    Cookies may go with it, and bodies are read whatever their type. Before JSON is sent the browser
    asks (fetch.spec.whatwg.org, "CORS-safelisted request-header"), and the application answers.
    """
    if environ.get("REQUEST_METHOD") in ("GET", "HEAD"):
        return
    is_own = "HTTP_ORIGIN" not in environ or _is_own_page(environ)
    if is_own and environ.get("HTTP_SEC_FETCH_SITE") != "cross-site":
        return
    if environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused(
            "a request from a page of another site has to say `Content-Type: application/json`"
        )


def check_own_page(environ: Mapping[str, str]) -> None:
    """Raise Refused unless a page of the very origin that was asked sent the request."""
    is_same = environ.get("HTTP_SEC_FETCH_SITE", "same-origin") == "same-origin"
    if not (is_same and _is_own_page(environ)):
        raise Refused("orders are taken from the status page itself only; `poolproxy` has them too")


def _check_origin(environ: Mapping[str, str], config: Config) -> None:
    takes_any_host = config.allow_unauthenticated
    if not (
        _is_local(environ, "HTTP_ORIGIN")
        or environ["HTTP_ORIGIN"] in config.cors
        or (takes_any_host and _is_own_page(environ))
    ):
        way_out = (
            "a proxy in front has to pass on the `Host` that the browser sent, with its port"
            if takes_any_host
            else "`allow-unauthenticated: true` lets in those of the site that it is part of, "
            "and `Proxy.authenticate` those of an application's own users"
        )
        raise Refused(
            "web pages of other sites must not use this proxy, which has no `api-keys`: "
            f"configure keys for their callers, or list their origins as `cors`; {way_out}"
        )
    if not takes_any_host and not _is_local(environ, "HTTP_HOST"):
        raise Refused(
            "this proxy has no `api-keys` and answers to this machine's own names only: "
            "call it as localhost, or configure keys; `allow-unauthenticated: true` opens it "
            "to everybody who can connect, by any name, and `Proxy.authenticate` to an "
            "application's own users"
        )


def _is_here(environ: Mapping[str, str]) -> bool:
    """Whether a program or a page of this machine sent the request, straight to us."""
    return (
        is_loopback(environ.get("REMOTE_ADDR", ""))
        and _is_local(environ, "HTTP_ORIGIN")
        and _is_local(environ, "HTTP_HOST")
        and not any(name.startswith(_PASSED_ON) for name in environ)
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


def _place(value: str) -> tuple[str, str, str]:
    """Scheme, name or address, and port of an `Origin` or a `Host`; each "" if it has none."""
    found = _PLACE.fullmatch(value)
    scheme, address, name, port = found.groups("") if found else ("", "", "", "")
    name = (address or name).lower()
    with suppress(ValueError):
        name = str(ipaddress.ip_address(name))  # written in its one way
    return scheme.lower(), name, port


def _is_local(environ: Mapping[str, str], key: str) -> bool:
    """Whether a header names this machine, an `Origin` with its scheme, or is not there."""
    if key not in environ:
        return True
    scheme, name, _ = _place(environ[key])
    is_own = name in _OWN_NAMES or is_loopback(name) or name.endswith(".localhost")
    return is_own and bool(scheme) == (key == "HTTP_ORIGIN")


def _is_own_page(environ: Mapping[str, str]) -> bool:
    """Whether a page of the host that was asked sent the request."""
    scheme, name, port = _place(environ.get("HTTP_ORIGIN", ""))
    # A browser leaves the default out (RFC 9110 section 4.2), a proxy in front may not.
    default = str(DEFAULT_PORTS.get(scheme, ""))
    asked = _place(environ.get("HTTP_HOST", ""))
    return default != "" and ("", name, port or default) == (*asked[:2], asked[2] or default)
