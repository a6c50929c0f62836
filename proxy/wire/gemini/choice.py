"""One choice of an answer, built up from a candidate's successive pieces.

A unary reply is a stream of one piece. OpenAI has no field for `reasoning_content` (summaries of
thoughts), `images` (OpenRouter's list of data URLs) and `extra_content` (calls.py). List entries of
a delta have an `index`, without which the openai SDK can't join them.

Calls may arrive in several parts (google-genai 3.4, types.FunctionCall and PartialArg, 2026-11): a
part with the name opens one; parts without a name continue it, by id or else the last one. Each of
its `partialArgs` puts one value at a JSON Path (RFC 9535, names and places only); text at the same
path is joined. The call ends with a part that does not say `willContinue`, often an empty one. It
is given to the caller when it is whole: values come in any order, so what came first need not be
the beginning of the JSON text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import StringIO
from itertools import pairwise
from typing import Any, Final

import msgspec

from ...errors import UpstreamInvalid, UpstreamRefusal
from ..chat import objects
from ..chat.made import Asked
from ..chat.usage import as_object, as_text
from ..reasoning import THOUGHT
from . import calls, events
from .models import wire_name

Delta = dict[str, Any]

# types.FinishReason of google-genai 3.4; what is not named here (STOP, OTHER, IMAGE_OTHER,
# NO_IMAGE and those to come) is an ordinary end.
_LENGTH: Final = frozenset({"MAX_TOKENS", "CONTINUATION", "TOO_MANY_TOOL_CALLS"})
_FILTERED: Final = frozenset(
    (
        *("SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII"),
        *("IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "ESCALATION"),
        *("PUP_LIMITED_DISABLED", "MODEL_ARMOR"),
    )
)
# The model's output could not be read: another attempt may do better.
_UNEXPECTED: Final = "UNEXPECTED_TOOL_CALL"
_FAILED: Final = frozenset({"MALFORMED_FUNCTION_CALL", _UNEXPECTED, "MALFORMED_RESPONSE"})
_UNSIGNED: Final = "MISSING_THOUGHT_SIGNATURE"
_UNFINISHED: Final = "FINISH_REASON_UNSPECIFIED"

_NO_ARGS: Final = (b"", b"null")

_STEP: Final = re.compile(
    r"""\[(\d{1,6})\]|\.([^.\[\]]+)|\['((?:[^'\\]|\\.)*)'\]|\["((?:[^"\\]|\\.)*)"\]"""
)
_PATH: Final = re.compile(rf"\$(?:{_STEP.pattern})+")
_ESCAPED: Final = re.compile(r"\\(.)")


class _OpenCall:
    """A call that has begun. `is_announced`: a further part of it; `is_whole`: none is due."""

    def __init__(self, first: events.FunctionCall, signature: str | None) -> None:
        self.name = first.name or ""
        self.id = first.id
        self.signature = signature
        self._args = b""  # as they came, while nothing else did
        self._tree: dict[str, Any] | None = None
        self.is_whole = False
        self.add(first, signature)
        # A name alone may be the beginning of a call by a service that does not say so.
        self.is_whole = self.is_whole and bool(self._args or self._tree is not None)

    def is_continued_by(self, part: events.FunctionCall) -> bool:
        """Whether `part` goes on with this call; another call's has another id or a name."""
        if self.is_whole:
            return False
        if part.id and self.id:
            return part.id == self.id
        return not part.name or (part.name == self.name and self.is_announced)

    def add(self, part: events.FunctionCall, signature: str | None) -> None:
        """Raises UpstreamInvalid for arguments that have no place in the call."""
        self.signature = self.signature or signature
        self.id = self.id or part.id
        self.is_announced = part.will_continue is True
        self.is_whole = not self.is_announced
        args = bytes(part.args).strip()
        if args not in _NO_ARGS:
            if not self._args and self._tree is None:
                self._args = args
            else:
                self._grown().update(_object(args))
        for piece in part.partial_args or ():
            self._put(piece)

    def arguments(self) -> str:
        """The JSON object without white space; numbers as they came, if they came in one piece."""
        if self._tree is not None:
            return msgspec.json.encode(self._tree, enc_hook=StringIO.getvalue).decode()
        try:
            text = msgspec.json.format(self._args or b"{}", indent=-1).decode()
        except (ValueError, RecursionError) as error:
            raise UpstreamInvalid(f"Gemini sent arguments that are no JSON: {error}") from error
        if not text.startswith("{"):
            raise UpstreamInvalid(f"Gemini sent arguments that are no object for {self.name!r}")
        return text

    def _grown(self) -> dict[str, Any]:
        if self._tree is None:
            self._tree = _object(self._args) if self._args else {}
        return self._tree

    def _put(self, piece: events.PartialArg) -> None:
        steps = _steps(piece.json_path)
        node: Any = self._grown()
        for step, following in pairwise(steps):
            node = _below(node, step, [] if isinstance(following, int) else {})
        last = steps[-1]
        if piece.string_value is not None:
            text = _below(node, last, StringIO())
            if not isinstance(text, StringIO):
                raise UpstreamInvalid(f"Gemini sent text where a value is, at {piece.json_path}")
            text.write(piece.string_value)
            return
        value = piece.bool_value if piece.number_value is None else piece.number_value
        if value is None and piece.null_value is msgspec.UNSET:
            return
        _below(node, last, value)
        node[last] = value


def _object(args: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(args, type=dict[str, Any])
    except (ValueError, RecursionError) as error:
        raise UpstreamInvalid(f"Gemini sent arguments that are no object: {error}") from error


def _steps(path: str) -> list[str | int]:
    steps: list[str | int] = []
    if _PATH.fullmatch(path):
        for place, name, *quoted in _STEP.findall(path):
            steps.append(int(place) if place else name or _ESCAPED.sub(r"\1", "".join(quoted)))
    if not steps or isinstance(steps[0], int):
        raise UpstreamInvalid(f"Gemini sent arguments at {path[:200]!r}, which is no place")
    return steps


def _below(node: Any, step: str | int, made: Any) -> Any:
    """What stands there, `made` put there if there is nothing."""
    if isinstance(node, dict) and isinstance(step, str):
        return node.setdefault(step, made)
    if isinstance(node, list) and isinstance(step, int) and step <= len(node):
        if step == len(node):
            node.append(made)
        return node[step]
    raise UpstreamInvalid(f"Gemini sent arguments that contradict each other, at {step!r}")


class Choices(dict[int, "Choice"]):
    """The choices of one answer to `request`, by index, each made when it is first asked for.

    `reply_id` makes ids for calls that have none.
    """

    def __init__(self, request: bytes, reply_id: str) -> None:
        super().__init__()
        self._asked = Asked(request, wire_name)
        self._reply_id = reply_id

    def __missing__(self, index: int) -> Choice:
        self[index] = Choice(index, self._reply_id, self._asked)
        return self[index]

    def add(
        self, response: events.Response
    ) -> Iterator[tuple[Choice, Delta, dict[str, Any] | None]]:
        """What it adds to which choice, and its `logprobs`; raises as `Choice.add` does."""
        for place, candidate in enumerate(response.candidates or ()):
            choice = self[place if candidate.index is None else candidate.index]
            told = candidate.logprobs_result
            yield choice, choice.add(candidate), None if told is None else _logprobs_of(told)
        feedback = response.prompt_feedback
        if feedback is not None and feedback.block_reason and not self:
            yield self[0], self[0].block(feedback), None


class Choice:
    """`started`: for the caller, by the first chunk of a stream."""

    def __init__(self, index: int, reply_id: str, asked: Asked) -> None:
        self.index = index
        self.started = False
        self._asked = asked
        self._reply_id = reply_id
        self._reason: str | None = None
        self._text: list[str] = []
        self._ids: set[str] = set()
        self._is_refused = False
        self._open: list[_OpenCall] = []
        self._images = 0
        self._signature: str | None = None
        self._server_parts: list[events.Part] = []
        self._annotated: set[tuple[Any, ...]] = set()

    @property
    def finish_reason(self) -> str | None:
        """OpenAI's, None before the end; a call counts over an ordinary end, as at OpenAI."""
        if self._reason is None:
            return None
        if self._reason in _FILTERED:
            return "content_filter"
        if self._reason in _LENGTH:
            return "length"
        return "tool_calls" if self._ids else "stop"

    @property
    def closing(self) -> Delta:
        """What goes with the finish reason: the text's signature and what Gemini's own tools did;
        once, as the SDK's helper for streams joins strings of the same field. An answer that says
        nothing has an empty text, as at OpenAI.
        """
        says_something = self._text or self._ids or self._is_refused
        delta: Delta = {} if says_something else {"content": ""}
        if self._signature is not None or self._server_parts:
            delta["extra_content"] = calls.extra_content(self._signature, self._server_parts)
        return delta

    def block(self, feedback: events.PromptFeedback) -> Delta:
        """The prompt was refused before anything was made."""
        self._reason = "PROHIBITED_CONTENT"
        self._is_refused = True
        said = f": {feedback.block_reason_message}" if feedback.block_reason_message else ""
        return {"refusal": f"Gemini blocked the prompt: {feedback.block_reason}{said}"}

    def add(self, candidate: events.Candidate) -> Delta:
        """What this piece adds; raises UpstreamInvalid if the model failed."""
        delta: Delta = {}
        parts = candidate.content.parts if candidate.content is not None else None
        for part in parts or ():
            if part.function_call is not None:
                self._take_call(part.function_call, part.thought_signature, delta)
            elif part.tool_call or part.tool_response:
                self._server_parts.append(part)
            elif part.thought:
                if part.text:
                    delta["reasoning_content"] = delta.get("reasoning_content", "") + part.text
            else:
                self._say(part, delta)
        if candidate.citation_metadata is not None or candidate.grounding_metadata is not None:
            self._cite(candidate, delta)
        if candidate.finish_reason is not None and candidate.finish_reason != _UNFINISHED:
            for call in self._open:
                self._give(call, delta)
            self._open.clear()
            self._finish(candidate, delta)
        return delta

    def _say(self, part: events.Part, delta: Delta) -> None:
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

    def _take_call(self, part: events.FunctionCall, signature: str | None, delta: Delta) -> None:
        """A call, the beginning of one, or a part of one that has begun."""
        call = next((c for c in reversed(self._open) if c.is_continued_by(part)), None)
        if call is not None:
            call.add(part, signature)
        elif part.name:
            if self._open:  # what was a name alone is a call without arguments
                self._open[-1].is_whole = not self._open[-1].is_announced
            self._open.append(_OpenCall(part, signature))
        elif part.partial_args or bytes(part.args).strip() not in (*_NO_ARGS, b"{}"):
            raise UpstreamInvalid("Gemini sent arguments of a call that it never began")
        # In order: a call is not given before those that began ahead of it.
        while self._open and self._open[0].is_whole:
            self._give(self._open.pop(0), delta)

    def _give(self, call: _OpenCall, delta: Delta) -> None:
        if self._ids and self._asked.one_call:
            return
        place = len(self._ids)
        bare = call.id or ""
        if not bare or THOUGHT in bare or bare in self._ids:
            bare = calls.invented_id(self._reply_id, self.index, place)
        self._ids.add(bare)
        function = {"name": self._asked.name(call.name), "arguments": call.arguments()}
        call_id = calls.make_id(bare, call.signature)
        made: Delta = {"index": place, "id": call_id, "type": "function", "function": function}
        if call.signature:
            made["extra_content"] = calls.extra_content(call.signature)
        delta.setdefault("tool_calls", []).append(made)

    def _cite(self, candidate: events.Candidate, delta: Delta) -> None:
        text = "".join(self._text).encode()
        for page, segment in _cited(candidate):
            title, url = as_text(page.get("title")), as_text(page.get("uri"))
            cited = {
                "start_index": _characters(text, segment.get("startIndex"), 0),
                "end_index": _characters(text, segment.get("endIndex"), len(text)),
                "title": title or url,
                "url": url,
            }
            # A later piece may repeat what an earlier one cited.
            if url and (key := tuple(cited.values())) not in self._annotated:
                made = {"type": "url_citation", "url_citation": cited}
                delta.setdefault("annotations", []).append({**made, "index": len(self._annotated)})
                self._annotated.add(key)

    def _finish(self, candidate: events.Candidate, delta: Delta) -> None:
        reason = candidate.finish_reason
        why = f"{reason}: {candidate.finish_message}" if candidate.finish_message else reason
        # A call that Gemini found unexpected is the caller's to judge, if it is there.
        if reason in _FAILED and not (reason == _UNEXPECTED and self._ids):
            raise UpstreamInvalid(f"Gemini's model failed to answer: {why}")
        if reason == _UNSIGNED:
            code = reason.lower()
            raise UpstreamRefusal(f"Gemini refused: {why}", status=400, upstream_code=code)
        if reason in _FILTERED and self._reason is None:
            delta["refusal"] = f"Gemini stopped the answer: {why}"
            self._is_refused = True
        self._reason = reason


def _logprobs_of(result: events.LogprobsResult) -> dict[str, Any]:
    """`logprobs` of a choice (openai types/chat/chat_completion_token_logprob.py)."""
    tops = result.top_candidates or []
    content = []
    for place, chosen in enumerate(result.chosen_candidates or ()):
        others = tops[place].candidates if place < len(tops) else None
        content.append({**_logprob(chosen), "top_logprobs": [_logprob(o) for o in others or ()]})
    return {"content": content, "refusal": None}


def _logprob(token: events.TokenLogprob) -> dict[str, Any]:
    spelt = list(token.token.encode())
    return {"token": token.token, "bytes": spelt, "logprob": token.log_probability}


def _cited(candidate: events.Candidate) -> Iterator[tuple[Delta, Delta]]:
    """The pages that `candidate` cites, each with the segment of its choice's text that does so.

    OpenAI counts characters of the message, Gemini bytes of its UTF-8 (google-genai types.Segment,
    v1beta CitationSource). A page without a segment is for all the text up to now. What is odd in
    them is left out: an answer is whole without.
    """
    cited, grounding = candidate.citation_metadata or {}, candidate.grounding_metadata or {}
    # The second is Vertex AI's name for it.
    for source in objects(cited.get("citationSources")) or objects(cited.get("citations")):
        yield source, source
    pages = [as_object(chunk.get("web")) for chunk in objects(grounding.get("groundingChunks"))]
    supports = objects(grounding.get("groundingSupports"))
    for support in supports:
        places = support.get("groundingChunkIndices")
        for place in places if isinstance(places, list) else ():
            if isinstance(place, int) and 0 <= place < len(pages):
                yield pages[place], as_object(support.get("segment"))
    if not supports:
        yield from ((page, {}) for page in pages)


def _characters(data: bytes, offset: Any, default: int) -> int:
    offset = offset if isinstance(offset, int) else default
    return len(data[: max(0, offset)].decode(errors="ignore"))
