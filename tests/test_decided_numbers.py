"""The times and limits that callers, upstreams and operators notice: each was decided, none drifts.

Other tests take them from the code, so that they hold for whatever stands there.
"""

from __future__ import annotations

from types import ModuleType

import pytest

from proxy import errors, reload
from proxy.api import exchange
from proxy.cli import checking
from proxy.clients import base, demo, registry
from proxy.config import secrets, source
from proxy.dialects import embeddings
from proxy.net import names, opening, shortage, timed_socket, transport, watch
from proxy.pool import health, pool, queue, tier
from proxy.record import record, transcript
from proxy.request import attempts, failures
from proxy.server import addresses, hooks, settings, tuning, worker
from proxy.server.control import listener, sockets
from proxy.wire import completions, native, reasoning
from proxy.wire.chat import errors as chat_errors
from proxy.wire.chat import reply as chat_reply
from proxy.wire.chat import request as chat_request
from proxy.wire.chat import stream as chat_stream
from proxy.wire.claude import thinking
from proxy.wire.gemini import calls
from proxy.wire.gemini import events as gemini_errors
from proxy.wire.http import answer, content_coding

KB, MB = 1024, 1024 * 1024


@pytest.mark.parametrize(
    ("module", "limits"),
    [
        (addresses, {"EXIT_BUSY": 3}),
        (
            answer,
            {"MAX_HEAD_BYTES": 64 * KB, "MAX_INTERIM_HEADS": 32, "MAX_FRAMING_BYTES": 16 * KB},
        ),
        (attempts, {"LINGER_S": 0.05, "MAX_FORMS": 4}),
        (base, {"MAX_PAGE_BYTES": 32 * MB, "MAX_PAGES": 20, "MAX_HEADS": 4096}),
        (calls, {"MAX_SIGNATURE_IN_ID": 8192}),
        (chat_errors, {"MAX_MESSAGE_CHARS": 4000}),
        (chat_reply, {"MAX_QUOTED_CHARS": 2000, "MAX_CODE_CHARS": 100}),
        (chat_request, {"MAX_TEXTS": 100}),
        (chat_stream, {"MAX_HELD_BYTES": 64 * KB}),
        (checking, {"PROBE_TIMEOUT_S": 15, "MAX_PROBES": 32}),
        (completions, {"MAX_PROMPTS": 128, "MAX_REPEATED_BYTES": 16 * MB}),
        (
            content_coding,
            {
                "INFLATE_BYTES": 4 * KB,
                "PIECE_BYTES": 64 * KB,
                "MAX_RATIO": 100,
                "UNSUSPICIOUS_BYTES": 4 * MB,
            },
        ),
        (demo, {"MAX_WORDS": 200}),
        (embeddings, {"MAX_INPUTS": 2048, "MAX_REPEATED_BYTES": 4 * KB}),
        (errors, {"MAX_USEFUL_RETRY_S": 60}),
        (exchange, {"PIECE_BYTES": 256 * KB}),
        (
            failures,
            {
                "MAX_ERROR_BYTES": MB,
                "ERROR_BODY_S": 10,
                "MAX_CAUSE_CHARS": 300,
                "BACK_OFF_S": (0.25, 4),
            },
        ),
        (gemini_errors, {"MAX_MESSAGE_CHARS": 2000}),
        (
            health,
            {
                "COOLDOWN_S": (1, 300),
                "REST_S": (1, 60),
                "OUT_S": (60, 1800),
                "LONG_S": 30,
                "TRIAL_S": 2,
            },
        ),
        (hooks, {"EXIT_CONFIG": 2}),
        (listener, {"MAX_REQUEST_BYTES": 4 * KB}),
        (
            names,
            {
                "MAX_THREADS": 8,
                "FRESH_S": 10,
                "AT_ONCE_S": 60,
                "RENEWAL_S": 1.8,
                "MAX_NAMES": 1024,
            },
        ),
        (native, {"MAX_HELD": 64}),
        (opening, {"HEAD_START_S": 0.25}),
        (pool, {"MEAN_WEIGHT": 0.1, "MAX_LISTED_COOLDOWN_S": 60, "MAX_QUEUES": 1000}),
        (queue, {"MOST_TOLD": 8, "MOST_AHEAD": 64}),
        (reasoning, {"MAX_CHARS": 32 * KB}),
        (
            record,
            {
                "MAX_NAME_CHARS": 80,
                "MAX_DROPPED": 12,
                "MAX_MODEL_CHARS": 256,
                "MAX_MESSAGE_CHARS": 500,
            },
        ),
        (
            registry,
            {
                "KEPT_S": 300,
                "RETRY_S": 10,
                "WANT_S": 1,
                "FETCH_TIMEOUT_S": 10,
                "MAX_FETCHES": 16,
            },
        ),
        (reload, {"LOOK_S": 1}),
        (secrets, {"MIN_SECRET_CHARS": 8}),
        (settings, {"SPARE_THREADS": 32, "KEEP_ALIVE_S": 75, "GRACEFUL_TIMEOUT_S": 120}),
        (shortage, {"TOLD_S": 10}),
        (sockets, {"REQUEST_TIMEOUT_S": 2, "ANSWER_TIMEOUT_S": 10}),
        (source, {"SETTLE_S": 0.25}),
        (thinking, {"MAX_CARRIED_BYTES": 32 * KB}),
        (tier, {"MOST_SCORED": 16}),
        (
            timed_socket,
            {"MAX_JOINED_BYTES": 64 * KB, "MAX_UNSENT_BYTES": 64 * KB, "MIN_WRITE_TIMEOUT_S": 6},
        ),
        (transcript, {"WARNING_PAUSE_S": 60}),
        (transport, {"MAX_JOINED_BYTES": 64 * KB}),
        (
            tuning,
            {"LOOKS_PER_S": 5000, "MIN_SWITCH_INTERVAL_S": 0.05, "MAX_SWITCH_INTERVAL_S": 1},
        ),
        (watch, {"LOOK_S": 0.5}),
        (
            worker,
            {
                "HEAD_TIMEOUT_S": 20,
                "MAX_HEAD_BYTES": 64 * KB,
                "WRITE_TIMEOUT_S": 20,
                "STOP_LINGER_S": 1,
                "TELL_S": 2,
                "BRISK_S": 0.01,
                "TLS_HEADS_SHARE": 4,
                "EXHAUSTED_PAUSE_S": 0.1,
                "EXHAUSTED_TOLD_S": 10,
                "HEADS_LOOK_S": 0.25,
            },
        ),
    ],
    ids=lambda given: given.__name__ if isinstance(given, ModuleType) else "",
)
def test_limit_is_the_one_that_was_decided(module: ModuleType, limits: dict[str, object]) -> None:
    """Times are in seconds, sizes in bytes or characters."""
    assert {name: getattr(module, name) for name in limits} == limits
