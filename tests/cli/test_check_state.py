"""`poolproxy check` and the shared state: whether it can be had, and what is wrong with it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from proxy.cli import main
from proxy.cli.terminal import Exit
from proxy.config import load_config
from proxy.pool.shared.connection import survey, unfit
from tests.support.redis import RedisServer, require_redis
from tests.support.server import free_port

require_redis()

PASSWORD = "pass-word-0123456789"


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """One with a password."""
    with RedisServer("--requirepass", PASSWORD) as running:
        yield running


def checked(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The status, and what is printed of the state."""
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({"state": url, "demo": [{"name": "demo"}]}))
    status = main(["check", str(path)])
    said = capsys.readouterr().out
    assert PASSWORD not in said
    (line,) = re.findall(r"^state\n  (.*)$", said, re.MULTILINE)
    return status, line


def test_a_state_that_can_be_had(
    redis: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By TCP and by its socket; the URL is shown without its password."""
    at = f"127.0.0.1:{redis.port}/0"
    status, line = checked(f"redis://:{PASSWORD}@{at}", tmp_path, capsys)
    assert (status, line) == (Exit.OK, f"redis://{at} (0 other processes)")
    unix = f"unix://:{PASSWORD}@{redis.socket}?db=1"
    assert checked(unix, tmp_path, capsys) == (
        Exit.OK,
        f"unix://{redis.socket} (0 other processes)",
    )


def test_a_state_that_cannot_be_had(
    redis: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong password, nobody who listens, a server that forgets at will."""
    status, line = checked(f"redis://:wrong@127.0.0.1:{redis.port}", tmp_path, capsys)
    assert status == Exit.FAILED
    assert "failed: " in line
    assert "password" in line
    status, line = checked(f"redis://127.0.0.1:{free_port()}", tmp_path, capsys)
    assert status == Exit.FAILED
    assert "refused" in line
    with Redis(unix_socket_path=redis.socket, password=PASSWORD) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        status, line = checked(f"redis://:{PASSWORD}@127.0.0.1:{redis.port}", tmp_path, capsys)
        client.config_set("maxmemory-policy", "noeviction")
    assert status == Exit.FAILED
    assert "allkeys-lru" in line


@pytest.mark.parametrize(
    ("info", "why"),
    [
        ({"redis_version": "7.2.4", "maxmemory_policy": "noeviction", "role": "master"}, ""),
        ({"redis_version": "7.0.0", "maxmemory_policy": "volatile-lru"}, ""),
        ({"redis_version": "6.2.16"}, "7.0"),
        ({"redis_version": "7.0.15", "maxmemory_policy": "allkeys-lfu"}, "noeviction"),
        ({"redis_version": "7.0.15", "role": "slave"}, "replica"),
        ({"redis_version": "7.0.15", "arch_bits": "32"}, "32 bits"),
    ],
)
def test_a_server_that_will_not_do_is_told(info: dict[str, str], why: str) -> None:
    """By what it says of itself."""
    assert why in unfit(info)
    assert bool(why) == bool(unfit(info))


def test_a_url_is_shown_without_what_is_secret_in_it() -> None:
    """Nor does anything else show it."""
    config = load_config({"state": f"rediss://u:{PASSWORD}@h.test:6380/2?ssl_cert_reqs=none"})
    assert config.state is not None
    said, fault = survey(config.state)
    assert said.startswith("rediss://h.test:6380/2: ")
    assert fault
    assert PASSWORD not in repr(config.state)
    assert config.secrets.mask(f"it said {PASSWORD}") == "it said pas...6789"


def test_what_is_missing_for_a_state_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a mistake in the configuration, without a traceback."""
    monkeypatch.setitem(sys.modules, "redis", None)
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({"state": "redis://h.test", "demo": [{"name": "demo"}]}))
    assert main(["check", str(path)]) == Exit.CONFIG
    assert "pip install 'poolproxy[redis]'" in capsys.readouterr().err
