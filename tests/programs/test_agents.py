"""Agents of LangChain and pydantic-ai in each dialect: each runs a command that is asked for.

Nothing but loopback is open to them.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.callers.environments import Package, installed
from tests.programs.task import (
    FAULTS,
    KEY,
    LAST_WORD,
    MARK,
    RUN_S,
    VENDORS,
    broken,
    came_back,
    reader,
    scripted,
)
from tests.support.dialects import DIALECTS, Call, Dialect, configuration
from tests.support.gateway import Gateway, environment
from tests.support.responses_upstream import NATIVE
from tests.support.upstream import Upstream

# Installing them takes up to some minutes.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

AGENT = Path(__file__).with_name("agent.py")
# What speaks the dialects is pinned as well as what asks for it.
LIBRARIES = {
    "langchain": Package(
        "langchain", "1.5.2", beside=("langchain-openai==1.7.4", "langchain-anthropic==1.7.10")
    ),
    "pydantic-ai": Package(
        "pydantic-ai-slim", "2.68.0", beside=("openai==3.57.0", "anthropic==2.14.0")
    ),
}
COMMAND = f"echo {MARK} >> proof.txt && tail -n 1 proof.txt"
RUN = Call("call_1", "run_shell", {"command": COMMAND})
CASES = [
    *((spoken, one) for spoken in ("chat", "responses", "messages") for one in DIALECTS),
    ("responses", NATIVE),
]
RUNS = [
    # Of each library and dialect `make test-slow` runs the first.
    pytest.param(
        library,
        *case,
        id=f"{library}-{case[0]}-{case[1].kind}",
        marks=[] if case[1] is DIALECTS[0] else [pytest.mark.further],
    )
    for library in LIBRARIES
    for case in CASES
]
# What the libraries' retries take: a cut they do not.
TAKEN = [fault for fault in FAULTS if fault != "cut"]


@pytest.fixture(scope="module")
def gateway(upstream: Upstream) -> Iterator[Gateway]:
    """With one permit for each client."""
    clients = [
        one.client(upstream.origin, f"key-{name}", name, **{"max-concurrency": 1})
        for library in LIBRARIES
        for spoken, one in CASES
        for name in [f"{library}-{spoken}-{one.kind}"]
    ]
    clients += [
        one.client(upstream.origin, f"key-{name}", name)
        for library in LIBRARIES
        for spoken, one in VENDORS.items()
        for fault in TAKEN
        for name in [f"{library}-{spoken}-{fault}"]
    ]
    settings = {"api-keys": [KEY], "request-retry": 0, "max-retry-interval": 0}
    with Gateway(configuration(*clients, **settings)) as running:
        yield running


@pytest.mark.parametrize(("library", "spoken", "dialect"), RUNS)
def test_agent_runs_a_command(
    gateway: Gateway,
    upstream: Upstream,
    library: str,
    spoken: str,
    dialect: Dialect,
    tmp_path: Path,
) -> None:
    """Whole and streamed, its output comes back in the next request, and the last word out."""
    model = f"{library}-{spoken}-{dialect.kind}"
    upstream.always(f"key-{model}", scripted(dialect, RUN, reader(spoken, dialect)))
    check_run(gateway.url, library, spoken, model, tmp_path)
    asked = upstream.received(f"key-{model}")
    # Each way is a request with the task, and one with what came of it.
    assert [came_back(json.dumps(one.json())) for one in asked] == [False, True] * 2
    assert [dialect.is_stream(one) for one in asked] == [False, False, True, True]


@pytest.mark.further
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("spoken", VENDORS)
@pytest.mark.parametrize("fault", TAKEN)
def test_agent_recovers(
    gateway: Gateway, upstream: Upstream, library: str, spoken: str, fault: str, tmp_path: Path
) -> None:
    """By its own retries, as it does before the vendor; the gateway makes none here."""
    dialect, model = VENDORS[spoken], f"{library}-{spoken}-{fault}"
    upstream.reply(f"key-{model}", broken(dialect, fault))
    upstream.always(f"key-{model}", scripted(dialect, RUN, reader(spoken, dialect)))
    check_run(gateway.url, library, spoken, model, tmp_path)
    assert len(upstream.received(f"key-{model}")) == 5


def check_run(url: str, library: str, spoken: str, model: str, folder: Path) -> None:
    """A run of the agent in this folder: it does what it is asked to, whole and streamed."""
    home = installed(LIBRARIES[library])
    done = subprocess.run(
        [
            *(str(home / "bin/python"), str(AGENT)),
            *(library, spoken, model, "Run the shell command that prints the proof."),
        ],
        cwd=folder,
        env=environment(
            HOME=str(folder),
            BASE=url,
            KEY=KEY,
            LANGSMITH_TRACING="false",
            NO_PROXY="127.0.0.1",
            PYTHONDONTWRITEBYTECODE="",  # else each run compiles the libraries again
        ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert done.returncode == 0, (done.stdout[-2000:], done.stderr[-2000:])
    assert done.stdout == f"{LAST_WORD}\n" * 2
    assert (folder / "proof.txt").read_text() == f"{MARK}\n" * 2
