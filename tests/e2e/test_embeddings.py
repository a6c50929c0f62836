"""/v1/embeddings: the official `openai` SDK before each kind of upstream, and pools of several."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from tests.support import gemini_upstream as gemini
from tests.support.dialects import DIALECTS, configuration
from tests.support.embeddings import (
    GEMINI_MODEL,
    openai_answer,
    read,
    tells,
    vector,
)
from tests.support.embeddings import openai as embeds
from tests.support.gateway import Gateway, Response
from tests.support.upstream import (
    RESET,
    Gate,
    Hold,
    Received,
    Reply,
    Upstream,
    error,
    json_reply,
    raw,
)

Json = dict[str, Any]

PATH = "/v1/embeddings"
OPENAI, GEMINI, CLAUDE = DIALECTS
KINDS = ("openai", "gemini")
KEY = "k" * 16
# What programs send (recorded 2026-11-26), less the model.
RECORDED: dict[str, Json] = {
    "openai-python": {"input": ["a", "bb"], "encoding_format": "base64"},
    "openai-python, float": {"input": "abc", "dimensions": 4, "encoding_format": "float"},
    "langchain-openai": {"input": ["a", "bb"], "encoding_format": "base64"},
}
Answer = Callable[[Received], Reply]


@pytest.fixture(scope="module")
def gateway(upstream: Upstream) -> Iterator[Gateway]:
    """A model for each kind, pools of several, and one for each case in which a client fails."""

    def client(kind: str, key: str, alias: str, weight: int = 1) -> Json:
        found = next(one for one in DIALECTS if one.kind == kind)
        made = found.client(upstream.origin, key, alias, weight=weight)
        if kind == "gemini":
            made["gemini-api-key"][0]["models"][0]["name"] = GEMINI_MODEL
            upstream.always(key, tells(tokens=True))
        elif kind == "openai":
            made["openai-compatibility"][0]["name"] = f"at-{alias}-{weight}"
            upstream.always(key, embeds)
        return made

    clients = [client(one.kind, f"key-{one.kind}", one.kind) for one in DIALECTS]
    for alias, kinds in MIXED.items():
        clients += [
            client(kind, f"{alias}-{kind}", alias, 10 ** (3 - at)) for at, kind in enumerate(kinds)
        ]
    for case in FAILING:
        clients += [client("openai", f"key-{case}-{at}", f"m-{case}", 10 - at) for at in (1, 2)]
    settings: Json = {
        "api-keys": [KEY, {"name": "one", "key": f"{KEY}-one", "models": ["openai"]}],
        "request-retry": 1,
    }
    settings["api-keys"].append({"name": "few", "key": f"{KEY}-few", "max-concurrency": 1})
    with Gateway(configuration(*clients, **settings)) as running:
        yield running


MIXED = {
    "gemini-or-openai": ("gemini", "openai"),
    "claude-or-openai": ("claude", "openai"),
    "claude-or-gemini": ("claude", "gemini"),
    "openai-or-claude": ("openai", "claude"),
    "all": ("claude", "gemini", "openai"),
    "refused": ("openai", "claude"),
}
FAILING = ("reset", "429", "500", "empty", "error-in-200", "no-json", "401")


@pytest.fixture(scope="module")
def sdk(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with gateway.sdk(api_key=KEY) as client:
        yield client


def ask(gateway: Gateway, model: str, given: Any, key: str = KEY, **more: Any) -> Response:
    body = given if isinstance(given, bytes) else {"model": model, "input": given, **more}
    return gateway.call("POST", PATH, body, {"Authorization": f"Bearer {key}"})


def vectors(answer: Response) -> list[list[float]]:
    assert answer.status == 200, answer.body
    found = read(answer.body).data
    assert [each.index for each in found] == [*range(len(found))]
    return [each.embedding for each in found]


# The official SDK


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given", [["a", "bb", "ü 🌍"], "abc"], ids=["list", "text"])
def test_base64_and_floats_are_the_same(sdk: openai.OpenAI, kind: str, given: Any) -> None:
    """The SDK asks for base64 unless it is told; in order, and strictly as its type has it."""
    floats = sdk.embeddings.create(model=kind, input=given, encoding_format="float")
    packed = sdk.embeddings.create(model=kind, input=given)
    for found in (floats, packed):
        type(found).model_validate(found.to_dict(mode="json"), strict=True)
        assert [each.index for each in found.data] == [*range(len(found.data))]
        assert found.usage.prompt_tokens == found.usage.total_tokens > 0
    got = [each.embedding for each in packed.data]
    assert got == [pytest.approx(each.embedding) for each in floats.data]
    assert got == [vector(text) for text in ([given] if given == "abc" else given)]


@pytest.mark.parametrize("kind", KINDS)
def test_dimensions(sdk: openai.OpenAI, kind: str) -> None:
    """As many as are asked for."""
    found = sdk.embeddings.create(model=kind, input=["a", "bb"], dimensions=7, user="me")
    assert [len(each.embedding) for each in found.data] == [7, 7]


@pytest.mark.parametrize("kind", KINDS)
def test_async(gateway: Gateway, kind: str) -> None:
    """The same, asynchronously, many at once."""

    async def embed() -> list[list[float]]:
        async with openai.AsyncOpenAI(**gateway.sdk_options(api_key=KEY)) as client:
            create = client.embeddings.create
            asked = [create(model=kind, input=[f"text {n}", "b"]) for n in range(4)]
            return [each.data[0].embedding for each in await asyncio.gather(*asked)]

    found = asyncio.run(embed())
    assert found == [vector(f"text {n}") for n in range(4)]


def test_errors_reach_the_sdk(sdk: openai.OpenAI) -> None:
    """By status, code and message."""
    with pytest.raises(openai.NotFoundError, match="nobody"):
        sdk.embeddings.create(model="nobody", input="a")
    with pytest.raises(openai.BadRequestError, match=r"'claude'.*'embed'") as caught:
        sdk.embeddings.create(model="claude", input="a")
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "model")


@pytest.mark.parametrize("kind", [*KINDS, "all"])
@pytest.mark.parametrize("program", RECORDED)
def test_recorded_requests_are_served(gateway: Gateway, kind: str, program: str) -> None:
    """Base64 where it was asked for, little-endian float32."""
    asked = dict(RECORDED[program])
    answer = ask(gateway, kind, asked.pop("input"), **asked)
    assert answer.status == 200
    for item in answer.json()["data"]:
        found = item["embedding"]
        if asked["encoding_format"] == "base64":
            found = struct.unpack("<4f", base64.b64decode(found))
        assert all(isinstance(number, float) for number in found)


# OpenAI-compatible clients


def test_bytes_pass_both_ways(gateway: Gateway, upstream: Upstream) -> None:
    """But for the model: odd spellings, unknown members and token arrays are the upstream's."""
    body = b'{ "input" : [[1,2e0],"\\ud800\\u00e9"],"model":"openai", "x":1.50,"stream":true }'
    told = json.dumps(openai_answer([[0.10, 1e-7]]), indent=1).encode().replace(b"0.1", b"0.100")
    upstream.reply("key-openai", Reply([told], headers=[("Content-Type", "application/json")]))
    answer = ask(gateway, "", body)
    assert answer.body == told
    sent = upstream.received("key-openai")[-1].body
    assert sent == (
        b'{"input":[[1,2e0],"\\ud800\\u00e9"],"model":"gpt-4.1-mini","x":1.50,"stream":true}'
    )


def test_pass_through_asks_for_no_input(gateway: Gateway, upstream: Upstream) -> None:
    """What an upstream takes in its place is its matter (vLLM: `messages`); so is its refusal."""
    upstream.reply("key-openai", error(422, "What?"))
    answer = ask(gateway, "", b'{"model":"openai","messages":[]}')
    assert (answer.status, answer.error["message"]) == (422, "What?")


def test_long_lists_stay_whole(gateway: Gateway, upstream: Upstream) -> None:
    """OpenAI takes 2,048 inputs, others what they like."""
    before = len(upstream.received("key-openai"))
    given = [f"text {n}" for n in range(3000)]
    assert vectors(ask(gateway, "openai", given)) == [vector(text) for text in given]
    assert len(upstream.received("key-openai")) == before + 1


def test_tokens(gateway: Gateway) -> None:
    """Are for OpenAI-compatible clients: in a pool with others they serve, alone others refuse."""
    for given in ([1, 2, 3], [[1, 2], [3]], [*range(500)], [[n] for n in range(500)]):
        assert vectors(ask(gateway, "openai", given))
        assert vectors(ask(gateway, "all", given))
        for kind in ("gemini", "claude-or-gemini"):
            refused = ask(gateway, kind, given)
            assert (refused.status, refused.error["code"]) == (400, "unsupported_parameter")


# Gemini


def test_gemini_is_asked_in_batches(gateway: Gateway, upstream: Upstream) -> None:
    """It takes 100 texts at once: they are served one after the other, and joined."""
    before = len(upstream.received("key-gemini"))
    given = [f"text {n}" for n in range(250)]
    answer = ask(gateway, "gemini", given)
    assert vectors(answer) == [vector(text) for text in given]
    assert answer.json()["usage"] == {"prompt_tokens": 250, "total_tokens": 250}
    assert answer.json()["model"] == "gemini"
    assert answer.headers["x-proxy-attempts"] == "3"
    sent = upstream.received("key-gemini")[before:]
    assert [len(one.json()["requests"]) for one in sent] == [100, 100, 50]
    record = gateway.record_of(answer.headers["x-request-id"])
    assert (record["endpoint"], record["prompt_tokens"]) == (PATH, "250")


def test_batches_of_two_kinds_are_joined(gateway: Gateway, upstream: Upstream) -> None:
    """Whoever serves them, in floats and in base64."""
    upstream.reply("gemini-or-openai-gemini", json_reply(gemini.overloaded(), 503))
    given = [f"{n}" for n in range(101)]
    floats = ask(gateway, "gemini-or-openai", given)
    assert vectors(floats) == [vector(text) for text in given]
    packed = ask(gateway, "gemini-or-openai", given, encoding_format="base64").json()["data"]
    assert [struct.unpack("<4f", base64.b64decode(each["embedding"])) for each in packed] == [
        tuple(vector(text)) for text in given
    ]


def test_usage_that_gemini_does_not_tell(gateway: Gateway, upstream: Upstream) -> None:
    """Is 0, as the SDK's type needs one, and none in the record."""
    upstream.reply("key-gemini", tells(tokens=False))
    answer = ask(gateway, "gemini", "a")
    assert answer.json()["usage"] == {"prompt_tokens": 0, "total_tokens": 0}
    assert "prompt_tokens" not in gateway.record_of(answer.headers["x-request-id"])


@pytest.mark.parametrize(
    "told",
    [
        gemini.embeddings([[1.0]]),
        gemini.embeddings([[1.0], []]),
        gemini.embeddings([[1.0], ["x"]]),  # type: ignore[list-item]
        gemini.embeddings([[1.0], [1e300]]),
        {"embeddings": None},
        {},
    ],
)
def test_answers_of_gemini_that_are_not_whole(
    gateway: Gateway, upstream: Upstream, told: Json
) -> None:
    """Are like 502, and tried again."""
    upstream.reply("key-gemini", json_reply(told))
    answer = ask(gateway, "gemini", ["a", "b"], encoding_format="base64")
    assert (answer.status, answer.headers["x-proxy-attempts"]) == (200, "2")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"task_type": "RETRIEVAL_QUERY"}, "task_type"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"dimensions": "many"}, "dimensions"),
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": None}, "input"),
        ({"input": ["a", None]}, "input"),
        ({"input": [{"text": "a"}] * 200}, "input"),
    ],
)
def test_what_gemini_cannot_do_is_named(gateway: Gateway, more: Json, words: str) -> None:
    """Nothing that would change the answer is left out without a word."""
    answer = ask(gateway, "", json.dumps({"model": "gemini", "input": ["a"], **more}).encode())
    assert answer.status == 400
    assert words in answer.error["message"]


def test_refusal_of_gemini(gateway: Gateway, upstream: Upstream) -> None:
    """In OpenAI's envelope, with its status."""
    upstream.reply(
        "key-gemini", json_reply(gemini.error(400, "INVALID_ARGUMENT", "Too long."), 400)
    )
    answer = ask(gateway, "gemini", "a")
    assert (answer.status, answer.error["message"]) == (400, "Too long.")


def test_half_an_emoji(gateway: Gateway, upstream: Upstream) -> None:
    """A lone surrogate, which Gemini's protocol cannot say."""
    assert ask(gateway, "", b'{"model":"gemini","input":["a\\ud83d"]}').status == 200
    (each,) = upstream.received("key-gemini")[-1].json()["requests"]
    assert each["content"]["parts"] == [{"text": "a\N{REPLACEMENT CHARACTER}"}]


def test_quota_is_not_stood_in_for(gateway: Gateway, upstream: Upstream) -> None:
    """By a preview of the model: its embeddings could not be compared with the others."""
    key = "claude-or-gemini-gemini"
    before = len(upstream.received(key))
    upstream.reply(key, json_reply(gemini.out_of_quota("30s"), 429))
    assert ask(gateway, "claude-or-gemini", "a").status == 429
    assert len(upstream.received(key)) == before + 1


# Pools of several kinds


@pytest.mark.parametrize("alias", ["claude-or-openai", "openai-or-claude", "all"])
def test_claude_has_none_and_others_serve(gateway: Gateway, upstream: Upstream, alias: str) -> None:
    """Claude is never asked, whatever its turn."""
    for _ in range(5):
        assert vectors(ask(gateway, alias, ["a", "b"])) == [vector("a"), vector("b")]
    assert not upstream.received(f"{alias}-claude")


def test_refused_key_is_told_whatever_others_cannot_do(
    gateway: Gateway, upstream: Upstream
) -> None:
    """The last word is the upstream's, not that Claude has no embeddings.

    Then that the only client that has some is out of service: the request is not at fault.
    """
    upstream.reply("refused-openai", error(401, "Bad key."))
    answer = ask(gateway, "refused", "a")
    assert (answer.status, answer.error["code"]) == (502, "upstream_authentication_error")
    later = ask(gateway, "refused", "a")
    assert (later.status, later.error["code"]) == (503, "no_client_in_service")
    assert 0 < int(later.headers["retry-after"]) <= 60


def test_short_requests_pass_as_they_came_in_a_mixed_pool(
    gateway: Gateway, upstream: Upstream
) -> None:
    """Byte for byte where nothing is renamed."""
    upstream.reply("gemini-or-openai-gemini", json_reply(gemini.overloaded(), 503))
    body = b'{"input":["\\u0061",  "b"], "model":"gemini-or-openai"}'
    assert ask(gateway, "", body).status == 200
    sent = upstream.received("gemini-or-openai-openai")[-1].body
    assert sent == b'{"input":["\\u0061",  "b"],"model":"gpt-4.1-mini"}'


# Attempts and limits

FAULTS: dict[str, list[Reply]] = {
    "reset": [raw(RESET), raw(RESET)],
    "429": [error(429, "Slow down.", headers={"Retry-After": "30"})],
    "500": [error(500, "Out of luck.")],
    "empty": [json_reply({"object": "list", "data": []})],
    "error-in-200": [json_reply({"error": {"message": "None left.", "code": 503}})],
    "no-json": [Reply([b"<html>"], headers=[("Content-Type", "text/html")])],
    "401": [error(401, "Bad key.")],
}


@pytest.mark.parametrize("case", FAILING)
def test_another_client_answers(gateway: Gateway, upstream: Upstream, case: str) -> None:
    """As for chat, whatever goes wrong with the first; and both are free after it."""
    upstream.reply(f"key-{case}-1", *FAULTS[case])
    answer = ask(gateway, f"m-{case}", "abc")
    assert vectors(answer) == [vector("abc")]
    assert answer.headers["x-proxy-attempts"] == "2"


def test_models_of_a_caller(gateway: Gateway) -> None:
    """It may use those of its key."""
    assert ask(gateway, "openai", "a", key=f"{KEY}-one").status == 200
    assert ask(gateway, "gemini", "a", key=f"{KEY}-one").status == 404
    assert ask(gateway, "openai", "a", key="wrong").status == 401


def test_limit_of_a_caller(gateway: Gateway, upstream: Upstream) -> None:
    """Its requests in flight are counted with all others."""
    gate = Gate()
    upstream.reply("key-openai", lambda received: embeds(received).after(Hold(gate)))
    with ThreadPoolExecutor(1) as pool:
        before = len(upstream.received("key-openai"))
        waiting = pool.submit(ask, gateway, "openai", "a", f"{KEY}-few")
        upstream.wait_for(before + 1, "key-openai")
        refused = ask(gateway, "openai", "a", f"{KEY}-few")
        gate.set()
        assert waiting.result().status == 200
    assert refused.status == 429
    assert "max-concurrency" in refused.error["message"]
    assert ask(gateway, "openai", "a", f"{KEY}-few").status == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", PATH, b"{", 400),
        ("POST", PATH, b'{"input":"a"}', 400),
        ("POST", PATH, b'{"model":"a","model":"openai","input":"a"}', 400),
        ("POST", PATH, b'{"model":"all","input":[%b]}' % (b"1e999," * 500 + b"1"), 400),
        ("GET", PATH, None, 405),
        ("POST", f"{PATH}/x", {}, 404),
    ],
)
def test_our_own_errors(gateway: Gateway, method: str, path: str, body: Any, status: int) -> None:
    """In OpenAI's envelope."""
    answer = gateway.call(method, path, body, {"Authorization": f"Bearer {KEY}"})
    assert answer.status == status
    assert answer.error["message"]


@pytest.mark.parametrize("kind", ["all", "gemini"])
def test_deep_inputs(gateway: Gateway, kind: str) -> None:
    """Are taken or refused, however near they come to what can be read."""
    for depth in (100, *range(900, 1000, 9), 5000):
        body = b'{"model":"%b","input":%b}' % (kind.encode(), b"[" * depth + b"1" + b"]" * depth)
        assert ask(gateway, "", body).status in (200, 400)


@pytest.mark.long
def test_huge_inputs(gateway: Gateway) -> None:
    """Megabytes of text, and answers of tens of them."""
    text = "wörd " * 400_000
    assert vectors(ask(gateway, "openai", text)) == [vector(text)]
    assert vectors(ask(gateway, "gemini", [text, "b"])) == [vector(text), vector("b")]
    given = [f"{n}" for n in range(1000)]
    found = ask(gateway, "gemini", given, dimensions=1536)
    assert vectors(found) == [vector(text, 1536) for text in given]


@pytest.mark.long
def test_empty_inputs_by_the_million(gateway: Gateway) -> None:
    """Cost an error and no more."""
    body = b'{"model":"gemini","input":[%b""]}' % (b'"",' * 2_000_000)
    assert ask(gateway, "", body).status in (400, 502)
