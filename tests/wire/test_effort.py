"""Which of `thinking`, `reasoning_effort` and `reasoning` holds: the same for every vendor."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.errors import InvalidRequest
from proxy.wire.claude.request import to_request as to_claude
from proxy.wire.gemini.request import to_request as to_gemini

Json = dict[str, Any]
USER = {"role": "user", "content": "Hi"}
ON: Json = {"type": "enabled"}
OFF: Json = {"type": "disabled"}
HARD: Json = {"effort": "high"}


MODELS = ["claude-haiku-4-5", "claude-opus-5", "gemini-2.5-flash", "gemini-3-flash"]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("asked", "same_as"),
    [
        ({"thinking": OFF, "reasoning_effort": "high"}, {"reasoning_effort": "none"}),
        ({"thinking": OFF, "reasoning": HARD}, {"reasoning_effort": "none"}),
        ({"thinking": ON, "reasoning_effort": "none"}, {"thinking": ON}),
        ({"thinking": ON, "reasoning_effort": "low"}, {"reasoning_effort": "low"}),
        ({"thinking": ON, "reasoning": {"enabled": False}}, {"thinking": ON}),
        ({"reasoning_effort": "none", "reasoning": HARD}, {"reasoning_effort": "none"}),
        ({"reasoning_effort": "low", "reasoning": HARD}, {"reasoning_effort": "low"}),
        ({"reasoning": {"enabled": False, "effort": "high"}}, {"reasoning_effort": "none"}),
        (
            {"thinking": {**ON, "budget_tokens": 3000}, "reasoning": {"max_tokens": 9000}},
            {"thinking": {**ON, "budget_tokens": 3000}},
        ),
        (
            {"reasoning": {"effort": "low", "max_tokens": 3000}},
            {"thinking": {**ON, "budget_tokens": 3000}, "reasoning_effort": "low"},
        ),
    ],
)
def test_parameters_given_together(asked: Json, same_as: Json, model: str) -> None:
    """`thinking` decides, `reasoning_effort` says how hard, `reasoning` is last."""
    translate = to_claude if model.startswith("claude") else to_gemini

    def sent(fields: Json) -> Any:
        body = json.dumps({"model": "m", "messages": [USER], **fields}).encode()
        return json.loads(translate(body, model=model, stream=False))

    assert sent(asked) == sent(same_as)


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"reasoning_effort": "none", "reasoning": HARD}, "reasoning_effort"),
        ({"thinking": ON, "reasoning_effort": "low"}, "reasoning_effort"),
        ({"thinking": {**ON, "budget_tokens": 3000}}, "thinking.budget_tokens"),
        (
            {"thinking": {**ON, "budget_tokens": 3000}, "reasoning_effort": "none"},
            "thinking.budget_tokens",
        ),
        ({"thinking": OFF, "reasoning_effort": "low"}, "thinking"),
        ({"reasoning": HARD}, "reasoning.effort"),
        ({"reasoning": {"enabled": False}}, "reasoning.enabled"),
        ({"reasoning": {"enabled": False, "effort": "low"}}, "reasoning.effort"),
        ({"reasoning": {"max_tokens": 3000}}, "reasoning.max_tokens"),
    ],
)
def test_refusal_names_the_parameter_that_said_it(asked: Json, name: str) -> None:
    """Of those that were given together; here beside Gemini's own, which excludes them."""
    google = {"google": {"thinking_config": {"thinking_budget": 0}}}
    fields = {"model": "m", "messages": [USER], **asked, "extra_body": google}
    with pytest.raises(InvalidRequest, match=f"^{name} and extra_body.google") as refused:
        to_gemini(json.dumps(fields).encode(), model="gemini-2.5-flash", stream=False)
    assert refused.value.param == name
