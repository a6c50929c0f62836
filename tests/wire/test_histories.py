"""The generator of conversations makes what it says."""

from __future__ import annotations

import json

from hypothesis import given, settings

from tests.wire.histories import Json, conversations


@settings(max_examples=50)
@given(conversations())
def test_conversations_are_chat_requests(request: Json) -> None:
    """JSON, with messages, of which one at least can be answered."""
    assert json.loads(json.dumps(request)) == request
    roles = [message["role"] for message in request["messages"]]
    assert set(roles) <= {"system", "developer", "user", "assistant", "tool", "function"}
    assert {"user", "tool", "function"} & set(roles)
