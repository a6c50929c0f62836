"""A shop with users who share an LLM gateway: how Poolproxy lives in a Flask application.

From this folder, with Poolproxy, Flask-Login, Flask-SQLAlchemy, Flask-Limiter, flask-cors and PyJWT
installed:

    flask --app shop add-user ann --password secret
    flask --app shop run

Then http://127.0.0.1:5000/ has a page that streams an answer. Other servers run it, too:

    gunicorn --worker-class gthread --threads 64 'shop:create_app()'
    gunicorn --worker-class proxy.worker.Worker --threads 64 'shop:create_app()'
    waitress-serve --threads 64 --channel-request-lookahead 1 --call shop:create_app

`llm.py` has all that concerns the gateway.
"""

from __future__ import annotations

import logging.config
from collections.abc import Mapping
from typing import Any

import click
from flask import Flask
from flask_cors import CORS
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.security import generate_password_hash

from . import accounts, api, pages
from .llm import proxy
from .models import User, db

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"level": "WARNING", "handlers": ["stderr"]},
    "loggers": {
        "shop": {"level": "INFO"},
        "proxy.request": {"level": "INFO"},  # the gateway's: a line for each request
    },
}


def create_app(settings: Mapping[str, Any] | None = None) -> Flask:
    """The application. Settings may come from the environment too, as `SHOP_...`."""
    app = Flask(__name__)
    app.config.from_mapping(
        SECRET_KEY="change me: at least 32 bytes of your own",  # noqa: S106
        SESSION_COOKIE_SAMESITE="Lax",
        SQLALCHEMY_DATABASE_URI="sqlite:///shop.db",
        RATE_LIMIT="120 per minute",
        RATELIMIT_HEADERS_ENABLED=True,
        MAX_CONTENT_LENGTH=2_000_000,
        POOLPROXY_CONFIG="llm.yaml",  # beside this file: seen from the application's root
        PROXIES_IN_FRONT=0,
        PARTNERS=[],  # origins whose pages may use the gateway
    )
    app.config.from_prefixed_env("SHOP")
    app.config.from_mapping(settings or {})
    if not app.testing:
        logging.config.dictConfig(LOGGING)
    if count := app.config["PROXIES_IN_FRONT"]:
        fixed = ProxyFix(app.wsgi_app, x_for=count, x_proto=count, x_host=count)
        app.wsgi_app = fixed  # type: ignore[method-assign]
    db.init_app(app)
    accounts.logins.init_app(app)
    accounts.limiter.init_app(app)
    CORS(app, origins=app.config["PARTNERS"], supports_credentials=True)
    app.register_blueprint(pages.blueprint)
    app.register_blueprint(api.blueprint, url_prefix="/v1")
    proxy.init_app(app)
    app.register_error_handler(HTTPException, show_error)
    app.cli.add_command(add_user)
    with app.app_context():
        db.create_all()
    return app


def show_error(error: HTTPException) -> tuple[str, int]:
    """Errors of the shop's own; those below `/llm` are the gateway's, as its callers read them."""
    return f"<h1>{error.name}</h1>", error.code or 500


@click.command("add-user")
@click.argument("name")
@click.option("--password", required=True)
@click.option("--model", "models", multiple=True, help="one that they may use; none: all")
@click.option("--at-once", default=2, help="requests in flight")
def add_user(name: str, password: str, models: tuple[str, ...], at_once: int) -> None:
    """Add somebody who may log in."""
    user = User(
        name=name,
        password_hash=generate_password_hash(password),
        models=list(models) or None,
        max_concurrency=at_once,
    )
    db.session.add(user)
    db.session.commit()
