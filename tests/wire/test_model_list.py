"""Model lists of other forms than the documented one, for every kind of upstream."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from proxy.errors import UpstreamInvalid
from proxy.wire.claude.api import read_page as read_claude
from proxy.wire.gemini.models import read_page as read_gemini
from proxy.wire.model_list import ModelPage, read_list, read_text


def read_openai(body: bytes) -> ModelPage:
    """As `OpenAIClient.list_models` does."""
    names = [read_text(entry, "id", "name") for entry in read_list(body)[0]]
    return ModelPage([name for name in names if name], None)


@pytest.fixture(params=[read_openai, read_claude, read_gemini], ids=["openai", "claude", "gemini"])
def read(request: pytest.FixtureRequest) -> Callable[[Any], ModelPage]:
    """Read a page, given as data."""
    reader: Callable[[bytes], ModelPage] = request.param
    return lambda page: reader(json.dumps(page).encode())


@pytest.mark.parametrize(
    "page",
    [
        [{"id": "a"}, {"id": "b"}],
        [{"name": "a"}, {"name": "b"}],
        {"data": [{"id": "a"}, {"id": "b"}]},
        {"models": [{"name": "a"}, {"name": "b"}]},
        {"data": None, "models": [{"id": "a"}, {"id": "b"}]},
        {"data": [{"id": "a"}, {"id": "b"}], "models": [{"name": "c"}]},
    ],
)
def test_forms_that_were_seen_are_read(read: Callable[[Any], ModelPage], page: Any) -> None:
    """Bare, under the other name, under both (llama.cpp), named the other way."""
    assert read(page) == (["a", "b"], None)


@pytest.mark.parametrize(
    "odd",
    [None, 5, "x", [], {}, {"id": None}, {"id": 5}, {"id": ""}, {"name": []}, {"id": "\ud800"}],
)
def test_odd_entry_does_not_cost_the_others(read: Callable[[Any], ModelPage], odd: Any) -> None:
    """It has no name to be asked for by, and is left out."""
    assert read([{"id": "a"}, odd, {"id": "b"}]).ids == ["a", "b"]


@pytest.mark.parametrize("more", [{"owned_by": 5}, {"lifecycle": {}}, {"created": 10**30}])
def test_member_of_another_type_changes_nothing(
    read: Callable[[Any], ModelPage], more: dict[str, Any]
) -> None:
    """Nobody needs it."""
    assert read({"data": [{"id": "a", **more}]}).ids == ["a"]


@pytest.mark.parametrize("page", [{}, [], None, 5, "x", {"data": 5}, {"data": {"id": "x"}}])
def test_what_holds_no_list_is_empty(read: Callable[[Any], ModelPage], page: Any) -> None:
    """Clients refuse a list without any model, so that the last good one is kept."""
    assert read(page) == ([], None)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000])
@pytest.mark.parametrize("reader", [read_openai, read_claude, read_gemini])
def test_what_is_no_json_is_invalid(reader: Callable[[bytes], ModelPage], body: bytes) -> None:
    """Also as a page behind others: half a list is none."""
    with pytest.raises(UpstreamInvalid, match="model list can't be read"):
        reader(body)


@pytest.mark.parametrize("methods", [None, 5, "generateContent", ["x", None, "generateContent"]])
def test_gemini_models_whose_methods_are_not_told_are_listed(methods: Any) -> None:
    """Google tells them always; a list without them is another's."""
    page = {"models": [{"name": "models/a", "supportedGenerationMethods": methods}]}
    assert read_gemini(json.dumps(page).encode()).ids == ["a"]


@pytest.mark.parametrize(
    ("reader", "mark"),
    [(read_claude, {"has_more": True, "last_id": "a/b"}), (read_gemini, {"nextPageToken": "a/b"})],
)
def test_next_page_needs_a_mark_that_can_be_sent(
    reader: Callable[[bytes], ModelPage], mark: dict[str, Any]
) -> None:
    """Quoted; one of another type ends the list."""

    def next_path(**changed: Any) -> str | None:
        return reader(json.dumps({**mark, **changed}).encode()).next_path

    assert str(next_path()).endswith("=a%2Fb")
    odds: list[Any] = [None, 5, "", [], {}, False, "\ud800"]
    for name in mark:
        for odd in odds:
            assert next_path(**{name: odd}) is None
