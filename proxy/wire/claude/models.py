"""The answers of `GET /v1/models` (platform.claude.com/docs/en/api/models-list, 2026-11)."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote

import msgspec

from ...errors import UpstreamInvalid

# 1000 is the largest page.
PATH = "/v1/models?limit=1000"


class ModelPage(NamedTuple):
    """The ids of one page; `next_path` leads to the next one, None after the last."""

    ids: list[str]
    next_path: str | None


class _Model(msgspec.Struct):
    id: str
    lifecycle: str | None = None


class _Page(msgspec.Struct):
    data: list[_Model]
    has_more: bool = False
    last_id: str | None = None


def read_page(body: bytes) -> ModelPage:
    """The models that can be asked for: a retired one stays in the list, but requests for it fail.

    Raises UpstreamInvalid if `body` is no list of models.
    """
    try:
        page = msgspec.json.decode(body, type=_Page)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamInvalid(f"the upstream's list of models can't be read: {error}") from error
    ids = [model.id for model in page.data if model.id and model.lifecycle != "retired"]
    if not page.has_more or not page.last_id:
        return ModelPage(ids, None)
    return ModelPage(ids, f"{PATH}&after_id={quote(page.last_id, safe='', errors='replace')}")
