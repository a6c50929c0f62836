"""The shop's pages."""

from __future__ import annotations

from flask import Blueprint, abort, redirect, render_template, request
from flask_login import login_user, logout_user
from sqlalchemy import select
from werkzeug.security import check_password_hash
from werkzeug.wrappers import Response

from .accounts import limiter, signed_in
from .models import User, db

blueprint = Blueprint("pages", __name__)


@blueprint.get("/")
def index() -> str:
    """The log-in, or the assistant."""
    return render_template("index.html", user=signed_in())


@blueprint.post("/login")
@limiter.limit("20 per minute")
def login() -> Response:
    """Log in, by a form."""
    user = db.session.scalar(select(User).filter_by(name=request.form["name"]))
    if user is None or not check_password_hash(user.password_hash, request.form["password"]):
        abort(401)
    login_user(user)
    return redirect("/")


@blueprint.post("/logout")
def logout() -> Response:
    """Forget who it was."""
    logout_user()
    return redirect("/")
