"""From what is handed out to the first answer: installed, in an empty folder, with each Python.

It is made once, of a copy, so that nothing of the checkout is there when it is used.
"""

from __future__ import annotations

import email
import glob
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import openai
import pydantic
import pytest

from proxy.version import __version__
from tests.support import checkout
from tests.support.gateway import PATIENCE_S, ROOT, environment
from tests.support.leaks import death_in, key_in
from tests.support.pages import first_column

# For a package index and a slow machine.
INSTALL_S = 400

# `make test-slow` runs the oldest and the newest.
PYTHONS = [
    "3.10",
    *(pytest.param(version, marks=pytest.mark.further) for version in ("3.11", "3.12")),
    "3.13",
]

LITELLM = """\
model_list:
  - model_name: gpt-4o
    litellm_params: {model: openai/gpt-4o, api_key: os.environ/OPENAI_API_KEY}
general_settings: {master_key: sk-1234}
"""
CLIPROXYAPI = """\
port: 8317
auth-dir: ~/.cli-proxy-api
api-keys: [your-api-key-1]
remote-management: {allow-remote: false}
openai-compatibility:
  - name: openrouter
    base-url: https://openrouter.ai/api/v1
    api-key-entries: [{api-key: sk-or-v1-...b780}]
"""


class Weather(pydantic.BaseModel):
    city: str
    days: list[int]


def install(*command: str | Path) -> None:
    """Run a command that may need a package index; skips the test if it fails, but for CI's."""
    try:
        done = subprocess.run(
            [*map(str, command)],
            capture_output=True,
            text=True,
            timeout=INSTALL_S,
            env=environment(PIP_DISABLE_PIP_VERSION_CHECK="1"),
            check=False,
        )
        problem = done.stderr[-500:] if done.returncode else ""
    except subprocess.TimeoutExpired as error:
        problem = str(error)
    if problem and os.environ.get("CI") == "true":
        pytest.fail(problem)
    if problem:
        pytest.skip(f"{' '.join(map(str, command[:4]))}: {problem}")


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `make dist` makes in a clone."""
    source = checkout.clone(tmp_path_factory.mktemp("dist"))
    install("make", "-C", source, "dist", f"PYTHON={sys.executable}")
    return source / "dist"


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (built,) = dist.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def sdist(dist: Path) -> Path:
    (built,) = dist.glob("*.tar.gz")
    return built


class Installed(NamedTuple):
    """The command as it was installed, and a folder to run it in, empty at first."""

    command: Path
    folder: Path
    env: dict[str, str]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; no key and no traceback is in what it prints."""
        done = subprocess.run(
            [self.command, *arguments],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE_S,
            check=False,
        )
        check_output(done.stdout + done.stderr)
        return done

    @contextmanager
    def serving(self, *arguments: str) -> Iterator[tuple[str, str]]:
        """`serve` until the block ends: where, and what it said at its start."""
        with subprocess.Popen(
            [self.command, "serve", "--port", "0", *arguments],
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            assert process.stdout is not None
            try:
                said = []
                for line in process.stdout:
                    said.append(line)
                    if "requests in flight at most" in line:
                        break
                found = re.match(r"poolproxy on (http://127\.0\.0\.1:\d+) ", "".join(said))
                assert found, said
                yield found[1], "".join(said)
                process.send_signal(signal.SIGTERM)
                assert process.wait(PATIENCE_S) == 0
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            rest = process.stdout.read()
        check_output(rest)
        assert death_in(rest) is None, rest


def check_output(text: str) -> None:
    assert key_in(text) is None, text
    assert "Traceback" not in text, text


@contextmanager
def empty_folder() -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder with nothing in it, and an environment that tells of no other."""
    with tempfile.TemporaryDirectory(prefix="pp-") as folder:  # short, as sockets' names are
        home = Path(folder, "home")
        work = Path(folder, "work")
        home.mkdir(mode=0o700)
        work.mkdir()
        env = environment(XDG_RUNTIME_DIR=str(home), HOME=str(home))
        for name in ("PYTHONPATH", "VIRTUAL_ENV"):
            env.pop(name, None)
        yield work, env


def post(url: str, body: dict[str, Any]) -> Any:
    """As curl's `-d` does it: as a form."""
    with urllib.request.urlopen(url, json.dumps(body).encode(), timeout=PATIENCE_S) as answer:
        return json.load(answer)


def check_first_start(installed: Installed) -> None:
    """What whoever has just installed it will try, one thing after the other."""
    assert installed.run("--version").stdout == f"poolproxy {__version__}\n"
    assert installed.run().stdout.startswith("usage: poolproxy")
    assert installed.run("check").stdout.startswith("built-in default: valid; ")
    with installed.serving() as (url, said):
        assert said.splitlines()[1:6] == [
            "  built-in default, as there is no config.yaml: `poolproxy init` writes it",
            "  demo: 1 client, 1 model, unlimited at once",
            "  openai: off, no key in OPENAI_API_KEY",
            "  gemini: off, no key in GEMINI_API_KEY",
            "  claude: off, no key in ANTHROPIC_API_KEY",
        ]
        hello = {"model": "demo", "messages": [{"role": "user", "content": "Hello?"}]}
        answer = post(f"{url}/v1/chat/completions", hello)
        assert answer["choices"][0]["message"]["content"].endswith("You said: Hello?")
        port = url.rpartition(":")[2]
        assert "demo " in installed.run("status", "--port", port).stdout
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as sdk:
            check_sdk(sdk)
    assert os.listdir(installed.folder) == []
    assert installed.run("init").returncode == 0
    assert installed.run("init").returncode == 1
    assert installed.run("check").stdout.startswith("config.yaml: valid; ")
    with installed.serving() as (_, said):
        assert "built-in" not in said
    (installed.folder / "litellm.yaml").write_text(LITELLM)
    (installed.folder / "cliproxyapi.yaml").write_text(CLIPROXYAPI)
    done = installed.run("check", "litellm.yaml")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "docs/migrating.md" in done.stderr
    done = installed.run("check", "cliproxyapi.yaml")
    assert done.returncode == 0, done.stderr
    warnings = done.stdout.partition("\nwarnings\n")[2].splitlines()
    assert [warning.rpartition(": ")[2] for warning in warnings[:2]] == [
        "auth-dir",
        "remote-management",
    ]
    assert len(warnings) == 4


def check_sdk(sdk: openai.OpenAI) -> None:
    """The official SDK with a tool, called once, and with a format of its answer."""
    messages: list[Any] = [{"role": "user", "content": "Will it rain?"}]
    tools = [openai.pydantic_function_tool(Weather)]
    asked = sdk.chat.completions.parse(model="demo", messages=messages, tools=tools)
    message = asked.choices[0].message
    assert message.tool_calls
    (call,) = message.tool_calls
    assert isinstance(call.function.parsed_arguments, Weather)
    messages += [message, {"role": "tool", "tool_call_id": call.id, "content": "no"}]
    told = sdk.chat.completions.parse(model="demo", messages=messages, tools=tools)
    assert (told.choices[0].message.content or "").endswith("You said: no")
    made = sdk.chat.completions.parse(model="demo", messages=messages, response_format=Weather)
    assert isinstance(made.choices[0].message.parsed, Weather)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_first_start_of_what_the_wheel_holds(wheel: Path, tmp_path: Path) -> None:
    """With this interpreter and the packages that are here; nothing comes from the checkout."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    install(*pip, "--target", tmp_path / "site", wheel)
    with empty_folder() as (folder, env):
        env["PYTHONPATH"] = str(tmp_path / "site")
        where = subprocess.run(
            [sys.executable, "-c", "import proxy; print(proxy.__file__)"],
            cwd=folder,
            env=env,
            capture_output=True,
            text=True,
            check=True,
        )
        assert where.stdout.startswith(f"{tmp_path}/site/proxy/")
        check_first_start(Installed(tmp_path / "site" / "bin" / "poolproxy", folder, env))


def interpreter(version: str) -> str | None:
    """A Python of this version that runs: by its name, or one of pyenv's, whose names may not."""
    name = f"python{version}"
    roots = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    for path in (name, *sorted(glob.glob(f"{roots}/versions/{version}.*/bin/{name}"))):
        with suppress(OSError):
            done = subprocess.run([path, "-m", "venv", "--help"], capture_output=True, check=False)
            if done.returncode == 0:
                return path
    return None


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("version", PYTHONS)
def test_first_start_in_a_fresh_environment(version: str, wheel: Path, tmp_path: Path) -> None:
    """With each Python that is supported and can be had, and the versions that were tested."""
    python = interpreter(version)
    if python is None:
        pytest.skip(f"there is no Python {version}")
    check_in_fresh_environment(python, wheel, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_first_start_of_the_sdist_in_a_fresh_environment(sdist: Path, tmp_path: Path) -> None:
    """pip makes the same of it."""
    check_in_fresh_environment(sys.executable, sdist, tmp_path)


def check_in_fresh_environment(python: str, package: Path, place: Path) -> None:
    """Install the package with what it needs and nothing else, and start it."""
    install(python, "-m", "venv", place / "venv")
    pip = place / "venv" / "bin" / "pip"
    install(pip, "install", "--quiet", "-c", ROOT / "constraints.txt", package)
    with empty_folder() as (folder, env):
        check_first_start(Installed(place / "venv" / "bin" / "poolproxy", folder, env))


@pytest.mark.long
@pytest.mark.timeout(600)
def test_sdist_has_all_that_the_repository_has(sdist: Path) -> None:
    """And of the package's folders the wheel has all but what only a checkout uses."""
    with tarfile.open(sdist) as archive:
        held = {name for it in archive if it.isfile() for name in [it.name.partition("/")[2]]}
    made = {name for name in held if name == "PKG-INFO" or name.startswith("poolproxy.egg-info/")}
    assert held - made == set(checkout.files())


@pytest.mark.long
@pytest.mark.timeout(600)
def test_wheel_has_the_package_and_says_what_it_is(wheel: Path) -> None:
    """Its files, and what a package index shows of it."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        said = email.message_from_bytes(archive.read(metadata))
    information = metadata.partition("/")[0]
    shipped = {name for name in checkout.files() if name.startswith("proxy/")} | {"poolproxy.py"}
    assert {name for name in names if not name.startswith(information)} == shipped
    assert (said["Name"], said["Version"]) == ("poolproxy", __version__)
    assert said["License-Expression"] == "MIT"
    assert said.get_all("License-File") == ["LICENSE"]
    assert {url.partition(",")[0] for url in said.get_all("Project-URL", [])} >= {
        "Homepage",
        "Source",
        "Changelog",
    }
    assert {"Framework :: Flask", "Typing :: Typed"} <= set(said.get_all("Classifier", []))
    page = (ROOT / "docs" / "deployment.md").read_text()
    extras = first_column(page, "| extra | what it brings | for |")
    assert [f"poolproxy[{extra}]" for extra in said.get_all("Provides-Extra", [])] == extras
    assert said.get_payload().startswith("# Poolproxy\n")  # type: ignore[union-attr]
