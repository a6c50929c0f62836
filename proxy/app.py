"""`create_app`: the gateway as a WSGI application of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any

from flask import Flask, Request
from werkzeug.routing import Map, MapAdapter, Rule
from werkzeug.wsgi import get_host

from .api.auth import Doorkeeper
from .api.blueprint import make_error_handler
from .config import SERVED, Config, ConfigSource, default_path, load_config
from .extension import Proxy


def create_app(
    config: str | os.PathLike[str] | Mapping[str, Any] | Config | ConfigSource | None = None,
) -> Flask:
    """Make a WSGI application with the endpoints at its root. `config` is as for `Proxy`.

    A file that changes is in force within 2 s. In a server with our settings, and without `config`,
    it is the server's configuration: one that cannot be served keeps no new worker from starting.
    """
    if config is None and SERVED and SERVED[0].config.path == default_path():
        config = SERVED[0]
    elif isinstance(config, Config):
        config = ConfigSource.of(config)
    elif not isinstance(config, ConfigSource):
        config = ConfigSource(partial(load_config, config))
    app = _Application("poolproxy", static_folder=None)
    proxy = Proxy(config, auto_reload=True)
    _ = proxy.collector  # calls are counted from the first one on
    proxy.gateway.is_standalone = True
    proxy.gateway.set_ledger()  # which has a place of its own now
    proxy.init_app(app)
    # What Flask finds wrong before it comes to a route, a malformed `Host` for one.
    app.register_error_handler(Exception, make_error_handler(Doorkeeper(proxy.gateway)))
    return app


class _Application(Flask):
    """Flask without work that it repeats for each request, though its result is always the same."""

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        is_named = self.config["SERVER_NAME"] or self.config["TRUSTED_HOSTS"]
        tells_hosts_apart = is_named or self.url_map.host_matching or self.subdomain_matching
        if request is None or "HTTP_UPGRADE" in request.environ or tells_hosts_apart:
            return super().create_url_adapter(request)
        environ = request.environ
        request.host = get_host(environ)
        return _bound(
            self.url_map,
            request.host,
            _decoded(environ.get("SCRIPT_NAME", "")),
            environ["wsgi.url_scheme"],
            environ["REQUEST_METHOD"],
            _decoded(environ.get("PATH_INFO", "")),
            _decoded(environ.get("QUERY_STRING", "")),
        )


class _Adapter(MapAdapter):
    """Finds where its path leads once: all rules are there before the first request."""

    _found: tuple[Rule, Mapping[str, Any]] | None = None

    def match(self, *args: Any, **options: Any) -> Any:
        if args or options != {"return_rule": True}:
            return super().match(*args, **options)
        if self._found is None:
            self._found = super().match(return_rule=True)
        rule, values = self._found
        return rule, dict(values)


@lru_cache(maxsize=64)  # nearly all requests ask for one of a few paths
def _bound(
    rules: Map, host: str, prefix: str, scheme: str, method: str, path: str, query: str
) -> MapAdapter:
    adapter = rules.bind(host, prefix, None, scheme, method, path, query)
    adapter.__class__ = _Adapter
    return adapter


def _decoded(text: str) -> str:
    """Latin-1 stands for bytes (PEP 3333)."""
    return text if text.isascii() else text.encode("latin-1").decode(errors="replace")
