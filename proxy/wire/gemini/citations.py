"""Citations and search grounding of Gemini as OpenAI's `url_citation` annotations.

OpenAI counts characters of the message, Gemini's grounding bytes of UTF-8 of the visible text
(google-genai types.Segment); `citationSources` count bytes too (v1beta CitationSource). What is odd
in them is left out: an answer is whole without.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..chat import objects
from ..chat.usage import as_object
from .events import Candidate

Annotation = dict[str, Any]


def annotations_of(candidate: Candidate, text: str) -> Iterator[Annotation]:
    """What `candidate` cites; `text` is all visible text of its choice up to now."""
    data = text.encode()
    cited, grounding = candidate.citation_metadata or {}, candidate.grounding_metadata or {}
    # The second is Vertex AI's name for it.
    for source in objects(cited.get("citationSources")) or objects(cited.get("citations")):
        yield from _annotation(source, source, data)
    pages = [chunk.get("web") for chunk in objects(grounding.get("groundingChunks"))]
    supports = objects(grounding.get("groundingSupports"))
    for support in supports:
        places = support.get("groundingChunkIndices")
        for place in places if isinstance(places, list) else ():
            if isinstance(place, int) and 0 <= place < len(pages):
                yield from _annotation(pages[place], support.get("segment"), data)
    for page in pages if not supports else ():
        yield from _annotation(page, None, data)


def _annotation(page: Any, segment: Any, data: bytes) -> Iterator[Annotation]:
    """The annotation for a page that has an address; without a segment it is for all the text."""
    title, url = as_object(page).get("title"), as_object(page).get("uri")
    if isinstance(url, str) and url:
        segment = as_object(segment)
        cited = {
            "start_index": _characters(data, segment.get("startIndex"), 0),
            "end_index": _characters(data, segment.get("endIndex"), len(data)),
            "title": title if isinstance(title, str) and title else url,
            "url": url,
        }
        yield {"type": "url_citation", "url_citation": cited}


def _characters(data: bytes, offset: Any, default: int) -> int:
    offset = offset if isinstance(offset, int) else default
    return len(data[: max(0, offset)].decode(errors="ignore"))
