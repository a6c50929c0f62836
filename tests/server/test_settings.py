"""gunicorn's settings: all that ours say, and who else has a say."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

import pytest

from proxy.config import load_config
from proxy.errors import ConfigError
from proxy.server import addresses
from proxy.server import settings as module
from proxy.server.hooks import EXIT_CONFIG, Hooks
from proxy.server.settings import load_or_exit, settings

DEMO = {"demo": [{"name": "demo"}]}


@pytest.fixture(autouse=True)
def bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is, yet."""
    monkeypatch.setattr(addresses, "_bound", [])


def of(**keys: Any) -> dict[str, Any]:
    return settings(load_config({**DEMO, **keys}, environ={}))


def limit_files(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (count // 2, count))


def test_all_that_differs_from_gunicorns_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Word for word: gunicorn takes no notice of a name that it does not know."""
    limit_files(monkeypatch, resource.RLIM_INFINITY)
    found = of(port=8399, host="127.0.0.1", **{"trusted-proxies": ["10.0.0.1", "::1"]})
    hooks = {name for name in vars(Hooks) if not name.startswith("_")}
    assert {name: value for name, value in found.items() if name not in hooks} == {
        "wsgi_app": "proxy.server.settings:application()",
        "bind": "127.0.0.1:8399",
        "worker_class": "proxy.worker.Worker",
        "threads": 1024 + 32,
        "worker_connections": 1024 + 32 + 4096,
        "keepalive": 75,
        "graceful_timeout": 120,
        "forwarded_allow_ips": "10.0.0.1,::1",
        "forwarder_headers": "",
        "http_parser": "python",
        "loglevel": "warning",
        "control_socket_disable": True,
        "proc_name": "poolproxy",
    }
    assert hooks <= found.keys()
    assert of(debug=True)["loglevel"] == "debug"


@pytest.mark.parametrize(("host", "bind"), [("", "0.0.0.0:1"), ("::1", "[::1]:1")])
def test_address_is_as_gunicorn_writes_it(host: str, bind: str) -> None:
    """Brackets for IPv6, and "" is everywhere."""
    assert of(host=host, port=1)["bind"] == bind


@pytest.mark.parametrize(
    ("files", "connections"),
    [
        (resource.RLIM_INFINITY, 42 + 4096),
        (42 + 4096 + 42 + 64, 42 + 4096),
        (42 + 4096 + 42 + 63, 42 + 4095),
        (64, 43),
    ],
)
def test_connections_leave_files_for_upstreams(
    monkeypatch: pytest.MonkeyPatch, files: int, connections: int
) -> None:
    """One for each thread, and some; but always more than threads, or none is kept alive."""
    limit_files(monkeypatch, files)
    assert of(**{"max-requests-in-flight": 10})["worker_connections"] == connections


def test_process_may_open_all_files_that_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """The soft limit is for programs that use `select`."""
    asked: list[object] = []
    limit_files(monkeypatch, 5000)
    monkeypatch.setattr(resource, "setrlimit", lambda *given: asked.append(given))
    monkeypatch.setattr(module, "set_up_logs", lambda **given: asked.append(given))
    module.set_up_process(load_config({**DEMO, "log-format": "json", "debug": True}))
    module.set_up_process(load_config(DEMO))
    files = (resource.RLIMIT_NOFILE, (5000, 5000))
    assert asked == [
        {"debug": True, "as_json": True},
        files,
        {"debug": False, "as_json": False},
        files,
    ]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration of a server; nothing is served yet."""
    path = tmp_path / "config.yaml"
    path.write_text("host: 127.0.0.1\ndemo: [{name: demo}]\n")
    monkeypatch.setenv("PROXY_CONFIG", str(path))
    monkeypatch.setattr(module, "SERVED", [])
    return path


def test_gunicorns_reload_keeps_what_can_be_served(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Only at a start is a wrong configuration the end."""
    first = load_or_exit()
    assert first.path == str(file)
    assert load_or_exit() is not first
    served = load_or_exit()
    file.write_text("hosts: x")
    assert load_or_exit() is served
    assert "the configuration stays as it was" in caplog.text


def test_start_with_a_wrong_configuration_tells_all_that_is_wrong(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line each, on standard error."""
    file.write_text("hosts: x\nportx: 1\n")
    with pytest.raises(SystemExit) as raised:
        load_or_exit()
    assert raised.value.code == EXIT_CONFIG
    said = capsys.readouterr()
    assert said.out == ""
    assert [("hosts" in line, "portx" in line) for line in said.err.splitlines()] in (
        [(True, False), (False, True)],
        [(False, True), (True, False)],
    )


def test_whose_word_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours, over them $GUNICORN_CMD_ARGS, over both the command line's number of workers."""
    monkeypatch.setattr(module, "SERVED", [])
    monkeypatch.setattr(module, "set_up_process", lambda _: None)
    monkeypatch.setattr(module._Server, "run", lambda server: found.append(server.cfg))
    monkeypatch.setattr(sys, "argv", ["-m"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "proxy", "serve"])
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--workers 2 --keep-alive 7 --bind 127.0.0.1:2")
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)
    found: list[Any] = []
    for workers in (None, 3):
        module.run(lambda _: load_config({**DEMO, "port": 1}), workers=workers)
    assert [cfg.workers for cfg in found] == [2, 3]
    for cfg in found:
        assert (cfg.keepalive, cfg.bind, cfg.graceful_timeout) == (7, ["127.0.0.1:2"], 120)
    assert sys.argv == ["-m", "proxy", "serve"]


def test_server_is_held_to_the_address_that_it_has(file: Path) -> None:
    """What a file says of it later waits for a restart."""
    load_or_exit()
    file.write_text("host: 127.0.0.1\nport: 9\ndemo: [{name: demo}]\n")
    config = load_or_exit()
    assert config.port == 8317
    assert any("needs a restart" in warning for warning in config.warnings)
    with pytest.raises(ConfigError):
        module._serve(lambda _: load_config({**DEMO, "host": "192.0.2.1"}))
