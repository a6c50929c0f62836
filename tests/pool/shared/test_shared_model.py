"""The shared pool against the same model as the local one: one process on books in a fake Redis."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from proxy.pool.client_lock import ClientLease as Lease
from tests.pool.test_pool_model import _SETTINGS, Account, PoolMachine
from tests.support.pool import Desk, FakeClient
from tests.support.redis import IN_CI, PROGRAM, RedisServer
from tests.support.state import ModelPool, shared_desk


class SharedMachine(PoolMachine):
    """Each step of the model, with books that other processes could have a part in."""

    backend: Any = None

    @property
    def pool(self) -> ModelPool:
        assert isinstance(self.desk.pool, ModelPool)
        return self.desk.pool

    def make_desk(self, *clients: FakeClient, **settings: Any) -> Desk:
        self.gone: dict[str, Account] = {}
        return shared_desk(*clients, backend=self.backend, **settings)

    def order(self, lease: Lease) -> int:
        return self.pool.order_of(lease.number)

    def is_on_trial(self, lease: Lease) -> bool:
        return lease.watched == "t"

    def remembered(self) -> set[str]:
        return {"m", "n"}

    def forget(self, account: Account) -> None:
        """Nothing: other processes may still have it."""

    def part_with(self, label: str, account: Account) -> None:
        self.gone[label] = account

    def returning(self, label: str) -> Account:
        account = self.gone.pop(label, None) or Account(0)
        for request in [*self.waiting, *self.holding]:  # it is another client to them
            request.tried.discard(account)
            request.excluded.discard(account)
        return account

    def see_adopted(self, in_order: bool) -> None:
        """They are rung, and ask again: until then they wait by the old configuration."""
        self.wake(in_order=True)

    def pass_time(self, seconds: float) -> None:
        """The process lives on meanwhile."""
        while seconds > 0:
            self.desk.clock.now += min(seconds, 2.0)
            seconds -= 2.0
            self.pool.beat()

    def replay_grants(self, before: int | None = None) -> None:
        self.pool.pump()
        super().replay_grants(before)

    def wake(self, in_order: bool) -> None:
        self.pool.pump()
        super().wake(in_order)

    def teardown(self) -> None:
        if hasattr(self, "desk"):
            super().teardown()
            self.pool.close()


TestSharedModel = SharedMachine.TestCase
TestSharedModel.settings = settings(_SETTINGS, max_examples=2, stateful_step_count=12)


@pytest.mark.long
class TestSharedModelAtLength(SharedMachine.TestCase):  # type: ignore[misc,valid-type]
    """The same, with many more requests' lives."""

    settings = settings(_SETTINGS, max_examples=20)


@pytest.mark.slow
@pytest.mark.skipif(PROGRAM is None and not IN_CI, reason="redis-server is not installed")
@pytest.mark.timeout(600)
def test_shared_model_at_length() -> None:
    """60,000 steps on a real server."""
    with RedisServer() as server, server.client(decode_responses=False) as client:
        machine = type("Machine", (SharedMachine,), {"backend": client})
        run_state_machine_as_test(
            machine,
            settings=settings(
                _SETTINGS,
                max_examples=1000,
                stateful_step_count=60,
                phases=[Phase.generate],  # to find less would take longer than the suite has
            ),
        )
