"""One choice of an answer, built up from a candidate's successive pieces.

The unary reply is a stream of one piece: both are made here, so that they can't differ.

Kept where OpenAI has no field of its own: `reasoning_content` (thought summaries), `images`
(OpenRouter's list of data URLs), `extra_content` (thought signatures, see calls.py). List entries
of a delta have an `index`, without which the openai SDK can't join them.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ...errors import UpstreamInvalid, UpstreamRefusal
from . import calls
from .citations import annotations_of
from .events import Candidate, FunctionCall, LogprobsResult, Part, TokenLogprob
from .names import Asked

Delta = dict[str, Any]

# types.FinishReason of google-genai 3.4; what is not named here (STOP, OTHER, IMAGE_OTHER,
# NO_IMAGE and those to come) is an ordinary end.
_LENGTH: Final = frozenset({"MAX_TOKENS", "CONTINUATION", "TOO_MANY_TOOL_CALLS"})
_FILTERED: Final = frozenset(
    {
        "SAFETY",
        "RECITATION",
        "LANGUAGE",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "IMAGE_SAFETY",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
        "ESCALATION",
        "PUP_LIMITED_DISABLED",
        "MODEL_ARMOR",
    }
)
# The model's output could not be read: another attempt may do better.
_FAILED: Final = frozenset(
    {"MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "MALFORMED_RESPONSE"}
)
_UNSIGNED: Final = "MISSING_THOUGHT_SIGNATURE"
_UNFINISHED: Final = "FINISH_REASON_UNSPECIFIED"


class Choice:
    """`index` is the candidate's; `reply_id` makes ids for calls that have none."""

    def __init__(self, index: int, reply_id: str, asked: Asked) -> None:
        self.index = index
        self._asked = asked
        self.started = False
        self._reply_id = reply_id
        self._reason: str | None = None
        self._text: list[str] = []
        self._ids: set[str] = set()
        self._images = 0
        self._signature: str | None = None
        self._annotated: set[tuple[Any, ...]] = set()

    @property
    def finished(self) -> bool:
        return self._reason is not None

    @property
    def finish_reason(self) -> str:
        """OpenAI's reason; a call counts over an ordinary end, as at OpenAI."""
        if self._reason in _FILTERED:
            return "content_filter"
        if self._reason in _LENGTH:
            return "length"
        return "tool_calls" if self._ids else "stop"

    @property
    def closing(self) -> Delta:
        """What goes with the finish reason: the text's signature, once, as the SDK's helper for
        streams joins strings of the same field.
        """
        if self._signature is None:
            return {}
        return {"extra_content": calls.extra_content(self._signature)}

    def block(self, reason: str) -> Delta:
        """The prompt was refused before anything was made."""
        self._reason = "PROHIBITED_CONTENT"
        return {"refusal": f"Gemini blocked the prompt: {reason}"}

    def add(self, candidate: Candidate) -> Delta:
        """What this piece adds; raises UpstreamInvalid if the model failed."""
        delta: Delta = {}
        parts = candidate.content.parts if candidate.content is not None else None
        for part in parts or ():
            if part.text and not part.thought and part.thought_signature is None:
                self._text.append(part.text)
                delta["content"] = delta.get("content", "") + part.text
            else:
                self._add_part(part, delta)
        if candidate.citation_metadata is not None or candidate.grounding_metadata is not None:
            self._cite(candidate, delta)
        if candidate.finish_reason is not None and candidate.finish_reason != _UNFINISHED:
            self._finish(candidate, delta)
        return delta

    def _add_part(self, part: Part, delta: Delta) -> None:
        if part.function_call is not None:
            if not self._ids or not self._asked.one_call:
                made = self._call(part.function_call, part.thought_signature)
                delta.setdefault("tool_calls", []).append(made)
            return
        if part.thought:
            if part.text:
                delta["reasoning_content"] = delta.get("reasoning_content", "") + part.text
            return
        if part.text:
            self._text.append(part.text)
            delta["content"] = delta.get("content", "") + part.text
        self._signature = part.thought_signature or self._signature
        blob = part.inline_data
        if blob is not None and blob.mime_type.startswith("image/"):
            url = f"data:{blob.mime_type};base64,{blob.data}"
            image = {"type": "image_url", "image_url": {"url": url}, "index": self._images}
            self._images += 1
            delta.setdefault("images", []).append(image)

    def _call(self, function: FunctionCall, signature: str | None) -> dict[str, Any]:
        place = len(self._ids)
        bare = function.id if function.id and calls.usable_id(function.id) else None
        if bare is None or bare in self._ids:
            bare = calls.invented_id(self._reply_id, self.index, place)
        self._ids.add(bare)
        call: dict[str, Any] = {
            "index": place,
            "id": calls.make_id(bare, signature),
            "type": "function",
            "function": {
                "name": self._asked.name(function.name),
                "arguments": _arguments(function),
            },
        }
        if signature:
            call["extra_content"] = calls.extra_content(signature)
        return call

    def _cite(self, candidate: Candidate, delta: Delta) -> None:
        # A later piece may repeat what an earlier one cited.
        for annotation in annotations_of(candidate, "".join(self._text)):
            key = tuple(annotation["url_citation"].values())
            if key not in self._annotated:
                annotation["index"] = len(self._annotated)
                self._annotated.add(key)
                delta.setdefault("annotations", []).append(annotation)

    def _finish(self, candidate: Candidate, delta: Delta) -> None:
        reason = candidate.finish_reason
        why = f"{reason}: {candidate.finish_message}" if candidate.finish_message else reason
        if reason in _FAILED:
            raise UpstreamInvalid(f"Gemini's model failed to answer: {why}")
        if reason == _UNSIGNED:
            raise UpstreamRefusal(
                f"Gemini refused: {why}", status=400, upstream_code=reason.lower()
            )
        if reason in _FILTERED and self._reason is None:
            delta["refusal"] = f"Gemini stopped the answer: {why}"
        self._reason = reason


def _arguments(function: FunctionCall) -> str:
    """The arguments without insignificant white space, numbers as they came."""
    raw = bytes(function.args)
    if raw.strip() == b"null":
        return "{}"
    try:
        text = msgspec.json.format(raw, indent=-1).decode()
    except (ValueError, RecursionError) as error:
        raise UpstreamInvalid(f"Gemini sent arguments that are no JSON: {error}") from error
    if not text.startswith("{"):
        raise UpstreamInvalid(f"Gemini sent arguments that are no object for {function.name!r}")
    return text


def logprobs_of(result: LogprobsResult) -> dict[str, Any]:
    """`logprobs` of a choice (openai types/chat/chat_completion_token_logprob.py)."""
    tops = result.top_candidates or []
    content = []
    for place, chosen in enumerate(result.chosen_candidates or ()):
        others = tops[place].candidates if place < len(tops) else None
        content.append({**_logprob(chosen), "top_logprobs": [_logprob(o) for o in others or ()]})
    return {"content": content, "refusal": None}


def _logprob(token: TokenLogprob) -> dict[str, Any]:
    return {
        "token": token.token,
        "bytes": list(token.token.encode()),
        "logprob": token.log_probability,
    }
