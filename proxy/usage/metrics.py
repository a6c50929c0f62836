"""What goes on, for Prometheus: counted here, and only written by the package `prometheus-client`.

That is imported at the first scrape: to count with it takes ten times as long, and its way for
several processes is one for all that is in them. A call is counted when it is over, by additions to
rows in memory. The workers of a server have a file in common, in which nobody else can look: each
adds its rows to those in there, under a lock that ends with its process, however that ends.

Names and labels follow OpenTelemetry's conventions for generative AI where these have one
(github.com/open-telemetry/semantic-conventions-genai, status: development, read 2026-11).
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import struct
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Container, Iterable, Iterator
from functools import lru_cache
from itertools import accumulate
from operator import add, attrgetter
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from ..record.record import MAX_MODEL_CHARS, Record
from ..version import __version__

if TYPE_CHECKING:
    from prometheus_client import Metric

# A worker adds its rows to the file so often, or as often as takes a twentieth of its time; where
# it can't (there is no room) it tries again later.
INTERVAL_S, RETRY_S = 0.2, 30.0
# A label's values beyond these are `other`: each costs memory, here and in Prometheus.
MOST_VALUES, MOST_CALLERS, OTHER = 500, 200, "other"

_GEN_AI = "gen_ai_operation_name gen_ai_provider_name gen_ai_request_model error_type"
# By name: the labels, and a text.
FAMILIES = {
    "poolproxy_requests_total": ("endpoint model caller status end", "Requests that are over"),
    "poolproxy_attempts_total": ("client model outcome", "Attempts that are over"),
    "poolproxy_queue_wait_seconds": ("", "Waits of requests for accounts, each in all"),
    "poolproxy_requests_in_flight": ("", "Requests under way"),
    "poolproxy_requests_waiting": ("", "Requests that wait for an account"),
    "poolproxy_client_in_flight": ("client", "Permits of an account in use"),
    "poolproxy_client_permits": ("client", "Permits of an account, in all workers"),
    "poolproxy_client_state": ("client model state", "Workers for which an account is so"),
    "poolproxy_cooldown_seconds": ("client model", "Until an account's cooldown ends"),
    "poolproxy_stream_ends_total": ("reason", "Streams that are over"),
    "poolproxy_fallbacks_total": ("from to", "Requests that another model served"),
    "poolproxy_sticky_total": ("outcome", "Requests of sessions, by whether their account served"),
    "poolproxy_limit_refusals_total": ("caller limit", "Requests that a caller's limit refused"),
    "poolproxy_tokens_total": ("caller client model type", "Tokens, as upstreams count them"),
    "poolproxy_reloads_total": ("result", "Readings of the configuration, by each worker"),
    "poolproxy_build_info": ("version", "What runs"),
    "gen_ai_server_request_duration_seconds": (_GEN_AI, "From a request's arrival to its end"),
    "gen_ai_server_time_to_first_token_seconds": (_GEN_AI, "To a stream's first event"),
    "gen_ai_client_operation_duration_seconds": (_GEN_AI, "From an attempt's beginning to its end"),
    "gen_ai_client_operation_time_to_first_chunk_seconds": (_GEN_AI, "To its stream's first event"),
}
LABELS = {name: labels.split() for name, (labels, _) in FAMILIES.items()}

_DOUBLING_S = tuple(round(0.01 * 2**n, 2) for n in range(14))
_FIRST_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 60.0,
)  # fmt: skip
# Those of a histogram's buckets.
BOUNDS = {name: _DOUBLING_S for name in FAMILIES if name.startswith("gen_ai") or "_wait_" in name}
BOUNDS["gen_ai_server_time_to_first_token_seconds"] = _FIRST_S

# By the end of a path, or the name of a call from Python.
OPERATIONS = {
    "/v1/chat/completions": "chat", "/v1/messages": "chat", "/v1/responses": "chat",
    "/v1/completions": "text_completion", "/v1/embeddings": "embeddings",
    "/v1/messages/count_tokens": "count_tokens", "/v1/responses/input_tokens": "count_tokens",
    "proxy.chat": "chat", "proxy.stream": "chat", "proxy.embed": "embeddings",
}  # fmt: skip
# What the conventions call them; all others are called as in the configuration.
_PROVIDERS = {"claude": "anthropic", "gemini": "gcp.gemini"}
_TOKENS = {
    "input": "prompt_tokens", "output": "completion_tokens", "input_cached": "cached_tokens",
    "input_cache_write": "cache_write_tokens", "output_reasoning": "reasoning_tokens",
}  # fmt: skip
_counts = attrgetter(*_TOKENS.values())

# By name and labels: a number (tokens: one of each type), or those in each bucket, beyond all, and
# their sum.
Key: TypeAlias = tuple[str, ...]
Rows: TypeAlias = dict[Key, list[float]]

log = logging.getLogger("proxy")


class Table(Rows):
    """Counts: a row is made when it is first asked for, with no secret in its labels (`mask`)."""

    def __init__(self, rows: Rows, seen: dict[str, dict[str, None]]) -> None:
        super().__init__(rows)
        self.seen = seen  # the first values of each label, which stay; later ones are `other`
        self.mask: Callable[[str], str] = str

    def __missing__(self, key: Key) -> list[float]:
        name, *values = key
        for at, (label, given) in enumerate(zip(LABELS[name], key[1:], strict=False)):
            # A name of an upstream's making may be long, or have half a surrogate: no text.
            value = self.mask(given).encode(errors="replace").decode()[:MAX_MODEL_CHARS]
            seen = self.seen.setdefault(label, {})
            most = MOST_CALLERS if label == "caller" else MOST_VALUES
            values[at] = value if value in seen or len(seen) < most else OTHER
            seen[values[at]] = None
        size = len(BOUNDS[name]) + 2 if name in BOUNDS else len(_TOKENS)
        return self.setdefault((name, *values), [0] * size)

    def observe(self, key: Key, took_s: float | None, bounds: Any = _DOUBLING_S) -> None:
        """Add to a histogram, if it came to that."""
        if took_s is not None:
            row = self[key]
            row[bisect_left(bounds, took_s)] += 1
            row[-1] += took_s

    def add(self, more: Rows) -> None:
        """Add these rows to its own."""
        for key, numbers in more.items():
            row = self[key]
            row[:] = map(add, row, numbers)


class Metrics:
    """What was counted, and how things stand: a collector for a registry of `prometheus-client`.

    Any thread may call. `ask` returns the facts of each process (`Gateway.facts`). Counts are those
    of this process, while there is no `fd`.
    """

    def __init__(self, ask: Callable[[], Iterable[dict[str, Any]]]) -> None:
        self.ask = ask
        self.fd = -1  # of the file in which all processes keep theirs, once there is one
        self._lock = threading.Lock()  # guards _table
        self._table = Table({}, {})  # what is in the file is zero here

    def keep(self) -> float:
        """Add what is new to the file, for one thread; returns when to do so again (monotonic)."""
        began = time.monotonic()
        if self.fd >= 0:
            with self._lock:
                new = {key: row for key, row in self._table.items() if any(row)}
                self._table |= {key: [0] * len(row) for key, row in new.items()}
            try:
                if new:
                    _add_to(self.fd, new)
            except OSError as error:
                with self._lock:
                    self._table.add(new)
                log.warning("/metrics lags behind: %s", error)
                return began + RETRY_S
        now = time.monotonic()
        return now + max(INTERVAL_S, 20 * (now - began))

    def reloaded(self, result: str) -> None:
        """Count a reading of the configuration: `ok` or `failed`."""
        with self._lock:
            self._table["poolproxy_reloads_total", result][0] += 1

    def call(self, record: Record, models: Container[str]) -> None:
        """Count a call that is over, or was refused before it was one. `models`: all known ones."""
        attempts, caller, end = record.attempts, record.caller, record.end
        model = record.model if attempts or record.model in models else record.model and OTHER
        path, operation = _asked(record.endpoint)
        with self._lock:
            rows = self._table
            rows.mask = record.mask
            rows["poolproxy_requests_total", path, model, caller, str(record.status), end][0] += 1
            if attempts or record.waited_s:
                rows.observe(("poolproxy_queue_wait_seconds",), record.waited_s)
            if record.stream:
                rows["poolproxy_stream_ends_total", end][0] += 1
            if record.fallback:
                rows["poolproxy_fallbacks_total", model, record.fallback][0] += 1
            if record.is_kept is not None:
                rows["poolproxy_sticky_total", "kept" if record.is_kept else "moved"][0] += 1
            if record.limit:
                rows["poolproxy_limit_refusals_total", caller, record.limit][0] += 1
            if operation:
                provider = _provider(attempts[-1].client) if attempts else ""
                error, since = "" if end == "ok" else end, record.since_arrival
                key = "gen_ai_server_request_duration_seconds", operation, provider, model, error
                rows.observe(key, since(record.ended))
                if record.stream:
                    key = "gen_ai_server_time_to_first_token_seconds", *key[1:]
                    rows.observe(key, since(record.first_event), _FIRST_S)
            for one in attempts:
                client, model = one.client, one.model
                outcome = str(one.status) if one.reason == "error" else one.reason
                rows["poolproxy_attempts_total", client, model, outcome][0] += 1
                provider, error = _provider(client), "" if outcome == "ok" else outcome
                key = "gen_ai_client_operation_duration_seconds", operation, provider, model, error
                rows.observe(key, one.seconds)
                if record.stream:
                    key = "gen_ai_client_operation_time_to_first_chunk_seconds", *key[1:]
                    rows.observe(key, one.first_event_s)
                if (usage := one.usage) is not None:
                    row = rows["poolproxy_tokens_total", caller, client, model]
                    for at, count in enumerate(_counts(usage)):
                        if count:
                            row[at] += count

    def rows(self) -> Rows:
        """All metrics, by name and labels. Asks other processes; raises OSError."""
        facts = [one for one in self.ask() if "error" not in one]
        with self._lock:
            rows = {key: [*row] for key, row in self._table.items()}
        if self.fd >= 0:
            rows = _read(self.fd)[1]
        told: Rows = {("poolproxy_reloads_total", result): [0] for result in ("ok", "failed")}
        for key, number in _standing(facts):
            together: Any = max if key[0] == "poolproxy_cooldown_seconds" else add
            told[key] = [together(number, *told.get(key, [0]))]
        for key, row in rows.items():
            if key[0] == "poolproxy_tokens_total":
                told |= {(*key, kind): [n] for kind, n in zip(_TOKENS, row, strict=True) if n}
            else:
                told[key] = row
        return told

    def collect(self) -> Iterator[Metric]:
        """All metrics, as `prometheus-client` has them. Asks other processes; raises OSError."""
        from prometheus_client import core, utils  # nobody else needs it

        found: dict[str, Any] = {}
        for name, (_, text) in FAMILIES.items():
            kind: Any = core.HistogramMetricFamily if name in BOUNDS else core.GaugeMetricFamily
            if name.endswith("_total"):
                kind = core.CounterMetricFamily
            found[name] = kind(name, f"{text}.", labels=LABELS[name])
        for (name, *labels), numbers in self.rows().items():
            told: tuple[Any, ...] = (numbers[0],)
            if name in BOUNDS:
                marks = [*map(utils.floatToGoString, BOUNDS[name]), "+Inf"]
                told = list(zip(marks, accumulate(numbers), strict=False)), numbers[-1]
            found[name].add_metric(labels, *told)
        yield from found.values()


@lru_cache(maxsize=64)  # strangers ask for others, which nothing keeps
def _asked(endpoint: str) -> tuple[str, str]:
    """The path, whatever prefix it has, and the operation; `other` and "" for an unknown one."""
    path = next((one for one in OPERATIONS if endpoint.endswith(one)), OTHER)
    return path, OPERATIONS.get(path, "")


@lru_cache(maxsize=1024)
def _provider(client: str) -> str:
    """Of an account's label, what is before its masked key or its number."""
    name = client.rpartition("/")[0] or client.partition("#")[0]
    return _PROVIDERS.get(name, name)


def _standing(facts: Iterable[dict[str, Any]]) -> Iterator[tuple[Key, float]]:
    """How things stand, by the facts of each process."""
    yield ("poolproxy_build_info", __version__), 1
    for one in facts:
        yield ("poolproxy_requests_in_flight",), one["in_flight"]
        yield ("poolproxy_requests_waiting",), sum(q["waiting"] for q in one["queues"].values())
        for client in one["clients"]:
            label, models = client["client"], client["models"]
            yield ("poolproxy_client_in_flight", label), client["in_flight"]
            if client["leaving"]:
                continue
            yield ("poolproxy_client_permits", label), client["permits"] or math.inf
            for model, own in models.items():
                health = models.get("", own)  # what holds for an account as a whole holds for each
                yield ("poolproxy_client_state", label, model, health["state"]), 1
                if health["state"] == "cooling down":
                    yield ("poolproxy_cooldown_seconds", label, model), health.get("for_s", 0)


# How often the file was written, where in it its rows and values are, how long they are, and how
# often once more: a read that meets a write may see a part of each.
_HEAD = struct.Struct("4Q")
_Kept: TypeAlias = tuple[Rows, dict[str, dict[str, None]]]


def _read(fd: int) -> tuple[tuple[int, int, int], Table]:
    """The file's head and what is in it, whoever writes beside that meanwhile."""
    while head := os.pread(fd, _HEAD.size, 0):
        turn, begin, size, same = _HEAD.unpack(head)
        if turn != same:
            continue
        data = os.pread(fd, size, begin)
        if head == os.pread(fd, _HEAD.size, 0):
            return (begin, size, turn), Table(*msgspec.msgpack.decode(data, type=_Kept))
    return (_HEAD.size, 0, 0), Table({}, {})


def _add_to(fd: int, new: Rows) -> None:
    """Add rows to the file's, which whoever dies meanwhile leaves as it was; raises OSError."""
    fcntl.lockf(fd, fcntl.LOCK_EX)  # blocks while another process does the same
    try:
        (begin, size, turn), table = _read(fd)
        table.add(new)
        data = msgspec.msgpack.encode((dict(table), table.seen))
        # Before what is there, or behind it.
        begin = _HEAD.size if len(data) <= begin - _HEAD.size else begin + size
        if os.pwrite(fd, data, begin) < len(data):
            raise OSError("there is no room")
        os.pwrite(fd, _HEAD.pack(turn + 1, begin, len(data), turn + 1), 0)
    finally:
        fcntl.lockf(fd, fcntl.LOCK_UN)
