"""The model list and the preview variants."""

from __future__ import annotations

import pytest

from proxy.errors import UpstreamInvalid
from proxy.wire.gemini import models
from tests.support import gemini_upstream as upstream


def test_models_that_answer_or_embed_are_listed() -> None:
    """And no others, which make images or speech; without `models/`."""
    found = upstream.model_list("gemini-3.8-flash", "gemini-embedding-2", "imagen-4")
    found["models"][2]["supportedGenerationMethods"] = ["predict"]
    names = ["gemini-3.8-flash", "gemini-embedding-2"]
    assert models.read_page(upstream.unary(found)) == (names, None)


def test_next_page_is_named() -> None:
    """The token is quoted; the last page has none."""
    first = models.read_page(upstream.unary(upstream.model_list("a", next_page_token="x/y=")))
    assert first.next_path == "/v1beta/models?pageSize=1000&pageToken=x%2Fy%3D"
    assert models.read_page(b"{}") == ([], None)


@pytest.mark.parametrize("body", [b"", b"\xff", b"[" * 9999])
def test_what_is_no_list_is_invalid(body: bytes) -> None:
    """So that the last good list is kept."""
    with pytest.raises(UpstreamInvalid):
        models.read_page(body)


def test_preview_of_a_model_is_a_guess_without_a_list() -> None:
    """For Gemini's own models that are none themselves."""
    assert models.preview_of("gemini-4-argon") == ["gemini-4-argon-preview"]
    assert models.preview_of("gemini-3-pro-preview") == models.preview_of("imagen-4") == []


def test_nothing_stands_in_for_a_model_that_embeds() -> None:
    """An index holds the embeddings of one model."""
    for name in ("gemini-embedding-001", "gemini-embedding-2"):
        assert models.preview_of(name) == []
        assert models.preview_of(name, listed=[f"{name}-preview"]) == []


def test_previews_are_limited_to_what_the_upstream_has() -> None:
    """Withdrawn ones are left out, new ones found, other models' never."""
    listed = [
        "gemini-2.5-flash-preview-09-2025",
        "gemini-2.5-flash-preview-05-20",
        "gemini-2.5-flash-preview-tts",
        "gemini-2.5-flash-lite-preview-09-2025",
    ]
    assert models.preview_of("gemini-2.5-flash", listed=listed) == listed[:2]
