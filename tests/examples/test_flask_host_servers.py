"""The example application on real servers, by the commands in its documentation."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.support.flask_host import COMMANDS, FlaskHost
from tests.support.gateway import data_of, text_of
from tests.support.upstream import HANG, Gate, Hold, Upstream, chat, chunk, events

pytestmark = pytest.mark.long

CHAT = "/llm/v1/chat/completions"
ASKED: dict[str, Any] = {"model": "small", "messages": [{"role": "user", "content": "Which?"}]}


def test_documentation_has_the_servers() -> None:
    """Those that are known to be used."""
    assert [command[0] for command in COMMANDS] == [
        "flask",
        "gunicorn",
        "gunicorn",
        "waitress-serve",
    ]


@pytest.fixture(params=COMMANDS, ids=shlex.join)
def host(request: pytest.FixtureRequest, tmp_path: Path, upstream: Upstream) -> Any:
    """The shop, in front of a fake upstream."""
    provider = {"name": "up", "base-url": upstream.url, "api-keys": ["sk-1"], "models": ["small"]}
    config = tmp_path / "llm.yaml"
    config.write_text(json.dumps({"openai-compatibility": [provider], "queue-timeout": 0}))
    with FlaskHost(request.param, tmp_path, {"POOLPROXY_CONFIG": str(config)}) as running:
        yield running


def test_users_are_served(host: FlaskHost, upstream: Upstream) -> None:
    """By session and by token; event by event; who leaves is noticed; all of it is billed."""
    gate, usage = Gate(), {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}
    upstream.reply(
        "sk-1",
        events(
            chunk({"content": "San"}),
            Hold(gate),
            chunk({"content": "dals."}, finish="stop"),
            chunk({}, usage=usage),
            "[DONE]",
        ),
        events(chunk({"content": "San"}), HANG),
        chat("Sandals.", usage=(9, 3)),
    )
    streamed = {**ASKED, "stream": True}
    assert host.call("POST", CHAT, ASKED)[0] == 401
    host.log_in()
    with host.open("POST", CHAT, streamed) as response:
        assert response.status == 200
        first = response.readline() + response.readline()
        assert text_of(data_of(first)) == "San"
        gate.set()
        data = data_of(response.read())
    assert (text_of(data), data[-1]) == ("dals.", b"[DONE]")
    # The upstream says nothing more: no write tells of a caller who left.
    with host.open("POST", CHAT, streamed) as response:
        assert response.readline()
    assert upstream.wait_for(2, "sk-1")[1].wait_ended(10).aborted
    host.wait_for_line("shop.llm ann used small: caller_gone")
    _, told = host.call("POST", "/v1/tokens")
    host.cookie = ""
    with_token = {"Authorization": f"Bearer {told['token']}"}
    status, answer = host.call("POST", CHAT, ASKED, with_token)
    assert (status, answer["choices"][0]["message"]["content"]) == (200, "Sandals.")
    sums = {"calls": 3, "prompt_tokens": 29, "completion_tokens": 8}
    assert host.call("GET", "/v1/bill", headers=with_token) == (200, sums)
    assert host.call("GET", "/v1/models") == (200, {"models": ["sneaker", "sandal"]})
    host.wait_for_line(r"INFO proxy\.request id=\S+ caller=ann ")
    for bad in ("ERROR", "wsgi.multithread", "ResourceWarning", "request failed"):
        assert bad not in host.log, host.log
