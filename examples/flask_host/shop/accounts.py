"""Who is asking: by the session of a browser, or by a token in `Authorization`."""

from __future__ import annotations

import time
from typing import Any

import jwt
from flask import Request, current_app
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from flask_login import LoginManager, current_user
from sqlalchemy import select

from .models import User, db

TOKEN_LIFE_S = 3600

logins = LoginManager()


def user_of_session(user_id: str) -> User | None:
    """By the cookie that `login_user` made."""
    return db.session.get(User, int(user_id))


def user_of_request(request: Request) -> User | None:
    """By `Authorization: Bearer TOKEN`, for programs."""
    given = request.authorization
    if given is None or given.type != "bearer" or not given.token:
        return None
    try:
        claims: dict[str, Any] = jwt.decode(
            given.token,
            current_app.config["SECRET_KEY"],
            algorithms=["HS256"],
            options={"require": ["exp", "sub"]},
        )
    except jwt.InvalidTokenError:
        return None
    return db.session.scalar(select(User).filter_by(name=claims["sub"]))


def make_token(user: User) -> str:
    """A token by which a program is this user, for an hour."""
    claims = {"sub": user.name, "exp": time.time() + TOKEN_LIFE_S}
    return jwt.encode(claims, current_app.config["SECRET_KEY"], algorithm="HS256")


def signed_in() -> User | None:
    """The user of the present request."""
    return current_user._get_current_object() if current_user.is_authenticated else None


def _limited_by() -> str:
    user = signed_in()
    return user.name if user else get_remote_address()


logins.user_loader(user_of_session)
logins.request_loader(user_of_request)


def _limit() -> str:
    return str(current_app.config["RATE_LIMIT"])


# Of each route, the gateway's too. In memory, so that each process counts by itself.
limiter = Limiter(_limited_by, default_limits=[_limit], storage_uri="memory://")
