"""A minute of soak in the slow suite, and that a soak can fail."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.soak.soak import Soak
from tests.support.gateway import ROOT
from tests.support.redis import require_redis

SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(SECONDS + 240)]

# What is planted into the gateway's processes, and a word of the problem that it makes.
PLANTED = {
    "a permit is leaked on reload": (
        """
from proxy.pool.pool import ClientPool
adopt = ClientPool.adopt
def leaking(self, clients, entries):
    draining = adopt(self, clients, entries)
    for line in self._lines.values():
        for number, lease in list(line.lock.leases.items())[:1]:
            line.lock.leases[-1 - number] = lease
    return draining
ClientPool.adopt = leaking
""",
        "in flight",
    ),
    "a permit is lent twice": (
        """
from proxy.pool.client_lock import ClientLock
ClientLock.is_free = property(lambda self: len(self.leases) <= self.permits)
""",
        "in flight in worker",
    ),
    "an answer is crossed": (
        """
from proxy.clients.openai import OpenAIClient
asked, last, count = OpenAIClient._asked, {}, 0
def crossing(self, request, model):
    global count
    path, body = asked(self, request, model)
    before, last[request.stream] = last.get(request.stream), body
    count += 1
    return path, (before if before and count % 50 == 0 else body)
OpenAIClient._asked = crossing
""",
        "was answered by",
    ),
    "a descriptor is kept": (
        """
import os
from proxy.reload import Reloader
read, kept = Reloader._read, []
def keeping(self):
    kept.extend(os.dup(0) for _ in range(20))
    return read(self)
Reloader._read = keeping
""",
        "descriptors",
    ),
}


def test_soak() -> None:
    """Everything at once, and nothing lost, crossed, or kept."""
    soak = Soak(SECONDS, seed=26)
    soak.run()
    assert not soak.problems, "\n".join(soak.problems[:20])


@pytest.mark.further
def test_soak_with_a_shared_state() -> None:
    """The same with one pool for all workers, while its Redis restarts, stalls and forgets."""
    require_redis()
    soak = Soak(SECONDS, seed=27, state=True)
    soak.run()
    assert not soak.problems, "\n".join(soak.problems[:20])


@pytest.mark.parametrize("name", PLANTED)
def test_soak_notices(name: str, tmp_path: Path) -> None:
    """A fault that is planted into the running program."""
    code, word = PLANTED[name]
    (tmp_path / "sitecustomize.py").write_text(code)
    for seconds in (12, 60):  # beside other work the first may not come to it
        soak = Soak(seconds, seed=26, env={"PYTHONPATH": f"{tmp_path}:{ROOT}"})
        soak.run()
        if any(word in problem for problem in soak.problems):
            return
    pytest.fail(f"it was not noticed: {soak.figures}")
