"""README.md against the program: what it says that commands print, its tables and its samples.

Some of that has moved to pages in docs/, and is looked for there.

`tests/test_docs.py` runs its snippets. `make test` and `make check` are what runs these tests;
their targets are looked at, not run.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import yaml

from proxy.cli import main
from proxy.config import load_config, mask
from proxy.config.load import BUILT_IN
from proxy.record.record import Attempt, Record
from proxy.version import __version__
from proxy.wire.chat import Usage
from tests.support import checkout, figures
from tests.support.gateway import PATIENCE_S, ROOT, Gateway, environment, run_python
from tests.support.key_tables import PAGE, renewed
from tests.support.leaks import death_in

README = (ROOT / "README.md").read_text()
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ADDRESS = "http://127.0.0.1:8317"


def block(language: str, start: str = "", page: str = README) -> str:
    """The one fenced block in this language that starts so; "" is for those without one."""
    found: list[tuple[str, str]] = re.findall(
        r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL
    )
    (text,) = (text for its, text in found if its == language and text.startswith(start))
    return text


# What it says where there is a config.yaml: without this line.
SUMMARY = block("", "poolproxy on ").replace(
    f"  {BUILT_IN}, as there is no config.yaml: `poolproxy init` writes it\n", ""
)
CURL = block("sh", "curl").replace("\\\n", "")


def test_every_make_target_is_there() -> None:
    """As far as the pages name them."""
    text = "".join(page.read_text() for page in PAGES)
    targets = set(re.findall(r"\bmake ([a-z-]+)`", text)) | {"run", "test"}
    assert targets >= {"run", "test", "check", "test-slow", "bench"}
    done = subprocess.run(
        ["make", "--dry-run", *sorted(targets)], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_file_is_there() -> None:
    """As far as the pages name them from here, and where links lead."""
    text = "".join(page.read_text() for page in PAGES)
    named = set(re.findall(r"`((?:bench|deploy|docs|examples|tests)/[\w./-]+)`", text))
    assert len(named) > 20
    paths = [ROOT / name for name in named]
    for page in PAGES:
        paths += [page.parent / to for to in re.findall(r"\]\((?!http)([^)#]+)", page.read_text())]
    assert [path for path in paths if not path.exists()] == []


# The first commands


@pytest.fixture(scope="module")
def started() -> Iterator[Gateway]:
    """The shipped configuration, without a key, on any free port."""
    with Gateway(ROOT / "config.yaml", env={"PORT": "0"}) as running:
        yield running


def test_summary(started: Gateway) -> None:
    """What it says at start."""
    last = SUMMARY.splitlines()[-1]
    started.wait_for_line(lambda line: line.rstrip() == last)
    assert summary_in(started.log).replace(started.url, ADDRESS) == SUMMARY


def test_curl(started: Gateway) -> None:
    """As it stands, but for the port."""
    check_curl(started.url)


def summary_in(log: str) -> str:
    """The lines of the summary in a log."""
    found = re.search(r"^poolproxy on .*\n(?:  .*\n)+", log, re.MULTILINE)
    assert found, log
    return found[0]


def check_curl(url: str) -> None:
    """Run the README's; what it prints is an answer of the demo provider."""
    assert ADDRESS in CURL
    done = subprocess.run(
        ["sh", "-c", CURL.replace(ADDRESS, url)], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["choices"][0]["message"]["content"]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In a fresh directory: no virtual environment, no caches."""
    return checkout.clone(tmp_path_factory.mktemp("clone"))


@contextmanager
def made_run(clone: Path, variables: Mapping[str, str]) -> Iterator[str]:
    """`make run` in the clone until the block ends; what it printed up to the summary's end."""
    env = environment(PORT="0", XDG_RUNTIME_DIR=str(clone), **variables)
    for name in ("MAKEFLAGS", "MAKELEVEL", "PYTHONPATH", "VIRTUAL_ENV"):
        env.pop(name, None)
    with subprocess.Popen(
        ["make", "run"],
        cwd=clone,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        try:
            lines = []
            for line in process.stdout:
                lines.append(line)
                if "requests in flight" in line:
                    break
            yield "".join(lines)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(PATIENCE_S)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            rest = process.stdout.read()
        assert death_in(rest) is None, rest


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_first_command_in_a_fresh_clone(clone: Path) -> None:
    """`make run` says what it sets up, and the demo provider answers; then with two workers."""
    assert not (clone / ".venv").exists()
    with made_run(clone, {}) as log:
        steps = [line for line in log.splitlines() if line.endswith(" ...")]  # pip may warn
        assert steps == [
            "creating a virtual environment in .venv ...",
            "installing the gateway and what it needs ...",
        ]
        summary = summary_in(log)
        url = re.findall(r"http://[\d.:]+", summary)[0]
        assert summary.replace(url, ADDRESS) == SUMMARY
        check_curl(url)
    assert "`WEB_CONCURRENCY=2 make run`" in (ROOT / "docs" / "tuning.md").read_text()
    with made_run(clone, {"WEB_CONCURRENCY": "2"}) as log:
        assert log.startswith("poolproxy on ")
        assert "\n  2 workers" in log


# Configuration


def test_sample_configuration() -> None:
    """It is valid as it stands, and says what it means to."""
    config = load_config(yaml.safe_load(block("yaml")), environ={})
    assert config.warnings == ()
    assert config.listen_problems() == []
    assert [caller.name for caller in config.callers] == ["", "ci"]
    clients = [(one.kind, one.provider, one.max_concurrency, one.weight) for one in config.clients]
    assert clients == [
        ("openai", "openrouter", 1, 1),
        ("openai", "openrouter", 8, 3),
        ("openai", "local", 4, 1),
        ("gemini", "gemini", 1, 1),
        ("claude", "claude", 1, 1),
    ]
    *_, local, gemini, claude = config.clients
    assert local.models is None
    assert not local.key
    assert {model.alias for one in (gemini, claude) for model in one.models or ()} == {"fast"}


def test_tables_of_keys() -> None:
    """They say what the file's schema does; if not, `make readme` renews them."""
    page = PAGE.read_text()
    assert renewed(page) == page


def section(title: str) -> str:
    """What stands below this heading."""
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_first_screen() -> None:
    """Three sentences, two commands and one curl; what it costs, and what sets it apart."""
    first, _, rest = README.partition("\n## ")
    said = " ".join(first.splitlines()[1:]).strip()
    assert len(re.findall(r"\.(?: |$)", said)) == 3
    for words in (
        "per-account locks",
        "order of arrival",
        "honest streams",
        "mounts in your Flask app",
    ):
        assert f"**{words}**" in said or f"**in {words}**" in said
    assert re.findall(r"^## (.+)", f"## {rest}", re.MULTILINE)[:4] == [
        "Start",
        "What it costs",
        "What sets it apart",
        "Where to read on",
    ]
    commands = re.findall(r"^```sh\n(.*?)^```$", section("Start"), re.MULTILINE | re.DOTALL)
    assert [len(block.replace("\\\n", "").splitlines()) for block in commands] == [2, 1]
    shown = next(line for line in README.splitlines() if line.startswith("| measured "))
    assert {"naive", "nginx", "poolproxy", "litellm", "portkey"} <= set(
        re.findall(r"[\w-]+", shown)
    )


def test_what_sets_it_apart_can_be_repeated() -> None:
    """Each of four has a command, or an example, and the place it names is there."""
    ways = re.findall(
        r"^- \*\*.*?To repeat: (.*?)(?=^- |\Z)", section("What sets it apart"), re.M | re.S
    )
    assert len(ways) == 4
    for way in ways:
        commands = re.findall(r"`([^`]+)`", way)
        words = " ".join(commands).split()
        paths = [word for word in words if word.startswith(("tests/", "examples/"))]
        assert paths or commands[0].startswith("make ")
        assert [path for path in paths if not (ROOT / path).exists()] == []


def test_figures_are_measured() -> None:
    """They are those of `make bench`; if not, `make readme` renews them."""
    results = figures.RESULTS.read_text()
    assert figures.renewed(README, results) == README
    stale = figures.TABLE.sub(lambda it: it[1] + re.sub(r"\d+ \|\n", "0 |\n", it[2]), README)
    assert stale != README
    assert figures.renewed(stale, results) == README


# The rest


def test_changelog_begins_with_this_version() -> None:
    """And its date, unless it is still being made."""
    begun = re.search(r"^## (\S+) \((\d{4}-\d\d-\d\d|unreleased)\)$", CHANGELOG, re.MULTILINE)
    assert begun
    assert begun[1] == __version__
    if begun[2] != "unreleased":
        datetime.date.fromisoformat(begun[2])  # raises if there is no such day


def test_flask_snippet(tmp_path: Path) -> None:
    """It runs as it is; the paths are where it says, with errors of their own."""
    shutil.copy(ROOT / "config.yaml", tmp_path)
    program = f"""{block("python", "from flask")}
caller = app.test_client()
body = {{"model": "demo", "messages": [{{"role": "user", "content": "Hello?"}}]}}
answer = caller.post("/llm/v1/chat/completions", json=body)
assert answer.json["choices"][0]["message"]["content"], answer.data
assert caller.get("/llm/nothing").json["error"]["code"] == "not_found"
assert caller.get("/nothing").mimetype == "text/html"
print("done")
"""
    assert run_python("-c", program, cwd=tmp_path) == "done\n"


def test_every_subcommand_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    """As far as the pages name them, their options too."""
    text = "".join(page.read_text() for page in PAGES)
    names = set(re.findall(r"`poolproxy ([a-z]+)\b", text))
    assert names >= {"serve", "check", "init", "status", "reload", "disable", "enable", "health"}
    for name in names:
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        shown = capsys.readouterr().out
        assert ended.value.code == 0
        assert name in shown
        assert name != "check" or "--probe" in shown


def test_line_of_the_log() -> None:
    """The sample is what such a request would leave."""
    page = (ROOT / "docs" / "operations.md").read_text()
    sample = block("", "proxy.request ", page).removeprefix("proxy.request ").rstrip("\n")
    record = Record("req_5f0c2e9d", endpoint="/v1/chat/completions", arrived=100.0)
    record.caller, record.model, record.stream = "ci", "kimi-k2", True
    record.address = "192.0.2.7"
    for key, status, reason in (
        ("sk-or-v1-0123456789", 429, "rate_limit_exceeded"),
        ("sk-or-v1-9876543210", 200, "ok"),
    ):
        attempt = Attempt(f"openrouter/{mask(key)}")
        attempt.status, attempt.reason = status, reason
        record.attempts.append(attempt)
    record.status, record.end = 200, "ok"
    record.first_event, record.ended = 100.412, 102.21
    record.bytes_in, record.bytes_out = 310, 20113
    attempt.usage = Usage(41, 212)
    assert record.line() == sample
