"""The gateway connects where its configuration says, on nobody else's word."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.gateway import Gateway, Lots
from tests.support.upstream import Upstream, chat, chunk, events, raw


@pytest.fixture(scope="module")
def trap() -> Iterator[Upstream]:
    """Where nobody is to go."""
    with Upstream() as running:
        yield running


@pytest.fixture(scope="module")
def own(upstream: Upstream) -> Lots:
    return Lots(upstream.url, {1: 20})


@pytest.fixture(scope="module")
def baited(
    own: Lots, trap: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """Its environment names the trap as everybody's proxy, and a netrc has a login for it."""
    home = tmp_path_factory.mktemp("home")
    (home / ".netrc").write_text("machine 127.0.0.1 login trap password trapped\n")
    place = trap.url.removesuffix("/v1")
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    env = {each: place for name in names for each in (name, name.lower())}
    env |= {"NO_PROXY": "", "no_proxy": "", "HOME": str(home)}
    with Gateway({"request-retry": 0, "openai-compatibility": own.providers}, env=env) as running:
        yield running


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
@pytest.mark.parametrize("stream", [False, True])
def test_no_redirect_is_followed(
    baited: Gateway, upstream: Upstream, trap: Upstream, own: Lots, status: int, stream: bool
) -> None:
    """502 that says so: it would carry the key to wherever an upstream points."""
    lot = own.take()
    head = f"HTTP/1.1 {status} Moved\r\nLocation: {trap.url}/chat/completions\r\n"
    upstream.always(lot.key, raw(head.encode() + b"Content-Length: 0\r\n\r\n"))
    answer = baited.chat(lot.model, stream=stream)
    assert (answer.status, answer.error["code"]) == (502, "upstream_invalid_response")
    assert "location" not in answer.headers
    assert trap.received() == []


def test_no_url_of_a_callers_is_fetched(
    baited: Gateway, upstream: Upstream, trap: Upstream, own: Lots
) -> None:
    """Images, files, fields and headers that name a place; nor is the environment's proxy asked."""
    lot = own.take()
    image = {"type": "image_url", "image_url": {"url": f"{trap.url}/a.png"}}
    answer = baited.chat(
        lot.model,
        messages=[{"role": "user", "content": [image]}],
        base_url=trap.url,
        api_base=trap.url,
        webhook=trap.url,
        headers={
            "X-Base-Url": trap.url,
            "Referer": trap.url,
            "X-Forwarded-Host": trap.url.removeprefix("http://"),
        },
    )
    assert answer.status == 200
    (received,) = upstream.received(lot.key)
    assert received.header["authorization"] == f"Bearer {lot.key}"
    assert trap.received() == []


@pytest.mark.parametrize("target", ["http://%s/v1/chat/completions", "http://user@%s/v1/models"])
def test_absolute_targets_are_not_proxied(baited: Gateway, trap: Upstream, target: str) -> None:
    """It is no forward proxy: whatever host a request line names (RFC 9112, 3.2.2)."""
    place = trap.url.removeprefix("http://").removesuffix("/v1")
    line = f"GET {target % place} HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n\r\n"
    assert baited.exchange(line.encode()).status in (200, 400, 403, 404, 405)
    connect = f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n"
    assert baited.exchange(connect.encode()).status >= 400
    assert trap.received() == []


@pytest.mark.long
@pytest.mark.parametrize("stream", [False, True])
def test_no_url_of_an_upstreams_is_fetched(
    baited: Gateway, upstream: Upstream, trap: Upstream, own: Lots, stream: bool
) -> None:
    """Links in answers, headers and events are words."""
    lot = own.take()
    links = {"Location": trap.url, "Content-Location": trap.url, "Refresh": f"0; url={trap.url}"}
    told = events(chunk({"content": trap.url}, finish="stop"), "[DONE]")
    reply = (told if stream else chat(trap.url)).with_headers(links)
    upstream.reply(lot.key, reply)
    answer = baited.chat(lot.model, stream=stream)
    assert answer.status == 200
    assert not {name.lower() for name in links} & set(answer.headers)
    assert trap.received() == []
