"""Paths, headers and model list of Anthropic's API (platform.claude.com/docs/en/api, 2026-11)."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from ..http.headers import merged
from ..model_list import ModelPage, read_list, read_text

MESSAGES_PATH = "/v1/messages"
COUNT_PATH = "/v1/messages/count_tokens"
MODELS_PATH = "/v1/models?limit=1000"  # the largest page

# Not 2026-10-21: that one refuses `temperature` and `top_p` for every model, this one takes them
# where the model does (docs/en/api/migration-2026-10-21). Nothing else that we send differs.
VERSION = "2023-06-01"

# Lets a request say that thinking blocks which no longer fit the conversation are dropped rather
# than refused (docs/en/build-with-claude/preserved-thinking); `request.to_request` makes use of it.
BETAS = "thinking-binding-controls-2026-08-01"


# Headers that say which API is meant: a caller who speaks it has its own.
VERSIONED = ("anthropic-version", "anthropic-beta")


def betas(headers: Mapping[str, str]) -> list[str]:
    """The values of `anthropic-beta`."""
    return [value for name, value in headers.items() if name.lower() == "anthropic-beta"]


def headers(api_key: str, more: Mapping[str, str]) -> dict[str, str]:
    """The headers of every request; the key travels here, never in an address.

    `more`: the provider's, which win; what it says in `anthropic-beta` is added to ours.
    """
    ours = {
        "x-api-key": api_key,
        "anthropic-version": VERSION,
        "anthropic-beta": ",".join([BETAS, *betas(more)]),
    }
    return merged(ours, {n: value for n, value in more.items() if n.lower() != "anthropic-beta"})


def read_page(body: bytes) -> ModelPage:
    """The models that can be asked for: a retired one stays in the list, but requests for it fail.

    Raises UpstreamInvalid if `body` is no JSON.
    """
    entries, around = read_list(body)
    served = [entry for entry in entries if entry.get("lifecycle") != "retired"]
    ids = [name for entry in served if (name := read_text(entry, "id", "name"))]
    last_id = read_text(around, "last_id")
    has_next = around.get("has_more") is True and last_id
    next_path = f"{MODELS_PATH}&after_id={quote(last_id, safe='')}" if has_next else None
    return ModelPage(ids, next_path)
