"""What one configuration makes, and how a gateway goes on to the next."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
from werkzeug.test import Client as Caller

import proxy
from proxy.config import load_config
from proxy.errors import CallerLimitReached
from proxy.gateway import Gateway
from proxy.generation import Generation
from proxy.net.watch import CLOCK
from proxy.record.record import Record

CHAT = "/v1/chat/completions"
KEY = "sk-caller-0123456789"


def config_of(model: str, **demo: Any) -> dict[str, Any]:
    fields = {name.replace("_", "-"): value for name, value in demo.items()}
    return {"demo": [{"name": "demo", "delay-ms": 0, "models": [{"name": model}], **fields}]}


def made(config: dict[str, Any]) -> tuple[Caller, Gateway]:
    app = proxy.create_app(config)
    return Caller(app), app.extensions["proxy"]["proxy"].gateway


def asked(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "a b c"}], **more}


def test_a_generation_cannot_be_changed() -> None:
    """It is replaced as a whole."""
    generation = Generation.of(load_config(config_of("m")), CLOCK)
    with pytest.raises(AttributeError):
        generation.config = generation.config  # type: ignore[misc]


def test_new_requests_are_served_under_a_new_configuration() -> None:
    """Its models are there, those of before are not."""
    caller, gateway = made(config_of("old"))
    assert caller.post(CHAT, json=asked("old")).status_code == 200
    gateway.adopt(load_config(config_of("new")))
    assert caller.post(CHAT, json=asked("old")).status_code == 404
    assert caller.post(CHAT, json=asked("new")).status_code == 200
    models = caller.get("/v1/models").get_json()["data"]
    assert [model["id"] for model in models] == ["new"]
    gateway.close()


@pytest.mark.parametrize("stays", [True, False])
def test_a_stream_ends_under_the_configuration_with_which_it_began(stays: bool) -> None:
    """Whole, and its permit is in use until then wherever its client is still configured."""
    caller, gateway = made(config_of("old", max_concurrency=1))
    answer = caller.post(CHAT, json=asked("old", stream=True), buffered=False)
    chunks = answer.iter_encoded()
    next(chunks)
    gateway.adopt(load_config(config_of("new", name="demo" if stays else "other")))
    [facts] = gateway.pool.snapshot()
    assert facts["in_flight"] == stays
    assert b"".join(chunks).endswith(b"data: [DONE]\n\n")
    answer.close()
    [facts] = gateway.pool.snapshot()
    assert facts["in_flight"] == 0
    gateway.close()


def test_limits_of_callers_are_the_configurations() -> None:
    """Who came under an earlier one keeps the place that it has there."""
    entry = {"name": "ci", "key": KEY, "max-concurrency": 1}
    _, gateway = made({**config_of("m"), "api-keys": [entry]})
    [ci] = gateway.config.callers
    record = Record("req_0", endpoint="", arrived=0.0)
    with ExitStack() as held:
        gateway.admit(ci, record, held)
        with pytest.raises(CallerLimitReached):
            gateway.admit(ci, record, held)
        gateway.adopt(load_config({**config_of("m"), "api-keys": [KEY]}))
        gateway.admit(ci, record, held)
    gateway.close()
