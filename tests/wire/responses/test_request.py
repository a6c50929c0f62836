"""Responses requests as chat: parameters, tools, and that every kind of upstream takes them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.chat.completion_create_params import CompletionCreateParams
from pydantic import TypeAdapter

from proxy.dialects.responses import RESPONSES, ResponsesAsk
from proxy.errors import InvalidRequest, UnsupportedParameter
from proxy.wire.chat.deltas import Translation
from proxy.wire.claude.request import to_request as to_claude
from proxy.wire.gemini.request import to_request as to_gemini
from proxy.wire.responses.tools import Tools
from tests.support import claude_upstream as claude
from tests.support import gemini_upstream as gemini
from tests.support.responses import RECORDED

Json = dict[str, Any]

KINDS = ("openai", "claude", "gemini")
FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}
CALLED = {"type": "function", "function": {"name": "f"}}
_CHAT: TypeAdapter[Any] = TypeAdapter(CompletionCreateParams)


def translated(asked: Json, kind: str = "openai", *, reasons: bool = True) -> Translation:
    body = json.dumps({"model": "m", "input": "Hi", **asked}).encode()
    found = RESPONSES.read(body, {})
    assert isinstance(found, ResponsesAsk)
    return found.translated(kind, plain=not reasons)


def chat(kind: str = "openai", /, **asked: Any) -> Json:
    made: Json = json.loads(translated(asked, kind).request.body)
    return made


def taken(body: bytes, kind: str) -> Json:
    """The request that this kind of upstream gets, which it would not refuse."""
    if kind == "claude":
        return claude.read_request(to_claude(body, model=claude.MODEL, stream=False))
    if kind == "gemini":
        return gemini.read_request(to_gemini(body, model="gemini-3.5-flash", stream=False))
    claude.exhaust(_CHAT.validate_python(json.loads(body)))
    return dict(json.loads(body))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("program", RECORDED)
def test_requests_of_real_programs_are_taken(program: str, kind: str) -> None:
    """By every kind of upstream, turn after turn."""
    for body in RECORDED[program]:
        taken(translated(body, kind).request.body, kind)


def test_string_is_what_the_user_says() -> None:
    """Instructions come first, as the system's."""
    made = chat(instructions="Be brief.")
    assert made == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
        ],
    }


def test_stream_tells_its_usage() -> None:
    """Which the last event has to have."""
    made = chat(stream=True, stream_options={"include_obfuscation": False})
    assert made["stream"] is True
    assert made["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("asked", "made"),
    [
        ({"max_output_tokens": 9}, {"max_tokens": 9}),
        ({"reasoning": {"effort": "low", "summary": "auto"}}, {"reasoning_effort": "low"}),
        ({"reasoning": {"summary": "auto", "effort": None}}, {}),
        ({"text": {"verbosity": "low"}}, {"verbosity": "low"}),
        ({"text": {"format": {"type": "text"}}}, {}),
        (
            {"text": {"format": {"type": "json_object"}}},
            {"response_format": {"type": "json_object"}},
        ),
        (
            {
                "text": {
                    "format": {
                        "type": "json_schema",
                        "name": "n",
                        "description": "d",
                        "schema": {},
                        "strict": True,
                    }
                }
            },
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "description": "d", "schema": {}, "strict": True},
                }
            },
        ),
        (
            {"include": ["message.output_text.logprobs"], "top_logprobs": 3},
            {"logprobs": True, "top_logprobs": 3},
        ),
        (
            {"include": ["reasoning.encrypted_content", "web_search_call.action.sources"]},
            {},
        ),
        (
            {"include": ["message.output_text.logprobs"]},
            {"logprobs": True, "top_logprobs": 0},
        ),
        ({"top_logprobs": 2}, {"logprobs": True, "top_logprobs": 2}),
        ({"frequency_penalty": 1, "presence_penalty": 1, "seed": 7, "stop": "x", "top_k": 3},) * 2,
        ({"moderation": {}, "prompt_cache_options": {}, "prompt_cache_retention": "24h"},) * 2,
        ({"temperature": 0.5, "top_p": 1, "user": "u"},) * 2,
        ({"safety_identifier": "s", "prompt_cache_key": "k", "service_tier": "flex"},) * 2,
        ({"metadata": {"a": "b"}, "store": True, "truncation": "auto", "max_tool_calls": 3}, {}),
        ({"tool_choice": "auto", "parallel_tool_calls": True, "tools": []}, {}),
        ({"previous_response_id": None, "background": False, "prompt": None}, {}),
        (dict.fromkeys(("instructions", "reasoning", "text", "tools", "include")), {}),
    ],
)
def test_parameters(asked: Json, made: Json) -> None:
    """Those that chat has too; what changes no answer is left out."""
    assert chat(**asked) == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        **made,
    }


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ({"context_management": [{"type": "compaction"}]}, ["context_management"]),
        (
            {"reasoning": {"context": "auto", "mode": "pro", "generate_summary": None}},
            ["reasoning.context", "reasoning.mode"],
        ),
        ({"tools": [{"type": "web_search"}, {"type": "x"}, FUNCTION]}, ["web_search", "x"]),
        ({"tools": [{**FUNCTION, "allowed_callers": ["direct"]}]}, ["allowed_callers"]),
        (
            {"input": [{"role": "assistant", "content": "Hi", "phase": "commentary"}]},
            ["phase"],
        ),
        ({"client_metadata": {"a": "b"}}, []),
        ({"reasoning": {"effort": "low", "summary": "auto"}, "max_tool_calls": 3}, []),
        ({"metadata": {}, "store": True, "stream": False, "truncation": "auto"}, []),
        ({"stream_options": {}, "previous_response_id": None, "seed": 7, "top_k": 3}, []),
    ],
)
def test_what_was_dropped_is_named(asked: Json, names: list[str]) -> None:
    """If it might have meant anything."""
    assert list(translated(asked).dropped) == names


@pytest.mark.parametrize(
    "asked",
    [
        {"previous_response_id": "resp_1"},
        {"conversation": {"id": "conv_1"}},
        {"background": True},
        {"prompt": {"id": "pmpt_1"}},
        {"input": [{"type": "item_reference", "id": "msg_1"}]},
        {"input": [{"id": "msg_1"}]},
    ],
)
def test_nothing_is_kept_here(asked: Json) -> None:
    """Whoever refers to it is told what to do."""
    found = RESPONSES.read(json.dumps({"model": "m", "input": "Hi", **asked}).encode(), {})
    with pytest.raises(InvalidRequest, match="send the whole input") as refused:
        found.request(found.prompts(natively=False), "openai", natively=False)
    assert refused.value.param in (*asked, "input[0]")


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"tool_choice": {"type": "web_search"}, "tools": [{"type": "web_search"}]}, "tool_choice"),
        ({"tool_choice": "required", "tools": [{"type": "image_generation"}]}, "tool_choice"),
        ({"tool_choice": {"type": "custom", "name": "x"}, "tools": [FUNCTION]}, "tool_choice"),
        ({"input": [{"type": "compaction", "encrypted_content": "x"}]}, "input[0]"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input[0].content[0].file_id",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
            "input[0].content[0].file_id",
        ),
    ],
)
def test_what_chat_cannot_do_is_refused(asked: Json, param: str) -> None:
    """Where it would change the answer."""
    with pytest.raises(UnsupportedParameter) as refused:
        translated(asked)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": ["Hi"]}, "input[0]"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": 5}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "x"}]}]}, "input[0].content[0]"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0]",
        ),
        ({"input": [{"type": "function_call", "call_id": "a"}]}, "input[0].name"),
        ({"tools": [5]}, "tools[0]"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{"type": "namespace", "name": "n", "tools": [{}]}]}, "tools[0].tools[0].name"),
        ({"instructions": ["x"]}, "instructions"),
        ({"max_output_tokens": "9"}, "max_output_tokens"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": "json"}}, "text.format.type"),
        ({"reasoning": "low"}, "reasoning"),
    ],
)
def test_malformed_requests_are_refused_by_name(asked: Json, param: str) -> None:
    """Never a crash."""
    with pytest.raises(InvalidRequest) as refused:
        translated(asked)
    assert refused.value.param == param
    assert refused.value.message.startswith(param)


def test_custom_tool_is_a_function_of_one_string() -> None:
    """Its grammar is told in words."""
    form = {"type": "grammar", "syntax": "lark", "definition": "start: A"}
    custom = {"type": "custom", "name": "patch", "description": "Patches.", "format": form}
    (made,) = chat(tools=[custom])["tools"]
    assert made["function"]["parameters"] == {
        "type": "object",
        "properties": {"input": {"type": "string"}},
        "required": ["input"],
        "additionalProperties": False,
    }
    assert made["function"]["description"] == (
        "Patches.\n\n`input` must follow this lark grammar:\nstart: A"
    )


def test_function_is_one_of_chat() -> None:
    """With all that chat knows of it; without a type it is one, too."""
    asked = [{**FUNCTION, "description": "d"}, {"name": "g"}]
    made = chat(tools=asked, parallel_tool_calls=False)
    assert made["parallel_tool_calls"] is False
    parts = {"description": "d", "parameters": {"type": "object"}, "strict": False}
    assert [tool["function"] for tool in made["tools"]] == [{"name": "f", **parts}, {"name": "g"}]
    assert [tool["type"] for tool in made["tools"]] == ["function", "function"]


def test_tools_of_a_namespace_are_flattened() -> None:
    """By a name that chat takes."""
    long = "a_tool_whose_name_is_so_long_that_with_its_namespace_it_is_too_long"
    inside = [{**FUNCTION, "name": name} for name in ("find", long, "find")]
    namespace = {"type": "namespace", "name": "crm", "tools": inside}
    names = [tool["function"]["name"] for tool in chat(tools=[namespace])["tools"]]
    assert names[0] == "crm__find"
    assert names[1].startswith(f"crm__{long}"[:55])
    assert len(names[1]) == 64
    assert len(names) == 2
    tools = Tools("openai")
    tools.add([namespace], "tools")
    assert tools.meant(names[1]).named == {"name": long, "namespace": "crm"}


def test_tools_that_the_caller_runs_are_functions() -> None:
    """With their documented parameters; a shell in a container is the vendor's."""
    hosted = {"type": "shell", "environment": {"type": "container_auto"}}
    here = {"type": "shell", "environment": {"type": "local"}}
    local = [{"type": each} for each in ("local_shell", "shell", "apply_patch")]
    assert translated({"tools": [here]}).dropped == []
    found = translated({"tools": [hosted, *local]})
    declared = json.loads(found.request.body)["tools"]
    tools = {tool["function"]["name"]: tool["function"] for tool in declared}
    assert tools["local_shell"]["parameters"]["required"] == ["command"]
    assert tools["shell"]["parameters"]["required"] == ["commands"]
    assert tools["shell"]["description"].startswith("Runs commands on the user's machine, each")
    assert set(tools["apply_patch"]["parameters"]["properties"]) == {"type", "path", "diff"}
    assert found.dropped == ["shell"]


@pytest.mark.parametrize(
    ("choice", "made"),
    [
        ("none", "none"),
        ("required", "required"),
        ({"type": "function", "name": "f"}, CALLED),
        (
            {"type": "function", "name": "find", "namespace": "crm"},
            {"type": "function", "function": {"name": "crm__find"}},
        ),
        (
            {"type": "custom", "name": "patch"},
            {"type": "function", "function": {"name": "patch"}},
        ),
        (
            {"type": "apply_patch"},
            {"type": "function", "function": {"name": "apply_patch"}},
        ),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "f"}, {"type": "web_search"}],
            },
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [CALLED]}},
        ),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp"}]}, "none"),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [CALLED]}},
        ),
        (
            {"type": "function", "name": "unheard_of"},
            {"type": "function", "function": {"name": "unheard_of"}},
        ),
    ],
)
def test_tool_choice(choice: Any, made: Any) -> None:
    """By chat's own forms."""
    tools = [
        FUNCTION,
        {"type": "custom", "name": "patch"},
        {"type": "apply_patch"},
        {"type": "namespace", "name": "crm", "tools": [{"type": "function", "name": "find"}]},
        {"type": "web_search"},
    ]
    assert chat(tools=tools, tool_choice=choice)["tool_choice"] == made


def test_tools_that_items_bring_are_declared() -> None:
    """What a search for tools found, and what is added on the way."""
    found = {"type": "tool_search_output", "tools": [{**FUNCTION, "name": "found"}, FUNCTION]}
    added = {
        "type": "additional_tools",
        "role": "developer",
        "tools": [{**FUNCTION, "name": "added"}],
    }
    said = {"role": "user", "content": "Hi"}
    made = chat(tools=[FUNCTION, {"type": "tool_search"}], input=[said, found, added])
    assert [tool["function"]["name"] for tool in made["tools"]] == ["f", "found", "added"]
    assert made["messages"] == [said]


def test_search_of_the_web_is_geminis_too() -> None:
    """Beside functions where the model can, so it is left to its client."""
    tools = [FUNCTION, {"type": "web_search_preview"}]
    body = translated({"tools": tools}, "gemini").request.body
    assert {"googleSearch": {}} in taken(body, "gemini")["tools"]
    older = json.loads(to_gemini(body, model="gemini-2.5-flash", stream=False))
    assert [list(tool) for tool in older["tools"]] == [["functionDeclarations"]]
    asked = {"tools": tools, "tool_choice": {"type": "web_search_preview"}}
    assert "tool_choice" not in json.loads(translated(asked, "gemini").request.body)


def test_request_without_its_reasoning() -> None:
    """For a model that does not think at all."""
    found = translated({"reasoning": {"effort": "high"}}, reasons=False)
    assert "reasoning_effort" not in json.loads(found.request.body)
    assert found.dropped == ["reasoning.effort"]
