"""What one configuration makes, and how a gateway goes on to the next."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import Client as Caller

import proxy
from proxy.config import load_config
from proxy.errors import CallerLimitReached
from proxy.gateway import Gateway, Generation
from proxy.net.watch import CLOCK
from proxy.record.record import Record
from tests.support.certificates import Authority
from tests.support.upstream import Gate, Hold, Reply, Upstream, error, stream

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
    drains = gateway.adopt(load_config(config_of("new", name="demo" if stays else "other")))
    assert drains == (not stays)
    told = [(one["in_flight"], one["leaving"]) for one in gateway.pool.snapshot()]
    assert told == ([(1, False)] if stays else [(0, False), (1, True)])
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


def remote(upstream: Upstream, *keys: str, **more: Any) -> dict[str, Any]:
    entry = {
        "name": "p",
        "base-url": upstream.url,
        "api-keys": list(keys),
        "models": [{"name": "m"}],
    }
    return {"openai-compatibility": [{**entry, **more}]}


def answered(caller: Caller, text: str = "Hello there!") -> None:
    answer = caller.post(CHAT, json=asked("m"))
    assert answer.get_json()["choices"][0]["message"]["content"] == text


def test_connections_stay_with_a_client_that_stays(upstream: Upstream) -> None:
    """Through changes of its weight, headers, models, aliases, name and permits."""
    caller, gateway = made(remote(upstream, "sk-key-of-the-first-00"))
    answered(caller)
    changed = {"weight": 3, "headers": {"x-new": "1"}, "name": "q", "max-concurrency": 2}
    models = [{"name": "m"}, {"name": "m", "alias": "n"}]
    more = remote(upstream, "sk-key-of-the-first-00", models=models, **changed)
    gateway.adopt(load_config(more))
    answered(caller)
    assert upstream.connections == 1
    assert [one.header.get("x-new") for one in upstream.received()] == [None, "1"]
    gateway.close()
    upstream.wait_for_connections()


@pytest.mark.parametrize("is_busy", [False, True])
def test_connections_of_a_client_that_is_gone_are_closed(upstream: Upstream, is_busy: bool) -> None:
    """At once if they are idle, else when the answer is over."""
    caller, gateway = made(remote(upstream, "sk-key-of-the-first-00"))
    gate = Gate()
    if is_busy:
        whole = stream("a", "b")
        upstream.reply(None, replace(whole, body=[whole.body[0], Hold(gate), *whole.body[1:]]))
        answer = caller.post(CHAT, json=asked("m", stream=True), buffered=False)
        chunks = answer.iter_encoded()
        next(chunks)
    else:
        answered(caller)
    gateway.adopt(load_config(config_of("m")))
    if is_busy:
        assert upstream.connections_open == 1
        gate.set()
        assert b"".join(chunks).endswith(b"data: [DONE]\n\n")
        answer.close()
    upstream.wait_for_connections()
    gateway.close()


def test_a_ca_bundle_of_the_same_name_is_another_when_its_file_is(
    secure: Upstream, tmp_path: Path, authority: Authority
) -> None:
    """Connections that an earlier one vouched for do not go on."""
    bundle = authority.write(tmp_path / "ca.pem")
    config = remote(secure, "sk-key-of-the-first-00", **{"ca-bundle": str(bundle)})
    caller, gateway = made(config)
    answered(caller)
    Authority().write(bundle)
    gateway.adopt(load_config(config))
    assert caller.post(CHAT, json=asked("m")).status_code == 502
    authority.write(bundle)
    gateway.adopt(load_config(config))
    answered(caller)
    gateway.close()


def test_a_request_is_tried_again_with_the_settings_under_which_it_began(
    upstream: Upstream,
) -> None:
    """A retry sends the headers of its own configuration; its client is the same account."""
    keys = ("sk-key-of-the-first-00", "sk-key-of-the-second-0")
    caller, gateway = made(remote(upstream, *keys, headers={"x-age": "old"}))
    new = load_config(remote(upstream, *keys, headers={"x-age": "new"}))

    def change(_: object) -> Reply:
        gateway.adopt(new)
        return error(503)

    upstream.reply(None, change)
    answered(caller)
    answered(caller)
    assert [one.header["x-age"] for one in upstream.received()] == ["old", "old", "new"]
    gateway.close()
