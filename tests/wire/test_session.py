"""Which session a request says that it is part of."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.wire.chat import read_request
from proxy.wire.chat.request import read_outer, session_of

OLD = "user_1f0a_account_0b1c_session_5e2d-77"
NEW = json.dumps({"device_id": "d", "account_uuid": "a", "session_id": "5e2d-77"})


@pytest.mark.parametrize(
    ("members", "session"),
    [
        ({}, ""),
        ({"prompt_cache_key": "k"}, "k"),
        ({"prompt_cache_key": "k\u00fc\n"}, "k\u00fc\n"),
        ({"metadata": {"session_id": "s"}}, "s"),
        ({"metadata": {"user_id": OLD}}, "5e2d-77"),
        ({"metadata": {"user_id": NEW}}, "5e2d-77"),
        # The first of them.
        ({"prompt_cache_key": "k", "metadata": {"session_id": "s", "user_id": OLD}}, "k"),
        ({"metadata": {"user_id": OLD, "session_id": "s"}}, "s"),
        # What names none goes on to what may.
        ({"prompt_cache_key": "", "metadata": {"session_id": "s"}}, "s"),
        ({"prompt_cache_key": 5, "metadata": {"session_id": 7, "user_id": OLD}}, "5e2d-77"),
        # A user is no session, nor is a request.
        ({"metadata": {"user_id": "user_1f0a"}, "user": "me"}, ""),
        ({"metadata": {"user_id": '{"device_id": "d"}'}}, ""),
        ({"metadata": {"request_id": "r", "trace_id": "t"}, "safety_identifier": "x"}, ""),
        # Whatever else is sent there.
        ({"prompt_cache_key": None, "metadata": None}, ""),
        ({"prompt_cache_key": ["k"], "metadata": ["session_id"]}, ""),
        ({"metadata": {"user_id": 5, "session_id": {}}}, ""),
        ({"metadata": {"user_id": "{"}}, ""),
        ({"metadata": {"user_id": '{"session_id": 5}'}}, ""),
        ({"metadata": {"user_id": "_session_"}}, ""),
        ({"metadata": "text", "prompt_cache_key": True}, ""),
    ],
)
def test_session_of_a_body(members: dict[str, Any], session: str) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "a"}], **members})
    assert session_of(read_outer(body.encode()).fields) == session
    assert read_request(body.encode()).session == session


def test_odd_spellings_do_no_harm() -> None:
    """Half an emoji, and nesting that is deeper than can be read."""
    deep = b'{"user_id":%b}' % (b"[" * 900 + b"]" * 900)
    for members in (b'"prompt_cache_key":"\\ud83d"', b'"metadata":' + deep):
        body = b'{"model":"m","messages":[1],%b}' % members
        session_of(read_outer(body).fields)
