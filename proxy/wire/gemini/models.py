"""Gemini's model list, and the preview variants of a model.

Source: ai.google.dev/api/models (models.list), read 2026-11.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final, NamedTuple
from urllib.parse import quote

import msgspec

from ...errors import UpstreamInvalid

PATH: Final = "/v1beta/models?pageSize=1000"  # 1000 is the most that a page may hold

# The dated previews that CLIProxyAPI falls back to (cliPreviewFallbackOrder in
# internal/runtime/executor/gemini_cli_executor.go), in its order.
_PREVIEWS: Final[dict[str, list[str]]] = {
    "gemini-2.5-pro": ["gemini-2.5-pro-preview-05-06", "gemini-2.5-pro-preview-06-05"],
    "gemini-2.5-flash": ["gemini-2.5-flash-preview-04-17", "gemini-2.5-flash-preview-05-20"],
    "gemini-2.5-flash-lite": ["gemini-2.5-flash-lite-preview-06-17"],
}


class ModelPage(NamedTuple):
    """The ids of one page; `next_path` leads to the next one, None after the last."""

    ids: list[str]
    next_path: str | None


class _Model(msgspec.Struct, rename="camel"):
    name: str
    supported_generation_methods: list[str] | None = None


class _Models(msgspec.Struct, rename="camel"):
    models: list[_Model] = []
    next_page_token: str | None = None


_decoder: Final = msgspec.json.Decoder(_Models)


def read_page(body: bytes) -> ModelPage:
    """The models that answer generateContent, without `models/`; raises UpstreamInvalid."""
    try:
        page = _decoder.decode(body)
    except (ValueError, RecursionError) as error:
        raise UpstreamInvalid(f"Gemini's model list could not be read: {error}") from error
    token = page.next_page_token
    return ModelPage(
        [
            model.name.removeprefix("models/")
            for model in page.models
            if model.name and "generateContent" in (model.supported_generation_methods or ())
        ],
        f"{PATH}&pageToken={quote(token, safe='')}" if token else None,
    )


def preview_of(model: str, *, listed: Collection[str] | None = None) -> list[str]:
    """The preview variants of `model` to try when its quota is out, in that order.

    Google withdraws previews within months: with `listed`, the upstream's present model ids, only
    those in it are named, `<model>-preview` and dated ones that the table lacks among them. Without
    it, `<model>-preview` is a guess that costs a 404.
    """
    if "-preview" in model or not model.startswith("gemini-"):
        return []
    known = _PREVIEWS.get(model, [])
    if listed is None:
        return [*known, f"{model}-preview"]
    # Only digits follow: gemini-2.5-flash-preview-tts is another model.
    variant = re.compile(re.escape(model) + r"-preview(-[\d-]+)?")
    fresh = sorted(filter(variant.fullmatch, listed), reverse=True)
    return [name for name in known if name in listed] + [n for n in fresh if n not in known]
