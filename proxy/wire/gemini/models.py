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


def read_page(body: bytes) -> ModelPage:
    """The models that answer or embed, without `models/`.

    Google says of each what it does; a list that does not is another's, of models to chat with.
    Raises UpstreamInvalid if `body` is no JSON.
    """
    entries, around = read_list(body)
    ids = [read_text(entry, "name", "id").removeprefix("models/") for entry in entries]
    served = [name for name, entry in zip(ids, entries, strict=True) if name and _serves(entry)]
    token = read_text(around, "nextPageToken")
    return ModelPage(served, f"{PATH}&pageToken={quote(token, safe='')}" if token else None)


def _serves(entry: dict[str, Any]) -> bool:
    methods = entry.get("supportedGenerationMethods")
    return not isinstance(methods, list) or not _SERVED.isdisjoint(map(str, methods))


def preview_of(model: str, *, listed: Collection[str] | None = None) -> list[str]:
    """The preview variants of `model` to try when its quota is out, the newest first.

    Google withdraws previews within months: with `listed`, the upstream's present model ids, only
    those in it are named. Without it, `<model>-preview` is a guess that costs a 404. Embeddings of
    two models do not compare.
    """
    if "-preview" in model or "-embedding" in model or not model.startswith("gemini-"):
        return []
    if listed is None:
        return [f"{model}-preview"]
    # Only digits follow: gemini-2.5-flash-preview-tts is another model.
    variant = re.compile(re.escape(model) + r"-preview(-[\d-]+)?")
    return sorted(filter(variant.fullmatch, listed), reverse=True)
