"""The made answers are Gemini's: google-genai reads them as it reads the API's."""

from __future__ import annotations

import json

import pytest
from google.genai import Client, types
from google.genai import models as sdk_models
from google.genai.errors import APIError

from tests.support import gemini_upstream as upstream
from tests.support.upstream import Received, Reply, Upstream, json_reply


@pytest.mark.parametrize("name", upstream.STREAMS)
def test_events_are_read_by_the_official_sdk(name: str) -> None:
    """Every event and the answer joined of them is a GenerateContentResponse."""
    for event in upstream.STREAMS[name]:
        upstream.read_as_sdk(event)
    whole = upstream.read_as_sdk(upstream.joined(upstream.STREAMS[name]))
    assert whole.response_id == upstream.RESPONSE_ID


def test_errors_are_read_by_the_official_sdk() -> None:
    """Status and message are where google-genai looks for them."""
    for made in (upstream.out_of_quota(), upstream.bad_key(), upstream.overloaded()):
        error = APIError(0, made)
        assert error.code == made["error"]["code"]
        assert error.status == made["error"]["status"]


def test_embeddings_are_asked_for_and_read_by_the_official_sdk() -> None:
    """What google-genai sends is taken, and what it is answered is read."""

    def embed(received: Received) -> Reply:
        assert received.path == "/v1beta/models/gemini-embedding-001:batchEmbedContents"
        texts, size = upstream.read_embed_request(received.body, model="gemini-embedding-001")
        assert (texts, size) == (["a", "b"], 2)
        return json_reply(upstream.embeddings([[0.5, 1.0], [0.25, 2.0]], 7))

    with Upstream() as running:
        running.default = embed
        options = types.HttpOptions(base_url=running.origin, api_version="v1beta")
        with Client(api_key="k", http_options=options) as sdk:
            found = sdk.models.embed_content(
                model="gemini-embedding-001",
                contents=["a", "b"],
                config=types.EmbedContentConfig(output_dimensionality=2),
            )
    assert [each.values for each in found.embeddings or ()] == [[0.5, 1.0], [0.25, 2.0]]
    assert found.usage_metadata is not None
    assert found.usage_metadata.prompt_token_count == 7


def test_model_list_is_read_by_the_official_sdk() -> None:
    """Names and methods are where google-genai looks for them."""
    (listed,) = upstream.model_list("gemini-3.8-flash")["models"]
    converted = sdk_models._Model_from_mldev(listed)
    model = types.Model._from_response(response=converted, kwargs={})
    assert model.name == "models/gemini-3.8-flash"
    assert model.supported_actions == ["generateContent", "countTokens"]


def test_wire_forms_hold_the_same_json() -> None:
    """SSE framing and pretty-printing add nothing."""
    (event,) = upstream.STREAMS["one event"]
    (framed,) = upstream.sse([event])
    assert framed.startswith(b"data: {")
    assert framed.endswith(b"}\r\n\r\n")
    assert json.loads(framed.removeprefix(b"data: ")) == event
    assert json.loads(upstream.unary(event)) == event
