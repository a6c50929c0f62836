"""What a worker is tuned to."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from bench.measure import tree
from proxy.server.tuning import PIN_VARIABLE, free_core, settle, switch_interval_s, tune
from tests.support.gateway import Gateway

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []

several_cores = pytest.mark.skipif(len(CORES) < 2, reason="this process has one core only")


@several_cores
def test_each_worker_gets_a_core_of_its_own() -> None:
    """The first that no other has; a worker that is unpinned takes none."""
    assert free_core([], 2, {}) == CORES[0]
    assert free_core([CORES[0], None], 2, {}) == CORES[1]


@several_cores
@pytest.mark.parametrize(
    ("taken", "workers", "environ"),
    [
        (CORES, 1, {}),
        ([], len(CORES) + 1, {}),
        ([], 1, {PIN_VARIABLE: "0"}),
    ],
    ids=["none is left", "more workers than cores", "switched off"],
)
def test_worker_stays_unpinned(
    taken: list[int | None], workers: int, environ: dict[str, str]
) -> None:
    """Where it would only wait for others, or was told so."""
    assert free_core(taken, workers, environ) is None


@several_cores
def test_one_core_is_no_choice() -> None:
    """A container's cpuset of one: nothing to pin to."""
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {CORES[-1]})
        assert free_core([], 1, {}) is None
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.long
@several_cores
@pytest.mark.parametrize(("variable", "count"), [("1", 1), ("0", len(CORES))])
def test_worker_of_a_server_is_pinned_unless_told_not_to_be(variable: str, count: int) -> None:
    """And its master never is: a worker that starts later is to have its choice."""
    demo = {"demo": [{"name": "demo"}]}
    with Gateway(demo, env={PIN_VARIABLE: variable}) as running:
        (worker,) = set(tree(running.pid)) - {running.pid}
        assert len(os.sched_getaffinity(worker)) == count
        assert sorted(os.sched_getaffinity(running.pid)) == CORES


@pytest.mark.parametrize(
    ("threads", "interval_s"), [(1, 0.05), (1056, 0.2112), (2032, 0.4064), (100_000, 1.0)]
)
def test_more_threads_look_up_less_often(threads: int, interval_s: float) -> None:
    """Together about 5,000 times a second."""
    assert switch_interval_s(threads) == pytest.approx(interval_s)


def test_process_is_tuned_before_a_fork_and_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the numbers of malloc.h and mallopt(3); what is loaded is collected once, and no more."""
    asked: list[object] = []

    def noted(name: str) -> Callable[..., None]:
        return lambda *given: asked.append((name, *given))

    libc = SimpleNamespace(mallopt=noted("mallopt"))
    monkeypatch.setattr(ctypes, "CDLL", lambda _: libc)
    monkeypatch.setattr(gc, "collect", noted("collect"))
    monkeypatch.setattr(gc, "freeze", noted("freeze"))
    monkeypatch.setattr(os, "sched_setaffinity", noted("pin"), raising=False)
    monkeypatch.setattr(sys, "setswitchinterval", noted("switch"))
    settle()
    assert asked == [
        ("mallopt", -1, 64 << 20),
        ("mallopt", -3, 32 << 20),
        ("mallopt", -8, 2),
        ("collect",),
        ("freeze",),
    ]
    asked.clear()
    tune(3, 2000)
    assert asked == [("pin", 0, {3}), ("switch", 0.4), ("freeze",)]
    asked.clear()
    tune(None, 2000)
    assert asked == [("switch", 0.4), ("freeze",)]


def test_what_a_process_may_not_have_is_no_fault(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another libc, or a core that was taken away since."""

    def refuse(*_: object) -> None:
        raise OSError("not permitted")

    monkeypatch.setattr(gc, "freeze", lambda: None)
    monkeypatch.setattr(sys, "setswitchinterval", lambda _: None)
    monkeypatch.setattr(os, "sched_setaffinity", refuse, raising=False)
    for libc in (refuse, lambda _: object()):
        monkeypatch.setattr(ctypes, "CDLL", libc)
        settle()
    tune(0, 1)
    assert "the worker stays unpinned: not permitted" in caplog.text
