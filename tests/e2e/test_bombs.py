"""Answers that are small on the wire and huge when they are undone: what ten at once cost."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.gateway import Gateway, Lot, Lots
from tests.support.upstream import Gate, Hold, Reply, Upstream

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="peak memory is read from /proc"
)

AT_ONCE = 10
ALLOWED_BYTES = 100_000_000  # above an idle gateway, for all of them
UNDONE_BYTES = 66_000_000

EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
BOMBS = {
    "answer": (200, b'{"choices":[{"index":0,"message":{"content":"', b"x"),
    "nested answer": (200, b'{"choices":[{"index":0}],"x":[[]', b",[]"),
    "one event": (200, b"data: ", b"x"),
    "events": (200, EVENT, EVENT),
    "comments": (200, EVENT, b":\n\n"),
    "white space": (200, b"\n", b"\n"),
    "error": (500, b'{"error":{"message":"', b"x"),
    "nested error": (500, b'{"error":[[]', b",[]"),
    "refusal": (400, b'{"error":{"message":"', b"x"),
}


QUICK = ("answer", "events", "error")


@pytest.fixture(scope="module")
def lots(upstream: Upstream) -> Lots:
    return Lots(upstream.url, {1: 2 * len(BOMBS) + 1}, options={"max-concurrency": 0})


@pytest.fixture(scope="module")
def gateway(lots: Lots) -> Iterator[Gateway]:
    with Gateway({"request-retry": 0, "openai-compatibility": lots.providers}) as running:
        yield running


@pytest.fixture(scope="module")
def idle(gateway: Gateway, lots: Lots) -> int:
    """What the worker has when it has served a request."""
    gateway.chat(lots.take().model)
    return peak_bytes(worker_of(gateway))


def bomb(name: str) -> bytes:
    _, head, filling = BOMBS[name]
    return gzip.compress(head + filling * (UNDONE_BYTES // len(filling)))


@pytest.mark.parametrize("is_stream", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in BOMBS]
)
def test_ten_bombs_at_once_fit_into_100_mb(
    gateway: Gateway, idle: int, upstream: Upstream, lots: Lots, name: str, is_stream: bool
) -> None:
    """As answers, as streams and as errors, by the configuration as shipped."""
    lot: Lot = lots.take()
    gate = Gate()
    bomb_headers = [("Content-Encoding", "gzip")]
    reply = Reply(
        [bomb(name)], status=BOMBS[name][0], headers=bomb_headers, before_head=[Hold(gate)]
    )
    upstream.always(lot.key, reply)
    worker = worker_of(gateway)
    with ThreadPoolExecutor(AT_ONCE) as callers:
        calls = [callers.submit(gateway.chat, lot.model, stream=is_stream) for _ in range(AT_ONCE)]
        try:
            upstream.wait_for(AT_ONCE, lot.key, timeout_s=20)
            (worker / "clear_refs").write_text("5")  # its peak begins anew, see proc(5)
        finally:
            gate.set()
        answers = [call.result() for call in calls]
    assert peak_bytes(worker) - idle < ALLOWED_BYTES
    for answer in answers:
        assert answer.status == max(BOMBS[name][0], 400) or b'"error"' in answer.body[-2000:]


def worker_of(gateway: Gateway) -> Path:
    """The only worker, in /proc."""
    (pid,) = Path(f"/proc/{gateway.pid}/task/{gateway.pid}/children").read_text().split()
    return Path("/proc", pid)


def peak_bytes(process: Path) -> int:
    """The most memory that it had at once."""
    lines = (process / "status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
