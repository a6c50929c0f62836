"""Which models there are, and how an upstream's own list is fetched, kept and shared."""

from __future__ import annotations

import errno
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from proxy.clients import registry
from proxy.clients.registry import FETCH_TIMEOUT_S, KEPT_S, RETRY_S, WANT_S, Entry, Registry
from proxy.config import Secrets
from proxy.errors import (
    CallerGone,
    ModelNotFound,
    ModelsUnknown,
    OutOfResources,
    UpstreamTimeout,
)
from proxy.net.helpers import HelperThreads
from proxy.net.watch import CallerConnection, Poll
from tests.support.clock import VirtualClock
from tests.support.pool import ANYBODY, FakeClient, make_client

PATIENCE_S = 30.0


class Upstream:
    """A provider's model list: what it says, how often it was asked, with which deadline.

    It hangs until its `gate` opens; `begun` tells that it was asked while it had one.
    """

    def __init__(self, *names: str) -> None:
        self.names = list(names)
        self.fails = False
        self.deadlines: list[float] = []
        self.gate: threading.Event | None = None
        self.begun = threading.Event()
        self.meanwhile: Callable[[], object] | None = None

    def __call__(self, caller: CallerConnection, deadline: float) -> list[str]:
        self.deadlines.append(deadline)
        if self.gate is not None:
            self.begun.set()
            self.gate.wait()
        if self.meanwhile is not None:
            self.meanwhile()
        if self.fails:
            raise UpstreamTimeout("no list")
        return list(self.names)

    @property
    def fetches(self) -> int:
        return len(self.deadlines)


class PatientClock(VirtualClock):
    """Time that stands still while real threads work: only what they do ends a wait."""

    def __init__(self) -> None:
        super().__init__()
        self.at_wait: Callable[[], object] = bool  # is called when somebody begins to wait

    def poll(self, poller: Poll, until: float) -> list[tuple[int, int]]:
        if until <= self.now:
            return poller.poll(0)
        self.at_wait()
        events = poller.poll(PATIENCE_S * 1000)
        assert events, "nothing came"
        return events


class Desk:
    """A registry on a clock that stands still."""

    def __init__(self, *clients: FakeClient) -> None:
        self.clock = PatientClock()
        self.registry = Registry(clients, secrets=Secrets([]), clock=self.clock)

    def adopt(self, *clients: FakeClient) -> None:
        """Go on to another configuration's."""
        before = self.registry
        self.registry = Registry(clients, secrets=Secrets([]), clock=self.clock, before=before)

    def aliases(self) -> list[str]:
        """Those of the lists that are known, first ones awaited."""
        return [entry.alias for entry in self.registry.entries(ANYBODY, math.inf)]

    def find(self, alias: str, caller: CallerConnection = ANYBODY) -> Entry:
        entry = self.registry.find(alias, caller, math.inf)
        assert entry is not None
        return entry

    def routes(self, alias: str) -> list[tuple[str, str]]:
        """Labels and upstream names."""
        return [(route.client.label, route.name) for route in self.find(alias).routes]

    def settle(self) -> None:
        """Block until no list is being fetched."""
        for fetch in [each.fetch for each in self.registry._listings]:
            assert fetch is None or fetch.wait(time.monotonic() + PATIENCE_S, ANYBODY)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What hung lists wait for; opened at the end, so that their threads are free again."""
    event = threading.Event()
    yield event
    event.set()


def discovering(label: str, upstream: Upstream, provider: str = "p") -> FakeClient:
    return make_client(label, provider=provider, models=None, listing=upstream)


def test_configured_models_need_no_fetch() -> None:
    """Alias to routes, in the order of the configuration; the first provider owns the model."""
    desk = Desk(
        make_client("a", provider="x", models=(("fast", "fast-1"), ("big", "big"))),
        make_client("b", provider="y", models=(("fast", "quick"),)),
    )
    assert desk.aliases() == ["fast", "big"]
    assert desk.routes("fast") == [("a", "fast-1"), ("b", "quick")]
    assert desk.find("fast").owned_by == "x"


def test_a_client_is_one_route_of_an_alias() -> None:
    """Though its configuration should give the alias twice."""
    desk = Desk(make_client("a", models=(("m", "m-1"), ("m", "m-2"))))
    assert desk.routes("m") == [("a", "m-1")]


def test_an_unknown_model_is_404() -> None:
    """When every list is there."""
    with pytest.raises(ModelNotFound) as caught:
        Desk(make_client("a")).routes("nothing")
    assert caught.value.param == "model"
    assert caught.value.status == 404


def test_a_list_is_fetched_at_first_need() -> None:
    """Not at start; a configured model does not need it."""
    upstream = Upstream("x/one", "two")
    desk = Desk(make_client("a"), discovering("b", upstream))
    assert desk.routes("m") == [("a", "m")]
    assert upstream.fetches == 0
    assert desk.routes("x/one") == [("b", "x/one")]
    assert upstream.deadlines == [desk.clock.now + FETCH_TIMEOUT_S]
    assert desk.aliases() == ["m", "x/one", "two"]
    assert upstream.fetches == 1


def test_the_clients_of_a_provider_share_one_list() -> None:
    """One fetch, with the first key that can."""
    refused, upstream = Upstream(), Upstream("one")
    refused.fails = True
    desk = Desk(discovering("a", refused), discovering("b", upstream))
    assert desk.routes("one") == [("a", "one"), ("b", "one")]
    assert (refused.fetches, upstream.fetches) == (1, 1)


def test_a_list_is_kept_for_5_minutes(gate: threading.Event) -> None:
    """Then the next need has it fetched again, and is served from the old one."""
    upstream = Upstream("one")
    desk = Desk(discovering("a", upstream))
    assert desk.aliases() == ["one"]
    upstream.names = ["two"]
    desk.clock.now += KEPT_S - 1
    assert desk.aliases() == ["one"]
    desk.settle()
    assert upstream.fetches == 1
    desk.clock.now += 1
    upstream.gate = gate
    assert desk.aliases() == ["one"]
    gate.set()
    desk.settle()
    assert desk.aliases() == ["two"]
    assert upstream.fetches == 2


def test_another_configuration_takes_over_the_lists() -> None:
    """With their age, and when the models are said to be made; a list that never came is due."""
    good, bad, new = Upstream("m"), Upstream("x"), Upstream("n")
    bad.fails = True
    desk = Desk(discovering("a", good, "good"), discovering("b", bad, "bad"))
    assert desk.aliases() == ["m"]
    desk.clock.now += 200
    created = desk.registry.created
    bad.fails = False
    desk.adopt(
        discovering("a2", good, "good"), discovering("b", bad, "bad"), discovering("c", new, "new")
    )
    assert desk.registry.table.keys() == {"m"}
    assert desk.registry.created == created
    assert desk.routes("m") == [("a2", "m")]
    assert desk.aliases() == ["m", "x", "n"]
    assert (good.fetches, bad.fetches, new.fetches) == (1, 2, 1)
    desk.clock.now += 100
    desk.find("m")
    desk.settle()
    assert good.fetches == 2


def test_a_request_for_a_known_model_renews_the_list_that_it_is_from() -> None:
    """Not those of other providers, which may be down."""
    upstream, other = Upstream("one"), Upstream("else")
    desk = Desk(discovering("a", upstream), discovering("b", other, "q"))
    assert desk.aliases() == ["one", "else"]
    desk.clock.now += KEPT_S
    upstream.names = ["two"]
    assert desk.routes("one") == [("a", "one")]
    desk.settle()
    assert (upstream.fetches, other.fetches) == (2, 1)
    with pytest.raises(ModelNotFound):
        desk.find("one")
    assert desk.routes("two") == [("a", "two")]


def test_an_unknown_name_has_all_lists_renewed_and_waits_for_none_of_them(
    gate: threading.Event,
) -> None:
    """What is known decides: 404 at once, though the renewal hangs."""
    upstream = Upstream("one")
    desk = Desk(discovering("a", upstream))
    desk.aliases()
    upstream.gate = gate
    desk.clock.now += KEPT_S
    with pytest.raises(ModelNotFound):
        desk.find("two")
    assert upstream.begun.wait(PATIENCE_S)
    upstream.names = ["one", "two"]
    gate.set()
    desk.settle()
    assert desk.routes("two") == [("a", "two")]


def test_a_hanging_renewal_holds_up_nobody(gate: threading.Event) -> None:
    """Its callers are served from the old list, and one thread fetches, however many they are."""
    upstream = Upstream("one")
    desk = Desk(discovering("a", upstream))
    desk.aliases()
    upstream.gate = gate
    desk.clock.now += KEPT_S
    for _ in range(3):
        assert desk.routes("one") == [("a", "one")]
        assert desk.aliases() == ["one"]
    assert upstream.begun.wait(PATIENCE_S)
    upstream.names = ["two"]
    gate.set()
    desk.settle()
    assert desk.aliases() == ["two"]
    assert upstream.fetches == 2


def test_routes_that_did_not_change_stay_the_same_object() -> None:
    """The pool knows a model by it: turns and waiters outlive a refresh."""
    upstream = Upstream("one", "two")
    desk = Desk(discovering("a", upstream))
    before = desk.find("one").routes
    upstream.names = ["three", "one"]
    desk.clock.now += KEPT_S
    desk.aliases()
    desk.settle()
    assert desk.aliases() == ["three", "one"]
    assert desk.find("one").routes is before


def test_a_failed_fetch_keeps_the_last_list() -> None:
    """And is tried again after a while, not by every request."""
    upstream = Upstream("one")
    desk = Desk(discovering("a", upstream))
    desk.aliases()
    upstream.fails = True
    desk.clock.now += KEPT_S
    for _ in range(2):
        assert desk.aliases() == ["one"]
        desk.settle()
    assert upstream.fetches == 2
    upstream.fails, upstream.names = False, ["two"]
    desk.clock.now += RETRY_S
    desk.aliases()
    desk.settle()
    assert desk.aliases() == ["two"]


def test_a_list_that_never_came_is_503_not_404() -> None:
    """Nobody knows if the model exists; configured ones are served."""
    upstream = Upstream("one")
    upstream.fails = True
    desk = Desk(make_client("a", provider="q"), discovering("b", upstream))
    with pytest.raises(ModelsUnknown) as caught:
        desk.routes("one")
    assert caught.value.status == 503
    assert caught.value.headers()["retry-after"] == "10"
    assert desk.routes("m") == [("a", "m")]
    assert desk.aliases() == ["m"]
    upstream.fails = False
    desk.clock.now += RETRY_S
    assert desk.routes("one") == [("b", "one")]
    with pytest.raises(ModelNotFound):
        desk.routes("nothing")


def test_one_dead_provider_does_not_hide_anothers_models() -> None:
    """Each has a list of its own."""
    dead, upstream = Upstream(), Upstream("one")
    dead.fails = True
    desk = Desk(discovering("a", dead, "x"), discovering("b", upstream, "y"))
    assert desk.routes("one") == [("b", "one")]


def test_a_name_in_one_list_is_found_though_another_hangs(gate: threading.Event) -> None:
    """Lists are fetched side by side; the first that has the name ends the wait."""
    hung, upstream = Upstream(), Upstream("one")
    hung.gate, upstream.gate = gate, threading.Event()
    desk = Desk(discovering("a", hung, "x"), discovering("b", upstream, "y"))
    desk.clock.at_wait = upstream.gate.set
    assert desk.routes("one") == [("b", "one")]
    assert hung.begun.wait(PATIENCE_S)


def test_an_unknown_name_waits_for_a_first_list(gate: threading.Event) -> None:
    """Up to the moment that the request gives, and then on where it left off."""
    hung = Upstream("late")
    hung.gate = gate
    desk = Desk(discovering("a", hung))
    assert desk.registry.find("late", ANYBODY, desk.clock.now) is None
    assert hung.begun.wait(PATIENCE_S)
    gate.set()
    assert desk.routes("late") == [("a", "late")]
    assert hung.fetches == 1


def test_a_list_that_hangs_is_given_up_when_its_time_is_over(gate: threading.Event) -> None:
    """Whether its thread comes back or not: 503, and no second thread for it."""
    hung = Upstream("late")
    hung.gate = gate
    desk = Desk(discovering("a", hung))
    assert desk.registry.find("late", ANYBODY, desk.clock.now) is None
    desk.clock.now += FETCH_TIMEOUT_S
    for _ in range(2):
        with pytest.raises(ModelsUnknown):
            desk.find("late")
    assert desk.aliases() == []
    gate.set()
    desk.settle()
    assert desk.routes("late") == [("a", "late")]
    assert hung.fetches == 1


def test_models_are_listed_when_all_first_lists_have_come_or_failed(gate: threading.Event) -> None:
    """In the order of the configuration, whichever came first."""
    slow, dead, quick = Upstream("slow"), Upstream(), Upstream("quick")
    slow.gate, dead.fails = gate, True
    desk = Desk(discovering("a", slow, "a"), discovering("b", dead, "b"), discovering("c", quick))
    assert desk.routes("quick") == [("c", "quick")]
    assert [entry.alias for entry in desk.registry.entries(ANYBODY, -math.inf)] == ["quick"]
    gate.set()
    assert desk.aliases() == ["slow", "quick"]


def test_a_further_key_is_not_tried_when_the_time_is_over() -> None:
    """All keys of a provider have one fetch's time together."""
    first, second = Upstream(), Upstream("one")
    desk = Desk(discovering("a", first), discovering("b", second))

    def take_all_the_time() -> None:
        desk.clock.now += FETCH_TIMEOUT_S

    first.fails, first.meanwhile = True, take_all_the_time
    with pytest.raises(ModelsUnknown):
        desk.find("one")
    assert (first.fetches, second.fetches) == (1, 0)


def test_requests_that_need_the_first_list_wait_for_one_fetch(gate: threading.Event) -> None:
    """All at once at start: none is told that there is no list."""
    upstream = Upstream("one")
    upstream.gate = gate
    desk = Desk(discovering("a", upstream))
    found: list[str] = []
    together = threading.Barrier(9)

    def ask() -> None:
        together.wait(PATIENCE_S)
        found.append(desk.find("one").alias)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    together.wait(PATIENCE_S)
    assert upstream.begun.wait(PATIENCE_S)
    gate.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert found == ["one"] * 8
    assert upstream.fetches == 1


def test_a_caller_that_leaves_does_not_end_the_fetch(gate: threading.Event) -> None:
    """It is noticed in the wait, and others get the list that it has asked for."""
    upstream = Upstream("one")
    upstream.gate = gate
    desk = Desk(discovering("a", upstream))
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        with pytest.raises(CallerGone):
            desk.find("one", CallerConnection(ours))
    gate.set()
    assert desk.routes("one") == [("a", "one")]
    assert upstream.fetches == 1


def test_what_no_fetch_should_raise_is_a_failed_fetch(caplog: pytest.LogCaptureFixture) -> None:
    """The log has it; the thread, and later fetches, go on."""
    upstream = Upstream("one")
    desk = Desk(discovering("a", upstream))

    def stumble() -> None:
        raise LookupError("not foreseen")

    upstream.meanwhile = stumble
    with pytest.raises(ModelsUnknown):
        desk.find("one")
    assert "not foreseen" in caplog.text
    upstream.meanwhile = None
    desk.clock.now += RETRY_S
    assert desk.routes("one") == [("a", "one")]


@pytest.mark.parametrize(
    "lacking",
    [OutOfResources("no more open files"), OSError(errno.EMFILE, "Too many"), MemoryError()],
    ids=["known", "descriptors", "memory"],
)
def test_want_of_our_own_is_said(caplog: pytest.LogCaptureFixture, lacking: Exception) -> None:
    """503 `server_out_of_resources`, to be tried again soon; no further key is asked."""
    upstream, other = Upstream("one"), Upstream("one")
    desk = Desk(discovering("a", upstream), discovering("b", other))

    def fail() -> None:
        raise lacking

    upstream.meanwhile = fail
    for _ in range(2):
        with pytest.raises(OutOfResources) as caught:
            desk.find("one")
        assert (caught.value.status, caught.value.code) == (503, "server_out_of_resources")
    assert (upstream.fetches, other.fetches) == (1, 0)
    assert "Traceback" not in caplog.text
    upstream.meanwhile = None
    desk.clock.now += WANT_S
    assert desk.routes("one") == [("a", "one"), ("b", "one")]
    with pytest.raises(ModelNotFound):
        desk.find("nothing")


def test_a_process_without_threads_left_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is known is served all the same; later it is tried again."""
    upstream = Upstream("one")
    desk = Desk(make_client("a", provider="q"), discovering("b", upstream))
    with monkeypatch.context() as patched:
        patched.setattr(registry, "_threads", HelperThreads("test-models", 1))

        def refuse(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(OutOfResources, match="no more threads"):
            desk.find("one")
        assert desk.routes("m") == [("a", "m")]
    desk.clock.now += WANT_S
    assert desk.routes("one") == [("b", "one")]


def test_forked_child_fetches_by_itself(gate: threading.Event) -> None:
    """What its parent has begun would never end there."""
    upstream = Upstream("one")
    upstream.gate = gate
    desk = Desk(discovering("a", upstream))
    assert desk.registry.find("one", ANYBODY, desk.clock.now) is None
    assert upstream.begun.wait(PATIENCE_S)
    child = os.fork()
    if not child:
        upstream.gate = None
        is_found = False
        try:
            is_found = desk.routes("one") == [("a", "one")]
        finally:
            os._exit(0 if is_found else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_nothing_begins_before_the_first_need() -> None:
    """A process may fork after making a gateway: a thread would be lost in its children."""
    before = threading.active_count()
    upstream = Upstream("one")
    Desk(discovering("a", upstream))
    assert (threading.active_count(), upstream.fetches) == (before, 0)


def test_created_is_the_time_of_the_start() -> None:
    """`/v1/models` needs one, and an upstream's own differ by key."""
    desk = Desk(make_client("a"))
    assert desk.registry.created == int(desk.clock.wall())
