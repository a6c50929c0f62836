"""How hard a model is to think: one rule for the three parameters that callers have for it.

OpenAI's `reasoning_effort`, Anthropic's `thinking` and OpenRouter's `reasoning` are sent to any
model of a mixed pool, also together. `thinking` decides, as at Anthropic's own OpenAI-compatible
endpoint (platform.claude.com/docs/en/api/openai-sdk, 2026-11), and `reasoning_effort` beside it
says how hard; `reasoning` is heeded where there is neither.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import msgspec

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

# Tokens to think with where effort isn't understood. 1024 is the least of Anthropic's API
# (build-with-claude/extended-thinking); past 32k its docs see little gain.
BUDGETS: Final[dict[str, int]] = {
    "minimal": 1_024,
    "low": 4_096,
    "medium": 12_288,
    "high": 24_576,
    "xhigh": 32_768,
    "max": 32_768,
}


def effort_of(budget: int) -> str:
    """The least effort whose budget this is within."""
    return next((name for name, most in BUDGETS.items() if budget <= most), "max")


class Thinking(msgspec.Struct):
    """Anthropic's."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = None


class Reasoning(msgspec.Struct):
    """OpenRouter's (openrouter.ai/docs/use-cases/reasoning-tokens, 2026-11)."""

    effort: Effort | None = None
    enabled: bool | None = None
    exclude: bool | None = None
    max_tokens: int | None = None


class Wanted(NamedTuple):
    """`effort`: OpenAI's word, `budget`: tokens at most, `name`: the parameter that said so.

    `is_on`: there is to be thinking, though neither may say how much.
    """

    effort: Effort | None = None
    budget: int | None = None
    is_on: bool = False
    name: str = ""


def wanted(effort: Effort | None, reasoning: Reasoning | None, thinking: Thinking | None) -> Wanted:
    """What the caller asks for by these parameters."""
    if thinking is not None:
        if thinking.type == "disabled":
            return Wanted("none", name="thinking")
        named = "thinking" if thinking.budget_tokens is None else "thinking.budget_tokens"
        said = None if effort == "none" else effort
        return Wanted(said, thinking.budget_tokens, True, "reasoning_effort" if said else named)
    if effort is not None:
        return Wanted(effort, None, effort != "none", "reasoning_effort")
    if reasoning is None:
        return Wanted()
    if reasoning.enabled is False or reasoning.effort == "none":
        return Wanted("none", name="reasoning.effort" if reasoning.effort else "reasoning.enabled")
    named = "reasoning.max_tokens" if reasoning.effort is None else "reasoning.effort"
    is_on = bool(reasoning.enabled or reasoning.effort or reasoning.max_tokens is not None)
    return Wanted(reasoning.effort, reasoning.max_tokens, is_on, named)
