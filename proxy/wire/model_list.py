"""Upstreams' model lists, as far as all kinds of them are alike.

They are documented as an object with the entries under `data` (OpenAI, Anthropic) or `models`
(Google). Providers that speak one of these dialects have been seen to answer with the other name,
or with the bare list (api.together.xyz/v1/models). What cannot be read of a list is left out: one
odd entry must not cost the others.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from ..errors import UpstreamInvalid
from .lenient_json import decode_any, is_shielded


class ModelPage(NamedTuple):
    """The ids of one page; `next_path` leads to the next one, None after the last."""

    ids: list[str]
    next_path: str | None


def read_list(body: bytes) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The objects in a list of models, and the object around it, if any; raises UpstreamInvalid."""
    try:
        found = decode_any(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamInvalid(f"the upstream's model list can't be read: {error}") from error
    around = found if isinstance(found, dict) else {}
    lists = (found, around.get("data"), around.get("models"))
    entries: list[Any] = next((one for one in lists if isinstance(one, list)), [])
    return [entry for entry in entries if isinstance(entry, dict)], around


def read_text(found: dict[str, Any], *names: str) -> str:
    """The first of these members that is a text, or ""."""
    for name in names:
        text = found.get(name)
        if isinstance(text, str) and text and not is_shielded(text):
            return text
    return ""
