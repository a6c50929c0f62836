"""Path and headers of Anthropic's API (platform.claude.com/docs/en/api/overview, 2026-11)."""

from __future__ import annotations

from collections.abc import Mapping

from ..http.headers import merged

MESSAGES_PATH = "/v1/messages"

# Not 2026-10-21: that one refuses `temperature` and `top_p` for every model, this one takes them
# where the model does (docs/en/api/migration-2026-10-21). Nothing else that we send differs.
VERSION = "2023-06-01"

# Lets a request say that thinking blocks which no longer fit the conversation are dropped rather
# than refused (docs/en/build-with-claude/preserved-thinking); `request.to_request` makes use of it.
BETAS = "thinking-binding-controls-2026-08-01"


def headers(api_key: str, more: Mapping[str, str]) -> dict[str, str]:
    """The headers of every request; the key travels here, never in an address.

    `more`: the provider's, which win; what it says in `anthropic-beta` is added to ours.
    """
    betas = [value for name, value in more.items() if name.lower() == "anthropic-beta"]
    ours = {
        "x-api-key": api_key,
        "anthropic-version": VERSION,
        "anthropic-beta": ",".join([BETAS, *betas]),
    }
    return merged(ours, {n: value for n, value in more.items() if n.lower() != "anthropic-beta"})
