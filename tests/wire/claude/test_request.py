"""Requests of OpenAI callers, as Claude gets them."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from openai.types.chat.completion_create_params import CompletionCreateParams

from proxy.errors import InvalidRequest, UnsupportedParameter
from proxy.wire.chat.made import Asked
from proxy.wire.claude.families import family_of
from proxy.wire.claude.request import KNOWN, to_request
from proxy.wire.made_names import plain_name
from tests.support.claude_rules import violations
from tests.support.claude_upstream import read_request
from tests.support.pages import table

Json = dict[str, Any]

USER = {"role": "user", "content": "Hi"}
_WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
_SAMPLING = {"temperature", "top_p", "top_k"}
# Of other vendors' callers.
_FOREIGN = {
    *("cache_control", "include_reasoning", "models", "preset", "provider", "reasoning"),
    *("reasoning_format", "route", "session_id", "thinking", "top_k", "trace", "transforms"),
    "usage",
}


def translate(chat: Json, *, model: str = "claude-opus-4-6", stream: bool = False) -> Json:
    body = to_request(json.dumps(chat).encode(), model=model, stream=stream)
    wire = read_request(body)
    assert wire["model"] == model
    return wire


def ask(**parameters: Any) -> Json:
    return {"model": "alias", "messages": [USER], **parameters}


def say(*messages: Json) -> Json:
    return {"model": "alias", "messages": list(messages)}


_PAGE = Path(__file__).parents[3] / "docs" / "parameters.md"
PARAMETERS = {
    name.strip("`"): claude
    for name, claude, _ in table(_PAGE.read_text(), "| parameter | Claude | Gemini |")
}


def test_every_parameter_of_openai_has_its_line() -> None:
    """The table in docs/parameters.md is complete, and the translator knows all that is in it."""
    base, _ = CompletionCreateParams.__args__  # type: ignore[attr-defined]
    names = {name for kind in base.__mro__ for name in getattr(kind, "__annotations__", {})}
    base = {name for each in base.__orig_bases__ for name in each.__annotations__}
    assert set(PARAMETERS) == (names | base | _FOREIGN | {"extra_body"})
    assert set(PARAMETERS) == KNOWN


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("audio", {"voice": "alloy", "format": "mp3"}),
        ("function_call", "auto"),
        ("functions", [{"name": "f"}]),
        ("logit_bias", {"50256": -100}),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("modalities", ["text", "audio"]),
        ("moderation", {"model": "omni"}),
        ("frequency_penalty", 0.5),
        ("presence_penalty", -0.5),
        ("n", 2),
        ("stop", " \n"),
        ("web_search_options", {"search_context_size": "low"}),
    ],
)
def test_what_would_be_missed_is_refused_by_name(name: str, value: Any) -> None:
    """A parameter that Claude can't honour and whose effect the caller relies on: 400."""
    assert "400" in PARAMETERS[name]
    with pytest.raises(UnsupportedParameter) as caught:
        translate(ask(**{name: value}))
    assert (caught.value.param, caught.value.status) == (name, 400)


def test_unknown_parameter_is_refused_by_name() -> None:
    """Whether dropping it is harmless can't be known; one that asks for nothing passes."""
    with pytest.raises(UnsupportedParameter) as caught:
        translate(ask(repetition_penalty=1.1))
    assert caught.value.param == "repetition_penalty"
    assert translate(ask(repetition_penalty=0, enable_thinking=False)) == translate(ask())


@pytest.mark.parametrize(
    "neutral",
    [
        {"n": 1, "logprobs": False, "logit_bias": {}, "top_logprobs": 0, "modalities": ["text"]},
        {"functions": None, "stop": None, "tools": None, "tool_choice": None, "n": None},
    ],
)
def test_values_that_ask_for_nothing_pass(neutral: Json) -> None:
    """SDKs and frameworks send defaults."""
    assert translate(ask(**neutral)) == translate(ask())


def test_harmless_parameters_are_dropped() -> None:
    """What the table calls dropped leaves no trace."""
    dropped = {name: 1 for name, fate in PARAMETERS.items() if fate == "dropped"}
    assert {"seed", "store"} <= dropped.keys()
    dropped["metadata"] = {}  # type: ignore[assignment]
    assert translate(ask(**dropped)) == translate(ask())


@pytest.mark.parametrize(
    ("model", "limit"),
    [
        ("claude-opus-4-6", 128_000),
        ("claude-haiku-4-5-20251001", 64_000),
        ("claude-opus-4-1-20250805", 32_000),
        ("claude-3-5-haiku-20241022", 8_192),
        ("claude-sonnet-9", 128_000),
        ("some-other-model", 16_384),
    ],
)
def test_max_tokens_defaults_to_what_the_family_can_write(model: str, limit: int) -> None:
    """The field is obligatory at Claude, not at OpenAI."""
    assert translate(ask(), model=model)["max_tokens"] == limit
    assert translate(ask(max_tokens=7), model=model)["max_tokens"] == 7
    both = translate(ask(max_tokens=7, max_completion_tokens=9), model=model)
    assert both["max_tokens"] == 9


def test_sampling_keeps_to_the_range_and_to_the_models_that_have_it() -> None:
    """0..2 becomes 0..1; never both; nothing where the model refuses it."""
    assert translate(ask(temperature=1.7))["temperature"] == 1.0
    assert translate(ask(temperature=0.3, top_p=0.5)).keys() & _SAMPLING == {"temperature"}
    assert translate(ask(top_k=5))["top_k"] == 5
    assert translate(ask(top_p=0.5))["top_p"] == 0.5
    assert not translate(ask(temperature=0), model="claude-opus-5-5").keys() & _SAMPLING
    assert not translate(ask(temperature=0, reasoning_effort="low")).keys() & _SAMPLING
    with pytest.raises(InvalidRequest) as caught:
        translate(ask(temperature=2.1))
    assert caught.value.param == "temperature"


@pytest.mark.parametrize(
    ("model", "effort", "thinking", "output_config"),
    [
        ("claude-opus-5-5", "medium", "adaptive", "medium"),
        ("claude-opus-5-5", "none", None, "low"),
        ("claude-opus-5", "xhigh", "adaptive", "xhigh"),
        ("claude-opus-5", "none", "disabled", None),
        ("claude-sonnet-5-5", "none", "between_tools", None),
        ("claude-opus-4-6", "xhigh", "adaptive", "high"),
        ("claude-opus-4-6", "minimal", "adaptive", "low"),
        ("claude-opus-4-6", "none", None, None),
        ("claude-opus-4-5", "max", "enabled", "high"),
        ("claude-haiku-4-5", "low", "enabled", None),
    ],
)
def test_reasoning_effort_is_said_in_the_words_of_the_family(
    model: str, effort: str, thinking: str | None, output_config: str | None
) -> None:
    """Adaptive families take effort, older ones a budget below max_tokens."""
    wire = translate(ask(reasoning_effort=effort), model=model)
    assert wire.get("thinking", {}).get("type") == thinking
    assert wire.get("output_config", {}).get("effort") == output_config
    if thinking == "enabled":
        assert 1024 <= wire["thinking"]["budget_tokens"] < wire["max_tokens"]
    if thinking == "adaptive":
        assert wire["thinking"]["display"] == "summarized"


@pytest.mark.parametrize(
    ("effort", "budget"),
    [
        ("minimal", 1024),
        ("low", 4096),
        ("medium", 12_288),
        ("high", 24_576),
        ("xhigh", 32_768),
        ("max", 32_768),
    ],
)
def test_budget_of_each_effort(effort: str, budget: int) -> None:
    """Where effort isn't understood."""
    wire = translate(ask(reasoning_effort=effort), model="claude-haiku-4-5")
    assert wire["thinking"]["budget_tokens"] == budget


@pytest.mark.parametrize(
    ("tokens", "effort"),
    [
        (1024, "low"),
        (4096, "low"),
        (4097, "medium"),
        (12_288, "medium"),
        (12_289, "high"),
        (24_576, "high"),
        (24_577, "xhigh"),
        (32_768, "xhigh"),
        (32_769, "max"),
    ],
)
def test_effort_of_each_budget(tokens: int, effort: str) -> None:
    """Where no budget is understood: the least that it is within."""
    for asked in (
        {"thinking": {"type": "enabled", "budget_tokens": tokens}},
        {"reasoning": {"max_tokens": tokens}},
    ):
        wire = translate(ask(**asked), model="claude-opus-5")
        assert wire["output_config"] == {"effort": effort}


@pytest.mark.parametrize(
    ("name", "taken", "refused"),
    [
        ("temperature", [0, 2], [-0.1, 2.1]),
        ("top_p", [0, 1], [-0.1, 1.1]),
        ("max_tokens", [1], [0]),
        ("max_completion_tokens", [1], [0]),
    ],
)
def test_range_of_a_number(name: str, taken: list[float], refused: list[float]) -> None:
    """The ends of it are within."""
    for value in taken:
        translate(ask(**{name: value}))
    for value in refused:
        with pytest.raises(InvalidRequest) as caught:
            translate(ask(**{name: value}))
        assert caught.value.param == name


def test_refusal_says_why() -> None:
    """In the table's words; of what is not in it, that there is nothing like it."""
    for name, why in (("logprobs", "Claude gives none"), ("x", "Claude has nothing like it")):
        with pytest.raises(UnsupportedParameter) as caught:
            translate(ask(**{name: True}))
        assert caught.value.message == f"{name}: {why}"


def test_last_marks_for_the_cache_are_kept() -> None:
    """Four at most, of tools, the system, turns and results within them, and of the whole."""
    mark = {"cache_control": {"type": "ephemeral"}}

    def marked(count: int, **whole: Any) -> Json:
        result = {"role": "tool", "tool_call_id": "a", "content": [_text("r", **mark)]}
        call = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
        messages = [
            {"role": "system", "content": [_text("s", **mark)]},
            {"role": "user", "content": [_text("u", **mark)]},
            {"role": "assistant", "tool_calls": [call]},
            result,
            {"role": "user", "content": [_text("v", **mark)]},
        ]
        tools = [{**_WEATHER, **mark}] if count == 5 else [_WEATHER]
        wire = translate({"model": "m", "messages": messages, "tools": tools, **whole})
        assert violations(wire) == []
        return wire

    def places(wire: Json) -> list[str]:
        text = json.dumps([wire.get("tools"), wire.get("system"), wire["messages"]])
        found = json.loads(text)
        names: list[str] = []

        def walk(value: Any) -> None:
            if isinstance(value, dict):
                for each in value.values():
                    walk(each)
                if "cache_control" in value:
                    names.append(value.get("text") or value.get("name") or value["type"])
            elif isinstance(value, list):
                for each in value:
                    walk(each)

        walk(found)
        return names

    assert places(marked(4)) == ["s", "u", "r", "v"]
    assert places(marked(5)) == ["s", "u", "r", "v"]
    assert places(marked(4, **mark)) == ["u", "r", "v"]


def _text(text: str, **more: Any) -> Json:
    return {"type": "text", "text": text, **more}


FAMILIES = [
    ("claude-fable-5", 128_000, "never", 5, "adaptive forced_tools system_inside structured"),
    ("claude-fable-5-1", 128_000, "never", 5, "adaptive system_inside structured bound"),
    ("claude-fable-5-2", 128_000, "never", 5, "adaptive system_inside structured bound"),
    ("claude-mythos-5", 128_000, "never", 5, "adaptive forced_tools system_inside structured"),
    ("claude-mythos-5-1", 128_000, "never", 5, "adaptive system_inside structured bound"),
    ("claude-mythos-5-2", 128_000, "never", 5, "adaptive system_inside structured bound"),
    ("claude-mythos-preview", 128_000, "never", 4, "adaptive forced_tools structured"),
    ("claude-opus-5", 128_000, "disabled", 5, "adaptive forced_tools system_inside structured"),
    ("claude-opus-5-5", 128_000, "never", 5, "adaptive system_inside structured bound"),
    ("claude-opus-4-8", 128_000, "omit", 5, "adaptive forced_tools system_inside structured"),
    ("claude-opus-4-7", 128_000, "omit", 5, "adaptive forced_tools structured"),
    ("claude-opus-4-6", 128_000, "omit", 4, "adaptive sampling forced_tools structured"),
    ("claude-opus-4-5", 64_000, "omit", 3, "sampling forced_tools prefill structured"),
    ("claude-opus-4", 32_000, "omit", 0, "sampling forced_tools prefill"),
    ("claude-sonnet-5", 128_000, "disabled", 5, "adaptive forced_tools structured"),
    ("claude-sonnet-5-5", 128_000, "between_tools", 5, "adaptive system_inside structured bound"),
    ("claude-sonnet-4-6", 128_000, "omit", 4, "adaptive sampling forced_tools structured"),
    ("claude-sonnet-4-5", 64_000, "omit", 0, "sampling forced_tools prefill structured"),
    ("claude-sonnet-4", 64_000, "omit", 0, "sampling forced_tools prefill"),
    (
        "claude-haiku-5-5",
        *(128_000, "disabled", 5, "adaptive forced_tools system_inside structured bound"),
    ),
    ("claude-haiku-4-5", 64_000, "omit", 0, "sampling forced_tools prefill structured"),
    ("claude-3-7-sonnet", 64_000, "omit", 0, "sampling forced_tools prefill"),
    ("claude-3-5-haiku", 8_192, "omit", 0, "sampling forced_tools prefill"),
    ("claude-3-opus", 4_096, "omit", 0, "sampling forced_tools prefill"),
    ("claude-opus-6", 128_000, "never", 5, "adaptive forced_tools system_inside structured"),
    (
        "claude-fable-5-20260701",
        *(128_000, "never", 5, "adaptive forced_tools system_inside structured"),
    ),
    ("kimi-k2", 16_384, "omit", 0, "sampling forced_tools"),
]
_EFFORTS = {
    0: (),
    3: ("low", "medium", "high"),
    4: ("low", "medium", "high", "max"),
    5: ("low", "medium", "high", "xhigh", "max"),
}


@pytest.mark.parametrize(("model", "max_tokens", "off", "efforts", "flags"), FAMILIES)
def test_what_each_family_takes(
    model: str, max_tokens: int, off: str, efforts: int, flags: str
) -> None:
    """By the documentation of each model."""
    facts = msgspec.structs.asdict(family_of(model))
    assert facts.pop("max_tokens") == max_tokens
    assert facts.pop("off") == off
    assert facts.pop("efforts") == _EFFORTS[efforts]
    assert {name for name, value in facts.items() if value} == set(flags.split())


def test_budget_leaves_room_for_the_answer() -> None:
    """A small max_tokens shrinks the budget, a tiny one leaves no thinking."""
    for most, budget in ((1366, 1024), (1365, None)):
        wire = translate(ask(reasoning_effort="low", max_tokens=most), model="claude-haiku-4-5")
        assert wire.get("thinking", {}).get("budget_tokens") == budget
    wire = translate(ask(reasoning_effort="high", max_tokens=4000), model="claude-haiku-4-5")
    assert wire["thinking"]["budget_tokens"] == 3000
    wire = translate(ask(reasoning_effort="high", max_tokens=1000), model="claude-haiku-4-5")
    assert "thinking" not in wire


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("none", {"type": "none"}),
        ("auto", {"type": "auto"}),
        ("required", {"type": "any"}),
        (
            {"type": "function", "function": {"name": "weather"}},
            {"type": "tool", "name": "weather"},
        ),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "required",
                    "tools": [{"type": "function", "function": {"name": "weather"}}],
                },
            },
            {"type": "any"},
        ),
    ],
)
def test_tool_choice(choice: Any, expected: Json) -> None:
    """All of OpenAI's ways, with and without parallel calls."""
    other = {"type": "function", "function": {"name": "other"}}
    wire = translate(ask(tools=[_WEATHER, other], tool_choice=choice))
    assert wire["tool_choice"] == expected
    assert len(wire["tools"]) == (
        1 if isinstance(choice, dict) and "allowed_tools" in choice else 2
    )
    single = translate(ask(tools=[_WEATHER, other], tool_choice=choice, parallel_tool_calls=False))
    assert single["tool_choice"].get("disable_parallel_tool_use", False) is (choice != "none")


def test_tool_without_parameters_and_strict_tool() -> None:
    """Claude wants a schema of type object; strict schemas are closed."""
    strict = {"name": "s", "strict": True, "parameters": {"properties": {"n": {"minimum": 1}}}}
    wire = translate(
        ask(
            tools=[
                {"type": "function", "function": {"name": "now"}},
                {"type": "function", "function": strict},
            ]
        )
    )
    assert wire["tools"][0] == {"name": "now", "input_schema": {"type": "object", "properties": {}}}
    schema = wire["tools"][1]["input_schema"]
    assert (schema["type"], schema["additionalProperties"]) == ("object", False)
    assert schema["properties"] == {"n": {"description": '{"minimum":1}'}}


def test_demanded_tool_call_where_the_model_refuses_it() -> None:
    """Newer models can't be made to call a tool: a 400 of ours; elsewhere thinking gives way."""
    with pytest.raises(UnsupportedParameter) as caught:
        translate(ask(tools=[_WEATHER], tool_choice="required"), model="claude-opus-5-5")
    assert caught.value.param == "tool_choice"
    named = {"type": "function", "function": {"name": "weather"}}
    request = ask(tools=[_WEATHER], tool_choice=named, reasoning_effort="max")
    assert "thinking" not in translate(request)
    request = ask(tools=[_WEATHER], tool_choice="required", reasoning_effort="max")
    assert "thinking" not in translate(request)
    wire = translate(request, model="claude-opus-5")
    assert wire["thinking"] == {"type": "disabled"}
    assert wire["output_config"] == {"effort": "high"}


def test_custom_tools_are_refused_by_place() -> None:
    """Functions only."""
    with pytest.raises(UnsupportedParameter) as caught:
        translate(ask(tools=[_WEATHER, {"type": "custom", "custom": {"name": "x"}}]))
    assert caught.value.param == "tools[1]"


def test_json_schema_becomes_a_structured_output() -> None:
    """The schema is closed, and bounds become hints, at any depth."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "when": {"type": "string", "format": "date"},
            "code": {"type": "string", "pattern": "^x", "description": "A code."},
            "list": {"type": "array", "items": {"$ref": "#/$defs/item"}, "minItems": 3},
            "any": {"oneOf": [{"type": "null"}, {"type": "object", "properties": {}}]},
        },
        "required": ["when"],
        "$defs": {"item": {"type": "object", "properties": {}, "additionalProperties": True}},
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    wire = translate(ask(response_format=wanted, reasoning_effort="low"))
    closed = wire["output_config"]["format"]["schema"]
    assert wire["output_config"]["effort"] == "low"
    assert closed["additionalProperties"] is False
    assert closed["$defs"]["item"]["additionalProperties"] is False
    assert closed["properties"]["when"] == {"type": "string", "format": "date"}
    assert closed["properties"]["code"]["description"] == 'A code.\n\n{"pattern":"^x"}'
    assert "minItems" not in closed["properties"]["list"]
    assert closed["properties"]["any"]["anyOf"][1]["additionalProperties"] is False
    old = translate(ask(response_format=wanted), model="claude-opus-4-1")
    assert '"pattern":"^x"' in old["system"][-1]["text"]


def test_schema_that_nests_too_deep_is_refused() -> None:
    """A bound of ours, not Python's."""
    schema: Json = {}
    for _ in range(150):
        schema = {"type": "array", "items": schema}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    with pytest.raises(InvalidRequest, match="nests deeper"):
        translate(ask(response_format=wanted))


def test_choice_among_allowed_tools_without_demand() -> None:
    """Only those are shown."""
    allowed = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "weather"}}]}
    other = {"type": "function", "function": {"name": "other"}}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    wire = translate(ask(tools=[other, _WEATHER], tool_choice=choice))
    assert [tool["name"] for tool in wire["tools"]] == ["weather"]
    assert wire["tool_choice"] == {"type": "auto"}


def test_json_object_becomes_an_instruction() -> None:
    """Claude has no JSON mode without a schema."""
    wire = translate(ask(response_format={"type": "json_object"}))
    assert "JSON object" in wire["system"][0]["text"]
    assert "system" not in translate(ask(response_format={"type": "text"}))


def test_rest_of_the_parameters() -> None:
    """stop, user, service_tier, stream."""
    wire = translate(ask(stop=["a", "b"], user="u-1", service_tier="default"), stream=True)
    assert wire["stop_sequences"] == ["a", "b"]
    assert wire["metadata"] == {"user_id": "u-1"}
    assert wire["service_tier"] == "standard_only"
    assert wire["stream"] is True
    assert translate(ask(stop="a"))["stop_sequences"] == ["a"]


@pytest.mark.parametrize("stop", ["", [], [""], ["", ""], None])
def test_empty_stop_asks_for_nothing(stop: Any) -> None:
    """Programs send it as a default."""
    assert translate(ask(stop=stop)) == translate(ask())
    assert translate(ask(stop=["", "a"]))["stop_sequences"] == ["a"]
    with pytest.raises(UnsupportedParameter) as caught:
        translate(ask(stop=["a", "", " "]))
    assert caught.value.param == "stop[2]"


@pytest.mark.parametrize(
    ("user", "is_kept"),
    [
        ("u-1", True),
        ("5f0c2b1e-8f0e-4c64-9c0a-3d0c7a2f5a11", True),
        ("user_ab12_account__session_cd34", True),
        ("bob@example.com", False),
        ("+49 151 1234567", False),
        ("4915112345678", False),
        ("151-123-4567", False),
        ("123456", True),
        ("1234567", False),
        ("x" * 128, True),
        ("x" * 129, False),
        ("Bob Smith", False),
        ("Bärbel", False),
        ("x" * 300, False),
    ],
)
def test_user_is_told_without_personal_data(user: str, is_kept: bool) -> None:
    """The API refuses addresses and numbers; the digest is the same every time."""
    wire = translate(ask(user=user))
    told = wire["metadata"]["user_id"]
    assert violations(wire) == []
    assert (told == user) is is_kept
    assert translate(ask(safety_identifier=user))["metadata"] == {"user_id": told}
    assert translate(ask(user=f"{user}x"))["metadata"] != {"user_id": told}


@pytest.mark.parametrize(
    ("asked", "same_as"),
    [
        ({"reasoning": {"effort": "high"}}, {"reasoning_effort": "high"}),
        ({"reasoning": {"effort": "none"}}, {"reasoning_effort": "none"}),
        ({"reasoning": {"enabled": True}}, {"reasoning_effort": "medium"}),
        ({"reasoning": {"enabled": False}}, {"reasoning_effort": "none"}),
        ({"reasoning": {"exclude": True}}, {}),
        (
            {"reasoning": {"effort": "low"}, "reasoning_effort": "high"},
            {"reasoning_effort": "high"},
        ),
        ({"thinking": {"type": "disabled"}}, {"reasoning_effort": "none"}),
        ({"thinking": {"type": "enabled"}}, {"reasoning_effort": "medium"}),
        ({"thinking": {"type": "adaptive"}}, {"reasoning_effort": "medium"}),
        (
            {"thinking": {"type": "adaptive"}, "reasoning_effort": "max"},
            {"reasoning_effort": "max"},
        ),
        ({"usage": {"include": True}, "provider": {"order": ["x"]}, "models": ["a"]}, {}),
        ({"transforms": ["middle-out"], "preset": "p", "reasoning_format": "parsed"}, {}),
        ({"service_tier": "on_demand", "route": "fallback", "include_reasoning": True}, {}),
    ],
)
@pytest.mark.parametrize("model", ["claude-opus-5", "claude-haiku-4-5", "claude-opus-5-5"])
def test_words_of_other_vendors(asked: Json, same_as: Json, model: str) -> None:
    """OpenRouter's and Groq's, and Claude's own, in a pool of several kinds."""
    assert translate(ask(**asked), model=model) == translate(ask(**same_as), model=model)


@pytest.mark.parametrize(
    ("asked", "budget"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}, "max_tokens": 4000}, 2000),
        ({"thinking": {"type": "enabled", "budget_tokens": 9000}, "max_tokens": 4000}, 3999),
        ({"thinking": {"type": "enabled", "budget_tokens": 5}, "max_tokens": 4000}, 1024),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}, "max_tokens": 1000}, None),
        ({"thinking": {"type": "enabled", "budget_tokens": 50_000}}, 50_000),
        ({"reasoning": {"max_tokens": 3000}}, 3000),
        ({"thinking": {"type": "disabled", "budget_tokens": 2000}}, None),
    ],
)
def test_budget_of_the_caller(asked: Json, budget: int | None) -> None:
    """Within what the API takes; adaptive families think as hard as it stands for."""
    wire = translate(ask(**asked), model="claude-haiku-4-5")
    assert wire.get("thinking", {}).get("budget_tokens") == budget
    assert violations(wire) == []
    wire = translate(ask(**asked), model="claude-opus-5")
    assert "budget_tokens" not in wire["thinking"]
    assert violations(wire) == []


def _tool(name: str, parameters: Any = None) -> Json:
    function = {"name": name} if parameters is None else {"name": name, "parameters": parameters}
    return {"type": "function", "function": function}


def test_union_at_the_top_of_a_schema() -> None:
    """Properties merged, the union told in the description."""
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
        "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
        "additionalProperties": False,
    }
    (tool,) = translate(ask(tools=[_tool("f", schema)]))["tools"]
    plain = {key: schema[key] for key in ("type", "properties", "additionalProperties")}
    assert tool["input_schema"] == plain
    assert '"anyOf":[{"required":["a"]},{"required":["b"]}]' in tool["description"]


@pytest.mark.parametrize(
    ("schema", "properties", "required"),
    [
        (
            {"oneOf": [
                {"properties": {"k": {"const": "a"}, "x": {}}, "required": ["k", "x"]},
                {"properties": {"k": {"const": "b"}}, "required": ["k"]},
            ]},
            {"k": {"anyOf": [{"const": "a"}, {"const": "b"}]}, "x": {}},
            ["k"],
        ),
        (
            {"allOf": [{"$ref": "#/$defs/a%20b"}, {"properties": {"y": {}}, "required": ["y"]}],
             "$defs": {"a b": {"properties": {"x": {}}, "required": ["x"]}}},
            {"x": {}, "y": {}},
            ["x", "y"],
        ),
        (
            {"anyOf": [{"oneOf": [{"properties": {"x": {}}}, {"properties": {"y": {}}}]}],
             "properties": {"z": {}}, "required": ["z"]},
            {"z": {}, "x": {}, "y": {}},
            ["z"],
        ),
        ({"anyOf": [{"$ref": "#/anyOf/0"}, {"$ref": "#/nowhere"}, 5]}, {}, None),
        ({"anyOf": []}, {}, None),
        ({"type": ["object", "null"], "properties": {"x": {}}}, {"x": {}}, None),
    ],
)  # fmt: skip
def test_schema_keeps_its_meaning_without_unions_at_the_top(
    schema: Json, properties: Json, required: list[str] | None
) -> None:
    """Whatever a variant is, or refers to; no longer than linear in what refers to each other."""
    wire = translate(ask(tools=[_tool("f", schema)]))
    assert violations(wire) == []
    found = wire["tools"][0]["input_schema"]
    assert (found["properties"], found.get("required")) == (properties, required)


@pytest.mark.long
def test_variants_that_refer_to_each_other_are_bounded() -> None:
    """A schema of some lines must not cost minutes."""
    names = [f"d{number}" for number in range(30)]
    union = {"anyOf": [{"$ref": f"#/$defs/{name}"} for name in names]}
    wire = translate(ask(tools=[_tool("f", {**union, "$defs": dict.fromkeys(names, union)})]))
    assert violations(wire) == []


_LONG = "mcp__" + "server_" * 12 + "tool"


@pytest.mark.parametrize("name", ["files.read", "mcp:server/do it", "größe", _LONG, "", "%"])
def test_name_of_a_tool_that_claude_does_not_take(name: str) -> None:
    """Another one everywhere, and the caller's own in the answer, whole and streamed."""
    call = {"id": "a", "type": "function", "function": {"name": name, "arguments": "{}"}}
    chat = {
        **say(USER, {"role": "assistant", "tool_calls": [call]}),
        "tools": [_tool(name, {}), _tool("plain", {})],
        "tool_choice": {"type": "function", "function": {"name": name}},
    }
    wire = translate(chat)
    assert violations(wire) == []
    sent = wire["tools"][0]["name"]
    assert sent == wire["tool_choice"]["name"] == wire["messages"][1]["content"][0]["name"]
    asked = Asked(json.dumps(chat).encode(), plain_name)
    assert asked.name(sent) == name
    assert (asked.name("plain"), asked.name("other")) == ("plain", "other")
    allowed = {"mode": "auto", "tools": [{"type": "function", "function": {"name": name}}]}
    chat["tool_choice"] = {"type": "allowed_tools", "allowed_tools": allowed}
    assert [tool["name"] for tool in translate(chat)["tools"]] == [sent]


def test_tools_of_one_name_are_declared_once() -> None:
    """The API refuses the second."""
    wire = translate(ask(tools=[_tool("f", {"properties": {"x": {}}}), _tool("f", {})]))
    assert [tool["input_schema"].get("properties") for tool in wire["tools"]] == [{"x": {}}]


_ODATA = {
    "type": "object",
    "properties": {
        "$filter": {"type": "string", "description": "What to find."},
        "page": {"type": "object", "properties": {"user name": {"enum": ["$filter"]}}},
        "list": {"type": "array", "items": {"properties": {"x" * 70: {}}}},
    },
    "required": ["$filter", "page"],
}


def test_names_of_properties_that_claude_does_not_take() -> None:
    """They are told where they are, so that the model can use them by the caller's own names."""
    arguments = '{"$filter": 1.50, "page": {"user name": "$filter"}}'
    call = {"id": "a", "type": "function", "function": {"name": "f.g", "arguments": arguments}}
    messages = say(USER, {"role": "assistant", "tool_calls": [call]})
    wire = translate({**messages, "tools": [_tool("f.g", _ODATA)]})
    assert violations(wire) == []
    schema = wire["tools"][0]["input_schema"]
    assert schema["required"] == ["page"]
    assert '{"$filter":{"type":"string","description":"What to find."}}' in schema["description"]
    assert '"user name"' in schema["properties"]["page"]["description"]
    assert "x" * 70 in schema["properties"]["list"]["items"]["description"]
    assert wire["messages"][1]["content"][0]["input"] == json.loads(arguments)


@pytest.mark.parametrize("text", [rb"a\ud83db", rb"\ude00", rb"\ud83d\ud83d\ude00"])
def test_half_a_character_does_not_refuse_the_request(text: bytes) -> None:
    """Streams that were cut anywhere leave it in histories; the API has no way to say it."""
    body = b'{"model":"m","messages":[{"role":"user","content":"%b"}]}' % text
    wire = read_request(to_request(body, model="claude-opus-5", stream=False))
    assert "\ufffd" in wire["messages"][0]["content"][0]["text"]


@pytest.mark.parametrize(
    ("chat", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "content": " "}]}, "messages"),
        ({"messages": "x"}, "messages"),
        ({}, None),
        ({"messages": [USER, {"role": "critic"}]}, "messages[1].role"),
        ({"messages": [USER], "max_tokens": 0}, "max_tokens"),
        (
            {"messages": [USER], "tools": [{"type": "function", "function": {}}]},
            "tools[0].function",
        ),
        ({"messages": [USER], "reasoning_effort": "huge"}, "reasoning_effort"),
        (
            {"messages": [USER, {"role": "assistant", "audio": {"id": "audio_1"}}]},
            "messages[1].audio",
        ),
        (
            {
                "messages": [
                    USER,
                    {"role": "assistant", "tool_calls": [{"id": "a", "type": "custom"}]},
                ]
            },
            "messages[1].tool_calls[0]",
        ),
        (
            {"messages": [{"role": "system", "content": [{"type": "input_audio"}]}]},
            "messages[0].content[0]",
        ),
        ({"messages": [USER], "modalities": ["audio"]}, "modalities"),
        (
            {"messages": [USER], "tool_choice": {"type": "custom", "custom": {"name": "x"}}},
            "tool_choice",
        ),
        (
            {"messages": [USER], "response_format": {"type": "json_schema"}},
            "response_format.json_schema.schema",
        ),
    ],
)
def test_malformed_request_is_refused_with_its_path(chat: Json, param: str | None) -> None:
    """A 400 that names the field."""
    with pytest.raises(InvalidRequest) as caught:
        to_request(json.dumps(chat).encode(), model="claude-opus-5", stream=False)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"\xff", b'{"messages":' + b"[" * 100_000, b'{"messages":[],"x":1e999}'],
)
def test_body_that_is_no_request_is_refused(body: bytes) -> None:
    """Whatever the bytes are, the error is ours."""
    with pytest.raises(InvalidRequest):
        to_request(body, model="claude-opus-5", stream=False)


def test_integer_past_64_bits_in_a_schema_is_refused_or_kept() -> None:
    """No library error gets out."""
    function = {"name": "f", "parameters": {"type": "object", "maximum": 10**30}}
    body = json.dumps(ask(tools=[{"type": "function", "function": function}])).encode()
    with suppress(InvalidRequest):
        assert json.loads(to_request(body, model="claude-opus-5", stream=False))
