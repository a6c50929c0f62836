"""The answers of `GET /v1/models` (platform.claude.com/docs/en/api/models-list, 2026-11)."""

from __future__ import annotations

from urllib.parse import quote

from ..model_list import ModelPage, read_list, read_text

# 1000 is the largest page.
PATH = "/v1/models?limit=1000"


def read_page(body: bytes) -> ModelPage:
    """The models that can be asked for: a retired one stays in the list, but requests for it fail.

    Raises UpstreamInvalid if `body` is no JSON.
    """
    entries, around = read_list(body)
    ids = [
        read_text(entry, "id", "name") for entry in entries if entry.get("lifecycle") != "retired"
    ]
    last_id = read_text(around, "last_id")
    has_next = around.get("has_more") is True and last_id
    return ModelPage(
        list(filter(None, ids)),
        f"{PATH}&after_id={quote(last_id, safe='')}" if has_next else None,
    )
