"""Citations and search grounding of Gemini as OpenAI's `url_citation` annotations.

OpenAI counts characters of the message, Gemini's grounding bytes of UTF-8 of the visible text
(google-genai types.Segment); `citationSources` count bytes too (v1beta CitationSource).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .events import Candidate, CitationMetadata, GroundingMetadata

Annotation = dict[str, Any]


def annotations_of(candidate: Candidate, text: str) -> Iterator[Annotation]:
    """What `candidate` cites; `text` is all visible text of its choice up to now."""
    data = text.encode()
    if candidate.citation_metadata is not None:
        yield from _cited(candidate.citation_metadata, data)
    if candidate.grounding_metadata is not None:
        yield from _grounded(candidate.grounding_metadata, data)


def _cited(metadata: CitationMetadata, data: bytes) -> Iterator[Annotation]:
    for source in metadata.citation_sources or metadata.citations or ():
        if source.uri:
            yield _annotation(source.uri, source.title, source.start_index, source.end_index, data)


def _grounded(metadata: GroundingMetadata, data: bytes) -> Iterator[Annotation]:
    pages = [chunk.web for chunk in metadata.grounding_chunks or ()]
    supports = metadata.grounding_supports or ()
    for support in supports:
        start = support.segment.start_index if support.segment else None
        end = support.segment.end_index if support.segment else None
        for place in support.grounding_chunk_indices or ():
            page = pages[place] if 0 <= place < len(pages) else None
            if page is not None and page.uri:
                yield _annotation(page.uri, page.title, start, end, data)
    if not supports:
        for page in pages:
            if page is not None and page.uri:
                yield _annotation(page.uri, page.title, None, None, data)


def _annotation(
    url: str, title: str | None, start: int | None, end: int | None, data: bytes
) -> Annotation:
    return {
        "type": "url_citation",
        "url_citation": {
            "start_index": _characters(data, start or 0),
            "end_index": _characters(data, len(data) if end is None else end),
            "title": title or url,
            "url": url,
        },
    }


def _characters(data: bytes, offset: int) -> int:
    return len(data[: max(0, offset)].decode(errors="ignore"))
