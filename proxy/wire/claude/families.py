"""What each family of Claude models accepts: one table, looked up by the start of the model's name.

Sources, read 2026-11: platform.claude.com/docs/en/about-claude/models/overview (output limits),
build-with-claude/thinking, /effort and /mid-conversation-system-messages, models/*/migration-guide
(what a family refuses).
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec.structs import replace

_TO_HIGH = ("low", "medium", "high")
_TO_MAX = ("low", "medium", "high", "max")
_ALL = ("low", "medium", "high", "xhigh", "max")


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """`max_tokens`: the family's largest output, our default, as OpenAI's is.

    `adaptive`: thinking is steered by effort, else by a budget of tokens. `efforts`: the levels it
    knows, none: it takes no effort. `sampling`: temperature and top_p are taken. `forced_tools`:
    a tool can be demanded. `prefill`: the last turn may be the assistant's. `system_inside`: the
    system may speak among the turns. `structured`: answers and tool calls can be held to a schema.
    `bound`: thinking blocks are tied to what precedes them.
    """

    max_tokens: int = 128_000
    adaptive: bool = True
    # How thinking is switched off: by no word, by one of the API's own, or not at all.
    off: Literal["omit", "disabled", "between_tools", "never"] = "disabled"
    efforts: tuple[str, ...] = _ALL
    sampling: bool = False
    forced_tools: bool = True
    prefill: bool = False
    system_inside: bool = True
    structured: bool = True
    bound: bool = False

    def effort(self, wanted: str) -> str | None:
        """The strongest level that the family knows and that isn't above `wanted`."""
        below = [level for level in self.efforts if _ALL.index(level) <= _ALL.index(wanted)]
        return below[-1] if below else None


_ALWAYS = Family(off="never")
_ALWAYS_BOUND = Family(off="never", forced_tools=False, bound=True)
_OPUS_4_7 = Family(off="omit", system_inside=False)
_4_6 = replace(_OPUS_4_7, efforts=_TO_MAX, sampling=True)
_BUDGET = replace(_4_6, max_tokens=64_000, adaptive=False, efforts=(), prefill=True)
_OLD = replace(_BUDGET, structured=False)

FAMILIES: dict[str, Family] = {
    "claude-fable-5": _ALWAYS,
    "claude-fable-5-1": _ALWAYS_BOUND,
    "claude-fable-5-2": _ALWAYS_BOUND,
    "claude-mythos-5": _ALWAYS,
    "claude-mythos-5-1": _ALWAYS_BOUND,
    "claude-mythos-5-2": _ALWAYS_BOUND,
    "claude-mythos-preview": Family(off="never", efforts=_TO_MAX, system_inside=False),
    "claude-opus-5": Family(),
    "claude-opus-5-5": _ALWAYS_BOUND,
    "claude-opus-4-8": Family(off="omit"),
    "claude-opus-4-7": _OPUS_4_7,
    "claude-opus-4-6": _4_6,
    "claude-opus-4-5": replace(_BUDGET, efforts=_TO_HIGH),
    "claude-opus-4": replace(_OLD, max_tokens=32_000),
    "claude-sonnet-5": Family(system_inside=False),
    "claude-sonnet-5-5": Family(off="between_tools", forced_tools=False, bound=True),
    "claude-sonnet-4-6": _4_6,
    "claude-sonnet-4-5": _BUDGET,
    "claude-sonnet-4": _OLD,
    "claude-haiku-5-5": Family(bound=True),
    "claude-haiku-4-5": _BUDGET,
    "claude-3-7-sonnet": _OLD,
    "claude-3-5": replace(_OLD, max_tokens=8_192),
    "claude-3": replace(_OLD, max_tokens=4_096),
    # One that is newer than this table: what the newest have in common.
    "claude-": _ALWAYS,
}
# Other makers' models behind an API of this shape: the oldest features, a limit that most have.
STRANGER = replace(_OLD, max_tokens=16_384, prefill=False)

_BY_LENGTH = sorted(FAMILIES, key=len, reverse=True)


def family_of(model: str) -> Family:
    """The family of `model`; resellers' prefixes and dots (`anthropic/claude-opus-4.6`) pass."""
    name = model[max(model.find("claude-"), 0) :].replace(".", "-")
    for start in _BY_LENGTH:
        # `claude-fable-5-20260701` is a snapshot of 5, not one of 5.2.
        if name.startswith(start) and not name[len(start) : len(start) + 1].isdigit():
            return FAMILIES[start]
    return STRANGER
