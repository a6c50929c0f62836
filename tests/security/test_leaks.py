"""The check that every test goes through (`tests.conftest`) finds what it is there for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from proxy.config import Secret
from tests.support.leaks import key_in

ROOT = Path(__file__).parents[2]
KEYS = ["sk-0123456789", "sk-or-v1-0123456789b780", "AIzaSyA0123456789", "gsk_0123456789ab"]


@pytest.mark.parametrize("key", KEYS)
def test_key_is_found_and_its_mask_is_not(key: str) -> None:
    """In the midst of other text."""
    assert key_in(f"a Bearer {key}, b") == f"a Bearer {key}"
    for text in (str(Secret(key)), "task-0123456789", "sk-short"):
        assert key_in(f"p/{text} b") is None


@pytest.mark.long
def test_test_that_shows_a_key_fails(tmp_path: Path) -> None:
    """Printed or logged, whatever else it proves."""
    code = "import logging, sys\n"
    for number, how in enumerate(["print", "sys.stderr.write", "logging.warning"]):
        code += f"def test_{number}():\n    {how}('k=' + {KEYS[0]!r})\n"
    (tmp_path / "test_it.py").write_text(code)
    plugin = ["-p", "tests.conftest", "-c", str(ROOT / "setup.cfg"), "--rootdir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugin, str(tmp_path / "test_it.py")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    assert "\n3 failed, " in done.stdout
    assert "a key is shown" in done.stdout
