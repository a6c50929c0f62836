"""Claude Code itself: a scripted task over each kind of upstream, closed off from the network.

A shell command is asked for, run, its output comes back, and a last word is said. It works with one
permit, though it may ask twice at once.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.callers.environments import CLAUDE_CODE, installed
from tests.programs.task import FAULTS, FirstBroken
from tests.support.dialects import BY_KIND, DIALECTS, Call, Dialect, Said, configuration
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
    with Upstream() as upstream:
        upstream.default = scripted(dialect)
        client = dialect.client(upstream.origin, KEY, MODEL, **{"max-concurrency": 1})
        with Gateway(configuration(client, **{"api-keys": [CALLERS_KEY]})) as gateway:
            check_task(gateway.url, tmp_path)


@pytest.mark.further
@pytest.mark.parametrize("fault", FAULTS)
def test_recovers(fault: str, tmp_path: Path) -> None:
    """By its own retries, as it does before the vendor; the gateway makes none here."""
    dialect = BY_KIND["claude"]
    answers = FirstBroken(scripted(dialect), '"Bash"', dialect, fault)
    with Upstream() as upstream:
        upstream.default = answers
        client = dialect.client(upstream.origin, KEY, MODEL)
        settings = {"api-keys": [CALLERS_KEY], "request-retry": 0, "max-retry-interval": 0}
        with Gateway(configuration(client, **settings)) as gateway:
            check_task(gateway.url, tmp_path)
    assert answers.has_broken


def scripted(dialect: Dialect) -> Callable[[Received], Reply]:
    """An upstream that asks for the command, and has a last word when its output comes back."""

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

    return answer


def check_task(url: str, folder: Path) -> None:
    """A run of the program in this folder: it does what it is asked to, and ends well."""
    work, home = folder / "work", folder / "home"
    work.mkdir()
    home.mkdir()
    done = subprocess.run(
        [
            *(str(installed(CLAUDE_CODE) / "node_modules/.bin/claude"), "-p", TASK),
            *("--model", MODEL, "--output-format", "json", "--allowedTools", "Bash"),
        ],
        cwd=work,
        env=environment_of(url, home),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert (work / "proof.txt").read_text() == "proof-42\n"
    told = json.loads(done.stdout)
    assert (told["is_error"], told["result"]) == (False, "All is done: the last word.")


def environment_of(url: str, home: Path) -> dict[str, str]:
    """Nothing of this process's but the path; a proxy that refuses keeps it from calling home."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_AUTH_TOKEN": CALLERS_KEY,
        "ANTHROPIC_SMALL_FAST_MODEL": MODEL,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": MODEL,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_MAX_RETRIES": "2",
        "CLAUDE_CONFIG_DIR": str(home / ".claude"),
        "DISABLE_AUTOUPDATER": "1",
        "DISABLE_TELEMETRY": "1",
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "NO_PROXY": "127.0.0.1",
    }
