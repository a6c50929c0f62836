"""A client after its cooldown: one trial, and nobody who waits for it is turned away."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.support.gateway import CHAT, Gateway, asked
from tests.support.upstream import MODEL, Pause, Upstream, chat, error

KEY = "sk-trial-0123456789"
CALLERS = 12


@pytest.mark.parametrize(
    "stream",
    [pytest.param(False, marks=pytest.mark.long), pytest.param(True, marks=pytest.mark.slow)],
)
def test_slow_answers_after_a_429_are_served_to_all(stream: bool) -> None:
    """An answer takes twice as long as `queue-timeout`: the trial's does not hold up the others."""
    refusal = error(429, headers={"Retry-After": "1"})
    slow = chat("Hello").after(Pause(6))
    with Upstream() as upstream:
        upstream.reply(KEY, refusal, *[slow] * CALLERS)
        provider = {
            "name": "up",
            "base-url": upstream.url,
            "api-keys": [KEY],
            "models": [MODEL],
            "max-concurrency": 16,
        }
        tree = {"queue-timeout": 3, "openai-compatibility": [provider]}
        with Gateway(tree) as gateway, ThreadPoolExecutor(CALLERS) as callers:
            asks = partial(gateway.call, "POST", CHAT, asked(MODEL, stream=stream))
            first = callers.submit(asks)
            upstream.wait_for(1, KEY)
            upstream.received(KEY)[0].wait_ended()
            others = [callers.submit(asks) for _ in range(CALLERS - 1)]
            answers = [call.result() for call in (first, *others)]
    assert [answer.status for answer in answers] == [200] * CALLERS
    assert all(b"Hello" in answer.body for answer in answers)
