"""`constraints.txt`, the tested versions of all dependencies, against what `setup.cfg` asks for."""

from __future__ import annotations

import re
from configparser import ConfigParser

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.gateway import ROOT

PYTHONS = ["3.10", "3.11", "3.12", "3.13"]


def requirements(text: str) -> list[Requirement]:
    """One a line; comments are left out."""
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    return [Requirement(line) for line in lines if line]


PROJECT = ConfigParser()
PROJECT.read(ROOT / "setup.cfg")
ASKED = [
    *requirements(PROJECT["options"]["install_requires"]),
    *requirements(PROJECT["options.extras_require"]["test"]),
]
PINS = requirements((ROOT / "constraints.txt").read_text())


def test_every_supported_python_is_looked_at() -> None:
    """Those of the classifiers."""
    named = re.findall(r"Python :: (3\.\d+)$", PROJECT["metadata"]["classifiers"], re.MULTILINE)
    assert named == PYTHONS


@pytest.mark.parametrize("python", PYTHONS)
def test_every_requirement_has_a_tested_version(python: str) -> None:
    """One for each Python, in the range that `setup.cfg` gives."""
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    pins = [pin for pin in PINS if not pin.marker or pin.marker.evaluate(environment)]
    versions = {canonicalize_name(pin.name): str(pin.specifier) for pin in pins}
    assert len(versions) == len(pins)
    for asked in ASKED:
        version = versions[canonicalize_name(asked.name)].removeprefix("==")
        assert asked.specifier.contains(version), asked
