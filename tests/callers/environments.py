"""Programs that call us, each installed into a place of its own, outside the project's environment.

A place is made at first need under `$XDG_CACHE_HOME/poolproxy-tests` and kept; its name holds the
pinned versions. On a user's machine a test is skipped where one cannot be had; under `CI=true` it
fails.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "poolproxy-tests"


class Package(NamedTuple):
    """A caller to install: by pip from wheels, with what is pinned `beside` it, or by npm."""

    name: str
    version: str
    by_npm: bool = False
    beside: tuple[str, ...] = ()

    @property
    def home(self) -> Path:
        python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        name = "-".join([self.name.replace("/", "+"), self.version, *self.beside])
        return CACHE / f"{name}-{'node' if self.by_npm else python}"

    def commands(self) -> list[list[str]]:
        """What fills the empty `home`."""
        if self.by_npm:
            install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", "."]
            return [[*install, f"{self.name}@{self.version}"]]
        pip = ["bin/python", "-m", "pip", "install", "--quiet", "--no-compile"]
        return [
            [sys.executable, "-m", "venv", "."],
            [*pip, "--only-binary=:all:", f"{self.name}=={self.version}", *self.beside],
        ]


LANGCHAIN = Package("langchain-openai", "1.7.0")
# Of litellm, 1.82.7 and 1.82.8 were compromised, and the 1.107 line was withdrawn.
LITELLM = Package("litellm", "1.100.5")
LLM = Package("llm", "0.36")
NODE = Package("openai", "7.57.0", by_npm=True)
ANTHROPIC_NODE = Package("@anthropic-ai/sdk", "1.14.0", by_npm=True)
CLAUDE_CODE = Package("@anthropic-ai/claude-code", "2.1.332", by_npm=True)
AXE = Package("axe-core", "4.14.1", by_npm=True)


def installed(package: Package) -> Path:
    """Where the package is; installs it at first need, whoever else wants it at the same time."""
    home = package.home
    interpreter = "." if package.by_npm else "bin/python"  # a venv's is a link: it may be gone
    CACHE.mkdir(parents=True, exist_ok=True)
    with home.with_name(f"{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ((home / ".installed").exists() and (home / interpreter).exists()):
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir()
            for command in package.commands():
                _run(command, home)
            (home / ".installed").touch()
    return home


def _run(command: list[str], cwd: Path) -> None:
    try:
        found = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=400, check=False
        )
        problem = found.stderr if found.returncode else ""
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    if not problem:
        return
    reason = f"{' '.join(command)}: {problem.strip()[-500:]}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
