"""The Gemini client, and the proof that its fake upstream is one: the official SDK takes it so."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google import genai
from google.genai import errors, types

from proxy.clients import base
from proxy.clients.base import MAX_PAGES
from proxy.clients.gemini import GeminiClient
from proxy.config import ClientConfig, Secret
from proxy.errors import InvalidRequest, UpstreamInvalid, UpstreamTooLarge
from proxy.net.transport import Transport
from proxy.net.watch import CallerConnection
from proxy.wire.chat import Usage, read_request
from tests.support import gemini_upstream as gemini
from tests.support.calls import WAIT_S, read_all
from tests.support.dialects import BY_KIND, Call, Said, gemini_stream
from tests.support.upstream import Received, Reply, Upstream, json_reply

GEMINI = BY_KIND["gemini"]
KEY = "AIza0123456789abcdef"
SAID = Said("I will look.", "Hm.", (Call("fc-1", "weather", {"city": "Zürich"}),), "tool_calls")


@pytest.fixture
def sdk(plain: Upstream) -> Iterator[genai.Client]:
    options = types.HttpOptions(
        base_url=plain.origin, api_version="v1beta", timeout=int(WAIT_S * 1000)
    )
    with genai.Client(api_key=KEY, http_options=options) as client:
        yield client


@pytest.fixture
def client(plain: Upstream, make_way: Callable[..., Transport]) -> GeminiClient:
    config = ClientConfig(
        kind="gemini",
        provider="gemini",
        label="gemini/1",
        identity="1",
        key=Secret(KEY),
        base_url=plain.origin,
        max_concurrency=1,
        weight=1,
        models=None,
        headers={"X-Team": "t"},
    )
    return GeminiClient(config, make_way(plain.origin))


def ask(client: GeminiClient, *, refused: bool = False, **more: Any) -> Any:
    """What the client makes of a unary answer, or of a refusal."""
    body = {"model": "alias", "messages": [{"role": "user", "content": "Hi"}], **more}
    request = read_request(json.dumps(body).encode())
    deadline = time.monotonic() + WAIT_S
    headers = {"x-request-id": "req_1", "x-team": "caller"}
    reply = client.send(
        request,
        model=GEMINI.model,
        headers=headers,
        caller=CallerConnection(None),
        deadline=deadline,
    )
    try:
        data = read_all(reply)
        return client.refusal(reply, data) if refused else client.answer(request, data)
    finally:
        reply.close()


def list_models(client: GeminiClient) -> list[str]:
    return client.list_models(caller=CallerConnection(None), deadline=time.monotonic() + WAIT_S)


# The fake


@pytest.mark.parametrize("name", gemini.STREAMS)
def test_sdk_reads_the_fakes_answers(plain: Upstream, sdk: genai.Client, name: str) -> None:
    """Over the wire, unary and as a stream that says the same."""
    if name == "words" and genai.__version__ < "3":  # the newest for Python 3.10
        pytest.skip("google-genai 2 cuts an event at U+2028")
    responses = gemini.STREAMS[name]
    plain.reply(KEY, json_reply(gemini.joined(responses)), gemini_stream(responses))
    whole = sdk.models.generate_content(model=GEMINI.model, contents="Hi")
    streamed = list(sdk.models.generate_content_stream(model=GEMINI.model, contents="Hi"))
    assert len(streamed) == len(responses)
    assert parts_of(streamed) == parts_of([whole])
    assert [GEMINI.is_stream(one) for one in plain.received()] == [False, True]
    for received in plain.received():
        GEMINI.read(received)
        assert received.header["x-goog-api-key"] == KEY


def parts_of(responses: list[types.GenerateContentResponse]) -> dict[int, list[types.Part]]:
    found: dict[int, list[types.Part]] = {}
    for response in responses:
        for candidate in response.candidates or ():
            parts = candidate.content.parts if candidate.content else None
            found.setdefault(candidate.index or 0, []).extend(parts or ())
    return found


def test_sdk_raises_the_fakes_errors(plain: Upstream, sdk: genai.Client) -> None:
    """By status, with the words of google.rpc."""
    plain.reply(KEY, json_reply(gemini.out_of_quota("17s"), 429), json_reply(gemini.bad_key(), 400))
    with pytest.raises(errors.ClientError) as caught:
        sdk.models.generate_content(model=GEMINI.model, contents="Hi")
    assert (caught.value.code, caught.value.status) == (429, "RESOURCE_EXHAUSTED")
    with pytest.raises(errors.ClientError, match="API key not valid"):
        list(sdk.models.generate_content_stream(model=GEMINI.model, contents="Hi"))


def test_sdk_pages_through_the_fakes_models(plain: Upstream, sdk: genai.Client) -> None:
    """By `pageToken`."""
    plain.pages["/v1beta/models"] = page
    listed = [model.name for model in sdk.models.list(config={"query_base": True})]
    assert listed == ["models/gemini-3.8-flash", "models/gemini-2.5-pro"]


def page(received: Received) -> Reply:
    if "pageToken=2" in received.query:
        return json_reply(gemini.model_list("gemini-2.5-pro"))
    return json_reply(gemini.model_list("gemini-3.8-flash", next_page_token="2"))


# The client


def test_request_as_the_api_wants_it(plain: Upstream, client: GeminiClient) -> None:
    """The key is in a header; the provider's own headers win over the caller's."""
    plain.reply(KEY, GEMINI.answer(SAID))
    chat, usage = ask(client)
    assert usage == Usage(11, 7, cached_tokens=0, reasoning_tokens=0)
    assert json.loads(chat)["model"] == "alias"
    (received,) = plain.received()
    names = [name.lower() for name, _ in received.headers]
    assert len(names) == len(set(names))
    assert received.header["x-team"] == "t"
    assert received.header["x-request-id"] == "req_1"


@pytest.mark.parametrize("in_list", [False, True])
def test_retry_info_counts_in_a_list_too(
    plain: Upstream, client: GeminiClient, in_list: bool
) -> None:
    """The streaming method wraps its errors in a list of one."""
    error = gemini.out_of_quota("27s")
    plain.reply(KEY, json_reply([error] if in_list else error, 429))
    refusal = ask(client, refused=True)
    assert (refusal.status, refusal.retry_after_s) == (429, 27.0)
    assert refusal.headers()["retry-after"] == "27"


def test_retry_info_of_the_body_counts_and_is_passed_on(
    plain: Upstream, client: GeminiClient
) -> None:
    """Gemini has no `Retry-After`: the delay is in the error's details."""
    plain.reply(KEY, json_reply(gemini.out_of_quota("17.5s"), 429))
    refusal = ask(client, refused=True)
    assert (refusal.status, refusal.retry_after_s) == (429, 17.5)
    assert refusal.headers()["retry-after"] == "18"
    assert refusal.headers()["retry-after-ms"] == "17500"


def test_daily_quota_lasts_till_midnight(plain: Upstream, client: GeminiClient) -> None:
    """Whatever delay stands beside it."""
    plain.reply(KEY, json_reply(gemini.out_of_quota("1s", gemini.PER_DAY), 429))
    assert 0 < ask(client, refused=True).retry_after_s <= 86_400


def test_bad_key_is_401(plain: Upstream, client: GeminiClient) -> None:
    """Though Gemini says 400, as if the request were at fault."""
    plain.reply(KEY, json_reply(gemini.bad_key(), 400))
    refusal = ask(client, refused=True)
    assert (refusal.status, refusal.upstream_code) == (401, "invalid_api_key")


def test_what_gemini_cannot_do_is_never_sent(plain: Upstream, client: GeminiClient) -> None:
    """InvalidRequest comes before a connection is taken."""
    with pytest.raises(InvalidRequest):
        ask(client, logit_bias={"5": 1})
    assert plain.connections == 0


def test_previews_are_those_that_are_listed(plain: Upstream, client: GeminiClient) -> None:
    """Once a list was seen; before that they are guessed."""
    assert "gemini-2.5-pro-preview" in client.substitutes("gemini-2.5-pro")
    plain.pages["/v1beta/models"] = json_reply(
        gemini.model_list("gemini-2.5-pro", "gemini-2.5-pro-preview-09-2026")
    )
    assert list_models(client) == ["gemini-2.5-pro", "gemini-2.5-pro-preview-09-2026"]
    assert client.substitutes("gemini-2.5-pro") == ["gemini-2.5-pro-preview-09-2026"]


def test_model_list_is_read_to_its_end(plain: Upstream, client: GeminiClient) -> None:
    """All pages; one that is empty is an error."""
    plain.pages["/v1beta/models"] = page
    assert list_models(client) == ["gemini-3.8-flash", "gemini-2.5-pro"]
    plain.pages["/v1beta/models"] = json_reply({})
    with pytest.raises(UpstreamInvalid):
        list_models(client)
    plain.pages["/v1beta/models"] = json_reply(gemini.model_list("again", next_page_token="1"))
    before = len(plain.received())
    assert list_models(client) == ["again"]
    assert len(plain.received()) - before == MAX_PAGES


def test_model_list_has_a_limit(
    plain: Upstream, client: GeminiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each page of just so many bytes is read, and no page of more."""
    body = json_reply(gemini.model_list("a")).body
    plain.pages["/v1beta/models"] = json_reply(gemini.model_list("a")).in_pieces(99)
    size = sum(map(len, body))  # type: ignore[arg-type]
    monkeypatch.setattr(base, "MAX_PAGE_BYTES", size)
    assert list_models(client) == ["a"]
    monkeypatch.setattr(base, "MAX_PAGE_BYTES", size - 1)
    with pytest.raises(UpstreamTooLarge, match="limit of a model list"):
        list_models(client)
