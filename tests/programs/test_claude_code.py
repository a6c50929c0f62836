"""Claude Code itself: a scripted task over each kind of upstream, closed off from the network.

A shell command is asked for, run, its output comes back, and a last word is said. It works with one
permit, though it may ask twice at once.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.callers.environments import CLAUDE_CODE, installed
from tests.support.dialects import DIALECTS, Call, Dialect, Said, configuration
from tests.support.gateway import Gateway
from tests.support.upstream import Received, Reply, Upstream, json_reply

# Installing it takes up to a minute.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KEY, CALLERS_KEY = "key-0123456789", "caller-key-0123456789"
MODEL = "claude-sonnet-4-5"
TASK = "Run the shell command that prints the proof."
COMMAND = "echo proof-$((40 + 2)) > proof.txt && cat proof.txt"
RUN = Call("call_1", "Bash", {"command": COMMAND, "description": "Prints the proof."})


# `make test-slow` runs the first.
KINDS = [DIALECTS[0], *(pytest.param(one, marks=pytest.mark.further) for one in DIALECTS[1:])]


@pytest.mark.parametrize("dialect", KINDS, ids=lambda dialect: dialect.kind)
def test_task(dialect: Dialect, tmp_path: Path) -> None:
    """It ends well, by what the upstream asked for and said."""

    def answer(received: Received) -> Reply:
        if "ountTokens" in received.path or "count_tokens" in received.path:
            return json_reply({"input_tokens": 9, "totalTokens": 9})
        if dialect.kind != "claude":
            dialect.read(received)
        said = Said("A title.")
        if b"proof-42" in received.body:
            said = Said("All is done: the last word.")
        elif TASK.encode() in received.body and b'"Bash"' in received.body:
            said = Said(reasoning="Let me see.", calls=(RUN,), finish="tool_calls")
        return dialect.streamed(said) if dialect.is_stream(received) else dialect.whole(said)

    work, home = tmp_path / "work", tmp_path / "home"
    work.mkdir()
    home.mkdir()
    with Upstream() as upstream:
        upstream.default = answer
        client = dialect.client(upstream.origin, KEY, MODEL, **{"max-concurrency": 1})
        with Gateway(configuration(client, **{"api-keys": [CALLERS_KEY]})) as gateway:
            done = subprocess.run(
                [
                    *(str(installed(CLAUDE_CODE) / "node_modules/.bin/claude"), "-p", TASK),
                    *("--model", MODEL, "--output-format", "json", "--allowedTools", "Bash"),
                ],
                cwd=work,
                env=environment_of(gateway, home),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert done.returncode == 0, (done.stdout, done.stderr, gateway.log)
    assert (work / "proof.txt").read_text() == "proof-42\n"
    told = json.loads(done.stdout)
    assert (told["is_error"], told["result"]) == (False, "All is done: the last word.")


def environment_of(gateway: Gateway, home: Path) -> dict[str, str]:
    """Nothing of this process's but the path; a proxy that refuses keeps it from calling home."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "ANTHROPIC_BASE_URL": gateway.url,
        "ANTHROPIC_AUTH_TOKEN": CALLERS_KEY,
        "ANTHROPIC_SMALL_FAST_MODEL": MODEL,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": MODEL,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_MAX_RETRIES": "1",
        "CLAUDE_CONFIG_DIR": str(home / ".claude"),
        "DISABLE_AUTOUPDATER": "1",
        "DISABLE_TELEMETRY": "1",
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "NO_PROXY": "127.0.0.1",
    }
