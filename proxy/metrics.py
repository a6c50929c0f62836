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
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator
from functools import lru_cache
from itertools import accumulate
from operator import add
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from .record.record import MAX_MODEL_CHARS, Record
from .version import __version__

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
BOUNDS = {
    name: _FIRST_S if name.endswith("first_token_seconds") else _DOUBLING_S
    for name in FAMILIES
    if name.startswith("gen_ai") or name.endswith("wait_seconds")
}

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

# By name and labels: one number, or those in each bucket, beyond all, and their sum.
Key: TypeAlias = tuple[str, ...]
Rows: TypeAlias = dict[Key, list[float]]
# Of each label those that it has had: the first ones stay, those that come later are `other`.
Values: TypeAlias = dict[str, dict[str, None]]

# A call or an attempt is one addition to the row of all that are like it in these. `_told` makes
# metrics of a row: how many there were, what they took, and what else is told of them.
_CALL = "endpoint model caller status end stream to sticky limit provider"
_ATTEMPT = "client model outcome caller stream operation"
_KINDS = {"call": _CALL.split(), "attempt": _ATTEMPT.split(), "reload": ["result"]}
_TOOK, _REST, _FIRST = 1, 1 + len(_DOUBLING_S) + 2, 1 + 2 * (len(_DOUBLING_S) + 2)
_SIZE = _FIRST + len(_FIRST_S) + 2
_STICKY = {None: "", True: "kept", False: "moved"}

log = logging.getLogger("proxy")


class Metrics:
    """What was counted, and how things stand: a collector for a registry of `prometheus-client`.

    Any thread may call. `ask` returns the facts of each process (`Gateway.facts`). Counts are those
    of this process, until `share`.
    """

    def __init__(self, ask: Callable[[], Iterable[dict[str, Any]]]) -> None:
        self.ask = ask
        self.shared = ""  # what tells the file from others, once there is one
        self._fd = -1
        self._lock = threading.Lock()  # guards _rows, _values
        self._rows: Rows = {}  # by _KINDS; what is in the file is zero here
        self._values: Values = {}

    def share(self, fd: int) -> None:
        """Tell from now on what all processes have kept in this file."""
        self._fd, self.shared = fd, str(os.fstat(fd).st_ino)

    def keep(self) -> float:
        """Add what is new to the file; returns the monotonic moment at which to do so again.

        For one thread. Blocks while another process does the same.
        """
        began = time.monotonic()
        if self._fd >= 0:
            with self._lock:
                new = {kind: row for kind, row in self._rows.items() if row[0]}
                self._rows |= {kind: [0] * _SIZE for kind in new}
            try:
                if new:
                    _add_to(self._fd, new)
            except OSError as error:
                with self._lock:
                    _add(self._rows, new, self._values)
                log.warning("/metrics lags behind: %s", error)
                return began + RETRY_S
        now = time.monotonic()
        return now + max(INTERVAL_S, 20 * (now - began))

    def reloaded(self, result: str) -> None:
        """Count a reading of the configuration: `ok` or `failed`."""
        with self._lock:
            self._row_locked(str, "reload", result)[0] += 1

    def call(self, record: Record, models: Container[str]) -> None:
        """Count a call that is over, or was refused before it was one. `models`: all known ones."""
        attempts, mask = record.attempts, record.mask
        model = record.model if attempts or record.model in models else record.model and OTHER
        path, operation = _asked(record.endpoint)
        stream = "stream" if record.stream else ""
        provider = _provider(attempts[-1].client) if attempts else ""
        with self._lock:
            row = self._row_locked(
                mask, "call", path, model, record.caller, str(record.status), record.end, stream,
                record.fallback, _STICKY[record.is_kept], record.limit, provider,
            )  # fmt: skip
            row[0] += 1
            _observe(row, _TOOK, record.since_arrival(record.ended))
            _observe(row, _REST, record.waited_s if attempts or record.waited_s else None)
            _observe(row, _FIRST, record.since_arrival(record.first_event), _FIRST_S)
            for one in attempts:
                outcome = str(one.status) if one.reason == "error" else one.reason
                row = self._row_locked(
                    mask, "attempt", one.client, one.model, outcome, record.caller, stream,
                    operation,
                )  # fmt: skip
                row[0] += 1
                _observe(row, _TOOK, one.seconds)
                _observe(row, _REST, one.first_event_s)
                if (usage := one.usage) is not None:
                    for at, name in enumerate(_TOKENS.values(), _FIRST):
                        row[at] += getattr(usage, name) or 0

    def _row_locked(self, mask: Callable[[str], str], *kind: str) -> list[float]:
        """The numbers of this kind, with no more values of a label than there may be."""
        row = self._rows.get(kind)
        if row is None:
            row = self._rows.setdefault(_known(self._values, kind, mask), [0] * _SIZE)
        return row

    def rows(self) -> Rows:
        """All metrics, by name and labels. Asks other processes; raises OSError."""
        # Who did not answer, or is another server's, has nothing to tell.
        facts = [one for one in self.ask() if one.get("counts", "") == self.shared]
        with self._lock:
            rows = {kind: [*row] for kind, row in self._rows.items()}
        if self._fd >= 0:
            _, rows, _ = _read(self._fd)
        sums: Rows = {("poolproxy_reloads_total", result): [0] for result in ("ok", "failed")}
        for kind, row in rows.items():
            for key, numbers in _told(kind, row):
                sums[key] = [*map(add, sums[key], numbers)] if key in sums else numbers
        return sums | _standing(facts)

    def collect(self) -> Iterator[Metric]:
        """All metrics, as `prometheus-client` has them. Asks other processes; raises OSError."""
        from prometheus_client import core, utils  # nobody else needs it

        found: dict[str, Any] = {}
        for name, (_, text) in FAMILIES.items():
            kind: Any = core.GaugeMetricFamily
            if name in BOUNDS:
                kind = core.HistogramMetricFamily
            elif name.endswith("_total"):
                kind = core.CounterMetricFamily
            found[name] = kind(name, f"{text}.", labels=LABELS[name])
        for (name, *labels), numbers in self.rows().items():
            told: tuple[Any, ...] = (numbers[0],)
            if name in BOUNDS:
                marks = [*map(utils.floatToGoString, BOUNDS[name]), "+Inf"]
                told = list(zip(marks, accumulate(numbers), strict=False)), numbers[-1]
            found[name].add_metric(labels, *told)
        yield from found.values()


def _observe(row: list[float], at: int, took_s: float | None, bounds: Any = _DOUBLING_S) -> None:
    """Add to the histogram at this place in a row, if it came to that."""
    if took_s is not None:
        row[at + bisect_left(bounds, took_s)] += 1
        row[at + len(bounds) + 1] += took_s


def _known(values: Values, kind: Key, mask: Callable[[str], str] = str) -> Key:
    """The kind of the row that is meant, with no more values of a label than there may be."""
    found = [kind[0]]
    for label, given in zip(_KINDS[kind[0]], kind[1:], strict=True):
        # A name of an upstream's making may be long, or have half a surrogate, which is no text.
        value = mask(given).encode(errors="replace").decode()[:MAX_MODEL_CHARS]
        seen = values.setdefault(label, {})
        most = MOST_CALLERS if label == "caller" else MOST_VALUES
        if value != OTHER and (value in seen or len(seen) < most):
            seen[value] = None
        else:
            value = OTHER
        found.append(value)
    return tuple(found)


def _add(rows: Rows, more: Rows, values: Values) -> None:
    """Add these rows to others, which have no more than these values of labels."""
    for kind, numbers in more.items():
        key = _known(values, kind)
        rows[key] = [*map(add, rows[key], numbers)] if key in rows else numbers


def _told(kind: Key, row: list[float]) -> Iterator[tuple[Key, list[float]]]:
    """What is told of this row: numbers by name and labels."""
    took, rest, first = row[_TOOK:_REST], row[_REST:_FIRST], row[_FIRST:]
    match kind:
        case "call", path, model, caller, status, end, stream, to, sticky, limit, provider:
            yield ("poolproxy_requests_total", path, model, caller, status, end), row[:1]
            yield ("poolproxy_queue_wait_seconds",), rest
            if stream:
                yield ("poolproxy_stream_ends_total", end), row[:1]
            if to:
                yield ("poolproxy_fallbacks_total", model, to), row[:1]
            if sticky:
                yield ("poolproxy_sticky_total", sticky), row[:1]
            if limit:
                yield ("poolproxy_limit_refusals_total", caller, limit), row[:1]
            if operation := OPERATIONS.get(path):
                labels = operation, provider, model, "" if end == "ok" else end
                yield ("gen_ai_server_request_duration_seconds", *labels), took
                if stream:
                    yield ("gen_ai_server_time_to_first_token_seconds", *labels), first
        case "attempt", client, model, outcome, caller, stream, operation:
            yield ("poolproxy_attempts_total", client, model, outcome), row[:1]
            labels = operation, _provider(client), model, "" if outcome == "ok" else outcome
            yield ("gen_ai_client_operation_duration_seconds", *labels), took
            if stream:
                yield ("gen_ai_client_operation_time_to_first_chunk_seconds", *labels), rest
            for at, kind_of in enumerate(_TOKENS):
                yield ("poolproxy_tokens_total", caller, client, model, kind_of), first[at : at + 1]
        case "reload", result:
            yield ("poolproxy_reloads_total", result), row[:1]


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


def _standing(facts: Iterable[dict[str, Any]]) -> Rows:
    """How things stand, by the facts of each process."""
    found = defaultdict[Key, list[float]](list, {("poolproxy_build_info", __version__): [1]})
    for one in facts:
        found["poolproxy_requests_in_flight",].append(one["in_flight"])
        found["poolproxy_requests_waiting",] += [q["waiting"] for q in one["queues"].values()]
        for client in one["clients"]:
            label = client["client"]
            found["poolproxy_client_in_flight", label].append(client["in_flight"])
            if client["leaving"]:
                continue
            found["poolproxy_client_permits", label].append(client["permits"] or math.inf)
            models = {**client["models"]}
            if client["disabled"]:
                models[""] = {"state": "disabled"}
            for model, own in models.items():
                health = models.get("", own)  # what holds for an account as a whole holds for each
                found["poolproxy_client_state", label, model, health["state"]].append(1)
                if health["state"] == "cooling down":
                    found["poolproxy_cooldown_seconds", label, model].append(health.get("for_s", 0))
    return {
        key: [max(told) if key[0] == "poolproxy_cooldown_seconds" else sum(told)]
        for key, told in found.items()
    }


# Where in the file its rows and values are, how long, and how often they were written.
_HEAD = struct.Struct("3Q")


def _read(fd: int) -> tuple[tuple[int, int, int], Rows, Values]:
    """The file's head, rows and values, whoever writes others beside them meanwhile."""
    while head := os.pread(fd, _HEAD.size, 0):
        begin, size, turn = _HEAD.unpack(head)
        data = os.pread(fd, size, begin)
        if head == os.pread(fd, _HEAD.size, 0):
            return (begin, size, turn), *msgspec.msgpack.decode(data, type=tuple[Rows, Values])
    return (_HEAD.size, 0, 0), {}, {}


def _add_to(fd: int, new: Rows) -> None:
    """Add these rows to those in the file: whoever dies meanwhile leaves it as it was.

    Raises OSError. Who is stopped with the lock is killed by the server before long.
    """
    fcntl.lockf(fd, fcntl.LOCK_EX)
    try:
        (begin, size, turn), rows, values = _read(fd)
        _add(rows, new, values)
        data = msgspec.msgpack.encode((rows, values))
        # Before what is there, or behind it.
        begin = _HEAD.size if len(data) <= begin - _HEAD.size else begin + size
        if os.pwrite(fd, data, begin) < len(data):
            raise OSError("there is no room")
        os.pwrite(fd, _HEAD.pack(begin, len(data), turn + 1), 0)
    finally:
        fcntl.lockf(fd, fcntl.LOCK_UN)
