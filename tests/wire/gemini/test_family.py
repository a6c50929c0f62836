"""What a Gemini model takes, by its name: the names' forms, and where each generation begins."""

from __future__ import annotations

from typing import get_args

import pytest

from proxy.wire.effort import Effort
from proxy.wire.gemini.models import Family, family_of


@pytest.mark.parametrize(
    ("model", "version", "kind"),
    [
        ("gemini-2.5-pro", (2, 5), "pro"),
        ("models/gemini-2.5-flash-lite-preview-09-2025", (2, 5), "flash-lite"),
        ("gemini-2.0-flash-001", (2, 0), "flash"),
        ("gemini-3-flash-preview", (3, 0), "flash"),
        ("gemini-4", (4, 0), ""),
        ("gemini-4-argon", (4, 0), ""),
        ("gemini-3.10-pro", (3, 10), "pro"),
        ("gemini-123.456-pro", (123, 456), "pro"),
        ("gemini-1234-pro", (3, 0), ""),
        ("gemini-2.1234-pro", (3, 0), ""),
        ("gemini-2.5.1-pro", (3, 0), ""),
        ("gemini-flash-latest", (3, 0), ""),
        ("tunedModels/mine", (3, 0), ""),
    ],
)
def test_generation_and_kind_by_the_name(model: str, version: tuple[int, int], kind: str) -> None:
    """With a minor part or without; a name that says nothing is a present model's."""
    assert family_of(model) == Family(version, kind)


# The first generation for which each holds, and the last before it.
BEGINS = {
    "thinks": ((2, 4), (2, 5)),
    "fetches_urls": ((2, 4), (2, 5)),
    "validates_signatures": ((2, 9), (3, 0)),
    "matches_call_ids": ((2, 9), (3, 0)),
    "media_in_results": ((2, 9), (3, 0)),
    "combines_tools": ((2, 9), (3, 0)),
}
ENDS = {
    "many_candidates": ((2, 9), (3, 0)),
    "penalties": ((3, 9), (4, 0)),
    "sampling": ((3, 5), (3, 6)),
}


@pytest.mark.parametrize("name", [*BEGINS, *ENDS])
def test_what_begins_or_ends_with_a_generation(name: str) -> None:
    """Neither earlier nor later."""
    before, after = {**BEGINS, **ENDS}[name]
    found = [getattr(Family(version, "flash"), name) for version in (before, after)]
    assert found == ([False, True] if name in BEGINS else [True, False])


def test_sampling_of_flash_lite_ended_earlier() -> None:
    """With 3.5, and for that kind alone."""
    assert Family((3, 4), "flash-lite").sampling
    assert not Family((3, 5), "flash-lite").sampling
    assert Family((3, 5), "pro").sampling


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("flash", [0, 1024, 1024, 8192, 24576, 24576, 24576]),
        ("flash-lite", [0, 1024, 1024, 8192, 24576, 24576, 24576]),
        ("pro", [128, 1024, 1024, 8192, 24576, 32768, 32768]),
    ],
)
def test_budgets_of_each_effort(kind: str, expected: list[int]) -> None:
    """Gemini 2.5, as Google's own layer sets them."""
    configs = [Family((2, 5), kind).thinking_config(effort) for effort in get_args(Effort)]
    assert [config["thinkingBudget"] for config in configs] == expected
    assert [config["includeThoughts"] for config in configs] == [False] + [True] * 6


@pytest.mark.parametrize(
    ("version", "kind", "least"),
    [
        ((3, 0), "flash", "MINIMAL"),
        ((3, 6), "flash", "MINIMAL"),
        ((3, 7), "flash", "LOW"),
        ((3, 9), "flash-lite", "MINIMAL"),
        ((4, 0), "flash-lite", "LOW"),
        ((3, 0), "pro", "LOW"),
        ((3, 0), "", "LOW"),
    ],
)
def test_levels_of_each_effort(version: tuple[int, int], kind: str, least: str) -> None:
    """From Gemini 3 on; the least one only where the model takes it."""
    configs = [Family(version, kind).thinking_config(effort) for effort in get_args(Effort)]
    levels = [config["thinkingLevel"] for config in configs]
    assert levels == [least, least, "LOW", "MEDIUM", "HIGH", "HIGH", "HIGH"]


@pytest.mark.parametrize(
    ("tokens", "effort"),
    [(0, "low"), (2048, "low"), (2049, "medium"), (16384, "medium"), (16385, "high")],
)
def test_effort_next_to_a_budget(tokens: int, effort: str) -> None:
    """Up to twice what the effort gets by itself."""
    assert Family((3, 0), "flash").effort_of(tokens) == effort


def test_budget_of_a_callers_own_number() -> None:
    """Within what the model takes: Pro's least is 128, and its most is larger."""
    flash, pro = Family((2, 5), "flash"), Family((2, 5), "pro")

    def budget(family: Family, tokens: int) -> object:
        return family.thinking_config("low", tokens)["thinkingBudget"]

    assert [budget(flash, tokens) for tokens in (-1, 0, 100, 99_999)] == [0, 0, 100, 24576]
    assert [budget(pro, tokens) for tokens in (0, 128, 129, 99_999)] == [128, 128, 129, 32768]
