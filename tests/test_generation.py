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


def test_a_caller_keeps_its_places_under_another_key() -> None:
    """It is known by its name; the limit is the present configuration's."""

    def entry(key: str, most: int) -> dict[str, object]:
        return {"name": "ci", "key": key, "max-concurrency": most}

    client, gateway = made({**config_of("m"), "api-keys": [entry(KEY, 1)]})
    record = Record("req_0", endpoint="", arrived=0.0)
    with ExitStack() as held:
        gateway.admit(gateway.config.callers[0], record, held)
        for most in (1, 2):
            gateway.adopt(load_config({**config_of("m"), "api-keys": [entry(f"{KEY}-new", most)]}))
            [ci] = gateway.config.callers
            with ExitStack() as other:
                if most == 2:
                    gateway.admit(ci, record, other)
                with pytest.raises(CallerLimitReached, match=f"{most} requests"):
                    gateway.admit(ci, record, held)
    for key, status in ((KEY, 401), (f"{KEY}-new", 200)):
        headers = {"Authorization": f"Bearer {key}"}
        assert client.post(CHAT, json=asked("m"), headers=headers).status_code == status
    gateway.close()
