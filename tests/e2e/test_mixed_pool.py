"""One alias served by clients of several kinds: attempts and conversations move between them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import openai
import pytest

from proxy import create_app
from proxy.pool import ClientPool
from tests.support import claude_upstream as claude
from tests.support import gemini_upstream as gemini
from tests.support.dialects import BY_KIND, SIGNATURE, Call, Said, configuration, gist, joined
from tests.support.server import free_port
from tests.support.upstream import RESET, Received, Reply, Upstream, json_reply
from tests.support.wsgi import werkzeug_server

Json = dict[str, Any]

OPENAI, GEMINI, CLAUDE = (BY_KIND[kind] for kind in ("openai", "gemini", "claude"))
HELLO: Any = {"role": "user", "content": "Hello"}
TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
KEYS = ["key-openai", "key-gemini", "key-claude"]
ANSWER = Said("Hello there.")
CALL = Said("", "Hm.", (Call("call_1", "weather", {}),), "tool_calls", reasoning_tokens=2)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as running:
        yield running


@contextmanager
def served(config: Json) -> Iterator[tuple[openai.OpenAI, ClientPool]]:
    """A gateway in this process; fails if a request that is over holds anything."""
    app = create_app(config)
    gateway = app.extensions["proxy"]["proxy"].gateway
    with closing(gateway), werkzeug_server(app) as port:
        url = f"http://127.0.0.1:{port}/v1"
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=20) as sdk:
            yield sdk, gateway.pool
    for facts in gateway.pool.snapshot():
        assert (facts["in_flight"], facts["waiting"], facts["leases"]) == (0, 0, []), facts


def mixed(upstream: Upstream, *, openai_origin: str) -> Json:
    """One client of each kind; weights put them in this order."""
    return configuration(
        OPENAI.client(openai_origin, KEYS[0], "m", weight=100),
        GEMINI.client(upstream.origin, KEYS[1], "m", weight=10),
        CLAUDE.client(upstream.origin, KEYS[2], "m", weight=1),
    )


def posts(upstream: Upstream) -> list[str | None]:
    return [received.key for received in upstream.received() if received.method == "POST"]


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
def test_one_request_moves_on_through_all_kinds(upstream: Upstream, stream: bool) -> None:
    """OpenAI-compatible down, Gemini at 429, Claude answers: three attempts, nothing held after."""
    upstream.reply(KEYS[1], json_reply(gemini.out_of_quota("17s"), 429))
    upstream.reply(KEYS[2], CLAUDE.answer(ANSWER))
    config = mixed(upstream, openai_origin=f"http://127.0.0.1:{free_port()}")
    config["quota-exceeded"] = {"switch-preview-model": False}
    with served(config) as (sdk, pool):
        create = sdk.chat.completions.with_raw_response.create
        asked: Any = {"model": "m", "messages": [HELLO]}
        if stream:
            asked["stream_options"] = {"include_usage": True}
            raw = create(**asked, stream=True)
            answer = joined([chunk.to_json().encode() for chunk in raw.parse()])
        else:
            raw = create(**asked)
            answer = raw.parse()
        assert raw.headers["x-proxy-attempts"] == "3"
        assert raw.headers["x-proxy-client"].startswith("claude/")
        assert gist(answer) == ANSWER.gist()
        asked_gemini, asked_claude = upstream.received()
        assert (asked_gemini.key, asked_claude.key) == (KEYS[1], KEYS[2])
        GEMINI.read(asked_gemini)
        assert not asked_gemini.header.keys() & {"authorization", "x-api-key", "anthropic-version"}
        assert not asked_claude.header.keys() & {"authorization", "x-goog-api-key"}
        request_id = raw.headers["x-request-id"]
        assert {one.header["x-request-id"] for one in upstream.received()} == {request_id}
        states = {facts["client"].partition("/")[0]: facts["models"] for facts in pool.snapshot()}
        assert states["openai-m"][OPENAI.model]["failures"] == 1
        assert states["gemini"][GEMINI.model]["state"] == "cooling down"
        assert 5 < states["gemini"][GEMINI.model]["for_s"] <= 17
        assert states["claude"][CLAUDE.model]["state"] == "ready"


def test_what_one_kind_cannot_do_another_does(upstream: Upstream) -> None:
    """An unsupported parameter moves on, uncounted; the error is the caller's if all lack it.

    While the one that does not lack it is out of service there is a better time to ask.
    """
    unable = [
        kind.client(upstream.origin, f"{key}-{model}", model, weight=weight)
        for model in ("m", "lacking")
        for kind, key, weight in ((GEMINI, KEYS[1], 100), (CLAUDE, KEYS[2], 10))
    ]
    able_one = OPENAI.client(upstream.origin, KEYS[0], "m", weight=1)
    config = configuration(*unable, able_one, **{"request-retry": 0})
    upstream.reply(KEYS[0], OPENAI.answer(ANSWER))
    with served(config) as (sdk, pool):
        asked: Any = {"model": "m", "messages": [HELLO], "logit_bias": {"5": 1}}
        answer = sdk.chat.completions.create(**asked)
        assert gist(answer) == ANSWER.gist()
        assert posts(upstream) == [KEYS[0]]
        (able,) = (one["client"] for one in pool.snapshot() if one["client"].startswith("openai"))
        pool.set_disabled(able, True)
        with pytest.raises(openai.InternalServerError) as out:
            sdk.chat.completions.create(**asked)
        assert out.value.status_code == 503
        with pytest.raises(openai.BadRequestError) as caught:
            sdk.chat.completions.create(**{**asked, "model": "lacking"})
        assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "logit_bias")


@pytest.mark.parametrize("first", [GEMINI, CLAUDE], ids=["gemini", "claude"])
@pytest.mark.parametrize("second", [OPENAI, GEMINI, CLAUDE], ids=["openai", "gemini", "claude"])
def test_a_tool_loop_may_go_on_at_another_kind(upstream: Upstream, first: Any, second: Any) -> None:
    """Ids carry thoughts of one kind only to that kind; call and result still fit together."""
    upstream.always(f"key-{first.kind}", first.answer(CALL))
    config = configuration(
        first.client(upstream.origin, f"key-{first.kind}", "one"),
        second.client(upstream.origin, "key-second", "two"),
    )
    upstream.always("key-second", second.answer(ANSWER))
    with served(config) as (sdk, _):
        answer = sdk.chat.completions.create(model="one", messages=[HELLO], tools=[TOOL])
        message: Any = answer.choices[0].message.to_dict()
        (call,) = message["tool_calls"]
        assert "__th" in call["id"]
        call = {name: call[name] for name in ("id", "type", "function")}
        history: Any = [
            HELLO,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call["id"], "content": f'{{"id": "{call["id"]}"}}'},
        ]
        said = sdk.chat.completions.create(model="two", messages=history, tools=[TOOL])
        assert gist(said) == ANSWER.gist()
    request = second.read(upstream.received("key-second")[0])
    turns = json.dumps(request[second.messages][1:])
    assert turns.count("call_1") >= 2
    # What a tool said is nobody's business, whatever it looks like.
    assert turns.count("__th") == 1
    if first.kind == second.kind:
        carried = SIGNATURE if first is GEMINI else "EqQBCkYIBxgCKkD"
        assert carried in turns


def preview(asked: list[str], *, previews: Reply) -> Callable[[Received], Reply]:
    """A Gemini whose quota of the model itself is out."""

    def answer(received: Received) -> Reply:
        asked.append(received.path.rpartition("/")[2].partition(":")[0])
        if "preview" in asked[-1]:
            return previews
        return json_reply(gemini.out_of_quota("3600s"), 429)

    return answer


PRO: Json = {"models": [{"name": "gemini-2.5-pro", "alias": "m"}]}


def test_preview_stands_in_for_a_model_whose_quota_is_out(upstream: Upstream) -> None:
    """On the same client, in the same attempt, which is a success."""
    asked: list[str] = []
    upstream.always(KEYS[1], preview(asked, previews=GEMINI.whole(ANSWER)))
    config = configuration(GEMINI.client(upstream.origin, KEYS[1], "m", **PRO))
    with served(config) as (sdk, pool):
        raw = sdk.chat.completions.with_raw_response.create(model="m", messages=[HELLO])
        assert gist(raw.parse()) == ANSWER.gist()
        assert raw.parse().model == "m"
        assert raw.headers["x-proxy-attempts"] == "1"
        assert asked == ["gemini-2.5-pro", "gemini-2.5-pro-preview"]
        (facts,) = pool.snapshot()
        assert facts["models"]["gemini-2.5-pro"]["state"] == "ready"


@pytest.mark.parametrize(
    ("previews", "is_on"),
    [
        (json_reply(gemini.no_such_model(), 404), True),
        (json_reply(gemini.no_such_model(), 404), False),
        (Reply([b"{", RESET]), True),
        (json_reply([]), True),
    ],
)
def test_quota_error_is_the_models_own_when_no_preview_helps(
    upstream: Upstream, previews: Reply, is_on: bool
) -> None:
    """Withdrawn previews are 404s, others break; `switch-preview-model: false` asks for none."""
    asked: list[str] = []
    upstream.always(KEYS[1], preview(asked, previews=previews))
    config = configuration(
        GEMINI.client(upstream.origin, KEYS[1], "m", **PRO),
        **{"quota-exceeded": {"switch-preview-model": is_on}},
    )
    with served(config) as (sdk, _):
        with pytest.raises(openai.RateLimitError) as caught:
            sdk.chat.completions.create(model="m", messages=[HELLO])
        headers = caught.value.response.headers
        assert 1700 < int(headers["retry-after"]) <= 1800  # max-cooldown
        assert headers["x-should-retry"] == "false"
    assert len(asked) == (2 if is_on else 1)
    assert asked[0] == "gemini-2.5-pro"


def test_upstreams_own_lists_are_followed_page_by_page(upstream: Upstream) -> None:
    """Without `models` each kind offers what its upstream lists."""

    def claude_page(received: Received) -> Reply:
        if "after_id" not in received.query:
            first = claude.models("claude-opus-4-6", "claude-2", retired=["claude-2"])
            return json_reply({**first, "has_more": True})
        assert received.query == "limit=1000&after_id=claude-2"
        return json_reply(claude.models("claude-haiku-4-5"))

    def gemini_page(received: Received) -> Reply:
        if "pageToken" not in received.query:
            return json_reply(gemini.model_list("gemini-3.8-flash", next_page_token="p/2"))
        assert received.query == "pageSize=1000&pageToken=p%2F2"
        return json_reply(gemini.model_list("gemini-embedding-2", "gemini-3-pro"))

    with Upstream() as other:
        upstream.pages["/v1/models"] = claude_page
        other.pages["/v1beta/models"] = gemini_page
        config = configuration(
            {"claude-api-key": [{"api-key": KEYS[2], "base-url": upstream.origin}]},
            {"gemini-api-key": [{"api-key": KEYS[1], "base-url": other.origin}]},
        )
        with served(config) as (sdk, _):
            listed = {model.id: model.owned_by for model in sdk.models.list()}
        assert listed == {
            "gemini-3.8-flash": "gemini",
            "gemini-embedding-2": "gemini",
            "gemini-3-pro": "gemini",
            "claude-opus-4-6": "claude",
            "claude-haiku-4-5": "claude",
        }
        assert {one.header["x-api-key"] for one in upstream.received()} == {KEYS[2]}
        assert {one.header["x-goog-api-key"] for one in other.received()} == {KEYS[1]}
