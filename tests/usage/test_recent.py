"""What a process remembers of its requests: bounded, and no secret in it."""

from __future__ import annotations

import weakref
from typing import Any

from proxy.record.record import Attempt, Record
from proxy.usage.recent import MOST_REQUESTS, Recent
from proxy.wire.chat import Usage
from tests.support.clock import VirtualClock


class Book:
    """One that is told of requests."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.recent = Recent(self.clock)

    def end(self, *attempts: Attempt, end: str = "ok", **facts: Any) -> Record:
        """A request that ends now."""
        now = self.clock.monotonic()
        record = Record("req_1", endpoint="/v1/chat/completions", arrived=now - 2)
        record.attempts += attempts
        record.end = end
        for name, value in facts.items():
            setattr(record, name, value)
        record.close(now)
        self.recent.add(record)
        return record


def good(client: str = "a", **more: Any) -> Attempt:
    return Attempt(client, status=200, reason="ok", seconds=1.0, **more)


def bad(status: int, reason: str, client: str = "a") -> Attempt:
    return Attempt(client, status=status, reason=reason, message="No", seconds=1.0)


def test_sums_of_a_minute() -> None:
    """Requests, those that failed, tokens."""
    book = Book()
    book.end(good(usage=Usage(prompt_tokens=3, completion_tokens=4)))
    book.end(bad(500, "x"), end="upstream_error")
    book.end(end="caller_gone")
    minute = int(book.clock.monotonic() // 60)
    assert book.recent.facts()["minutes"] == [[minute, 3, 1, 7]]


def test_an_hour_is_remembered_and_no_more() -> None:
    """However many have passed: minutes that are over are dropped by those that come."""
    book = Book()
    for _ in range(200):
        book.end(good())
        book.clock.sleep(60)
    book.clock.now -= 60
    told = book.recent.facts()
    assert sum(counts[1] for counts in told["minutes"]) == 60
    book.clock.sleep(30 * 60)
    assert sum(counts[1] for counts in book.recent.facts()["minutes"]) == 30
    assert len(book.recent._minutes) == 60


def test_the_last_requests_are_kept_whole() -> None:
    """As a `Call` is, which is documented."""
    book = Book()
    for number in range(MOST_REQUESTS + 5):
        book.end(bad(429, "rate"), good("b"), status=number)
    requests = book.recent.facts()["requests"]
    assert [one["status"] for one in requests] == list(range(5, MOST_REQUESTS + 5))
    assert [one["reason"] for one in requests[0]["attempts"]] == ["rate", "ok"]
    assert requests[0]["times"]["total_s"] == 2.0


def test_what_callers_choose_is_masked_and_bounded() -> None:
    """Whoever looks sees no key in a model's name, however long that is."""
    book = Book()

    def mask(text: str) -> str:
        return text.replace("sk-secret", "sk-...")

    book.end(model="sk-secret", mask=mask, request_id="sk-secret")
    book.end(model="x" * 250 + "sk-secret" + "y" * 10**6, mask=mask)
    first, second = book.recent.facts()["requests"]
    assert (first["model"], first["id"]) == ("sk-...", "sk-...")
    assert second["model"] == "x" * 250 + "sk-..."


def test_body_of_a_request_is_not_held() -> None:
    """Which its record has where there is a `request-log`."""
    book = Book()

    class Body:
        pass

    body = Body()
    gone = weakref.ref(body)
    book.end(good(), transcript=body)
    del body
    assert gone() is None
