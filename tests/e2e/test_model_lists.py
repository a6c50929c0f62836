"""Model lists that hang: whoever has no need of them is served, and who waits for them does so
as for anything else, within the request's own time, with comments, until the caller leaves.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.clock import NOTICED_S, SLACK_S
from tests.support.gateway import CHAT, Gateway, Response, asked, data_of, text_of
from tests.support.upstream import (
    HANG,
    Gate,
    Hold,
    Received,
    Reply,
    Upstream,
    chat,
    error,
    json_reply,
    raw,
    stream,
)

REQUEST_TIMEOUT_S = 4.0
# What the time-out may be late by, and what a request needs that waits for nothing.
LATEST_S = REQUEST_TIMEOUT_S * 1.1 + SLACK_S
AT_ONCE_S = 3.5
# A fetch has 10 s: what ends sooner has not waited for it.
SOON_S = 8.0

COMMENT = b": keep-alive\n\n"
LISTED = json_reply({"object": "list", "data": [{"id": "listed", "object": "model"}]})
HUNG = raw(HANG)


def answer_of(received: Received) -> Reply:
    """The upstreams' answer to any request."""
    return stream("Hi") if received.json().get("stream") else chat("Hi")


@contextmanager
def gateway_before(lists: dict[str, Reply], **settings: Any) -> Iterator[tuple[Gateway, Upstream]]:
    """A gateway with a provider for each of these lists, and one whose models are configured."""
    with Upstream() as upstream:
        upstream.default = answer_of
        upstream.pages |= {f"/{name}/v1/models": answer for name, answer in lists.items()}
        providers: list[dict[str, Any]] = [
            {"name": name, "base-url": f"{upstream.origin}/{name}/v1", "max-concurrency": 0}
            for name in (*lists, "told")
        ]
        providers[-1]["models"] = [{"name": "configured"}]
        config = {
            "request-timeout": REQUEST_TIMEOUT_S,
            "streaming": {"commit-after-seconds": 0, "keepalive-seconds": 0.3},
            "openai-compatibility": providers,
            **settings,
        }
        with Gateway(config) as running:
            yield running, upstream


Ask = Callable[[Gateway], Response]

WAITING: dict[str, Ask] = {
    "unary": lambda gateway: gateway.chat("unlisted"),
    "stream": lambda gateway: gateway.chat("unlisted", stream=True),
    "prompts": lambda gateway: gateway.call(
        "POST", "/v1/completions", {"model": "unlisted", "prompt": ["a", "b"]}
    ),
    "stream of prompts": lambda gateway: gateway.call(
        "POST", "/v1/completions", {"model": "unlisted", "prompt": ["a", "b"], "stream": True}
    ),
    "facts": lambda gateway: gateway.call("GET", "/v1/models/unlisted"),
}

SERVED: dict[str, Ask] = {
    "configured": lambda gateway: gateway.chat("configured"),
    "configured stream": lambda gateway: gateway.chat("configured", stream=True),
    "listed": lambda gateway: gateway.chat("listed"),
    "listed prompt": lambda gateway: gateway.call(
        "POST", "/v1/completions", {"model": "listed", "prompt": "a"}
    ),
    "facts": lambda gateway: gateway.call("GET", "/v1/models/listed"),
}


def timed(ask: Ask, gateway: Gateway) -> tuple[float, Response]:
    began = time.monotonic()
    answer = ask(gateway)
    return time.monotonic() - began, answer


def check_limits(gateway: Gateway) -> None:
    """All at once, none of the lists known: the issue's table."""
    with ThreadPoolExecutor(len(WAITING) + len(SERVED) + 1) as threads:
        models = threads.submit(timed, lambda gateway: gateway.call("GET", "/v1/models"), gateway)
        waiting = {name: threads.submit(timed, ask, gateway) for name, ask in WAITING.items()}
        served = {name: threads.submit(timed, ask, gateway) for name, ask in SERVED.items()}
        for name, each in served.items():
            took_s, answer = each.result()
            assert (name, answer.status) == (name, 200)
            assert took_s < AT_ONCE_S, name
        for name, each in waiting.items():
            took_s, answer = each.result()
            assert (name, answer.status, answer.error["code"]) == (name, 504, "upstream_timeout")
            assert REQUEST_TIMEOUT_S <= took_s < LATEST_S, name
        took_s, answer = models.result()
        assert [model["id"] for model in answer.json()["data"]] == ["listed", "configured"]
        assert took_s < LATEST_S


@pytest.mark.long
def test_request_timeout_holds_and_others_are_served_at_once() -> None:
    """Four lists hang beside a good one."""
    lists = {"hung-1": HUNG, "hung-2": HUNG, "good": LISTED, "hung-3": HUNG, "hung-4": HUNG}
    with gateway_before(lists) as (gateway, upstream):
        check_limits(gateway)
        paths = [received.path for received in upstream.received() if received.method == "GET"]
        assert sorted(paths) == sorted(f"/{name}/v1/models" for name in lists)


@pytest.mark.long
def test_stream_that_waits_for_a_list_is_bridged_by_comments() -> None:
    """Committed after `commit-after-seconds`; the list comes, and with it the answer."""
    gate = Gate()
    settings = {"streaming": {"commit-after-seconds": 0.3, "keepalive-seconds": 0.3}}
    with gateway_before({"slow": LISTED.after(Hold(gate))}, **settings) as (gateway, _):
        prompts = {"model": "listed", "prompt": ["a", "b"], "stream": True}
        with (
            gateway.open("POST", CHAT, asked("listed", stream=True)) as chats,
            gateway.open("POST", "/v1/completions", prompts) as completes,
        ):
            for response in (chats, completes):
                assert response.status == 200
                assert "x-proxy-client" not in response.headers
                for _ in range(3):
                    assert response.readline() + response.readline() == COMMENT
            gate.set()
            data = data_of(chats.read())
            texts = completes.read()
        assert text_of(data) == "Hi"
        assert data[-1] == b"[DONE]"
        assert texts.count(b'"text":"Hi"') == 2
        assert texts.endswith(b"data: [DONE]\n\n")


@pytest.mark.long
def test_late_errors_of_a_committed_stream_keep_their_status() -> None:
    """As an error event with the status in `code`, and no `[DONE]`."""
    settings = {"streaming": {"commit-after-seconds": 0.2, "keepalive-seconds": 0.2}}
    for code, answer in {"503": error(500, "No."), "404": LISTED, "504": HUNG}.items():
        gate = Gate()
        with gateway_before({"late": answer.after(Hold(gate))}, **settings) as (gateway, _):
            with gateway.open("POST", CHAT, asked("unlisted", stream=True)) as response:
                assert response.status == 200
                assert response.readline() + response.readline() == COMMENT
                gate.set()
                data = data_of(response.read())
            assert json.loads(data[-1])["error"]["code"] == code


@pytest.mark.long
def test_caller_that_leaves_is_noticed() -> None:
    """While lists hang, unary or in a stream; the fetch goes on without it."""
    settings = {"streaming": {"commit-after-seconds": 0.2, "keepalive-seconds": 0.2}}
    with gateway_before({"hung": HUNG}, **settings) as (gateway, upstream):
        for is_stream in (False, True):
            body = json.dumps(asked("listed", stream=is_stream)).encode()
            name = f"leaves-{is_stream}"
            head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nx-request-id: {name}\r\n"
            with gateway.connect() as caller:
                caller.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
                if is_stream:
                    assert b"200 OK" in caller.recv(65536)
                else:
                    upstream.wait_for(1)
            left_at = time.monotonic()
            assert gateway.record_of(name)["end"] == "caller_gone"
            assert time.monotonic() - left_at < NOTICED_S
        assert len(upstream.received()) == 1
        assert not upstream.received()[0].aborted


@pytest.mark.long
def test_server_ends_though_a_list_hangs() -> None:
    """SIGTERM: what waits for it is answered in its own time, and the fetch holds up nobody."""
    with gateway_before({"hung": HUNG}) as (gateway, upstream):
        with ThreadPoolExecutor(1) as threads:
            answer = threads.submit(gateway.chat, "unlisted")
            upstream.wait_for(1)
            began = time.monotonic()
            gateway.terminate()
            assert answer.result().status == 504
        assert gateway.wait_ended() == 0
        assert time.monotonic() - began < SOON_S
