"""Gemini's model list, and the preview variants of a model.

Source: ai.google.dev/api/models (models.list), read 2026-11.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Final
from urllib.parse import quote

from ..model_list import ModelPage, read_list, read_text

PATH: Final = "/v1beta/models?pageSize=1000"  # 1000 is the most that a page may hold

_SERVED: Final = {"generateContent", "embedContent"}

# The dated previews that CLIProxyAPI falls back to (cliPreviewFallbackOrder in
# internal/runtime/executor/gemini_cli_executor.go), in its order.
_PREVIEWS: Final[dict[str, list[str]]] = {
    "gemini-2.5-pro": ["gemini-2.5-pro-preview-05-06", "gemini-2.5-pro-preview-06-05"],
    "gemini-2.5-flash": ["gemini-2.5-flash-preview-04-17", "gemini-2.5-flash-preview-05-20"],
    "gemini-2.5-flash-lite": ["gemini-2.5-flash-lite-preview-06-17"],
}


def read_page(body: bytes) -> ModelPage:
    """The models that answer or embed, without `models/`.

    Google says of each what it does; a list that does not is another's, of models to chat with.
    Raises UpstreamInvalid if `body` is no JSON.
    """
    entries, around = read_list(body)
    ids = [
        read_text(entry, "name", "id").removeprefix("models/")
        for entry in entries
        if _serves(entry)
    ]
    token = read_text(around, "nextPageToken")
    return ModelPage(
        list(filter(None, ids)),
        f"{PATH}&pageToken={quote(token, safe='')}" if token else None,
    )


def _serves(entry: dict[str, Any]) -> bool:
    methods = entry.get("supportedGenerationMethods")
    return not isinstance(methods, list) or not _SERVED.isdisjoint(map(str, methods))


def preview_of(model: str, *, listed: Collection[str] | None = None) -> list[str]:
    """The preview variants of `model` to try when its quota is out, in that order.

    Google withdraws previews within months: with `listed`, the upstream's present model ids, only
    those in it are named, `<model>-preview` and dated ones that the table lacks among them. Without
    it, `<model>-preview` is a guess that costs a 404. Embeddings of two models do not compare.
    """
    if "-preview" in model or "-embedding" in model or not model.startswith("gemini-"):
        return []
    known = _PREVIEWS.get(model, [])
    if listed is None:
        return [*known, f"{model}-preview"]
    # Only digits follow: gemini-2.5-flash-preview-tts is another model.
    variant = re.compile(re.escape(model) + r"-preview(-[\d-]+)?")
    fresh = sorted(filter(variant.fullmatch, listed), reverse=True)
    return [name for name in known if name in listed] + [n for n in fresh if n not in known]
