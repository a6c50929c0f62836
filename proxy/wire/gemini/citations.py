"""Citations and search grounding of Gemini as OpenAI's `url_citation` annotations.

OpenAI counts characters of the message, Gemini's grounding bytes of UTF-8 of the visible text
(google-genai types.Segment); `citationSources` count bytes too (v1beta CitationSource).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .events import Candidate, Citation

Annotation = dict[str, Any]


def annotations_of(candidate: Candidate, text: str) -> Iterator[Annotation]:
    """What `candidate` cites; `text` is all visible text of its choice up to now."""
    data = text.encode()
    if (cited := candidate.citation_metadata) is not None:
        for source in cited.citation_sources or cited.citations or ():
            yield from _annotation(source, source, data)
    if (grounding := candidate.grounding_metadata) is not None:
        pages = [chunk.web for chunk in grounding.grounding_chunks or ()]
        for support in grounding.grounding_supports or ():
            for place in support.grounding_chunk_indices or ():
                if 0 <= place < len(pages):
                    yield from _annotation(pages[place], support.segment, data)
        if not grounding.grounding_supports:
            for page in pages:
                yield from _annotation(page, None, data)


def _annotation(
    page: Citation | None, segment: Citation | None, data: bytes
) -> Iterator[Annotation]:
    """The annotation for a page that has an address; without a segment it is for all the text."""
    if page is None or not page.uri:
        return
    start, end = (segment.start_index, segment.end_index) if segment else (None, None)
    cited = {
        "start_index": _characters(data, start or 0),
        "end_index": _characters(data, len(data) if end is None else end),
        "title": page.title or page.uri,
        "url": page.uri,
    }
    yield {"type": "url_citation", "url_citation": cited}


def _characters(data: bytes, offset: int) -> int:
    return len(data[: max(0, offset)].decode(errors="ignore"))
