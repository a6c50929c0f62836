"""opencode, the real program, in each dialect that it speaks: it runs a command that is asked for.

Nothing but loopback is open to it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.callers.environments import Package, installed
from tests.programs.task import (
    COMMAND,
    FAULTS,
    KEY,
    LAST_WORD,
    MARK,
    RUN_S,
    VENDORS,
    FirstBroken,
    came_back,
    reader,
    scripted,
)
from tests.support.dialects import DIALECTS, Call, Dialect, configuration
from tests.support.gateway import Gateway, environment
from tests.support.responses_upstream import NATIVE
from tests.support.upstream import Upstream

# Installing it takes up to some minutes.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

OPENCODE = Package("opencode-ai", "1.18.33", by_npm=True)
RUN = Call("call_1", "bash", {"command": COMMAND, "description": "A proof"})
# What speaks each dialect in it.
MODES = {
    "chat": "@ai-sdk/openai-compatible",
    "responses": "@ai-sdk/openai",
    "messages": "@ai-sdk/anthropic",
}
CASES = [*((mode, one) for mode in MODES for one in DIALECTS), ("responses", NATIVE)]
RUNS = [
    # Of each mode `make test-slow` runs the first.
    pytest.param(
        *case,
        id=f"{case[0]}-{case[1].kind}",
        marks=[] if case[1] is DIALECTS[0] else [pytest.mark.further],
    )
    for case in CASES
]


@pytest.fixture(scope="module")
def gateway(upstream: Upstream) -> Iterator[Gateway]:
    """A permit for each client: the program asks for a title and does the task at once."""
    clients = [
        one.client(upstream.origin, f"key-{mode}-{one.kind}", f"{mode}-{one.kind}")
        for mode, one in CASES
    ]
    clients += [
        one.client(upstream.origin, f"key-{mode}-{fault}", f"{mode}-{fault}")
        for mode, one in VENDORS.items()
        for fault in FAULTS
    ]
    settings = {"api-keys": [KEY], "request-retry": 0, "max-retry-interval": 0}
    with Gateway(configuration(*clients, **settings)) as running:
        yield running


@pytest.mark.parametrize(("mode", "dialect"), RUNS)
def test_opencode_runs_a_command(
    gateway: Gateway, upstream: Upstream, mode: str, dialect: Dialect, tmp_path: Path
) -> None:
    """Its output comes back in the next request, and the last word out of the program."""
    model = f"{mode}-{dialect.kind}"
    upstream.always(f"key-{model}", scripted(dialect, RUN, reader(mode, dialect)))
    check_run(gateway.url, mode, model, tmp_path)
    bodies = [json.dumps(one.json()) for one in upstream.received(f"key-{model}")]
    assert any(came_back(body) for body in bodies)


@pytest.mark.further
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fault", FAULTS)
def test_opencode_recovers(
    gateway: Gateway, upstream: Upstream, mode: str, tmp_path: Path, fault: str
) -> None:
    """By its own retries, as it does before the vendor; the gateway makes none here."""
    dialect, model = VENDORS[mode], f"{mode}-{fault}"
    answer = scripted(dialect, RUN, reader(mode, dialect))
    answers = FirstBroken(answer, f'"{RUN.name}"', dialect, fault)
    upstream.always(f"key-{model}", answers)
    check_run(gateway.url, mode, model, tmp_path)
    assert answers.has_broken


def check_run(url: str, mode: str, model: str, folder: Path) -> None:
    """A run of the program in this folder: it does what it is asked to, and ends well."""
    home = installed(OPENCODE)
    work = folder / "work"
    work.mkdir()
    provider = {
        "npm": MODES[mode],
        "options": {"baseURL": f"{url}/v1", "apiKey": KEY},
        "models": {model: {"tool_call": True, "limit": {"context": 128_000, "output": 8_000}}},
    }
    settings = {
        "provider": {"gw": provider},
        "permission": {"*": "allow"},
        "autoupdate": False,
        "share": "disabled",
        "small_model": f"gw/{model}",
    }
    (work / "opencode.json").write_text(json.dumps(settings))
    done = subprocess.run(
        [
            str(home / "node_modules/.bin/opencode"),
            *["run", "--model", f"gw/{model}"],
            f"Run the shell command {COMMAND!r} and tell me when it is done.",
        ],
        cwd=work,
        env=environment(
            HOME=str(folder),
            PWD=str(work),
            XDG_CONFIG_HOME=str(folder / "config"),
            XDG_DATA_HOME=str(folder / "data"),
            XDG_CACHE_HOME=str(folder / "cache"),
            XDG_STATE_HOME=str(folder / "state"),
            HTTPS_PROXY="http://127.0.0.1:9",
            NO_PROXY="127.0.0.1,localhost",
            OPENCODE_DISABLE_MODELS_FETCH="1",
            OPENCODE_DISABLE_AUTOUPDATE="1",
            OPENCODE_DISABLE_LSP_DOWNLOAD="1",
            OPENCODE_DISABLE_DEFAULT_PLUGINS="1",
        ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert LAST_WORD in done.stdout
    assert (work / "proof.txt").read_text() == f"{MARK}\n"
