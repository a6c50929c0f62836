"""What the log of a running gateway says, as lines of words and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from proxy.server.control.sockets import ask_all
from tests.support.commandline import wait_for
from tests.support.gateway import Gateway, Lots
from tests.support.upstream import Upstream, chat, error


class Talking:
    """A gateway with these settings, and what it says."""

    def __init__(self, upstream: Upstream, **settings: Any) -> None:
        self.lots = Lots(upstream.url, {1: 2, 2: 1})
        self.gateway = Gateway({**settings, "openai-compatibility": self.lots.providers})

    def told(self) -> list[dict[str, Any]]:
        """The log's lines, all of which are JSON."""
        return [json.loads(line) for line in self.gateway.log.splitlines()]


@pytest.fixture(scope="module")
def talking(upstream: Upstream) -> Iterator[Talking]:
    talking = Talking(upstream, **{"log-format": "json"})
    with talking.gateway:
        yield talking


def test_every_line_is_an_object(talking: Talking, upstream: Upstream) -> None:
    """A request's with all that is kept of it; the summary and gunicorn's own words too."""
    lot = talking.lots.take(2)
    upstream.reply(None, error(500, "Out of order", code="broken"), chat("Hi"))
    answer = talking.gateway.chat(lot.model)
    assert answer.status == 200
    [worker] = talking.gateway.workers()
    talking.gateway.kill(worker)
    wait_for(lambda: "was sent SIGKILL" in talking.gateway.log)
    summary, *_ = talking.told()
    assert summary["message"].startswith("poolproxy on http")
    [request] = [line for line in talking.told() if line["logger"] == "proxy.request"]
    assert request["level"] == "INFO"
    assert datetime.fromisoformat(request["time"]).utcoffset() is not None
    call = request["call"]
    assert (call["id"], call["end"]) == (answer.headers["x-request-id"], "ok")
    assert call["address"] == "127.0.0.1"
    assert [one["status"] for one in call["attempts"]] == [500, 200]
    assert call["attempts"][0]["message"] == "Out of order"
    [killed] = [line for line in talking.told() if "was sent SIGKILL" in line["message"]]
    assert (killed["logger"], killed["level"]) == ("gunicorn.error", "ERROR")


@pytest.mark.long
def test_client_that_goes_out_of_service_is_a_warning(talking: Talking, upstream: Upstream) -> None:
    """In the upstream's words, without the key that they quote; `status` repeats them."""
    lot = talking.lots.take()
    upstream.reply(lot.key, error(401, f"Wrong key: {lot.key}", code="invalid_api_key"))
    assert talking.gateway.chat(lot.model).status == 502
    talking.gateway.wait_for_line(lambda line: "out of service" in line)
    [warning] = [line for line in talking.told() if "out of service" in line["message"]]
    assert (warning["level"], warning["logger"]) == ("WARNING", "proxy.pool")
    mask = f"sk-...{lot.key[-4:]}"
    why = f"401 invalid_api_key: Wrong key: {mask}"
    assert warning["message"] == f"{lot.upstream_name}/{mask} is out of service for 60 s: {why!r}"
    [answer] = ask_all(talking.gateway.port, {"do": "status"})
    [client] = [one for one in answer["clients"] if one["client"].startswith(lot.upstream_name)]
    assert client["models"][lot.upstream_name]["cause"] == why
