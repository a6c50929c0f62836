"""`Proxy`: the gateway as a Flask extension, for an application that serves other things too."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Any, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

from flask import Flask, has_app_context
from flask.globals import app_ctx

from .api.auth import Authenticate, Doorkeeper
from .api.blueprint import make_blueprint
from .calls import Calls
from .config import Config, ConfigSource, Seen, load_config
from .gateway import Gateway
from .signals import CallSignals

Source: TypeAlias = "str | os.PathLike[str] | Mapping[str, Any] | Config"

_Function = TypeVar("_Function", bound=Authenticate)


class Proxy(Calls):
    """The gateway as a Flask extension. One may be mounted in several applications.

        proxy = Proxy()
        proxy.init_app(app, url_prefix="/llm")

    Its paths, errors and hooks stay under the prefix and change nothing else in the application.
    The configuration is a path, a mapping of the file's shape, or a loaded `Config`. The first of
    these that is there counts: `config`, whose one gateway serves all applications; the
    application's setting POOLPROXY_CONFIG; `$PROXY_CONFIG`; `./config.yaml`. Without `config` each
    application has a gateway of its own, made by `init_app`, and a path in its setting is relative
    to its root. `Proxy(app)` is short for `Proxy(None, app)`.

    `name` tells several in one application apart: each is `app.extensions["proxy"][name]`, and
    reads POOLPROXY_NAME_CONFIG (its name, in capitals) instead. May be made and mounted before a
    fork. Raises ConfigError.

    With `auto_reload` a file that changes is in force within 2 s, while requests come.

    Without an application it serves Python code: `chat` and `stream`, in a `with` that closes it.

    The signals `call_started`, `attempt_ended` and `call_ended` tell of its calls:

        @proxy.call_ended.connect
        def bill(app, *, call): ...
    """

    def __init__(
        self,
        config: Source | ConfigSource | Flask | None = None,
        app: Flask | None = None,
        *,
        name: str = "proxy",
        url_prefix: str = "",
        authenticate: Authenticate | None = None,
        auto_reload: bool = False,
    ) -> None:
        if isinstance(config, Flask):
            config, app = None, config
        self.name = name
        self._url_prefix = url_prefix
        self._authenticate = authenticate
        self._source = config
        self._auto_reload = auto_reload
        self._signals = signals = CallSignals()
        self.call_started = signals.call_started
        self.attempt_ended = signals.attempt_ended
        self.call_ended = signals.call_ended
        self._own = None if config is None else self._make_gateway(None)
        self._gateways: WeakKeyDictionary[Flask, Gateway] = WeakKeyDictionary()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask, *, url_prefix: str | None = None) -> None:
        """Mount the endpoints in `app` below `url_prefix`, or at all paths without another route.

        Left out, the prefix is the constructor's. Raises ConfigError, and RuntimeError if one of
        this name is mounted there already.
        """
        instances = app.extensions.setdefault("proxy", {})
        if self.name in instances:
            raise RuntimeError(f"a Proxy named {self.name!r} is mounted already: give it a name=")
        gateway = self._own or self._make_gateway(app)
        given = self._url_prefix if url_prefix is None else url_prefix
        prefix = f"/{given.strip('/')}".rstrip("/")
        doorkeeper = Doorkeeper(gateway, lambda: self._authenticate)
        app.register_blueprint(make_blueprint(doorkeeper, self.name), url_prefix=prefix)
        self._gateways[app] = gateway
        instances[self.name] = self

    def authenticate(self, function: _Function) -> _Function:
        """Have this function of the application's say who calls, as a decorator or `authenticate=`.

        It is called in the context of each request that needs a caller, and returns a `Caller`, a
        name, or None for a 401. It may raise `Refused`, or abort as a view may; anything else that
        it raises is a 500. The application then vouches for its callers: `api-keys` are not used,
        any `Host` is taken, CORS is the application's affair.
        """
        self._authenticate = function
        return function

    def gateway_of(self, app: Flask) -> Gateway:
        """The gateway that serves `app`; raises RuntimeError if this is not mounted there."""
        if app not in self._gateways:
            raise RuntimeError(f"the Proxy {self.name!r} is not mounted in the app {app.name!r}")
        return self._gateways[app]

    @property
    def gateway(self) -> Gateway:
        """That of the current application, else the only one there is; else raises RuntimeError."""
        if self._own is not None:
            return self._own
        if has_app_context() and (found := self._gateways.get(app_ctx.app)) is not None:
            return found
        gateways = list(self._gateways.values())
        if not gateways:
            raise RuntimeError(
                f"the Proxy {self.name!r} has neither a configuration nor an application yet: "
                "give it one of them first"
            )
        if len(gateways) > 1:
            raise RuntimeError(
                f"the Proxy {self.name!r} has {len(gateways)} applications: enter the "
                "`app_context()` of the one that is meant"
            )
        return gateways[0]

    def _host(self) -> Flask | None:
        if has_app_context() and app_ctx.app in self._gateways:
            return app_ctx.app
        apps = list(self._gateways)
        return apps[0] if len(apps) == 1 else None

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Close idle connections. Calls that come later open new ones. Idempotent."""
        for gateway in {self._own, *self._gateways.values()}:
            if gateway is not None:
                gateway.close()

    @property
    def config(self) -> Config:
        """The present configuration of `gateway`."""
        return self.gateway.config

    def reload(self) -> str:
        """Read the configuration of `gateway` again; returns what has changed, in words.

        Requests under way end as they began. Blocks until those that come are served by what was
        read. Raises ConfigError; then all stays as it was.
        """
        return self.gateway.reloader.reload()

    def _make_gateway(self, app: Flask | None) -> Gateway:
        """A gateway by the configuration for `app`, as it is now; raises ConfigError."""
        source = self._source
        if source is None and app is not None:
            key = "POOLPROXY_CONFIG"
            if self.name != "proxy":
                key = f"POOLPROXY_{self.name.upper().replace('-', '_')}_CONFIG"
            source = app.config.get(key)
            if source and isinstance(source, (str, os.PathLike)):
                source = os.path.join(app.root_path, source)
        if isinstance(source, Config):
            source = ConfigSource.of(source)
        if not isinstance(source, ConfigSource):
            source = ConfigSource(partial(_load, source))
        gateway = Gateway(source, auto_reload=self._auto_reload)
        gateway.recorders = (self._signals,)
        return gateway


def _load(source: str | os.PathLike[str] | Mapping[str, Any] | None, seen: Seen) -> Config:
    return load_config(source, seen=seen)
