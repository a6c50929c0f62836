"""`Proxy`: the gateway as a Flask extension, for an application that serves other things too."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from flask import Flask

from .api.blueprint import make_blueprint
from .config import Config, load_config
from .gateway import Gateway


class Proxy:
    """The gateway as a Flask extension. One may be mounted in several applications.

        Proxy("config.yaml").init_app(app, url_prefix="/llm")

    Its paths, errors and hooks stay under the prefix and change nothing else in the application.
    `config` is a path, a mapping of the file's shape, or a loaded `Config`; None means
    `$PROXY_CONFIG`, else `./config.yaml`. `name` tells several in one application apart: each is
    `app.extensions["proxy"][name]`. May be made and mounted before a fork. Raises ConfigError.
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
        """Mount the endpoints in `app` below `url_prefix`, or at all paths without another route.

        Raises RuntimeError if one of this name is mounted there already.
        """
        instances = app.extensions.setdefault("proxy", {})
        if self.name in instances:
            raise RuntimeError(f"a Proxy named {self.name!r} is mounted already: give it a name=")
        prefix = f"/{url_prefix.strip('/')}".rstrip("/")
        app.register_blueprint(make_blueprint(self.gateway, self.name), url_prefix=prefix)
        instances[self.name] = self
