"""docs/ARCHITECTURE.md against the code: paths, names, rooms, layers, the way of a request."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.gateway import ROOT, environment

PAGE = ROOT / "docs" / "ARCHITECTURE.md"
TEXT = PAGE.read_text()
PACKAGE = ROOT / "proxy"
QUOTED = set(re.findall(r"`([^`\n]+)`", TEXT))
PATHS = {text for text in QUOTED if re.fullmatch(r"[\w.-]+/[\w./-]*|\w+\.(py|md|cfg|yaml)", text)}
NAMES = {text for text in QUOTED - PATHS if re.fullmatch(r"[A-Za-z_][\w.]*", text)}


def test_every_path_is_there() -> None:
    """Of files and folders; those of the program without `proxy/`."""
    assert len(PATHS) > 40
    assert [each for each in PATHS if not any((at / each).exists() for at in (ROOT, PACKAGE))] == []


def test_every_name_is_there() -> None:
    """Of rooms, classes, functions and attributes: each part is a word of the program's."""
    assert len(NAMES) > 40
    modules = list(PACKAGE.rglob("*.py"))
    words = {word for path in modules for word in re.findall(r"\w+", path.read_text())}
    words |= {path.stem for path in modules} | {path.parent.name for path in modules}
    assert [name for name in NAMES if not words.issuperset(name.split("."))] == []


def test_rooms_are_those_of_the_layers() -> None:
    """All that lies in the package, in an order in which imports point down."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["importlinter:contract:layers"]["layers"].split("\n")
    layers = {
        room: at for at, line in enumerate(lines) for room in re.split(r"[\s:|]+", line) if room
    }
    rooms = re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)
    assert sorted(rooms) == sorted(layers)
    assert rooms == sorted(rooms, key=lambda room: layers[room])
    found = {path.stem for path in PACKAGE.glob("*.py")}
    found |= {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert set(rooms) == found - {"__init__"}


def test_diagram_of_states_is_the_pools_own() -> None:
    """Line by line."""
    (diagram,) = re.findall(r"^```\n(READY .*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    docstring = "".join(f"    {line}\n" for line in diagram.splitlines())
    assert any(docstring in path.read_text() for path in (PACKAGE / "pool").glob("*.py"))


def test_every_lock_is_named() -> None:
    """In the section on locks: each module that makes one."""
    (section,) = re.findall(r"^## Locks\n(.*?)^## ", TEXT, re.MULTILINE | re.DOTALL)
    named = {path for path in PATHS if f"`{path}`" in section and (PACKAGE / path).exists()}
    making = [path for path in PACKAGE.rglob("*.py") if "threading.Lock()" in path.read_text()]
    assert named == {str(path.relative_to(PACKAGE)) for path in making}


def test_modules_of_a_request_are_those_that_it_enters(tmp_path: Path) -> None:
    """If they are not, `make map` renews the list."""
    copy = shutil.copy(PAGE, tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "bench.map", str(copy)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert Path(copy).read_text() == TEXT
