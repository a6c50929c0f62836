"""`Proxy`: the gateway as a Flask extension, for an application that serves other things too.

By its signals the application follows its calls.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import date
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

from flask import Flask, has_app_context
from flask.globals import app_ctx

from .api.auth import Authenticate, Doorkeeper, LogIn
from .api.blueprint import make_blueprint
from .calls import PythonCall, Stream, to_json
from .config import Caller, Config, ConfigSource, load_config, names
from .dialects.chat import CHAT
from .dialects.embeddings import EMBEDDINGS
from .errors import ConfigError
from .gateway import Gateway
from .record.signals import CallSignals

if TYPE_CHECKING:
    from .usage.metrics import Metrics

Source: TypeAlias = "str | os.PathLike[str] | Mapping[str, Any] | Config"

_Function = TypeVar("_Function", bound=Authenticate)


class Proxy:
    """The gateway as a Flask extension. One may be mounted in several applications.

        proxy = Proxy()
        proxy.init_app(app, url_prefix="/llm")

    Its paths, errors and hooks stay under the prefix and change nothing else in the application.
    The configuration is a path, a mapping of the file's shape, or a loaded `Config`. The first of
    these that is there counts: `config`, whose one gateway serves all applications; the
    application's setting POOLPROXY_CONFIG; `$PROXY_CONFIG`; `./config.yaml`. Without `config` each
    application has a gateway of its own, made by `init_app`, and a path in its setting is relative
    to its root. With `auto_reload` a file that changes is in force within 2 s, while requests come.

    `name` tells several in one application apart: each is `app.extensions["proxy"][name]`, and
    reads POOLPROXY_NAME_CONFIG (its name, in capitals) instead. May be made and mounted before a
    fork. Raises ConfigError.

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
        self._log_in = LogIn(authenticate)
        self._source = config
        self._auto_reload = auto_reload
        self._signals = CallSignals()
        self.call_started = self._signals.call_started
        self.attempt_ended = self._signals.attempt_ended
        self.call_ended = self._signals.call_ended
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
        blueprint = make_blueprint(Doorkeeper(gateway, self._log_in), self.name)
        app.register_blueprint(blueprint, url_prefix=f"/{given.strip('/')}".rstrip("/"))
        self._gateways[app] = gateway
        instances[self.name] = self

    def authenticate(self, function: _Function) -> _Function:
        """Have this function of the application's say who calls, as a decorator or `authenticate=`.

        It is called in the context of each request that needs a caller, and returns a `Caller`, a
        name, or None for a 401. It may raise `Refused`, or abort as a view may; anything else that
        it raises is a 500. The application then vouches for its callers: `api-keys` are not used,
        any `Host` is taken, CORS is the application's affair.
        """
        self._log_in.authenticate = function
        return function

    def gateway_of(self, app: Flask) -> Gateway:
        """The gateway that serves `app`; raises RuntimeError if this is not mounted there."""
        if app not in self._gateways:
            raise RuntimeError(f"the Proxy {self.name!r} is not mounted in the app {app.name!r}")
        return self._gateways[app]

    @property
    def gateway(self) -> Gateway:
        """That of the current application, else the only one there is; else raises RuntimeError."""
        return self._meant()[1]

    def _meant(self) -> tuple[Flask | None, Gateway]:
        """The application that is meant, if it is clear which one, and its gateway."""
        if has_app_context() and (found := self._gateways.get(app_ctx.app)) is not None:
            return app_ctx.app, found
        mounted = list(self._gateways.items())
        if len(mounted) == 1:
            return mounted[0]
        if self._own is not None:
            return None, self._own
        what = "neither a configuration nor an application yet: give it one of them first"
        if mounted:
            what = f"{len(mounted)} applications: enter the `app_context()` of the one meant"
        raise RuntimeError(f"the Proxy {self.name!r} has {what}")

    def chat(
        self,
        *,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        caller: Caller | str | None = None,
        timeout: float | None = None,
        **parameters: Any,
    ) -> dict[str, Any]:
        """Ask a model, and wait for the whole answer: a chat completion, as OpenAI has it.

        `parameters` are those of the API, such as `temperature` or `tools`. `caller`: who calls,
        for records and limits; by the name of one of `api-keys` it has that one's models and
        limits. `timeout`: seconds, in place of `request-timeout`.

        Raises ProxyError: its subclasses say what went wrong, `status`, `code` and `hint` what an
        HTTP caller is told. Raises TypeError for what is no JSON. Blocks; from an event loop, call
        it by `asyncio.to_thread`.
        """
        asked = {"model": model, "messages": messages}
        return self._call("chat", asked, parameters, caller, timeout).whole(CHAT.read)

    def embed(
        self,
        *,
        model: str,
        input: str | Sequence[str],
        caller: Caller | str | None = None,
        timeout: float | None = None,
        **parameters: Any,
    ) -> dict[str, Any]:
        """Ask for embeddings, as `chat` does for an answer; `data` has them in the texts' order."""
        asked = {"model": model, "input": input}
        return self._call("embed", asked, parameters, caller, timeout).whole(EMBEDDINGS.read)

    def stream(
        self,
        *,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        caller: Caller | str | None = None,
        timeout: float | None = None,
        **parameters: Any,
    ) -> Stream:
        """Ask a model, and take the answer as it comes, in chunks as OpenAI has them.

            with proxy.stream(model="fast", messages=[...]) as chunks:
                for chunk in chunks: ...

        Arguments are those of `chat`; `timeout` is for the first chunk. Nothing is asked before the
        `with`, or the first `next`: these, and each further `next`, block and raise as `chat`.
        """
        asked = {"model": model, "messages": messages, "stream": True}
        return Stream(self._call("stream", asked, parameters, caller, timeout))

    def _call(
        self,
        name: str,
        asked: Mapping[str, Any],
        parameters: Mapping[str, Any],
        caller: Caller | str | None,
        timeout_s: float | None,
    ) -> PythonCall:
        if "stream" in parameters:
            raise TypeError("`chat` answers whole, `stream` in chunks: neither takes `stream`")
        body = to_json({**asked, **parameters})
        host, gateway = self._meant()
        return PythonCall(gateway, host, f"proxy.{name}", body, caller, timeout_s)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Close idle connections. Calls that come later open new ones. Idempotent."""
        for gateway in self._all():
            gateway.close()

    def _all(self) -> set[Gateway]:
        return {one for one in (self._own, *self._gateways.values()) if one is not None}

    @cached_property
    def collector(self) -> Metrics:
        """Metrics of this process's calls, for a registry of the package `prometheus-client`:

            prometheus_client.REGISTRY.register(proxy.collector)

        Calls are counted from the first time on that this is asked for.
        """
        from .usage.metrics import Metrics  # nobody else needs it

        found = Metrics(lambda: [gateway.facts() for gateway in self._all()])
        for gateway in self._all():
            gateway.follow(found)
        return found

    def usage(
        self, *, since: date | str = "", by: Sequence[str] = ("day", "caller", "model", "client")
    ) -> list[dict[str, Any]]:
        """What calls have used from the day `since` on (UTC): sums, as docs/usage.md has them.

        Those of this process that are over count, and what others have written. Blocks for the
        file. Raises RuntimeError if there is no ledger, OSError if it cannot be read, ValueError.
        """
        if (ledger := self.gateway.ledger) is None:
            raise RuntimeError("no usage is kept: `usage: true` and a `state-dir` turn it on")
        from .usage.ledger import report

        ledger.flush()
        return report(ledger.folder, since=since, by=by)

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
            _check_place(source)
        elif not isinstance(source, ConfigSource):  # which `create_app` has made
            read = partial(load_config, source)
            source = ConfigSource(lambda seen: _check_place(read(seen)))
        gateway = Gateway(source, auto_reload=self._auto_reload)
        gateway.tell = self._signals.tell
        if "collector" in vars(self):
            gateway.follow(self.collector)
        return gateway


def _check_place(config: Config) -> Config:
    """Itself; raises ConfigError where callers' usage of a day would have no place."""
    limited = [caller.name for caller in config.callers if caller.has_day_limit]
    if limited and not config.state_dir:
        text = "a limit per day needs a `state-dir` in an application: usage is kept there"
        raise ConfigError([f"{config.path or 'config'}: api-keys: {names(limited)}: {text}"])
    return config
