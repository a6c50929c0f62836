"""`Proxy`: the gateway as a Flask extension, for an application that does other things as well."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from flask import Flask

from .api.blueprint import make_blueprint
from .config import Config, load_config
from .gateway import Gateway


class Proxy:
    """A gateway to be mounted in Flask applications, in as many as there are.

        Proxy("config.yaml").init_app(app, url_prefix="/llm")

    Its paths, errors and hooks stay under the prefix, the application's own are left alone; `name`
    tells several in one application apart. It is found again as `app.extensions["proxy"][name]`.
    It may be made and mounted before a fork. `config` is a path, a mapping of the file's
    shape, or a loaded `Config`; None: `$PROXY_CONFIG`, else `./config.yaml`. Raises ConfigError.
    """

    def __init__(
        self,
        config: str | os.PathLike[str] | Mapping[str, Any] | Config | None = None,
        app: Flask | None = None,
        *,
        name: str = "proxy",
        url_prefix: str = "",
    ) -> None:
        self.name = name
        self.config = config if isinstance(config, Config) else load_config(config)
        self.gateway = Gateway(self.config)
        if app is not None:
            self.init_app(app, url_prefix=url_prefix)

    def init_app(self, app: Flask, *, url_prefix: str = "") -> None:
        """Mount the endpoints in `app` below `url_prefix`; "": all paths that it has no route for.

        Raises RuntimeError when one of this name is mounted there already.
        """
        instances = app.extensions.setdefault("proxy", {})
        if self.name in instances:
            raise RuntimeError(f"a Proxy named {self.name!r} is mounted already: give it a name=")
        prefix = f"/{url_prefix.strip('/')}".rstrip("/")
        app.register_blueprint(make_blueprint(self.gateway, self.name), url_prefix=prefix)
        instances[self.name] = self
