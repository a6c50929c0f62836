"""Every snippet of README.md and docs/ is run, or checked as far as it can be.

Write pages as a reader would follow them. A page is a session: its blocks are done in order, in a
folder of the page's own, which has a `config.yaml` at the start: the one that is shipped.

- `sh` is run by bash, and has to succeed. `poolproxy`, `python`, `pip` and `flask` are those of the
  virtual environment; variables that a block exports are there in later ones. `make` says only what
  it would do. A block that ends with `poolproxy serve`, `gunicorn`, `flask run` or `waitress-serve`
  starts a server, which then runs until the next one starts, or the page ends. If there is no such
  block in a page, a gateway with the shipped `config.yaml` runs: there `demo` is the only model.
- `python` is run by one interpreter, which keeps the names of earlier blocks, as a notebook does.
- In both 8317, 8080, 8000 and 5000 are the port of the server that runs.
- `yaml` has to be a configuration without problems and warnings; a part of one will do. `${NAME}`
  and `${file:PATH}` have a value. `nginx` is served by nginx, `ini` is added to
  `deploy/poolproxy.service` and verified by systemd-analyze, `json` and `toml` are read.
  `redis` is served by redis-server until the page ends; 6379 is its port in all blocks.
- A second word after the language is a file's name: the block is also written to that file, as in
  "```yaml llm.yaml". For a python block this makes a module that later blocks can import.
- A block without a language is a sample of output, and left alone.

In front of a block, or instead of one, comments that readers do not see:

- `<!-- status 2 -->`: this `sh` ends with that status.
- `<!-- not run: WHY -->`: only its syntax is checked. For the few that no test can run.
- `<!-- python`, lines of code, `-->`: a block that only the test sees, in any of these languages,
  for what a reader has and a test does not, or to look at what came of the blocks before.
"""

from __future__ import annotations

import ast
import configparser
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from proxy.config import load_config
from proxy.errors import ConfigError
from tests.support.gateway import PATIENCE_S, ROOT, Gateway, environment
from tests.support.leaks import death_in
from tests.support.nginx import PROGRAM as NGINX
from tests.support.nginx import Nginx
from tests.support.redis import PROGRAM as REDIS
from tests.support.redis import require_redis
from tests.support.server import free_port

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

# They start a server, or an interpreter, time and again. The README shows that snippets run at all.
LONG = {"deployment", "embedding", "metrics", "migrating", "operations", "python", "routing"}

# Of all pages together.
MOST_NOT_RUN = 8

# A command that installs or computes may take longer than one that asks.
BLOCK_S = 60.0

BLOCK = re.compile(
    r"^(?P<mark><!-- (?:not run: [^\n]+|status \d+) -->\n)?```(?P<shown>[^\n]*)\n(?P<text>.*?)^```$"
    r"|^<!-- (?P<hidden>sh|python|yaml|json)(?P<name> \S+)?\n(?P<code>.*?)^-->$",
    re.MULTILINE | re.DOTALL,
)
# Begins or ends a block, or says something of one.
ODD = re.compile(r"^\s*```|^<!-- (?:not run|status|\w+(?: [^\s>]+)?$)")
SERVES = re.compile(r"^(?:\w+=\S* )*(?:poolproxy serve|gunicorn|flask .*\brun|waitress-serve)\b")
PORTS = re.compile(r"\b(?:8317|8080|8000|5000)\b")
REDIS_PORT = re.compile(r"\b6379\b")
VARIABLE = re.compile(r"\$\{(\w+)")
SECRET_FILE = re.compile(r"\$\{file:[^{}\n]+\}")

# Commands that a reader types as they are, and a test a little differently.
INSTEAD = {
    "curl": 'exec "$REAL" --fail-with-body --silent --show-error --max-time 30 "$@"',
    "make": f'exec "$REAL" --dry-run -C {ROOT} "$@"',
    "poolproxy": """
case $1 in
    serve | status | disable | enable | reload | health) exec "$REAL" "$@" --port "$PAGE_PORT" ;;
    *) exec "$REAL" "$@" ;;
esac""",
}

# Runs blocks from its input, and says what became of each.
PYTHON = """
import json, os, sys, traceback, types
page = types.ModuleType("page")
page.__file__ = os.path.abspath("page.py")
sys.modules["page"] = page
sys.path.insert(0, os.getcwd())
answers, sys.stdout = sys.stdout, sys.stderr
for line in sys.stdin:
    name, source = json.loads(line)
    try:
        exec(compile(source, name, "exec"), page.__dict__)
        said = ""
    except BaseException:
        said = traceback.format_exc()
    print(json.dumps(said), file=answers, flush=True)
"""


class Block(NamedTuple):
    """A snippet, shown or hidden."""

    line: int
    language: str
    name: str  # of its file; "": none
    text: str
    status: int
    is_run: bool

    @property
    def serves(self) -> bool:
        """Whether it starts a server."""
        commands = self.text.replace("\\\n", "").strip().splitlines()
        return self.language == "sh" and bool(commands) and bool(SERVES.match(commands[-1]))


def blocks_of(page: str) -> list[Block]:
    """Those of a page, in order; fails where one is not understood."""
    found = []
    for match in BLOCK.finditer(page):
        words = (match["shown"] or f"{match['hidden'] or ''}{match['name'] or ''}").split()
        language, name = [*words, "", ""][:2]
        mark = match["mark"] or ""
        line = page.count("\n", 0, match.start()) + 1 + (mark != "")
        found.append(
            Block(
                line,
                language,
                name,
                match["text"] or match["code"] or "",
                int(mark.split()[2]) if mark.startswith("<!-- status") else 0,
                not mark.startswith("<!-- not run"),
            )
        )
    understood = [text for match in BLOCK.finditer(page) for text in match[0].split("\n")]
    for text in page.split("\n"):
        assert text in understood or not ODD.search(text), f"not understood: {text}"
    return found


class Wrong(Exception):
    """What is wrong with a block."""


FAULTS = (
    Wrong,
    AssertionError,
    ConfigError,
    ValueError,
    SyntaxError,
    yaml.YAMLError,
    configparser.Error,
)


class Session:
    """One page's folder, server and interpreter, from its construction to `close()`."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self._server: subprocess.Popen[str] | None = None
        self._python: subprocess.Popen[str] | None = None
        self._redis: subprocess.Popen[bytes] | None = None
        self._redis_port = 0
        bin_folder = folder / ".bin"
        bin_folder.mkdir()
        places = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"
        for name, script in INSTEAD.items():
            real = shutil.which(name, path=places) or f"{name}: not found"
            (bin_folder / name).write_text(f"#!/bin/sh\nREAL='{real}'\n{script}\n")
            (bin_folder / name).chmod(0o755)
        self.env = environment(
            PATH=f"{bin_folder}:{places}",
            PAGE_PORT=str(port),
            XDG_RUNTIME_DIR=str(folder.parent),
            PYTHONPATH=str(ROOT),
            PIP_NO_INDEX="1",  # what a page installs is here already
            PIP_DISABLE_PIP_VERSION_CHECK="1",
            GUNICORN_CMD_ARGS=f"--bind 127.0.0.1:{port}",
            FLASK_RUN_PORT=str(port),
        )
        shutil.copy(ROOT / "config.yaml", folder)

    def do(self, block: Block) -> None:
        """Run or check a block; raises one of FAULTS."""
        text = block.text
        if block.language in ("sh", "python"):
            text = PORTS.sub(str(self.port), text)
        if block.language in ("sh", "python", "yaml", "redis") and REDIS_PORT.search(text):
            self._redis_port = self._redis_port or free_port()
            text = REDIS_PORT.sub(str(self._redis_port), text)
        if block.name:
            (self.folder / block.name).write_text(text)
        act = getattr(
            self, f"_{'do' if block.is_run else 'read'}_{block.language or 'sample'}", None
        )
        if act is None:
            raise Wrong(f"no test knows what to do with `{block.language}`")
        act(block._replace(text=text))

    def close(self) -> None:
        """End what the page has started; raises Wrong if something ended badly."""
        try:
            self._end_server()
        finally:
            if self._redis is not None:
                self._redis.kill()
                self._redis.wait()
        if self._python is not None:
            assert self._python.stdin is not None
            try:
                self._python.communicate(timeout=PATIENCE_S)
            finally:
                self._python.kill()
            said = (self.folder / ".python").read_text()
            if "Traceback" in said or "Warning" in said:
                raise Wrong(f"the interpreter said at its end:\n{said}")

    # sh

    def _do_sh(self, block: Block) -> None:
        if block.serves:
            self._serve(block)
            return
        script = f"[ ! -f .exports ] || . ./.exports\n{block.text}\nexport -p > .exports"
        try:
            done = subprocess.run(
                self._bash(script),
                cwd=self.folder,
                env=self.env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=BLOCK_S,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            raise Wrong(f"it did not end within {BLOCK_S} s") from late
        said = done.stdout + done.stderr
        if done.returncode != block.status:
            raise Wrong(f"it ended with status {done.returncode}:\n{said}")
        if "Traceback" in said:
            raise Wrong(said)

    def _bash(self, script: str) -> list[str]:
        return ["bash", "-e", "-u", "-o", "pipefail", "-c", script]

    def _serve(self, block: Block) -> None:
        """Start a server in place of the last one, and wait until it says where it listens."""
        self._end_server()
        script = f"[ ! -f .exports ] || . ./.exports\n{block.text}"
        self._server = subprocess.Popen(
            self._bash(script),
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert self._server.stdout is not None
        said = ""
        for line in self._server.stdout:
            said += line
            if f":{self.port}" in line:
                return
        raise Wrong(f"the server ended:\n{said}")

    def _end_server(self) -> None:
        """Stop it; raises Wrong if it complained."""
        server, self._server = self._server, None
        if server is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        try:
            said, _ = server.communicate(timeout=PATIENCE_S)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()
        if "Traceback" in said or death_in(said):
            raise Wrong(f"the server said:\n{said}")

    def _read_sh(self, block: Block) -> None:
        done = subprocess.run(
            ["bash", "-n"], input=block.text, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise Wrong(done.stderr)

    # python

    def _do_python(self, block: Block) -> None:
        if self._python is None:
            with (self.folder / ".python").open("w") as log:
                self._python = subprocess.Popen(
                    [sys.executable, "-W", "error", "-c", PYTHON],
                    cwd=self.folder,
                    env=self.env,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
        child = self._python
        assert child.stdin is not None
        assert child.stdout is not None
        source = "\n" * block.line + block.text  # so that a traceback has the page's lines
        child.stdin.write(json.dumps([block.name or "page", source]) + "\n")
        child.stdin.flush()
        if not select.select([child.stdout], [], [], BLOCK_S)[0]:
            child.kill()
            raise Wrong(f"it did not end within {BLOCK_S} s")
        if said := json.loads(child.stdout.readline() or '"the interpreter ended"'):
            raise Wrong(said + (self.folder / ".python").read_text())

    def _read_python(self, block: Block) -> None:
        ast.parse(block.text)

    # Files

    def _do_yaml(self, block: Block) -> None:
        text = SECRET_FILE.sub("file-0123456789abcdef", block.text)
        environ = {name: f"{name.lower()}-0123456789abcdef" for name in VARIABLE.findall(text)}
        file = self.folder / ".checked.yaml"  # beside those that it names
        file.write_text(text)
        config = load_config(file, environ=environ)
        problems = [*config.warnings, *config.listen_problems()]
        if complaints := [each for each in problems if not each.startswith("no client is")]:
            raise Wrong("\n".join(complaints))

    def _read_yaml(self, block: Block) -> None:
        yaml.safe_load(block.text)

    def _do_nginx(self, block: Block) -> None:
        if NGINX is None:
            if os.environ.get("CI") == "true":
                raise Wrong("nginx is not installed")
            return
        text = block.text
        if "server {" not in text:
            text = f"server {{\nlisten 80;\n{text}\n}}"
        with Nginx(re.sub(r"\blisten [^;]*;", "listen 127.0.0.1:{port};", text)):
            pass

    def _do_redis(self, block: Block) -> None:
        """Run it with this configuration, until the page ends."""
        assert REDIS is not None
        file = self.folder / ".redis.conf"
        file.write_text(block.text)
        with (self.folder / ".redis.log").open("w") as log:
            self._redis = subprocess.Popen(
                [REDIS, str(file)], cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )
        until = time.monotonic() + PATIENCE_S
        while self._redis.poll() is None and time.monotonic() < until:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self._redis_port)):
                return
        raise Wrong((self.folder / ".redis.log").read_text())

    def _do_ini(self, block: Block) -> None:
        configparser.ConfigParser(strict=False, interpolation=None).read_string(block.text)
        program = shutil.which("systemd-analyze")
        if program is None:
            return
        (self.folder / "poolproxy.service.d").mkdir(exist_ok=True)
        (self.folder / "poolproxy.service.d" / "page.conf").write_text(block.text)
        unit = (ROOT / "deploy" / "poolproxy.service").read_text()
        # The program need not be where the unit says.
        unit = re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", unit, flags=re.MULTILINE)
        (self.folder / "poolproxy.service").write_text(unit)
        done = subprocess.run(
            [program, "verify", "--man=no", "./poolproxy.service"],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=BLOCK_S,
            check=False,
        )
        if done.returncode or "poolproxy.service" in done.stderr:
            raise Wrong(done.stderr)

    def _do_json(self, block: Block) -> None:
        json.loads(block.text)

    def _do_toml(self, block: Block) -> None:
        if sys.version_info >= (3, 11):
            import tomllib

            tomllib.loads(block.text)

    def _do_sample(self, block: Block) -> None:
        """What a command prints."""


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all pages: their folders, and the control sockets."""
    return tmp_path_factory.mktemp("docs")


@pytest.fixture(scope="module")
def demo(runtime: Path) -> Iterator[Gateway]:
    """What runs for the pages that start nothing."""
    env = {"PORT": "0", "XDG_RUNTIME_DIR": str(runtime)}
    with Gateway(ROOT / "config.yaml", env=env) as running:
        yield running


def problems_of(text: str, folder: Path, port: int) -> list[str]:
    """Line and fault of each block of a page that is wrong."""
    folder.mkdir()
    problems = []
    with closing(Session(folder, port)) as session:
        for block in blocks_of(text):
            try:
                session.do(block)
            except FAULTS as fault:
                problems.append(f"{block.line}: {fault}")
    return problems


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.stem, marks=pytest.mark.long if page.stem in LONG else ())
        for page in PAGES
    ],
)
def test_snippets(page: Path, runtime: Path, request: pytest.FixtureRequest) -> None:
    """See the top of this file."""
    text = page.read_text()
    if any(block.language == "redis" for block in blocks_of(text)):
        require_redis()
    runs = [block for block in blocks_of(text) if block.language in ("sh", "python")]
    if not runs or any(block.serves for block in runs):
        port = free_port()
    else:
        port = request.getfixturevalue("demo").port
    name = page.relative_to(ROOT)
    problems = [f"{name}:{each}" for each in problems_of(text, runtime / page.stem, port)]
    assert not problems, "\n\n".join(problems)


def test_few_are_not_run() -> None:
    """A page that nobody runs is soon wrong."""
    found = [block for page in PAGES for block in blocks_of(page.read_text()) if not block.is_run]
    assert len(found) <= MOST_NOT_RUN


FIRST_STEPS = """
```yaml llm.yaml
demo: [{name: d, delay-ms: 0, models: [m]}]
```

```sh
export NAME=m
```

```sh
poolproxy serve llm.yaml
```

```sh
curl "http://127.0.0.1:8317/v1/models/$NAME"
poolproxy status
```

<!-- status 22 -->
```sh
curl http://127.0.0.1:8317/v1/models/demo
```

```python llm.py
from urllib.request import urlopen

def models():
    return urlopen("http://127.0.0.1:8317/v1/models").read()
```

<!-- python
import llm
assert b'"m"' in llm.models()
assert b'"m"' in models()
-->

<!-- not run: for the sake of it -->
```sh
false
```

```nginx
location / { proxy_pass http://127.0.0.1:8317; }
```

```ini
[Service]
LimitNOFILE=70000
```

```
a sample
```
"""


@pytest.mark.long
def test_page_is_a_session(runtime: Path) -> None:
    """Each kind of block does what the top of this file says."""
    assert problems_of(FIRST_STEPS, runtime / "session", free_port()) == []


@pytest.mark.long
@pytest.mark.parametrize(
    ("language", "text", "said"),
    [
        ("sh", "true\nfalse\ntrue", "status 1"),
        ("sh", "echo $UNKNOWN", "unbound variable"),
        ("sh", "poolproxy serve nothing.yaml", "nothing.yaml"),
        ("python", "first = 1\n1 / 0", "line 3, in <module>"),
        ("python", "import warnings\nwarnings.warn('old')", "UserWarning: old"),
        ("yaml", "hosts: 127.0.0.1", "did you mean"),
        ("yaml", "host: 0.0.0.0", "without api-keys"),
        ("nginx", "proxy_past http://127.0.0.1;", "proxy_past"),
        ("ini", "[Service]\nTypo=yes", "Typo"),
        ("json", "{", "Expecting"),
        ("cobol", "STOP RUN.", "no test knows"),
    ],
)
def test_wrong_snippet_is_noticed(tmp_path: Path, language: str, text: str, said: str) -> None:
    """With its line and its fault."""
    page = f"```{language}\n{text}\n```\n"
    (problem,) = problems_of(page, tmp_path / "page", free_port())
    assert problem.startswith("1: ")
    assert said in problem


@pytest.mark.long
@pytest.mark.parametrize(
    "page",
    [
        "```sh\ntrue\n",
        "- a list\n  ```sh\n  true\n  ```\n",
        "<!-- ruby\n-->",
        "<!-- status 1 -->\n",
    ],
)
def test_snippet_that_is_not_found_is_noticed(page: str) -> None:
    """Rather than left out."""
    with pytest.raises(AssertionError, match="not understood"):
        blocks_of(page)
