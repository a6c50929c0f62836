"""Where a server listens, and what of a new configuration it can take without a restart."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.config import load_config
from proxy.errors import ConfigError
from proxy.server import addresses
from proxy.server.addresses import EXIT_BUSY, check_addresses, in_force, note_bound

DEMO = {"demo": [{"name": "demo"}], "host": "127.0.0.1"}


def config(**keys: Any) -> Any:
    given = {name.replace("_", "-"): value for name, value in keys.items()}
    return load_config({**DEMO, **given}, environ={})


@pytest.fixture(autouse=True)
def bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is, yet."""
    monkeypatch.setattr(addresses, "_bound", [])


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path leaves room for a socket's name."""
    with tempfile.TemporaryDirectory(prefix="pp-") as folder:
        yield Path(folder)


RESTART = "needs a restart, or SIGUSR2"


@pytest.mark.parametrize(
    ("before", "after", "kept", "told"),
    [
        ({}, {"port": 1}, {"port": 8317}, f"port 8317 -> 1: {RESTART}"),
        ({}, {"host": "::1"}, {"host": "127.0.0.1"}, f"host 127.0.0.1 -> ::1: {RESTART}"),
        (
            {"port": 1, "control_dir": "/a"},
            {"port": 2, "control_dir": "/b"},
            {"port": 1, "control_dir": "/a"},
            f"port 1 -> 2, control-dir /a -> /b: {RESTART}",
        ),
        (
            {"max_requests_in_flight": 5},
            {"max_requests_in_flight": 6},
            {"max_requests_in_flight": 5},
            f"max-requests-in-flight 5 -> 6: {RESTART}",
        ),
        (
            {"max_requests_in_flight": 5},
            {"max_requests_in_flight": 4},
            {"max_requests_in_flight": 4},
            "",
        ),
        (
            {"status_page": False},
            {"status_page": True},
            {"status_page": False},
            f"status-page False -> True: {RESTART}",
        ),
        ({"status_page": True}, {"status_page": False}, {"status_page": False}, ""),
        ({}, {"idle_timeout": 7}, {"idle_timeout_s": 7}, ""),
    ],
)
def test_what_a_server_cannot_change_while_it_runs(
    before: dict[str, Any], after: dict[str, Any], kept: dict[str, Any], told: str
) -> None:
    """It stays as it is, and a warning says so; all else is as the new file has it."""
    found = in_force(config(**before), config(**after))
    assert {name: getattr(found, name) for name in kept} == kept
    assert "".join(found.warnings) == told


def test_server_that_others_reach_needs_its_keys() -> None:
    """Also where it listens there by another word than the file's."""
    key = {"api_keys": ["caller-key-000001"]}
    assert note_bound([("192.0.2.1", 1), "/a/socket"]) == ["192.0.2.1"]
    in_force(config(**key), config(**key))
    with pytest.raises(ConfigError):
        in_force(config(**key), config())
    note_bound([("127.0.0.1", 1)])
    in_force(config(**key), config())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("is_shared", [False, True])
def test_port_that_is_taken(capsys: pytest.CaptureFixture[str], host: str, is_shared: bool) -> None:
    """Unless both are to share it (SO_REUSEPORT)."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, is_shared)
        other.bind((host, 0))
        other.listen()
        address = other.getsockname()[:2]
        if is_shared:
            check_addresses([address], shared=True)
        with pytest.raises(SystemExit) as raised:
            check_addresses([3, address])  # 3: a descriptor, which is open already
    assert raised.value.code == EXIT_BUSY
    said = f"poolproxy: port {address[1]} is in use: set another `port`, or stop what listens there"
    assert capsys.readouterr() == ("", f"{said}\n")


def test_port_whose_connections_have_only_just_ended_is_free() -> None:
    """The kernel remembers them for a minute (TIME_WAIT)."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        with socket.create_connection(address) as peer:
            server.accept()[0].close()
            assert peer.recv(1) == b""
    check_addresses([address])


def test_address_that_is_not_this_machines(capsys: pytest.CaptureFixture[str]) -> None:
    """In the system's words."""
    with pytest.raises(SystemExit):
        check_addresses([("192.0.2.1", 80)])
    said = "poolproxy: cannot listen on 192.0.2.1:80: Cannot assign requested address\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("", ""),
        ("file", "cannot listen on unix:{}: it is there, and no socket"),
        ("left", ""),
        ("listener", "unix:{} is in use: bind another, or stop what listens there"),
        ("datagrams", "cannot listen on unix:{}: Protocol wrong type for socket"),
    ],
)
def test_unix_socket_that_is_there_already(
    short: Path, capsys: pytest.CaptureFixture[str], kind: str, said: str
) -> None:
    """One that a crash has left is nobody's; anything else is not replaced."""
    path = short / "s"
    with socket.socket(
        socket.AF_UNIX, socket.SOCK_DGRAM if kind == "datagrams" else socket.SOCK_STREAM
    ) as other:
        if kind == "file":
            path.touch()
        elif kind:
            other.bind(str(path))
        if kind == "listener":
            other.listen()
        if kind == "left":
            other.close()
        if not said:
            check_addresses([str(path)])
            return
        with pytest.raises(SystemExit):
            check_addresses([str(path)])
    assert capsys.readouterr().err == f"poolproxy: {said.format(path)}\n"
