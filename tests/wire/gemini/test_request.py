"""Chat requests as Gemini requests, each read and sent again by google-genai's own code."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from google import genai
from google.genai import _common, types
from google.genai import models as sdk_models
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import completion_create_params as openai_params

from proxy.errors import InvalidRequest, ProxyError, UnsupportedParameter
from proxy.wire.gemini.request import path, to_request
from tests.support import gemini_upstream as upstream
from tests.support.gemini_rules import violations
from tests.support.pages import table
from tests.wire.gemini.requests import (
    FLASH,
    HELLO,
    TOOL,
    Json,
    called,
    config,
    refused,
    result,
    signed,
    tool_call,
    translate,
    user,
)


@pytest.fixture(scope="module")
def sdk() -> Iterator[genai.Client]:
    with genai.Client(api_key="unused") as client:
        yield client


# -- every parameter --------------------------------------------------------------------------

# A value of each parameter that matters, and what it becomes: a dict that the request then holds,
# None for nothing, or the error's class.
CASES: dict[str, tuple[Any, Json | type[ProxyError] | None]] = {
    "stream": (True, None),
    "stream_options": ({"include_usage": True}, None),
    "audio": ({"voice": "alloy", "format": "wav"}, UnsupportedParameter),
    "cache_control": ({"type": "ephemeral"}, None),
    "extra_body": (
        {
            "google": {
                "thinking_config": {"thinking_budget": 7},
                "cached_content": "cachedContents/x",
            }
        },
        {
            "generationConfig": {"thinkingConfig": {"thinkingBudget": 7}},
            "cachedContent": "cachedContents/x",
        },
    ),
    "frequency_penalty": (0.5, {"generationConfig": {"frequencyPenalty": 0.5}}),
    "function_call": ("auto", UnsupportedParameter),
    "functions": ([{"name": "f"}], UnsupportedParameter),
    "include_reasoning": (True, None),
    "logit_bias": ({"5": 1}, UnsupportedParameter),
    "logprobs": (True, {"generationConfig": {"responseLogprobs": True}}),
    "max_completion_tokens": (9, {"generationConfig": {"maxOutputTokens": 9}}),
    "max_tokens": (9, {"generationConfig": {"maxOutputTokens": 9}}),
    "metadata": ({"a": "b"}, None),
    "modalities": (
        ["text", "image"],
        {"generationConfig": {"responseModalities": ["TEXT", "IMAGE"]}},
    ),
    "models": (["a/b", "c/d"], None),
    "moderation": ({"model": "omni-moderation-latest"}, UnsupportedParameter),
    "n": (2, UnsupportedParameter),
    "parallel_tool_calls": (True, None),
    "prediction": ({"type": "content", "content": "x"}, None),
    "preset": ("mine", None),
    "presence_penalty": (0.5, {"generationConfig": {"presencePenalty": 0.5}}),
    "prompt_cache_key": ("k", None),
    "prompt_cache_options": ({"mode": "implicit"}, None),
    "prompt_cache_retention": ("24h", None),
    "provider": ({"order": ["x"]}, None),
    "reasoning": (
        {"effort": "low"},
        {"generationConfig": {"thinkingConfig": {"includeThoughts": True, "thinkingLevel": "LOW"}}},
    ),
    "reasoning_effort": (
        "low",
        {"generationConfig": {"thinkingConfig": {"includeThoughts": True, "thinkingLevel": "LOW"}}},
    ),
    "reasoning_format": ("parsed", None),
    "response_format": (
        {"type": "json_object"},
        {"generationConfig": {"responseMimeType": "application/json"}},
    ),
    "route": ("fallback", None),
    "safety_identifier": ("x", None),
    "seed": (2**31 + 5, {"generationConfig": {"seed": 5}}),
    "service_tier": ("flex", {"serviceTier": "flex"}),
    "stop": ("END", {"generationConfig": {"stopSequences": ["END"]}}),
    "store": (False, {"store": False}),
    "temperature": (0.2, {"generationConfig": {"temperature": 0.2}}),
    "thinking": (
        {"type": "adaptive"},
        {"generationConfig": {"thinkingConfig": {"includeThoughts": True}}},
    ),
    "tool_choice": ("none", None),
    "tools": (
        [{"type": "function", "function": {"name": "now"}}],
        {"tools": [{"functionDeclarations": [{"name": "now"}]}]},
    ),
    "top_k": (40, {"generationConfig": {"topK": 40}}),
    "top_logprobs": (3, None),
    "top_p": (0.9, {"generationConfig": {"topP": 0.9}}),
    "transforms": (["middle-out"], None),
    "usage": ({"include": True}, None),
    "user": ("u-1", None),
    "verbosity": ("low", None),
    "web_search_options": ({"search_context_size": "low"}, {"tools": [{"googleSearch": {}}]}),
}


PAGE = Path(__file__).parents[3] / "docs" / "parameters.md"
PARAMETERS = {
    name.strip("`"): gemini.strip("| ")
    for name, _, gemini in table(PAGE.read_text(), "| parameter | Claude | Gemini |")
}


def test_every_parameter_of_openai_has_a_fate() -> None:
    """The table in docs/parameters.md names all that the openai SDK can send, and more."""
    known = set(inspect.get_annotations(openai_params.CompletionCreateParamsBase))
    assert known | {"stream"} <= PARAMETERS.keys()
    taken = {name for name, fate in PARAMETERS.items() if fate != "400"}
    assert taken <= CASES.keys() | {"model", "messages"} <= PARAMETERS.keys()


@pytest.mark.parametrize("name", CASES)
def test_parameter_becomes_what_the_table_says(name: str) -> None:
    """Mapped, dropped or refused by name; null is as good as absent."""
    value, expected = CASES[name]
    fate = PARAMETERS[name]
    plain = translate()
    null: Json = {name: None}
    assert translate(**null) == plain
    if isinstance(expected, type):
        error = refused(**{name: value})
        assert type(error) is expected
        assert error.param == name
        assert "400" in fate
        return
    assert translate(**{name: value}) == {**plain, **(expected or {})}
    if fate.startswith("dropped"):
        assert expected is None
    for field in expected or ():
        assert field in fate or "as reasoning_effort" in fate


def test_unknown_parameter_is_refused_by_name() -> None:
    """Whether dropping it is harmless can't be known."""
    error = refused(repetition_penalty=1.1)
    assert (type(error), error.param) == (UnsupportedParameter, "repetition_penalty")
    assert error.message.endswith(": Gemini has nothing like it")
    assert refused(functions=[{"name": "f"}]).message.endswith(": use tools")
    nothing: list[Any] = [None, False, 0, "", [], {}]
    assert [translate(repetition_penalty=each) for each in nothing] == [translate()] * 6


def test_whole_config_is_what_the_official_sdk_would_send(sdk: genai.Client) -> None:
    """google-genai, given the same configuration, makes the same JSON."""
    made = translate(
        temperature=0.5,
        top_p=0.5,
        stop=["a", "b"],
        max_tokens=5,
        seed=1,
        logprobs=True,
        top_logprobs=2,
        reasoning_effort="high",
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"type": "object"}},
        },
        tools=[TOOL],
        tool_choice="required",
        service_tier="priority",
        messages=[{"role": "system", "content": "Be brief."}, *HELLO],
    )
    beside = {name: value for name, value in made.items() if name in upstream.BESIDE}
    config = types.GenerateContentConfig.model_validate({**made["generationConfig"], **beside})
    asked = types._GenerateContentParameters(
        model=FLASH,
        contents=[types.Content.model_validate(c) for c in made["contents"]],
        config=config,
    )
    converted = sdk_models._GenerateContentParameters_to_mldev(sdk._api_client, asked)
    sent: Json = _common.encode_unserializable_types(_common.convert_to_dict(converted))
    del sent["_url"]
    assert camel(sent) == made


def camel(value: Any) -> Any:
    """The SDK sends nested fields by their protobuf names, which mean the same to the API."""
    if isinstance(value, list):
        return [camel(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {re.sub(r"_(.)", lambda m: m[1].upper(), k): camel(v) for k, v in value.items()}


# -- what depends on the model ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "effort", "expected"),
    [
        ("gemini-2.5-flash", "none", {"includeThoughts": False, "thinkingBudget": 0}),
        ("gemini-2.5-flash", "max", {"includeThoughts": True, "thinkingBudget": 24576}),
        ("models/gemini-2.5-pro", "none", {"includeThoughts": False, "thinkingBudget": 128}),
        ("gemini-2.5-pro", "xhigh", {"includeThoughts": True, "thinkingBudget": 32768}),
        ("gemini-3-flash-preview", "none", {"includeThoughts": False, "thinkingLevel": "MINIMAL"}),
        ("gemini-3.1-pro-preview", "minimal", {"includeThoughts": True, "thinkingLevel": "LOW"}),
        ("gemini-3.5-flash-lite", "minimal", {"includeThoughts": True, "thinkingLevel": "MINIMAL"}),
        ("gemini-3.8-flash", "minimal", {"includeThoughts": True, "thinkingLevel": "LOW"}),
        ("gemini-4-argon", "medium", {"includeThoughts": True, "thinkingLevel": "MEDIUM"}),
        ("gemini-flash-latest", "xhigh", {"includeThoughts": True, "thinkingLevel": "HIGH"}),
    ],
)
def test_reasoning_effort(model: str, effort: str, expected: Json) -> None:
    """Levels from Gemini 3 on, budgets for 2.5, never a level that the model refuses."""
    assert config(model, reasoning_effort=effort)["thinkingConfig"] == expected


def test_reasoning_effort_of_a_model_that_does_not_think() -> None:
    """`none` is what it does anyway."""
    assert config("gemini-2.0-flash", reasoning_effort="none") == {}
    assert refused("gemini-2.0-flash", reasoning_effort="low").param == "reasoning_effort"
    assert refused(reasoning_effort="very").param == "reasoning_effort"


@pytest.mark.parametrize(
    ("asked", "old", "new"),
    [
        ({"reasoning": {"effort": "high"}}, (True, 24576), "HIGH"),
        ({"reasoning": {"enabled": True}}, (True, None), None),
        ({"reasoning": {"enabled": False, "effort": "high"}}, (False, 0), "MINIMAL"),
        ({"reasoning": {"max_tokens": 2000}}, (True, 2000), "LOW"),
        ({"reasoning": {"max_tokens": 99_999}}, (True, 24576), "HIGH"),
        ({"reasoning": {"effort": "medium", "exclude": True}}, (False, 8192), "MEDIUM"),
        ({"reasoning": {"effort": "low"}, "reasoning_effort": "high"}, (True, 24576), "HIGH"),
        ({"thinking": {"type": "enabled", "budget_tokens": 8000}}, (True, 8000), "MEDIUM"),
        ({"thinking": {"type": "disabled"}}, (False, 0), "MINIMAL"),
        ({"thinking": {"type": "adaptive"}}, (True, None), None),
    ],
)
def test_other_vendors_words_for_thinking(
    asked: Json, old: tuple[bool, int | None], new: str | None
) -> None:
    """OpenRouter's `reasoning` and Anthropic's `thinking`, in a pool of several kinds."""
    shown, budget = old
    rest: Json = {} if budget is None else {"thinkingBudget": budget}
    thinks = {"includeThoughts": shown, **rest}
    assert config("gemini-2.5-flash", **asked)["thinkingConfig"] == thinks
    level = {} if new is None else {"thinkingLevel": new}
    assert config("gemini-3-flash", **asked)["thinkingConfig"] == {
        "includeThoughts": shown,
        **level,
    }


def test_thinking_that_a_model_cannot_do_is_named() -> None:
    """By the parameter that asked for it."""
    assert refused(reasoning={"effort": "very"}).param == "reasoning.effort"
    old = "gemini-2.0-flash"
    assert refused(old, reasoning={"max_tokens": 5}).param == "reasoning.max_tokens"
    assert config(old, reasoning={"enabled": False}, thinking={"type": "adaptive"}) == {}
    assert config(old, thinking={"type": "adaptive"}) == {}


SCHEMA: Json = {"type": "object", "properties": {"a": {"type": "string"}}}
FORMAT: Json = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
SEARCH: Json = {"web_search_options": {}}


@pytest.mark.parametrize(
    "beside", [{"tools": [TOOL]}, SEARCH, {"tools": [TOOL], "tool_choice": "none"}]
)
@pytest.mark.parametrize("wanted", [FORMAT, {"type": "json_object"}])
def test_format_beside_tools(beside: Json, wanted: Json) -> None:
    """Before Gemini 3 the pair is a 400 of Google's: the format is told instead."""
    asked: Json = {
        "messages": [{"role": "system", "content": "S"}, *HELLO],
        "response_format": wanted,
        **beside,
    }
    old = translate("gemini-2.5-flash", **asked)
    assert violations(old, model="gemini-2.5-flash") == []
    assert "generationConfig" not in old
    first, told = old["systemInstruction"]["parts"]
    assert first == {"text": "S"}
    assert (json.dumps(SCHEMA, separators=(",", ":")) in told["text"]) == (wanted is FORMAT)
    new = translate(**asked)
    assert new["generationConfig"]["responseMimeType"] == "application/json"
    assert new["systemInstruction"]["parts"] == [first]
    asked.pop("tools", None)
    asked.pop("tool_choice", None)
    asked.pop("web_search_options", None)
    alone = translate("gemini-2.5-flash", **asked)
    assert alone["generationConfig"]["responseMimeType"] == "application/json"


def test_functions_beside_a_search() -> None:
    """From Gemini 3 on with the switch that they need; before, the pair is impossible."""
    made = translate(tools=[TOOL], tool_choice="required", **SEARCH)
    assert made["toolConfig"] == {
        "functionCallingConfig": {"mode": "ANY"},
        "includeServerSideToolInvocations": True,
    }
    assert len(made["tools"]) == 2
    optional: Json = {"tools": [TOOL], "web_search_options": {"optional": True}}
    assert len(translate(**optional)["tools"]) == 2
    assert len(translate("gemini-2.5-flash", **optional)["tools"]) == 1
    error = refused("gemini-2.5-flash", tools=[TOOL], **SEARCH)
    assert (type(error), error.param) == (UnsupportedParameter, "web_search_options")
    assert "before Gemini 3" in error.message
    for model in ("gemini-2.5-flash", FLASH):
        assert "toolConfig" not in translate(model, **SEARCH)


def test_service_tier_of_groq_is_its_default() -> None:
    """`on_demand` changes nothing."""
    assert translate(service_tier="on_demand") == translate()


def test_ignored_sampling_is_left_out() -> None:
    """Gemini 3.6 and later ignore it today and announce a 400 for it."""
    asked = {"temperature": 0.1, "top_p": 0.1, "top_k": 1}
    for model in ("gemini-3.5-flash-lite", "gemini-3.6-flash", "gemini-4-neon"):
        assert config(model, **asked) == {}
    assert len(config("gemini-3.1-pro-preview", **asked)) == 3


def test_n_and_penalties_end_with_a_generation() -> None:
    """Candidates up to 2.5, penalties up to 3; their neutral values are no wish."""
    assert config("gemini-2.5-flash", n=3) == {"candidateCount": 3}
    assert config(n=1, frequency_penalty=0, presence_penalty=0.0) == {}
    assert refused("gemini-4-neon", presence_penalty=1).param == "presence_penalty"
    assert refused(n=0).param == "n"


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"modalities": ["text", "audio"]}, "modalities[1]"),
        ({"service_tier": "scale"}, "service_tier"),
        (
            {"reasoning_effort": "low", "extra_body": {"google": {"thinking_config": {}}}},
            "reasoning_effort",
        ),
        ({"temperature": "hot"}, "temperature"),
    ],
)
def test_value_that_gemini_lacks_is_named(asked: Json, param: str) -> None:
    """One value of a parameter may be impossible where others are not."""
    assert refused(**asked).param == param


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"seed": 2**31 - 1}, {"seed": 2**31 - 1}),
        ({"seed": 2**31}, {"seed": 0}),
        ({"seed": -1}, {"seed": 2**31 - 1}),
        ({"seed": 0}, {"seed": 0}),
        ({"n": 1}, {}),
        ({"n": 2}, {"candidateCount": 2}),
        ({"logprobs": False, "top_logprobs": 2}, {}),
        ({"logprobs": True, "top_logprobs": 2}, {"responseLogprobs": True, "logprobs": 2}),
        ({"stop": ""}, {}),
        ({"stop": ["", "a"]}, {"stopSequences": ["a"]}),
        ({"modalities": []}, {}),
        ({"modalities": ["text"]}, {}),
        ({"modalities": ["image"]}, {"responseModalities": ["IMAGE"]}),
        ({"temperature": 0, "top_p": 0, "top_k": 0}, {"temperature": 0, "topP": 0, "topK": 0}),
        (
            {"extra_body": {"google": {"thinking_config": {"include_thoughts": True}}}},
            {"thinkingConfig": {"includeThoughts": True}},
        ),
        ({"reasoning": {"exclude": True}}, {}),
        ({"response_format": {"type": "text"}}, {}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}},
            {"responseMimeType": "application/json", "responseJsonSchema": {}},
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "description": "d", "schema": {"title": "t"}},
                }
            },
            {
                "responseMimeType": "application/json",
                "responseJsonSchema": {"title": "t", "description": "d"},
            },
        ),
    ],
)
def test_value_of_a_parameter(asked: Json, expected: Json) -> None:
    """As it is, or as Gemini has it; none where it asks for nothing."""
    assert config("gemini-2.5-flash", **asked) == expected


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "never"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "x"}}},
            "tool_choice",
        ),
    ],
)
def test_value_without_a_meaning_is_named(asked: Json, param: str) -> None:
    """A 400, not Gemini's."""
    assert refused(**asked).param == param


@pytest.mark.parametrize(
    ("tier", "expected"),
    [
        ("auto", None),
        ("on_demand", None),
        ("default", "standard"),
        ("flex", "flex"),
        ("priority", "priority"),
    ],
)
def test_each_service_tier(tier: str, expected: str | None) -> None:
    """OpenAI's words, and Groq's."""
    assert translate(service_tier=tier).get("serviceTier") == expected


def test_max_completion_tokens_counts_over_max_tokens() -> None:
    """The younger name is the better known wish."""
    assert config(max_tokens=1, max_completion_tokens=2) == {"maxOutputTokens": 2}


def test_parallel_tool_calls_false_is_taken() -> None:
    """Frameworks send it by default; Gemini has no such switch (the answer is cut to one call)."""
    for tools in ([], [TOOL]):
        assert translate(parallel_tool_calls=False, tools=tools) == translate(tools=tools)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("gemini-3.8-flash", "/v1beta/models/gemini-3.8-flash:generateContent"),
        ("models/x", "/v1beta/models/x:generateContent"),
        ("tunedModels/x", "/v1beta/tunedModels/x:generateContent"),
        ("../a?b#c%/ü", "/v1beta/models/..%2Fa%3Fb%23c%25%2F%C3%BC:generateContent"),
        ("\ud800", "/v1beta/models/%3F:generateContent"),
    ],
)
def test_model_names_stay_in_their_segment(model: str, expected: str) -> None:
    """A hostile name can't reach another path or add to the query."""
    assert path(model, "generateContent") == expected
    stream = expected.replace(":generateContent", ":streamGenerateContent?alt=sse")
    assert path(model, "streamGenerateContent?alt=sse") == stream


# -- anything at all --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"messages":[{"role":"user","content":"\xff"}]}',
        b'{"messages":' + b"[" * 9999,
    ],
)
def test_body_that_is_no_request(body: bytes) -> None:
    """A 400, never a parser's own error."""
    with pytest.raises(InvalidRequest):
        to_request(body, model=FLASH, stream=True)


_FULL: Json = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "s"},
        user(
            {"type": "text", "text": "t"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
            {"type": "file", "file": {"file_data": "AAAA", "filename": "a.pdf"}},
        ),
        called(tool_call("aa", '{"x":1}', **signed("AAAA"))),
        result("aa", "r"),
    ],
    "tools": [TOOL],
    "tool_choice": {"type": "function", "function": {"name": "weather"}},
    "response_format": {
        "type": "json_schema",
        "json_schema": {
            "name": "j",
            "schema": {
                "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": ["null", "string"]}]}},
                "properties": {"p": {"$ref": "#/$defs/a"}, "q": {"enum": [1, "a", None]}},
                "allOf": [{"required": ["p"]}],
                "items": [{"const": True}],
            },
        },
    },
    "stop": ["a"],
    "reasoning_effort": "low",
    "modalities": ["text"],
    "seed": 1,
    "service_tier": "flex",
}
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)


def _mutate(value: Any, draw: st.DrawFn) -> Any:
    if isinstance(value, dict) and value and draw(st.integers(0, 5)):
        key = draw(st.sampled_from(sorted(value)))
        return {**value, key: _mutate(value[key], draw)}
    if isinstance(value, list) and value and draw(st.integers(0, 5)):
        place = draw(st.integers(0, len(value) - 1))
        return [*value[:place], _mutate(value[place], draw), *value[place + 1 :]]
    return draw(_json)


@st.composite
def _requests(draw: st.DrawFn) -> bytes:
    made = _mutate(_FULL, draw)
    for _ in range(draw(st.integers(0, 2))):
        made = _mutate(made, draw)
    return json.dumps(made).encode()


@given(_requests() | st.binary(max_size=20), st.sampled_from(["gemini-2.5-pro", FLASH, "x"]))
def test_any_request_is_translated_or_refused(body: bytes, model: str) -> None:
    """What is sent is a Gemini request; what can't be is an error of the proxy's tree."""
    with suppress(InvalidRequest):
        upstream.read_request(to_request(body, model=model, stream=False), model=model)
