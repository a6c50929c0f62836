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
    """Keep what a user's call used, as far as it is known. One that failed is kept too."""
    if not call.caller:
        return  # nobody was logged in
    asked, told = 0, 0
    if call.usage is not None:  # its numbers are None where the answer was cut before they came
        asked, told = call.usage.prompt_tokens or 0, call.usage.completion_tokens or 0
    db.session.add(
        Bill(
            call_id=call.id,
            caller=call.caller,
            model=call.model,
            end=call.end,
            prompt_tokens=asked,
            completion_tokens=told,
        )
    )
    db.session.commit()
    log.info("%s used %s: %s, %d + %d tokens", call.caller, call.model, call.end, asked, told)
