"""Codex CLI, the real program, over every kind of upstream: it runs a command that it is asked to.

It speaks Responses alone. Nothing but loopback is open to it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.callers.environments import Package, installed
from tests.programs.task import (
    COMMAND,
    FAULTS,
    KEY,
    LAST_WORD,
    MARK,
    RUN_S,
    broken,
    came_back,
    scripted,
)
from tests.support.dialects import DIALECTS, Call, Dialect, configuration
from tests.support.gateway import Gateway, environment
from tests.support.responses_upstream import NATIVE
from tests.support.upstream import Upstream

# Installing it takes up to some minutes.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CODEX = Package("@openai/codex", "0.169.0", by_npm=True)
ALL: tuple[Dialect, ...] = (*DIALECTS, NATIVE)
RUN = Call("call_1", "exec_command", {"cmd": COMMAND})


def first_of(cases: Sequence[Any]) -> list[Any]:
    """Parameters of which `make test-slow` runs the first."""
    first, *others = cases
    return [first, *(pytest.param(case, marks=pytest.mark.further) for case in others)]


@pytest.fixture(scope="module")
def gateway(upstream: Upstream) -> Iterator[Gateway]:
    """A permit for each client: the program asks several things at once."""
    clients = [one.client(upstream.origin, f"key-{one.kind}", one.kind) for one in ALL]
    clients += [DIALECTS[0].client(upstream.origin, f"key-{fault}", fault) for fault in FAULTS]
    settings = {"api-keys": [KEY], "request-retry": 0, "max-retry-interval": 0}
    with Gateway(configuration(*clients, **settings)) as running:
        yield running


@pytest.mark.parametrize("dialect", first_of(ALL), ids=lambda dialect: dialect.kind)
def test_codex_runs_a_command(
    gateway: Gateway, upstream: Upstream, dialect: Dialect, tmp_path: Path
) -> None:
    """Its output comes back in the next request, and the last word out of the program."""
    upstream.always(f"key-{dialect.kind}", scripted(dialect, RUN))
    check_run(gateway, dialect.kind, tmp_path, request_max_retries=0, stream_max_retries=0)
    asked = [dialect.read(one) for one in upstream.received(f"key-{dialect.kind}")]
    assert any(came_back(json.dumps(one)) for one in asked)


@pytest.mark.parametrize("fault", first_of(FAULTS))
def test_codex_recovers(gateway: Gateway, upstream: Upstream, tmp_path: Path, fault: str) -> None:
    """By its own retries, as it does before a vendor; the gateway makes none here."""
    dialect, key = DIALECTS[0], f"key-{fault}"
    upstream.reply(key, broken(dialect, fault))
    upstream.always(key, scripted(dialect, RUN))
    check_run(gateway, fault, tmp_path)


def check_run(gateway: Gateway, model: str, folder: Path, **more: int) -> None:
    """A run of the program in this folder: it does what it is asked to, and ends well."""
    home = installed(CODEX)
    (folder / ".codex").mkdir()
    (folder / "work").mkdir()
    provider = {
        "name": "gw",
        "base_url": f"{gateway.url}/v1",
        "env_key": "GW_KEY",
        "wire_api": "responses",
        **more,
    }
    options = ['model_provider="gw"']
    options += [
        f"model_providers.gw.{name}={json.dumps(value)}" for name, value in provider.items()
    ]
    done = subprocess.run(
        [
            str(home / "node_modules/.bin/codex"),
            *["exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"],
            *["--json", "-C", str(folder / "work"), "-m", model],
            *[word for option in options for word in ("-c", option)],
            f"Run the shell command {COMMAND!r} and tell me when it is done.",
        ],
        env=environment(
            HOME=str(folder),
            CODEX_HOME=str(folder / ".codex"),
            GW_KEY=KEY,
            HTTPS_PROXY="http://127.0.0.1:9",
        ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert LAST_WORD in done.stdout
    assert (folder / "work" / "proof.txt").read_text() == f"{MARK}\n"
