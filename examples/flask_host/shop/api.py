"""The shop's own API, which has the paths of its own below `/v1`."""

from __future__ import annotations

from flask import Blueprint, abort
from sqlalchemy import func, select

from .accounts import make_token, signed_in
from .models import Bill, User, db

blueprint = Blueprint("api", __name__)


def _user() -> User:
    return signed_in() or abort(401)


@blueprint.post("/tokens")
def token() -> dict[str, str]:
    """A token for programs of the user."""
    return {"token": make_token(_user())}


@blueprint.get("/models")
def models() -> dict[str, list[str]]:
    """Of shoes, not of language."""
    return {"models": ["sneaker", "sandal"]}


@blueprint.get("/bill")
def bill() -> dict[str, int]:
    """What the user has used."""
    sums = select(
        func.count(),
        func.coalesce(func.sum(Bill.prompt_tokens), 0),
        func.coalesce(func.sum(Bill.completion_tokens), 0),
    ).where(Bill.caller == _user().name)
    calls, asked, told = db.session.execute(sums).one()
    return {"calls": calls, "prompt_tokens": asked, "completion_tokens": told}
