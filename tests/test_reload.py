"""Reading the configuration again: by itself, when asked to, and what becomes of what is wrong."""

from __future__ import annotations

import gc
import json
import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Callable
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import Client as Caller

from proxy import Proxy
from proxy.config import SETTLE_S
from proxy.errors import ConfigError
from proxy.net.helpers import Task
from proxy.net.watch import CallerConnection
from proxy.reload import LOOK_S, _threads
from tests.support.commandline import wait_for
from tests.support.gateway import asked

# A change is in force within 2 s; a loaded machine may be slow.
IN_FORCE_S = 2.0
CHAT = "/v1/chat/completions"


def config_of(*models: str, **more: Any) -> str:
    return json.dumps({"demo": [{"delay-ms": 0, "models": list(models)}], **more})


class Host:
    """An application with the gateway in it, and its file."""

    def __init__(self, folder: Path, *, auto_reload: bool = False) -> None:
        self.path = folder / "config.yaml"
        self.path.write_text(config_of("one"))
        self.proxy = Proxy(self.path, auto_reload=auto_reload)
        self.app = Flask(__name__)
        self.proxy.init_app(self.app)
        self.caller = Caller(self.app)

    def status(self, model: str) -> int:
        return self.caller.post(CHAT, json=asked(model)).status_code


@pytest.fixture(autouse=True)
def others_have_looked() -> None:
    """The process has one thread that reads: what earlier tests made it look at is done with."""
    last = _threads.start(Task(lambda: None))
    last.wait(math.inf, CallerConnection(None))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def watching(tmp_path: Path) -> Host:
    return Host(tmp_path, auto_reload=True)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged of the configuration, from warnings on or of successes."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "proxy.config" and record.levelno >= logging.INFO
    ]


def test_reload_brings_the_file_into_force(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """Before it returns; what changed is returned, and logged in one line."""
    host.path.write_text(config_of("two", **{"queue-timeout": 10}))
    assert host.status("two") == 404
    with caplog.at_level(logging.INFO, "proxy.config"):
        told = host.proxy.reload()
    assert told == "1 client changed, queue-timeout 30 -> 10"
    assert said(caplog) == [f"configuration read again: {told}"]
    assert (host.status("one"), host.status("two")) == (404, 200)
    assert host.proxy.config.queue_timeout_s == 10
    assert host.proxy.reload() == "nothing changed"


@pytest.mark.parametrize("model", ["one", "two"])
def test_what_a_reload_replaces_goes_at_once(host: Host, model: str) -> None:
    """Not when the collector comes by: what is served meanwhile would lie around its holes."""
    assert host.status("one") == 200
    generation = host.proxy.gateway_of(host.app).generation
    registry, client = weakref.ref(generation.registry), weakref.ref(generation.clients[0])
    del generation
    host.path.write_text(config_of(model))
    gc.disable()
    try:
        host.proxy.reload()
        assert host.status(model) == 200
        assert (registry(), client()) == (None, None)
    finally:
        gc.enable()


def test_reload_of_what_is_wrong_raises_and_changes_nothing(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    """All problems are raised each time, and logged once until they are others."""
    config = host.proxy.config
    host.path.write_text("demo: 3\nport: high\n")
    for _ in range(2):
        with pytest.raises(ConfigError) as raised:
            host.proxy.reload()
        assert len(raised.value.problems) == 2
    assert host.proxy.config is config
    assert host.status("one") == 200
    host.path.write_text("demo: 3\n")
    with pytest.raises(ConfigError):
        host.proxy.reload()
    assert len(said(caplog)) == 2
    assert all("the configuration stays as it was: " in line for line in said(caplog))
    assert host.proxy.gateway.reloader.source.problems
    host.path.write_text(config_of("two"))
    host.proxy.reload()
    assert host.status("two") == 200
    assert not host.proxy.gateway.reloader.source.problems


def test_new_warnings_are_logged(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """Once, as at a start."""
    for _ in range(2):
        host.path.write_text(config_of("one", tls={}))
        host.proxy.reload()
    assert len([line for line in said(caplog) if "tls" in line]) == 1


def test_a_mapping_is_read_again_as_it_is_then() -> None:
    """A `Config` never changes, and is what it was."""
    config = json.loads(config_of("one"))
    proxy = Proxy(config)
    config["demo"][0]["models"] = ["two"]
    assert proxy.reload() == "1 client changed"
    assert proxy.gateway.generation.registry.table.keys() == {"two"}
    assert Proxy(proxy.config).reload() == "nothing changed"


@pytest.mark.long
def test_nothing_is_read_again_unless_it_is_asked_for(host: Host) -> None:
    """Embedded, a changed file is the application's affair."""
    host.path.write_text(config_of("two"))
    until = time.monotonic() + LOOK_S + 2 * SETTLE_S
    while time.monotonic() < until:
        assert host.status("two") == 404


def replaced(path: Path, text: str) -> None:
    draft = path.with_suffix(".new")
    draft.write_text(text)
    draft.replace(path)


@pytest.mark.parametrize("write", [Path.write_text, replaced], ids=["rewritten", "replaced"])
def test_a_changed_file_comes_into_force_by_itself(
    watching: Host, write: Callable[[Path, str], Any]
) -> None:
    """Within 2 s, while requests come; time and again."""
    assert watching.status("one") == 200
    for model in ("two", "three"):
        began = time.monotonic()
        write(watching.path, config_of(model))
        wait_for(lambda model=model: watching.status(model) == 200)  # type: ignore[misc]
        assert time.monotonic() - began < 2 * IN_FORCE_S


@pytest.mark.long
def test_what_is_half_written_is_not_taken(watching: Host) -> None:
    """A file is read when it has been the same for a moment."""
    writes: list[float] = []
    states: set[int] = set()

    def write(model: str) -> None:  # valid, and changes all the time
        until = time.monotonic() + LOOK_S + 4 * SETTLE_S
        while time.monotonic() < until:
            writes.append(time.monotonic())
            watching.path.write_text(config_of(model))
            time.sleep(SETTLE_S / 10)

    for attempt in count():
        model = f"half-{attempt}"
        states.clear()
        writes.clear()
        writer = threading.Thread(target=write, args=[model])
        writer.start()
        while writer.is_alive():
            states.add(watching.status(model))
            writer.join(0.01)  # a loop without a pause leaves others no turn
        writes.append(time.monotonic())
        # On a busy machine the writer may have paused: then the file was whole for a moment.
        if max(later - earlier for earlier, later in pairwise(writes)) < SETTLE_S:
            break
    assert states == {404}
    watching.path.write_text(config_of("whole"))
    wait_for(lambda: watching.status("whole") == 200)


@pytest.mark.long
def test_what_is_wrong_is_logged_once_and_mended_by_itself(
    watching: Host, caplog: pytest.LogCaptureFixture
) -> None:
    """Requests go on under the last good configuration, also while there is no file at all."""
    watching.status("one")
    for spoil in (lambda: watching.path.write_text("demo: ["), watching.path.unlink):
        caplog.clear()
        spoil()
        wait_for(lambda: watching.status("one") == 200 and bool(said(caplog)))
        until = time.monotonic() + LOOK_S + 2 * SETTLE_S
        while time.monotonic() < until:
            assert watching.status("one") == 200
        assert len(said(caplog)) == 1
    watching.path.write_text(config_of("two"))
    wait_for(lambda: watching.status("two") == 200)


def test_a_request_compares_two_moments_and_does_not_wait(
    watching: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One in a second has the file looked at, in another thread; and only where this is wanted."""
    looks: list[int] = []
    real = os.stat

    def stat(path: Any, *args: Any, **options: Any) -> os.stat_result:
        if path == str(watching.path):
            looks.append(threading.get_ident())
        return real(path, *args, **options)

    monkeypatch.setattr(os, "stat", stat)
    began = time.monotonic()
    for _ in range(200):
        watching.status("one")
    took_s = time.monotonic() - began
    wait_for(lambda: bool(looks))
    assert len(looks) <= 1 + took_s / LOOK_S
    assert threading.get_ident() not in looks


def test_one_who_has_no_thread_looks_again_later(
    watching: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request is served all the same."""

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("proxy.reload._threads.start", refuse)
    assert watching.status("one") == 200
    assert watching.proxy.gateway.reloader.looks_at > time.monotonic()


def test_what_fails_unforeseen_is_logged_and_changes_nothing(
    watching: Host, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the next change is read."""
    watching.status("one")
    with monkeypatch.context() as broken:
        broken.setattr(watching.proxy.gateway.reloader, "_adopt", None)
        watching.path.write_text(config_of("two"))
        wait_for(lambda: watching.status("one") == 200 and bool(said(caplog)))
    assert "could not be read again" in said(caplog)[0]
    assert watching.status("two") == 404
    watching.path.write_text(config_of("three"))
    wait_for(lambda: watching.status("three") == 200)


def test_a_child_looks_by_itself(watching: Host) -> None:
    """Though its parent was looking when it was forked, which nobody ends in the child."""
    never: Task[None] = Task(lambda: None)
    watching.proxy.gateway.reloader._looking = os.getpid() + 1, never
    watching.path.write_text(config_of("two"))
    wait_for(lambda: watching.status("two") == 200)
