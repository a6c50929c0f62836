"""Another module of the name `proxy` hides the package: the command says so, in one line."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.gateway import ROOT, environment

# What PyPI's proxy.py has there, as far as the command would notice.
OTHER = "__all__ = ['entry_point', 'main', 'Proxy']\n"


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    """The command, with the modules in `folder` before all others."""
    return subprocess.run(
        [sys.executable, "-m", "poolproxy", "check", "--help"],
        cwd=folder,
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def check_told(done: subprocess.CompletedProcess[str], hidden_by: Path | str) -> None:
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"poolproxy: `import proxy` finds {hidden_by}, which is not Poolproxy: ")


@pytest.mark.long
def test_package_that_is_not_hidden_serves(tmp_path: Path) -> None:
    """Also where a link leads to it."""
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--probe" in done.stdout
    for name in ("poolproxy.py", "proxy"):
        (tmp_path / name).symlink_to(ROOT / name)
    assert run(tmp_path).returncode == 0


@pytest.mark.parametrize("name", ["proxy.py", "proxy/__init__.py"])
def test_module_of_the_application_hides_it(tmp_path: Path, name: str) -> None:
    """It is named, and not run: it may be a script."""
    module = tmp_path / name
    module.parent.mkdir(exist_ok=True)
    module.write_text("raise SystemExit('it ran')\n")
    check_told(run(tmp_path), module)


def test_files_of_another_package_in_the_same_folder(tmp_path: Path) -> None:
    """As pip leaves it when PyPI's proxy.py is installed after us."""
    shutil.copy(ROOT / "poolproxy.py", tmp_path)
    (tmp_path / "proxy").mkdir()
    (tmp_path / "proxy" / "__init__.py").write_text(OTHER)
    check_told(run(tmp_path), tmp_path / "proxy" / "__init__.py")
