"""Gemini's models: the list of them, their previews, and what each takes, by its name.

Only what changes a request is kept here; whatever else a model refuses it refuses itself, with a
400 that names the field and goes to the caller as it came.

Sources: ai.google.dev/api/models (models.list), /gemini-api/docs/thinking (levels and budgets per
model), /docs/openai (Google's own reasoning_effort table), /docs/latest-model and the guides of
Gemini 3.6 to 4 (sampling parameters ignored, one candidate only), read 2026-11.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final, get_args
from urllib.parse import quote

from ..effort import Effort
from ..made_names import fitting
from ..model_list import ModelPage, read_list, read_text

_NAME: Final = re.compile(r"gemini-(\d{1,3})(?:\.(\d{1,3}))?(?![\d.])(?:-(pro|flash-lite|flash))?")

# A name without a version (gemini-flash-latest, a tuned model, one of another vendor's making)
# is taken for a present model, but nothing the caller asked for is left out for its sake.
_UNKNOWN: Final = (3, 0)


def _by_effort(*values: Any) -> dict[str, Any]:
    """In the order none, minimal, low, medium, high, xhigh, max."""
    return dict(zip(get_args(Effort), values, strict=True))


# Budgets of Gemini 2.5 in tokens, as Google's compatibility layer sets them; `none` switches
# thinking off where the model can, which the Pro model can't: 128 is its least.
_BUDGETS: Final[dict[str, int]] = _by_effort(0, 1024, 1024, 8192, 24576, 24576, 24576)
_PRO_BUDGETS: Final[dict[str, int]] = _by_effort(128, 1024, 1024, 8192, 24576, 32768, 32768)
_LEVELS: Final = _by_effort("MINIMAL", "MINIMAL", "LOW", "MEDIUM", "HIGH", "HIGH", "HIGH")

# Pro models and every Flash from 3.7 on answer 400 "Thinking level MINIMAL is not supported for
# this model"; the Flash-Lite models of Gemini 3 still take it.
_MINIMAL_UNTIL: Final = {"flash-lite": (4, 0), "flash": (3, 7)}


def _from(*version: int) -> property:
    return property(lambda family: family.version >= version)


def _before(*version: int) -> property:
    return property(lambda family: family.version < version)


@dataclass(frozen=True)
class Family:
    """A model's generation, e.g. (2, 5), and its kind: pro, flash, flash-lite or "" if unknown."""

    version: tuple[int, int]
    kind: str

    thinks = _from(2, 5)
    fetches_urls = _from(2, 5)  # whether `fileData` may hold any https URL (file-input-methods)
    validates_signatures = _from(3, 0)  # an unsigned function call of this turn is a 400
    matches_call_ids = _from(3, 0)  # results go to calls by id; before that by name and order
    media_in_results = _from(3, 0)  # `functionResponse.parts`
    combines_tools = _from(3, 0)  # functions go with Gemini's own tools, and with a format
    many_candidates = _before(3, 0)
    penalties = _before(4, 0)

    @property
    def sampling(self) -> bool:
        """Whether temperature, topP and topK do anything: from 3.6 on they are ignored."""
        return self.version < (3, 6) and (self.version, self.kind) != ((3, 5), "flash-lite")

    def effort_of(self, budget: int) -> str:
        """The `reasoning_effort` whose budget comes next to one in tokens."""
        return next((name for name in ("low", "medium") if budget <= 2 * _BUDGETS[name]), "high")

    def thinking_config(self, effort: str, budget: int | None = None) -> dict[str, object]:
        """`thinkingConfig` for an OpenAI `reasoning_effort`; `budget`: the caller's own, in tokens.

        From Gemini 3 on thinking can't be switched off: `none` is the least that the model takes,
        without the thoughts in the answer.
        """
        config: dict[str, object] = {"includeThoughts": effort != "none"}
        if self.version < (3, 0):
            budgets = _PRO_BUDGETS if self.kind == "pro" else _BUDGETS
            within = max(budgets["none"], min(budget or 0, budgets["max"]))
            return config | {"thinkingBudget": budgets[effort] if budget is None else within}
        takes_minimal = self.version < _MINIMAL_UNTIL.get(self.kind, (0, 0))
        level = _LEVELS[effort]
        return config | {
            "thinkingLevel": "LOW" if level == "MINIMAL" and not takes_minimal else level
        }


# A function's name (ai.google.dev/gemini-api/docs/function-calling, 2026-11; some models take
# colons too). Names of properties stay: the rule for them is that of `parameters`.
_TAKEN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_UNTAKEN: Final = re.compile(r"[^A-Za-z0-9_.-]|^(?![A-Za-z_])")


def wire_name(name: str) -> str:
    """The name that Gemini knows a function by: the caller's, or one made for it."""
    return fitting(name, _TAKEN, _UNTAKEN)


def family_of(model: str) -> Family:
    found = _NAME.search(model)
    if found is None:
        return Family(_UNKNOWN, "")
    major, minor, kind = found.groups()
    return Family((int(major), int(minor or 0)), kind or "")


PATH: Final = "/v1beta/models?pageSize=1000"  # 1000 is the most that a page may hold

_SERVED: Final = {"generateContent", "embedContent"}


def read_page(body: bytes) -> ModelPage:
    """The models that answer or embed, without `models/`. Google says of each what it does; a list
    that does not is another's, of models to chat with. Raises UpstreamInvalid.
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
