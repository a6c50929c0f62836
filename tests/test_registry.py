"""Which models there are, and how an upstream's own list is fetched, kept and shared."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import pytest

from proxy.errors import CallerGone, ModelNotFound, ModelsUnknown, UpstreamTimeout
from proxy.registry import FETCH_TIMEOUT_S, KEPT_S, RETRY_S, Registry
from proxy.watch import Caller
from tests.pool_tools import ANYBODY, FakeClient, VirtualClock, make_client

PATIENCE_S = 30.0


class Upstream:
    """A provider's model list: what it says, how often it was asked, with which deadline."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)
        self.fails = False
        self.deadlines: list[float] = []
        self.meanwhile: Callable[[Caller], object] | None = None

    def __call__(self, caller: Caller, deadline: float) -> list[str]:
        self.deadlines.append(deadline)
        if self.meanwhile is not None:
            self.meanwhile(caller)
        if self.fails:
            raise UpstreamTimeout("no list")
        return list(self.names)

    @property
    def fetches(self) -> int:
        return len(self.deadlines)


class WaitingCaller(Caller):
    """Tells when its request waits for another's fetch."""

    def __init__(self) -> None:
        super().__init__(None)
        self.waits = threading.Event()

    def raise_if_gone(self) -> None:
        self.waits.set()


class Desk:
    """A registry on a virtual clock."""

    def __init__(self, *clients: FakeClient) -> None:
        self.clock = VirtualClock()
        self.registry = Registry(clients, clock=self.clock)

    def aliases(self) -> list[str]:
        return [entry.alias for entry in self.registry.entries(ANYBODY)]

    def routes(self, alias: str) -> list[tuple[str, str]]:
        """Labels and upstream names."""
        return [
            (route.client.label, route.name) for route in self.registry.find(alias, ANYBODY).routes
        ]


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
    assert desk.registry.find("fast", ANYBODY).owned_by == "x"


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


def test_a_list_is_kept_for_5_minutes() -> None:
    """Then the next need fetches it again."""
    upstream = Upstream("one")
    desk = Desk(discovering("a", upstream))
    assert desk.aliases() == ["one"]
    upstream.names = ["two"]
    desk.clock.now += KEPT_S - 1
    assert desk.aliases() == ["one"]
    desk.clock.now += 1
    assert desk.aliases() == ["two"]
    assert upstream.fetches == 2


def test_a_request_for_a_known_model_renews_the_list_that_it_is_from() -> None:
    """Not those of other providers, which may be down."""
    upstream, other = Upstream("one"), Upstream("else")
    desk = Desk(discovering("a", upstream), discovering("b", other, "q"))
    assert desk.aliases() == ["one", "else"]
    desk.clock.now += KEPT_S
    upstream.names = ["two"]
    with pytest.raises(ModelNotFound):
        desk.registry.find("one", ANYBODY)
    assert upstream.fetches == 2
    desk.clock.now += KEPT_S
    before = other.fetches
    desk.registry.find("two", ANYBODY)
    assert upstream.fetches == 3
    assert other.fetches == before


def test_routes_that_did_not_change_stay_the_same_object() -> None:
    """The pool knows a model by it: turns and waiters outlive a refresh."""
    upstream = Upstream("one", "two")
    desk = Desk(discovering("a", upstream))
    before = desk.registry.find("one", ANYBODY).routes
    upstream.names = ["three", "one"]
    desk.clock.now += KEPT_S
    assert desk.aliases() == ["three", "one"]
    assert desk.registry.find("one", ANYBODY).routes is before


def test_a_failed_fetch_keeps_the_last_list() -> None:
    """And is tried again after a while, not by every request."""
    upstream = Upstream("one")
    desk = Desk(discovering("a", upstream))
    desk.aliases()
    upstream.fails = True
    desk.clock.now += KEPT_S
    assert desk.aliases() == ["one"]
    assert desk.aliases() == ["one"]
    assert upstream.fetches == 2
    upstream.fails, upstream.names = False, ["two"]
    desk.clock.now += RETRY_S
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


def test_one_caller_refreshes_while_the_others_use_the_old_list() -> None:
    """At once: a slow upstream delays one request, not all."""
    upstream = Upstream("one")
    desk = Desk(discovering("a", upstream))
    desk.aliases()
    desk.clock.now += KEPT_S
    seen: list[list[str]] = []

    def look_from_another_thread(_: Caller) -> None:
        thread = threading.Thread(target=lambda: seen.append(desk.aliases()))
        thread.start()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()

    upstream.names, upstream.meanwhile = ["two"], look_from_another_thread
    assert desk.aliases() == ["two"]
    assert seen == [["one"]]
    assert upstream.fetches == 2


def test_requests_that_need_the_first_list_wait_for_one_fetch() -> None:
    """All at once at start: one of them fetches, and none is told that there is no list."""
    upstream = Upstream("one")
    desk = Desk(discovering("a", upstream))
    waiting = WaitingCaller()
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(desk.registry.find("one", waiting).alias))

    def have_another_wait(_: Caller) -> None:
        thread.start()
        assert waiting.waits.wait(PATIENCE_S)

    upstream.meanwhile = have_another_wait
    assert desk.routes("one") == [("a", "one")]
    thread.join(PATIENCE_S)
    assert found == ["one"]
    assert upstream.fetches == 1


def test_a_caller_that_leaves_in_a_fetch_does_not_spoil_it_for_others() -> None:
    """The next request fetches at once: nothing was found out about the upstream."""
    upstream = Upstream("one")
    desk = Desk(discovering("a", upstream))
    upstream.meanwhile = Caller.raise_if_gone
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        with pytest.raises(CallerGone):
            desk.registry.find("one", Caller(ours))
    assert desk.routes("one") == [("a", "one")]
    assert upstream.fetches == 2


def test_a_caller_that_leaves_while_another_fetches() -> None:
    """It is noticed in the wait for a first list."""
    upstream = Upstream("one")
    desk = Desk(discovering("a", upstream))
    ended: list[BaseException] = []

    def leave_in_another_thread(_: Caller) -> None:
        upstream.meanwhile = None
        ours, theirs = socket.socketpair()
        theirs.close()

        def look() -> None:
            with ours, pytest.raises(CallerGone) as caught:
                desk.registry.find("one", Caller(ours))
            ended.append(caught.value)

        thread = threading.Thread(target=look)
        thread.start()
        thread.join(PATIENCE_S)

    upstream.meanwhile = leave_in_another_thread
    assert desk.routes("one") == [("a", "one")]
    assert len(ended) == 1


def test_created_is_the_time_of_the_start() -> None:
    """`/v1/models` needs one, and an upstream's own differ by key."""
    desk = Desk(make_client("a"))
    assert desk.registry.created == int(desk.clock.wall())
