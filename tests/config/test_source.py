"""What a configuration is read from, and when that is no longer what was read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.config import Config, ConfigSource, Seen, load_config
from proxy.errors import ConfigError

DEMO = "demo: [{name: demo}]\n"


def reader(path: Path) -> Callable[[Seen], Config]:
    return lambda seen: load_config(path, environ={}, seen=seen)


def source_of(path: Path, text: str = DEMO) -> ConfigSource:
    path.write_text(text)
    return ConfigSource(reader(path))


def test_what_is_as_it_was_read_has_not_changed(tmp_path: Path) -> None:
    """However often it is looked at, and when it is made of a mapping or given whole."""
    source = source_of(tmp_path / "config.yaml")
    assert not source.has_changed()
    assert not source.has_changed()
    whole = ConfigSource.of(source.config)
    assert not whole.has_changed()
    assert whole.read() is source.config


def rewrite(path: Path) -> None:
    path.write_text(f"{DEMO}# more\n")


def replace(path: Path) -> None:
    """By another file of the same age and size, as `mv` does."""
    before = path.stat()
    other = path.with_suffix(".new")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)


def touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("change", [rewrite, replace, touch, remove])
def test_a_change_is_seen_until_it_is_read(tmp_path: Path, change: Callable[[Path], None]) -> None:
    """Whatever tells the file from what it was: device, inode, time, size, or that it is gone."""
    path = tmp_path / "config.yaml"
    source = source_of(path)
    change(path)
    assert source.has_changed()
    assert source.has_changed()
    if path.exists():
        source.read()
    else:
        with pytest.raises(ConfigError, match="cannot be read"):
            source.read()
    assert not source.has_changed()


def test_a_folder_that_is_swapped_behind_a_link_is_a_change(tmp_path: Path) -> None:
    """As Kubernetes does: config.yaml -> ..data/config.yaml, and ..data -> a folder."""
    for name, text in (("one", DEMO), ("two", DEMO)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(text)
        os.utime(tmp_path / name / "config.yaml", ns=(1, 1))
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "config.yaml").symlink_to("..data/config.yaml")
    source = ConfigSource(reader(tmp_path / "config.yaml"))
    (tmp_path / "..data_tmp").symlink_to("two")
    (tmp_path / "..data_tmp").replace(tmp_path / "..data")
    assert source.has_changed()
    source.read()
    assert not source.has_changed()


def test_what_is_still_being_written_has_not_changed_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked at twice, and has to be the same."""
    path = tmp_path / "config.yaml"
    source = source_of(path)
    rewrite(path)
    with monkeypatch.context() as busy:
        busy.setattr("proxy.config.source.time.sleep", lambda _: touch(path))
        assert not source.has_changed()
    assert source.has_changed()


def test_files_that_it_names_count(tmp_path: Path) -> None:
    """A CA bundle, also one that is missing yet: when it comes, the file may be right."""
    path, bundle = tmp_path / "config.yaml", tmp_path / "ca.pem"
    bundle.write_text("")
    text = "openai-compatibility: [{name: p, base-url: 'https://p.test', ca-bundle: %s.pem}]\n"
    source = source_of(path, text % "ca")
    bundle.write_text("new")
    assert source.has_changed()
    source.read()
    path.write_text(text % "later")
    with pytest.raises(ConfigError, match="ca-bundle: no readable file"):
        source.read()
    assert not source.has_changed()
    (tmp_path / "later.pem").write_text("")
    assert source.has_changed()
    source.read()
    assert not source.problems


def test_a_change_while_it_is_read_is_not_lost(tmp_path: Path) -> None:
    """Files are looked at before they are read."""
    path = tmp_path / "config.yaml"
    path.write_text(DEMO)

    def read(seen: Seen) -> Config:
        config = load_config(path, environ={}, seen=seen)
        path.write_text(f"{DEMO}debug: true\n")
        return config

    source = ConfigSource(read)
    assert source.has_changed()


def test_what_is_wrong_changes_nothing_and_is_known_until_it_is_mended(tmp_path: Path) -> None:
    """All its problems, and the last good configuration."""
    path = tmp_path / "config.yaml"
    source = source_of(path)
    good = source.config
    path.write_text("demo: 3\nport: high\n")
    with pytest.raises(ConfigError) as raised:
        source.read()
    assert source.problems == raised.value.problems
    assert len(source.problems) == 2
    assert source.config is good
    path.write_text(f"{DEMO}debug: true\n")
    assert source.read() is source.config
    assert source.config.debug
    assert not source.problems


def test_what_is_wrong_at_first_is_raised(tmp_path: Path) -> None:
    """There is nothing to go on with."""
    with pytest.raises(ConfigError):
        source_of(tmp_path / "config.yaml", "[")
    with pytest.raises(ConfigError):
        ConfigSource(reader(tmp_path / "none.yaml"))
