"""What goes on, for Prometheus: counted here, and only written by the package `prometheus-client`.

That is imported at the first scrape: to count with it takes ten times as long, and its way for
several processes is one for all that is in them. A call is counted when it is over, by additions to
rows in memory. A worker keeps its rows in a slot: a number held by a lock (flock), which ends with
the worker, however that ends. The next worker takes the slot over, and goes on from its rows.

Names and labels follow OpenTelemetry's conventions for generative AI where these have one
(github.com/open-telemetry/semantic-conventions-genai, status: development, read 2026-11).
"""

from __future__ import annotations

import fcntl
import glob
import logging
import math
import os
import shutil
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from itertools import accumulate, count
from operator import add
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from .record.record import MAX_MODEL_CHARS, MAX_NAME_CHARS, Attempt, Record
from .version import __version__
from .wire.chat import Usage

if TYPE_CHECKING:
    from prometheus_client import Metric

# A worker writes its slot so often, or as often as takes a twentieth of its time; where it can't
# (the disk is full) it tries again later.
INTERVAL_S, RETRY_S = 0.2, 30.0
# A label's values beyond these are `other`: each costs memory, here and in Prometheus.
MOST_VALUES, MOST_CALLERS, OTHER = 500, 200, "other"
# So many kinds of calls have their rows at hand; beyond, those are looked for again.
MOST_PLANS = 4096

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
    "gen_ai_client_operation_time_to_first_chunk_seconds": (
        _GEN_AI, "From an attempt's beginning to its stream's first event",
    ),
}  # fmt: skip
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
_TOKENS = ("input", "output", "input_cached", "input_cache_write", "output_reasoning")

_NO_ATTEMPT, _NO_USAGE = Attempt(""), Usage()

# By name and labels: one number, or those in each bucket, beyond all, and their sum.
Key: TypeAlias = tuple[str, ...]
Rows: TypeAlias = dict[Key, list[float]]
# Of each label those that it has had: the first ones stay, those that come later are `other`.
Values: TypeAlias = dict[str, dict[str, None]]

_Ask: TypeAlias = Callable[[], Iterable[dict[str, Any]]]
# The place of a number in what is told of a call, and the key of a row to which it is added.
_Additions: TypeAlias = Iterator[tuple[int, Key]]

log = logging.getLogger("proxy")


class Metrics:
    """What was counted, and how things stand: a collector for a registry of `prometheus-client`.

    Any thread may call. `ask` returns the facts of each process (`Gateway.facts`). Counts are those
    of this process, until `share`.
    """

    def __init__(self, ask: _Ask) -> None:
        self.folder = ""  # of the slots
        self._ask = ask
        self._slot = ""  # the path of ours
        self._kept = -1  # changes that are in it
        self._lock = threading.Lock()  # guards all below
        self._changes = 0
        self._rows: Rows = {}
        self._values: Values = {}
        self._plans: dict[object, list[tuple[int, Any, list[float]]]] = {}
        for result in ("ok", "failed"):  # an increase is seen of what is there before
            self._row_locked("poolproxy_reloads_total", result)

    def share(self, home: str, server: str, ask: _Ask) -> None:
        """Take a slot of the server's in `home`, and tell from now on what all of them hold.

        It is ours until the process ends. Folders that other servers have left there are removed.
        Raises OSError.
        """
        folder = os.path.join(home, f"counts-{server}")
        is_new = not os.path.exists(folder)
        os.makedirs(folder, 0o700, exist_ok=True)
        _hold(folder, fcntl.LOCK_SH)
        for other in glob.glob(f"{glob.escape(home)}/counts-*") if is_new else ():
            with suppress(OSError):  # another server is quicker
                if other != folder and _hold(other, fcntl.LOCK_EX):
                    shutil.rmtree(other, ignore_errors=True)
        paths = (os.path.join(folder, str(number)) for number in count())
        slot = next(path for path in paths if _hold(f"{path}.lock", fcntl.LOCK_EX, os.O_CREAT))
        with self._lock:
            for key, numbers in _load(slot, Rows).items():
                row = self._row_locked(*key)
                row[:] = map(add, row, numbers)
        self._slot, self.folder, self._ask = slot, folder, ask

    def keep(self) -> float:
        """Write what is new into the slot; returns the monotonic moment at which to do so again.

        For one thread.
        """
        began, rows = time.monotonic(), b""
        with self._lock:
            changes = self._changes
            if self._slot and changes != self._kept:
                rows = msgspec.msgpack.encode(self._rows)
        if rows:
            try:
                _replace(self._slot, rows)
            except OSError as error:
                log.warning("/metrics lags behind: %s", error)
                return began + RETRY_S
            self._kept = changes
        now = time.monotonic()
        return now + max(INTERVAL_S, 20 * (now - began))

    def reloaded(self, result: str) -> None:
        """Count a reading of the configuration: `ok` or `failed`."""
        with self._lock:
            self._changes += 1
            self._row_locked("poolproxy_reloads_total", result)[0] += 1

    def call(self, record: Record, models: Container[str]) -> None:
        """Count a call that is over, or was refused before it was one. `models`: all known ones."""
        attempts = record.attempts
        last = attempts[-1] if attempts else _NO_ATTEMPT
        model = record.model if attempts or record.model in models else record.model and OTHER
        path, operation = _asked(record.endpoint)
        kind: tuple[Any, ...] = (
            path, model, record.caller, record.status, record.end[:MAX_NAME_CHARS], record.stream,
            record.fallback, record.is_kept, record.limit, last.client, last.model,
        )  # fmt: skip
        arrived, ended, began = record.arrived, record.ended, record.first_event
        numbers = (
            1,
            None if ended is None else ended - arrived,
            None if began is None else began - arrived,
            record.waited_s if attempts or record.waited_s else None,
        )
        with self._lock:
            self._changes += 1
            self._add_locked(numbers, kind, _of_call, record, model, last)
            for one in attempts:
                # The upstream's word may be as long as it likes.
                outcome = str(one.status) if one.reason == "error" else one.reason[:MAX_NAME_CHARS]
                kind = one.client, one.model, outcome, record.caller, record.stream, operation
                usage = one.usage or _NO_USAGE
                told = (
                    1, one.seconds, one.first_event_s,
                    usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens,
                    usage.cache_write_tokens, usage.reasoning_tokens,
                )  # fmt: skip
                self._add_locked(told, kind, _of_attempt, record.mask, *kind)

    def _add_locked(
        self, numbers: tuple[float | None, ...], kind: object, make: Any, *of: Any
    ) -> None:
        """Add these numbers to the rows for this kind of call or attempt, which `make` tells."""
        plan = self._plans.get(kind)
        if plan is None:
            if len(self._plans) >= MOST_PLANS:
                self._plans.clear()
            plan = [(at, BOUNDS.get(key[0]), self._row_locked(*key)) for at, key in make(*of)]
            self._plans[kind] = plan
        for at, bounds, row in plan:
            number = numbers[at]
            if number is None:
                continue
            if bounds is None:
                row[0] += number
            else:
                row[bisect_left(bounds, number)] += 1
                row[-1] += number

    def _row_locked(self, *key: str) -> list[float]:
        """The numbers of this name and these labels."""
        bounds = BOUNDS.get(key[0])
        blank: list[float] = [0] * (len(bounds) + 2 if bounds else 1)
        return self._rows.setdefault(_key(self._values, *key), blank)

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
        for (name, *labels), numbers in self._all().items():
            told: tuple[Any, ...] = (numbers[0],)
            if name in BOUNDS:
                marks = [*map(utils.floatToGoString, BOUNDS[name]), "+Inf"]
                told = list(zip(marks, accumulate(numbers), strict=False)), numbers[-1]
            found[name].add_metric(labels, *told)
        yield from found.values()

    def text(self) -> bytes:
        """All metrics as text. Asks other processes; raises OSError."""
        from prometheus_client import generate_latest

        registry: Any = self
        return generate_latest(registry)

    def _all(self) -> Rows:
        # Who did not answer, or is another server's, has nothing to tell.
        standing = _standing(one for one in self._ask() if one.get("counts", "") == self.folder)
        if not self.folder:
            with self._lock:
                return _summed([standing, self._rows], self._values)
        # Decided once, and for all workers: which values a label has, so that no row goes again.
        path = os.path.join(self.folder, "values")
        with open(f"{path}.lock", "ab") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            values: Values = _load(path, Values)
            before = msgspec.msgpack.encode(values)
            slots = [name for name in os.listdir(self.folder) if name.isdecimal()]
            parts = [_load(os.path.join(self.folder, slot), Rows) for slot in slots]
            rows = _summed([standing, *parts], values)
            if before != (after := msgspec.msgpack.encode(values)):
                _replace(path, after)
        return rows


def _key(values: Values, name: str, *labels: str) -> Key:
    """The key of the row that is meant, with no more values of a label than there may be."""
    return name, *[
        _known(values.setdefault(of, {}), of, it)
        for of, it in zip(LABELS[name], labels, strict=True)
    ]


def _known(seen: dict[str, None], label: str, value: str) -> str:
    if value in seen or value == OTHER:
        return value
    # A name of an upstream's making may be long, or have half a surrogate, which is no text.
    value = value.encode(errors="replace").decode()[:MAX_MODEL_CHARS]
    if value not in seen and len(seen) >= (MOST_CALLERS if label == "caller" else MOST_VALUES):
        return OTHER
    seen[value] = None
    return value


def _summed(parts: Iterable[Rows], values: Values) -> Rows:
    """The sums of all rows that have the same key, with no more than these values of labels."""
    sums: Rows = {}
    for rows in parts:
        for key, numbers in rows.items():
            row = sums.setdefault(_key(values, *key), [0] * len(numbers))
            row[:] = map(add, row, numbers)
    return sums


def _of_call(record: Record, model: str, last: Attempt) -> _Additions:
    path, operation = _asked(record.endpoint)
    caller, end, model = record.caller, record.end[:MAX_NAME_CHARS], record.mask(model)
    yield 0, ("poolproxy_requests_total", path, model, caller, str(record.status), end)
    yield 3, ("poolproxy_queue_wait_seconds",)
    if record.stream:
        yield 0, ("poolproxy_stream_ends_total", end)
    if record.fallback:
        yield 0, ("poolproxy_fallbacks_total", model, record.mask(record.fallback))
    if record.is_kept is not None:
        yield 0, ("poolproxy_sticky_total", "kept" if record.is_kept else "moved")
    if record.limit:
        yield 0, ("poolproxy_limit_refusals_total", caller, record.limit)
    if operation:
        labels = operation, _provider(last.client), model, "" if end == "ok" else end
        yield 1, ("gen_ai_server_request_duration_seconds", *labels)
        if record.stream:
            yield 2, ("gen_ai_server_time_to_first_token_seconds", *labels)


def _of_attempt(
    mask: Callable[[str], str],
    client: str,
    model: str,
    outcome: str,
    caller: str,
    stream: bool,
    operation: str,
) -> _Additions:
    model = mask(model)
    yield 0, ("poolproxy_attempts_total", client, model, outcome)
    labels = operation, _provider(client), model, "" if outcome == "ok" else outcome
    yield 1, ("gen_ai_client_operation_duration_seconds", *labels)
    if stream:
        yield 2, ("gen_ai_client_operation_time_to_first_chunk_seconds", *labels)
    for at, kind in enumerate(_TOKENS):
        yield 3 + at, ("poolproxy_tokens_total", caller, client, model, kind)


@lru_cache(maxsize=64)  # strangers ask for others, which nothing keeps
def _asked(endpoint: str) -> tuple[str, str]:
    """The path, whatever prefix it has, and the operation; `other` and "" for an unknown one."""
    path = next((one for one in OPERATIONS if endpoint.endswith(one)), OTHER)
    return path, OPERATIONS.get(path, "")


def _provider(client: str) -> str:
    """Of an account's label, what is before its masked key or its number."""
    name = client.rpartition("/")[0] or client.partition("#")[0]
    return _PROVIDERS.get(name, name)


def _standing(facts: Iterable[dict[str, Any]]) -> Rows:
    """How things stand, by the facts of each process."""
    rows: Rows = {("poolproxy_build_info", __version__): [1]}

    def note(number: float, *key: str, how: Callable[[float, float], float] = add) -> None:
        rows[key] = [how(number, rows.get(key, [0])[0])]

    for one in facts:
        note(one["in_flight"], "poolproxy_requests_in_flight")
        waiting = sum([queue["waiting"] for queue in one["queues"].values()])
        note(waiting, "poolproxy_requests_waiting")
        for client in one["clients"]:
            label = client["client"]
            note(client["in_flight"], "poolproxy_client_in_flight", label)
            if client["leaving"]:
                continue
            note(client["permits"] or math.inf, "poolproxy_client_permits", label)
            if client["disabled"]:
                note(1, "poolproxy_client_state", label, "", "disabled")
            for model, health in client["models"].items():
                state = health["state"]
                note(1, "poolproxy_client_state", label, model, state)
                if state == "cooling down":
                    left_s = health.get("for_s", 0)
                    note(left_s, "poolproxy_cooldown_seconds", label, model, how=max)
    return rows


def _hold(path: str, how: int, flags: int = os.O_DIRECTORY) -> bool:
    """Lock a folder, or a file, until the process ends; False: another process has it."""
    fd = os.open(path, os.O_RDONLY | flags, 0o600)
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return False
    return True


def _load(path: str, kind: Any) -> Any:
    """What `_replace` has put there; an empty dictionary if it has not yet."""
    try:
        with open(path, "rb") as file:
            return msgspec.msgpack.decode(file.read(), type=kind)
    except FileNotFoundError:
        return {}


def _replace(path: str, data: bytes) -> None:
    """Put the data in the place of what is there; whoever reads sees one or the other."""
    with open(f"{path}.new", "wb") as file:
        file.write(data)
    os.replace(f"{path}.new", path)
