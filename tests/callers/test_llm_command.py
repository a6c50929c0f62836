"""The `llm` command as a caller: prompts, streams, tools, legacy completions, errors.

Its models are in `extra-openai-models.yaml`: llm.datasette.io/en/stable/other-models.html, 2026-11.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.callers.environments import LLM, installed
from tests.support.gateway import PATIENCE_S, Gateway, Lot, environment
from tests.support.upstream import Upstream, chat, error, stream, stream_tool_calls

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

Run = Callable[..., "subprocess.CompletedProcess[str]"]
WEATHER = 'def get_weather(city: str) -> str:\n    "Tell it."\n    return f"Rain in {city}"'


@pytest.fixture
def run(gateway: Gateway, lot: Lot, tmp_path: Path) -> Run:
    """The command on this test's model, its output and status."""
    command = installed(LLM) / "bin/llm"
    own: dict[str, Any] = {"api_base": f"{gateway.url}/v1", "model_name": lot.model}
    models = [
        {"model_id": "m", **own, "supports_tools": True},
        {"model_id": "legacy", **own, "completion": True},
    ]
    (tmp_path / "extra-openai-models.yaml").write_text(yaml.safe_dump(models))
    env = environment(LLM_USER_PATH=str(tmp_path), OPENAI_API_KEY="none", OPENAI_MAX_RETRIES="0")

    def once(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(command), *arguments],
            cwd=tmp_path,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=3 * PATIENCE_S,
            check=False,
        )

    return once


@pytest.mark.parametrize("option", [(), ("--no-stream",)])
def test_prompt(run: Run, upstream: Upstream, lot: Lot, option: tuple[str, ...]) -> None:
    """The answer on standard output, streamed by default."""
    done = run("-m", "m", *option, "Hi")
    assert (done.returncode, done.stdout) == (0, "Hello there!\n"), done.stderr
    (received,) = upstream.received(lot.key)
    assert bool(received.json().get("stream")) == (not option)


def test_tools(run: Run, upstream: Upstream, lot: Lot) -> None:
    """A streamed call is carried out, and its result goes up in the next request."""
    call = ("get_weather", {"city": "Zürich"})
    upstream.reply(lot.key, stream_tool_calls(call), stream("It rains."))
    done = run("-m", "m", "--functions", WEATHER, "Weather?")
    assert (done.returncode, done.stdout) == (0, "It rains.\n"), done.stderr
    *_, result = upstream.received(lot.key)[1].json()["messages"]
    assert (result["role"], result["content"]) == ("tool", "Rain in Zürich")


@pytest.mark.parametrize("option", [(), ("--no-stream",)])
def test_legacy_completion(run: Run, lot: Lot, option: tuple[str, ...]) -> None:
    """A completion model, served by chat."""
    done = run("-m", "legacy", *option, "Say hello")
    assert (done.returncode, done.stdout) == (0, "Hello there!\n"), done.stderr


@pytest.mark.parametrize("option", [(), ("--no-stream",)])
def test_error(run: Run, upstream: Upstream, lot: Lot, option: tuple[str, ...]) -> None:
    """Status and message on standard error, and a status of its own."""
    upstream.reply(lot.key, error(400, "Out of luck."))
    done = run("-m", "m", *option, "Hi")
    assert done.returncode == 1
    assert "400" in done.stderr
    assert "Out of luck." in done.stderr


def test_failure_in_mid_stream(run: Run, upstream: Upstream, lot: Lot) -> None:
    """Not taken for a whole answer."""
    upstream.reply(lot.key, stream("Hello", finish=None, done=False))
    done = run("-m", "m", "Hi")
    assert done.returncode == 1
    assert "cut off" in done.stderr
    assert done.stdout.startswith("Hello")
    assert len(upstream.received(lot.key)) == 1


def test_conversation(run: Run, upstream: Upstream, lot: Lot) -> None:
    """Going on sends what was said before."""
    upstream.reply(lot.key, chat("Hello!"), chat("Still here."))
    assert run("-m", "m", "--no-stream", "Hi").returncode == 0
    done = run("-c", "--no-stream", "Still there?")
    assert (done.returncode, done.stdout) == (0, "Still here.\n"), done.stderr
    roles = [message["role"] for message in upstream.received(lot.key)[1].json()["messages"]]
    assert roles == ["user", "assistant", "user"]
