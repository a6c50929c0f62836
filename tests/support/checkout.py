"""What a clone of the repository would have."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.gateway import ROOT


def files() -> list[str]:
    """Their names; skips the test where there is no git checkout."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not in a git checkout")
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def clone(target: Path) -> Path:
    """Copy them into this folder, which is returned: no virtual environment, no caches."""
    for name in files():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name)
    return target
