"""Pages in a real browser: the example application's own, one of a partner's, and a foreign one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.browser import Browser, PageError
from tests.support.flask_host import COMMANDS, PASSWORD, USER, FlaskHost
from tests.support.upstream import Gate, Hold, Reply, Upstream, chunk, events

pytestmark = pytest.mark.long

CHAT = "/llm/v1/chat/completions"
BODY = json.dumps({"model": "small", "messages": [{"role": "user", "content": "Which?"}]})
KEY = "sk-1"


@pytest.fixture(scope="module")
def sites() -> Iterator[tuple[str, str]]:
    """The origins of two sites with an empty page each. To a browser all ports are one site."""
    with Upstream() as partner, Upstream() as foreign:
        for server in (partner, foreign):
            headers = [("Content-Type", "text/html; charset=utf-8")]
            server.pages["/"] = Reply([b"<title>elsewhere</title>"], headers=headers)
        yield partner.origin, foreign.origin


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as running:
        yield running


@pytest.fixture(scope="module")
def host(
    tmp_path_factory: pytest.TempPathFactory, upstream: Upstream, sites: tuple[str, str]
) -> Iterator[FlaskHost]:
    """The shop, in front of a fake upstream and with one of the sites as its partner's."""
    folder = tmp_path_factory.mktemp("shop")
    provider = {"name": "up", "base-url": upstream.url, "api-keys": [KEY], "models": ["small"]}
    config = folder / "llm.yaml"
    config.write_text(json.dumps({"openai-compatibility": [provider], "queue-timeout": 0}))
    settings = {"POOLPROXY_CONFIG": str(config), "PARTNERS": [sites[0]]}
    with FlaskHost(COMMANDS[1], folder, settings) as running:
        yield running


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory, host: FlaskHost) -> Iterator[Browser]:
    """A user's, who has logged in by the form."""
    with Browser(tmp_path_factory.mktemp("profile")) as running:
        running.open(f"{host.origin}/")
        running.run(
            f"document.forms[0].name.value = {USER!r},"
            f"document.forms[0].password.value = {PASSWORD!r},"
            "document.forms[0].submit()"
        )
        running.wait_loaded()
        yield running


def posting(host: FlaskHost, **options: Any) -> str:
    """A script that posts a chat request with the user's cookie, and what it may read."""
    options = {"method": "POST", "credentials": "include", "body": BODY, **options}
    url = json.dumps(f"{host.origin}{CHAT}")
    return (
        f"fetch({url}, {json.dumps(options)})"
        ".then(async answer => [answer.type, answer.status, await answer.text()])"
    )


JSON = {"headers": {"Content-Type": "application/json"}}


def test_own_page_streams(browser: Browser, host: FlaskHost, upstream: Upstream) -> None:
    """By its button: text is there while more is to come."""
    gate = Gate()
    last = chunk({"content": "dals."}, finish="stop")
    upstream.reply(KEY, events(chunk({"content": "San"}), Hold(gate), last, "[DONE]"))
    browser.open(f"{host.origin}/")
    browser.run("document.querySelector('#ask button').click()")
    browser.wait_until("answer.textContent == 'San'")
    assert browser.run("state.textContent") == "asked"
    gate.set()
    browser.wait_until("state.textContent != 'asked'")
    assert browser.run("[state.textContent, answer.textContent]") == ["done", "Sandals."]


def test_own_page_reads_errors(browser: Browser, host: FlaskHost, upstream: Upstream) -> None:
    """As its user may: what the upstream, or the gateway, has to say."""
    browser.open(f"{host.origin}/")
    kind, status, text = browser.run(posting(host, **JSON, body="{"))
    assert (kind, status) == ("basic", 400)
    assert json.loads(text)["error"]["code"] == "invalid_request"


def test_partners_page_is_asked_about_and_let_in(
    browser: Browser, host: FlaskHost, upstream: Upstream, sites: tuple[str, str]
) -> None:
    """The shop's CORS has its origin; without a preflight it gets nothing either."""
    before = len(upstream.received(KEY))
    browser.open(f"{sites[0]}/")
    kind, status, _ = browser.run(posting(host, **JSON))
    assert (kind, status, len(upstream.received(KEY)) - before) == ("cors", 200, 1)
    kind, status, text = browser.run(posting(host))
    assert (kind, status, len(upstream.received(KEY)) - before) == ("cors", 403, 1)
    assert "`Content-Type: application/json`" in text


def test_foreign_page_spends_nothing(
    browser: Browser, host: FlaskHost, upstream: Upstream, sites: tuple[str, str]
) -> None:
    """Neither by what its browser asks about first, nor by a simple POST, of a script or of a form,
    with which the cookie goes along."""
    before = len(upstream.received(KEY))
    browser.open(f"{sites[1]}/")
    for options in (JSON, {}):
        with pytest.raises(PageError, match="Failed to fetch"):
            browser.run(posting(host, **options))
    assert browser.run(posting(host, mode="no-cors")) == ["opaque", 0, ""]
    form = "<form method=post enctype=text/plain action={}><input name='{}' value='\"}}'></form>"
    page = form.format(f"{host.origin}{CHAT}", BODY[:-1] + ', "user": "')
    browser.run(f"document.body.innerHTML = {json.dumps(page)}, document.forms[0].submit()")
    browser.wait_loaded()
    assert "`Content-Type: application/json`" in browser.run("document.body.innerText")
    assert len(upstream.received(KEY)) == before
    # Three of them were sent. The cookie went along: that is how the partner's page got in.
    assert host.log.count(" status=403 end=forbidden ") >= 3
