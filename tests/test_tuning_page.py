"""docs/tuning.md against the configuration's schema."""

from __future__ import annotations

import msgspec

from proxy.config.schema import File
from tests.support.gateway import ROOT
from tests.support.key_tables import rows, sections
from tests.support.pages import table

PAGE = (ROOT / "docs" / "tuning.md").read_text()


def test_settings_to_tune_are_keys_of_the_file() -> None:
    """With their defaults; a key that several kinds of entries have has that of one of them."""
    defaults: dict[str, set[str]] = {}
    all_sections: list[type[msgspec.Struct]] = [File, *sections(File)]
    for section in all_sections:
        for name, cells in rows(section):
            defaults.setdefault(name, set()).add(cells.split("|")[0].strip(" `"))
    listed = table(PAGE, "| key | default | |")
    assert len(listed) > 10
    for name, default, _ in listed:
        assert default in defaults[name.strip("`")], name
