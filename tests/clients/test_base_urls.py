"""Where a base-url leads: with and without the version of the API, slashes at its end or not."""

from __future__ import annotations

import time

import pytest

from proxy.clients import make_clients
from proxy.config import load_config
from proxy.errors import ConfigError
from proxy.net.watch import CallerConnection
from proxy.wire.chat import read_request
from tests.support import claude_upstream as claude
from tests.support import gemini_upstream as gemini
from tests.support.calls import WAIT_S
from tests.support.upstream import Received, Reply, Upstream, json_reply

SECTIONS = {"gemini": "gemini-api-key", "claude": "claude-api-key"}
PATHS = {
    "gemini": ["models/m:generateContent", "models/m:streamGenerateContent"],
    "claude": ["messages", "messages"],
}


def claude_page(received: Received) -> Reply:
    is_last = "after_id=a" in received.query
    return json_reply({**claude.models("b" if is_last else "a"), "has_more": not is_last})


def gemini_page(received: Received) -> Reply:
    if "pageToken=2" in received.query:
        return json_reply(gemini.model_list("b"))
    return json_reply(gemini.model_list("a", next_page_token="2"))


PAGES = {"gemini": gemini_page, "claude": claude_page}


@pytest.mark.parametrize("slashes", ["", "/", "//"])
@pytest.mark.parametrize(
    ("kind", "given", "meant"),
    [
        ("claude", "", "/v1"),
        ("claude", "/v1", "/v1"),
        ("claude", "/anthropic", "/anthropic/v1"),
        ("claude", "/anthropic/v1", "/anthropic/v1"),
        ("claude", "/not-v1", "/not-v1/v1"),
        ("gemini", "", "/v1beta"),
        ("gemini", "/v1beta", "/v1beta"),
        ("gemini", "/v1", "/v1"),
        ("gemini", "/v1alpha", "/v1alpha"),
        ("gemini", "/google/v1beta", "/google/v1beta"),
        ("gemini", "/google", "/google/v1beta"),
    ],
)
def test_version_is_not_doubled(
    plain: Upstream, kind: str, given: str, meant: str, slashes: str
) -> None:
    """For requests, streams and every page of a model list."""
    entry = {"api-key": "key-0123456789", "base-url": f"{plain.origin}{given}{slashes}"}
    (client,) = make_clients(load_config({SECTIONS[kind]: [entry]}))
    plain.default = json_reply({})
    plain.pages[f"{meant}/models"] = PAGES[kind]
    deadline = time.monotonic() + WAIT_S
    for stream in ("false", "true"):
        body = f'{{"model":"m","messages":[{{"role":"user","content":"Hi"}}],"stream":{stream}}}'
        request, nobody = read_request(body.encode()), CallerConnection(None)
        reply = client.send(request, model="m", headers={}, caller=nobody, deadline=deadline)
        assert reply.head(deadline)
        reply.close()
    assert client.list_models(caller=CallerConnection(None), deadline=deadline) == ["a", "b"]
    client.close()
    asked = [f"{meant}/{path}" for path in PATHS[kind]]
    assert [received.path for received in plain.received()] == [*asked, *[f"{meant}/models"] * 2]


@pytest.mark.parametrize("kind", SECTIONS)
def test_key_with_and_without_the_version_is_the_same(kind: str) -> None:
    """It would have two locks."""
    entries = [{"api-key": "key-0123456789", "base-url": f"http://h{end}"} for end in ("", "/v1/")]
    with pytest.raises(ConfigError, match=r"\[1\]: the same key at the same base-url"):
        load_config({SECTIONS[kind]: entries})
