"""The upstream dialects of the matrix: what well and faulty upstreams of each kind say.

A dialect is pure data on bytes and configuration: the faults are cut out of its two whole answers.
A further one is a further `Dialect` in `DIALECTS`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tests.support import claude_upstream as claude
from tests.support import gemini_upstream as gemini
from tests.support.dialects import Said
from tests.support.responses_upstream import NATIVE as RESPONSES
from tests.support.upstream import Received, error_object

Json = dict[str, Any]

TEXT = "Hi there"


@dataclass(frozen=True)
class Dialect:
    """One kind of upstream.

    `section`: its list in the configuration; `path`: behind its base URL's origin. `whole` is a
    unary answer that says TEXT; `events` are a stream's that say it, the first with its beginning;
    `error_event` is one that stands in their place.
    """

    name: str
    section: str
    path: str
    whole: bytes
    events: tuple[bytes, ...]
    error_event: bytes
    error: bytes
    # As what this error is shown.
    error_status: int
    error_code: str | None
    # The code of an error 500 in plain text.
    plain_code: str | None
    # Every n-th cell of the table is run for it.
    share: int = 1
    # Those who call it; none: all of them do.
    callers: tuple[str, ...] = ()
    # More of its clients' configuration.
    options: tuple[tuple[str, str], ...] = ()

    def provider(self, name: str, base_url: str, key: str, more: Mapping[str, Any]) -> Json:
        """The configuration of one client that serves a model `name`."""
        models = {"models": [{"name": name}], **dict(self.options), **more}
        if self.section == "openai-compatibility":
            label = f"{name}-{key[-4:]}"
            return {"name": label, "base-url": base_url + self.path, "api-keys": [key], **models}
        return {"api-key": key, "base-url": base_url + self.path, **models}

    def asks_for_stream(self, received: Received) -> bool:
        """Whether this request is for a stream: by its path, or by its body."""
        return "stream" in received.path or bool(received.json().get("stream"))


def _data(payload: object) -> bytes:
    return b"data: " + _json(payload) + b"\n\n"


def _json(payload: object) -> bytes:
    return json.dumps(payload, separators=(",", ":")).encode()


def _chunk(delta: Json, finish: str | None) -> bytes:
    return _data({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


_OPENAI_ERROR = error_object("All is lost.", code=503)

OPENAI = Dialect(
    name="openai",
    section="openai-compatibility",
    path="/v1",
    whole=_json(
        {"choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}}], "n": 1.0}
    ),
    events=(
        _chunk({"content": TEXT[:2]}, None),
        _chunk({"content": TEXT[2:]}, "stop"),
        b"data: [DONE]\n\n",
    ),
    error_event=_data(_OPENAI_ERROR),
    error=_json(_OPENAI_ERROR),
    error_status=503,
    error_code="503",
    plain_code=None,
)

_MESSAGE = claude.message(claude.text(TEXT))
_CLAUDE_EVENTS = claude.events(_MESSAGE, piece_chars=2)
_CLAUDE_ERROR = claude.error("overloaded_error", "All is lost.")

# Text comes with its fourth event.
CLAUDE = Dialect(
    name="claude",
    section="claude-api-key",
    path="",
    whole=_json(_MESSAGE),
    events=(
        b"".join(claude.sse(_CLAUDE_EVENTS[:4])),
        *claude.sse(_CLAUDE_EVENTS[4:]),
    ),
    error_event=claude.sse([_CLAUDE_ERROR])[0],
    error=_json(_CLAUDE_ERROR),
    error_status=529,
    error_code="overloaded_error",
    plain_code="api_error",
    share=3,
)

_GEMINI_EVENTS = gemini.text_stream([TEXT[:2], TEXT[2:]])

GEMINI = Dialect(
    name="gemini",
    section="gemini-api-key",
    path="",
    whole=gemini.unary(gemini.joined(_GEMINI_EVENTS)),
    events=tuple(gemini.sse(_GEMINI_EVENTS)),
    error_event=gemini.sse([gemini.overloaded()])[0],
    error=gemini.unary(gemini.overloaded()),
    error_status=503,
    error_code="unavailable",
    plain_code="upstream_error",
    share=3,
)

_SAID = Said(TEXT)
_EVENTS = [step for step in RESPONSES.streamed(_SAID).body if isinstance(step, bytes)]

# Responses as they are. Text comes with the sixth event.
NATIVE = Dialect(
    name="native",
    section="openai-compatibility",
    path="/v1",
    whole=_json(RESPONSES.response(_SAID)),
    events=(b"".join(_EVENTS[:6]), *_EVENTS[6:]),
    error_event=b"event: error\n" + _data({"type": "error", **_OPENAI_ERROR["error"]}),
    error=_json(_OPENAI_ERROR),
    error_status=503,
    error_code="503",
    plain_code=None,
    share=3,
    callers=("responses",),
    options=(("responses", "native"),),
)

# What upstreams of embeddings say that is found to be TEXT.
VECTOR = [float(ord(letter)) for letter in TEXT]
EMBEDDERS = (
    replace(OPENAI, whole=_json({"data": [{"index": 0, "embedding": VECTOR}]})),
    replace(GEMINI, whole=_json(gemini.embeddings([VECTOR], 3))),
)

DIALECTS = {dialect.name: dialect for dialect in (OPENAI, CLAUDE, GEMINI, NATIVE)}
