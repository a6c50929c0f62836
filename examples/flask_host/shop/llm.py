"""The gateway in the shop: where it is, who may use it, and what it costs them."""

from __future__ import annotations

import logging
from typing import Any

from proxy import Call, Caller, Proxy, Refused

from .accounts import signed_in
from .models import Bill, db

log = logging.getLogger(__name__)

proxy = Proxy(url_prefix="/llm")  # reads its configuration in `init_app`


@proxy.authenticate
def caller() -> Caller | None:
    """The user who is signed in, with what they may use; nobody gets a 401."""
    user = signed_in()
    if user is None:
        return None
    if user.is_banned:
        raise Refused("your account is closed: write to support@shop.example")
    return Caller(user.name, models=user.models, max_concurrency=user.max_concurrency)


@proxy.call_ended.connect
def bill(app: Any, *, call: Call) -> None:
    """Keep what a call used. One that was refused or failed costs nothing, and is kept too."""
    tokens = {}
    if call.usage is not None:
        tokens = {
            "prompt_tokens": call.usage.prompt_tokens,
            "completion_tokens": call.usage.completion_tokens,
        }
    db.session.add(
        Bill(call_id=call.id, caller=call.caller, model=call.model, end=call.end, **tokens)
    )
    db.session.commit()
    log.info("%s used %s: %s", call.caller or "nobody", call.model, tokens or call.end)
