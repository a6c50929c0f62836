"""The status page in a real browser, of a server with two workers."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.callers.environments import AXE, installed
from tests.support.browser import Browser
from tests.support.commandline import wait_for
from tests.support.gateway import COMMAND, Gateway
from tests.support.upstream import Gate, Hold, Reply, Upstream, chat, chunk, error, events

pytestmark = pytest.mark.long

ADMIN, USER = "operators-key-0123", "a-users-key-0123456"
KEYS = [
    {"name": "ops", "key": ADMIN, "admin": True},
    {"name": "user", "key": USER, "rpm": 6000},
]
DEAD, SLOW, FRESH = "sk-0123456789-dead", "sk-0123456789-slow", "sk-0123456789-good"
MARKUP = "<img src=x onerror=\"document.title='ran'\"><script>alert(1)</script>&\"'"
SENT = {"Authorization": f"Bearer {USER}"}
TABS = 60  # more than the page has stops

# Where its pictures are kept, for who wants to look at them.
PICTURES = os.environ.get("POOLPROXY_PICTURES", "")


def provider(url: str, name: str, *keys: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "base-url": url, "api-keys": list(keys), "models": [f"{name}-m"], **more}


def config_of(*providers: dict[str, Any]) -> dict[str, Any]:
    return {"api-keys": KEYS, "openai-compatibility": list(providers)}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as running:
        running.log_in(ADMIN)
        yield running


@pytest.fixture
def tab(browser: Browser) -> Iterator[Browser]:
    """A browser as it is by default, which has asked nobody else and found nothing forbidden."""
    browser.look()
    browser.run_scripts(True)
    browser.requested.clear()
    browser.logged.clear()
    yield browser
    assert [said for said in browser.logged if "Policy" in said] == []


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(upstream: Upstream) -> Iterator[Gateway]:
    """Two workers that have something to show: good and bad requests, a queue, what is wrong."""
    for key in (DEAD, SLOW, FRESH):
        upstream.always(key, lambda one: chat("Hi"))
    upstream.always(DEAD, error(401, "Your key has expired."))
    providers = [
        provider(upstream.url, "alpha", DEAD, FRESH),
        provider(upstream.url, "beta", SLOW),
        {**provider(upstream.url, "odd", "sk-0123456789-oddd"), "models": [MARKUP]},
    ]
    with Gateway(config_of(*providers), workers=2) as running:
        for model in ("alpha-m", "beta-m", MARKUP, f"no {MARKUP}", "alpha-m", "alpha-m"):
            running.chat(model, headers=SENT)
        running.chat("alpha-m", stream=True, headers=SENT)
        yield running


def keep(browser: Browser, name: str, folder: Path) -> None:
    """A picture of the page as it is."""
    path = Path(PICTURES or folder, f"{name}.png")
    browser.picture(path)
    assert path.stat().st_size > 10_000


def text_of(browser: Browser, selector: str = "main") -> str:
    return str(browser.run(f"document.querySelector({json.dumps(selector)}).innerText"))


def wait_for_text(browser: Browser, text: str, selector: str = "main") -> None:
    """Until the page says so, by itself."""
    place = f"document.querySelector({json.dumps(selector)}).innerText"
    browser.wait_until(f"{place}.includes({json.dumps(text)})")


def violations(browser: Browser) -> list[Any]:
    """What axe-core finds against the rules for pages that everybody can use."""
    script = installed(AXE) / "node_modules" / "axe-core" / "axe.min.js"
    browser.run(script.read_text() + ";0")
    assert [said for said in browser.logged if "Policy" in said] == []
    found = browser.run("axe.run().then(done => done.violations)")
    browser.logged.clear()  # it styles elements of its own, which is forbidden
    return [(one["id"], [node["html"] for node in one["nodes"]]) for one in found]


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("is_dark", [False, True])
def test_everybody_can_use_it(
    gateway: Gateway, tab: Browser, is_dark: bool, width: int, tmp_path: Path
) -> None:
    """By ear, with weak eyes, in the dark, on a phone, whose page is no wider than it is."""
    tab.look(is_dark=is_dark, width=width)
    tab.open(f"{gateway.url}/status?model=alpha-m")
    keep(tab, f"{'dark' if is_dark else 'light'}-{width}", tmp_path)
    assert violations(tab) == []
    assert tab.run("document.documentElement.scrollWidth <= innerWidth")


def test_it_asks_nobody_else(gateway: Gateway, tab: Browser) -> None:
    """Neither for what it is made of nor for what it shows; a name is only a name."""
    tab.open(f"{gateway.url}/status?model=none")
    tab.open(f"{gateway.url}/status")
    wait_for(lambda: tab.run("1") and f"{gateway.url}/status.json" in tab.requested)
    own = [url for url in tab.requested if not url.startswith("data:")]
    assert {urlsplit(url).netloc for url in own} == {urlsplit(gateway.url).netloc}
    assert {urlsplit(url).path for url in own} <= {"/status", "/status.json"}
    assert tab.run("document.title").endswith("Poolproxy")
    assert MARKUP in text_of(tab, "#requests")
    assert tab.run("document.querySelectorAll('img, script').length") == 1


def test_it_says_why_a_model_is_served_or_not(gateway: Gateway, tab: Browser) -> None:
    """Of each of its clients, in the upstream's words; by the form, as of what is no model."""
    tab.open(f"{gateway.url}/status")
    for model, said in (
        ("alpha-m", "Why alpha-m is served"),
        ("none", "Why none is not served"),
    ):
        tab.run(f"which.value = {model!r}, which.form.querySelector('button').click()")
        tab.wait_loaded()
        assert said in text_of(tab, "#model")
    assert "There is no such model" in text_of(tab, "#model")
    tab.open(f"{gateway.url}/status?model=alpha-m")
    assert "alpha/sk-...good: ready" in text_of(tab, "#model")
    assert "401: Your key has expired." in text_of(tab, "#model")


def test_it_works_without_scripts(gateway: Gateway, tab: Browser) -> None:
    """It has all it says, renews itself, and its buttons give orders."""
    tab.run_scripts(False)
    tab.open(f"{gateway.url}/status")
    assert tab.run("document.querySelector('noscript meta').httpEquiv") == "refresh"
    assert "beta/sk-...slow" in text_of(tab, "#clients")
    tab.run("document.getElementById('disable-beta/sk-...slow').click()")
    tab.wait_loaded()
    assert "beta/sk-...slow: disabled by hand" in text_of(tab, "#wrong")
    tab.run("document.getElementById('enable-beta/sk-...slow').click()")
    tab.wait_loaded()
    assert "beta/sk-...slow: disabled by hand" not in text_of(tab, "#wrong")


def test_it_works_by_keyboard_alone(gateway: Gateway, tab: Browser) -> None:
    """Every stop can be seen, an order is given by Enter; what renews itself keeps the place."""
    tab.open(f"{gateway.url}/status")
    stops = []
    while (here := tab.run("document.activeElement.id")) != "disable-beta/sk-...slow":
        tab.press("Tab", 9)
        assert tab.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        stops.append(here)
        assert len(stops) < TABS
    gateway.chat("beta-m", headers=SENT)
    asked = len(tab.requested)
    wait_for(lambda: tab.run("1") and len(tab.requested) >= asked + 2)
    tab.wait_until("document.activeElement.id == 'disable-beta/sk-...slow'")
    tab.press("Enter", 13)
    tab.wait_loaded()
    assert "beta/sk-...slow: disabled by hand" in text_of(tab, "#wrong")
    gateway.wait_for_line(
        lambda line: "beta/sk-...slow: disable by hand, by ops (127.0.0.1)" in line
    )
    tab.run("document.getElementById('enable-beta/sk-...slow').click()")
    tab.wait_loaded()


def test_it_tells_when_it_is_out_of_date(upstream: Upstream, tab: Browser) -> None:
    """What it shows stays, and is not taken for the present."""
    with Gateway(config_of(provider(upstream.url, "beta", SLOW))) as gateway:
        tab.open(f"{gateway.url}/status")
        assert text_of(tab, "#stale") == ""
    wait_for_text(tab, "This is as of", "#stale")
    assert "beta/sk-...slow" in text_of(tab, "#clients")


def test_it_asks_once_whoever_is_no_operator_any_more(upstream: Upstream, tab: Browser) -> None:
    """By the browser's own dialog, which would come back with each look at the facts."""
    config = config_of(provider(upstream.url, "beta", SLOW))
    with Gateway(config) as gateway:
        tab.open(f"{gateway.url}/status")
        tab.run("window.later = setTimeout, window.looks = 0")
        tab.run("window.setTimeout = (what, ms) => { looks += 1; return later(what, ms); }")
        tab.log_in("")
        try:
            gateway.write({**config, "api-keys": [USER]})
            wait_for_text(tab, "the server says 401", "#stale")
            looks = tab.run("looks")
            assert tab.run("look().then(() => looks)") == looks
        finally:
            tab.log_in(ADMIN)


def test_foreign_page_can_do_nothing(gateway: Gateway, tab: Browser) -> None:
    """Though the operator is logged in: neither show the page, nor read it, nor give an order."""
    tab.open(f"{gateway.url}/status")
    token = tab.run("document.querySelector('[name=token]').value")
    form = (
        f"<iframe src='{gateway.url}/status'></iframe>"
        f"<form method=post action='{gateway.url}/status'><input name=do value=disable>"
        f"<input name=client value='beta/sk-...slow'><input name=token value='{token}'></form>"
    )
    with Upstream() as foreign:
        headers = [("Content-Type", "text/html; charset=utf-8")]
        foreign.pages["/"] = Reply([form.encode()], headers=headers)
        tab.open(f"{foreign.origin}/")
        assert "frame-ancestors" in " ".join(tab.logged)
        for mode in ("cors", "no-cors"):
            options = json.dumps({"mode": mode, "credentials": "include"})
            read = f"fetch('{gateway.url}/status.json', {options}).then(one => one.text())"
            assert tab.run(f"{read}.catch(() => '')") == ""
        # With a caller's key it may ask, and read all that callers are told.
        header = f"{{headers: {json.dumps(SENT)}}}"
        asked = f"fetch('{gateway.url}/v1/models', {header})"
        for name in ("x-request-id", "x-ratelimit-remaining-requests"):
            assert tab.run(f"{asked}.then(one => one.headers.get('{name}'))")
        tab.run("document.forms[0].submit()")
        tab.wait_loaded()
        assert "orders are taken from the status page itself only" in text_of(tab, "body")
    tab.logged.clear()
    tab.open(f"{gateway.url}/status")
    assert "beta/sk-...slow: disabled" not in text_of(tab, "#wrong")


def test_log_in_asks_until_it_is_an_operators_key(gateway: Gateway, tmp_path: Path) -> None:
    """Who cancels is told what to send, without anything of the page."""
    with Browser(tmp_path) as stranger:
        stranger.log_in("")
        stranger.open(f"{gateway.url}/status")
        assert "no API key was given" in text_of(stranger, "body")
        stranger.log_in(ADMIN)
        stranger.open(f"{gateway.url}/status")
        assert "Configuration" in text_of(stranger)


def test_orders_reach_workers_that_load_the_application_themselves(tmp_path: Path) -> None:
    """One of a host's own: whichever worker gets an order knows the page that another one made."""
    (tmp_path / "theirs.py").write_text(
        "from flask import Flask\nfrom proxy import Proxy\napp = Flask('theirs')\n"
        "Proxy().init_app(app, url_prefix='/llm')\n"
        "app.get('/healthz')(lambda: 'ok')\n"
    )
    config = {"demo": [{}], "status-page": True}
    command = [*COMMAND, "--pythonpath", str(tmp_path), "theirs:app"]
    with Gateway(config, command=command, workers=2) as gateway:

        def facts() -> Any:
            return gateway.call("GET", "/llm/status.json").json()

        wait_for(lambda: len(facts()["workers"]) == 2)
        page = gateway.call("GET", "/llm/status").body.decode()
        (token, *_) = re.findall(r'name="token" value="([^"]+)"', page)
        headers = {"Origin": gateway.url, "Content-Type": "application/x-www-form-urlencoded"}
        for do in ("disable", "enable") * 4:
            form = f"do={do}&client=demo&token={token}".encode()
            answer = gateway.call("POST", "/llm/status", form, headers)
            assert (answer.status, answer.headers["location"]) == (303, "status")
        wait_for(lambda: len(facts()["workers"]) == 2 and facts()["wrong"] == [])


def test_an_operators_story(upstream: Upstream, tab: Browser, tmp_path: Path) -> None:
    """A key dies; the page says so and why; it is replaced in the file; the page says that this was
    read; a cooldown is ended by hand."""
    upstream.always(DEAD, lambda one: chat("Hi"))
    upstream.always(SLOW, lambda one: chat("Hi"))
    cold = provider(upstream.url, "beta", SLOW)
    with Gateway(config_of(provider(upstream.url, "alpha", DEAD), cold), workers=2) as gateway:
        tab.open(f"{gateway.url}/status")
        assert "Nothing is wrong" in text_of(tab, "#wrong")
        read_at = text_of(tab, "#configuration p")

        upstream.always(DEAD, error(401, "Your key has expired."))
        assert gateway.chat("alpha-m", headers=SENT).status == 502
        wait_for_text(tab, "Your key has expired.", "#wrong")
        assert "alpha/sk-...dead: out of service since" in text_of(tab, "#wrong")
        assert tab.run("document.title") != "Poolproxy"
        assert "upstream_authentication_error" in text_of(tab, "#requests")

        gateway.write("oops")
        wait_for_text(tab, "the configuration stays as it was", "#wrong")
        assert "not in force" in text_of(tab, "#configuration")
        gateway.write(config_of(provider(upstream.url, "alpha", FRESH), cold))
        wait_for_text(tab, "Nothing is wrong", "#wrong")
        wait_for_text(tab, "It is in force", "#configuration")
        assert text_of(tab, "#configuration p") != read_at
        assert gateway.chat("alpha-m", headers=SENT).status == 200

        upstream.always(SLOW, error(429, "Too fast.", headers={"Retry-After": "600"}))
        assert gateway.chat("beta-m", headers=SENT).status == 429
        wait_for_text(tab, "beta/sk-...slow (beta-m): cooling down since", "#wrong")
        keep(tab, "story", tmp_path)
        upstream.always(SLOW, lambda one: chat("Hi"))
        tab.run("document.getElementById('reset-beta/sk-...slow').click()")
        tab.wait_loaded()
        assert "Nothing is wrong" in text_of(tab, "#wrong")
        gateway.wait_for_line(lambda line: "beta/sk-...slow: reset by hand, by ops" in line)
        assert {gateway.chat("beta-m", headers=SENT).status for _ in range(4)} == {200}


def test_queue_is_shown_while_it_waits(upstream: Upstream, tab: Browser) -> None:
    """With the model that it waits for."""
    gate = Gate()
    last = chunk({"content": "Hi"}, finish="stop")
    upstream.always(SLOW, lambda one: events(chunk({"content": "x"}), Hold(gate), last, "[DONE]"))
    with Gateway(config_of(provider(upstream.url, "beta", SLOW))) as gateway:
        body = {"model": "beta-m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        with gateway.open("POST", "/v1/chat/completions", body, SENT) as first:
            first.read(1)
            with gateway.connect() as second:
                data = json.dumps(body).encode()
                second.sendall(
                    b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer "
                    + USER.encode()
                    + b"\r\nContent-Length: %d\r\n\r\n%s" % (len(data), data)
                )
                tab.open(f"{gateway.url}/status")
                wait_for_text(tab, "Requests that wait for a client: 1", "#hour")
                assert "1 for beta-m" in text_of(tab, "#hour")
                assert "in use (max-concurrency)" in text_of(tab, "#clients")
                gate.set()
        upstream.always(SLOW, lambda one: chat("Hi"))


def test_many_clients_and_models(upstream: Upstream, tab: Browser, tmp_path: Path) -> None:
    """200 and 500, of which each serves each, and most of which are out: still one look."""
    models = [f"model-{number}" for number in range(500)]
    keys = [f"sk-{number:03}-0123456789" for number in range(200)]
    for key in keys[:150]:
        upstream.always(key, error(401, "No."))
    for key in keys[150:]:
        upstream.always(key, lambda one: chat("Hi"))
    config = config_of({**provider(upstream.url, "alpha", *keys), "models": models})
    with Gateway({**config, "request-retry": 100}, workers=2) as gateway:
        for model in models[:20]:
            assert gateway.chat(model, headers=SENT).status == 200
        tab.open(f"{gateway.url}/status?model=model-7")
        keep(tab, "many", tmp_path)
        assert tab.run("document.querySelectorAll('#clients tbody tr').length") == 200
        assert tab.run("document.querySelectorAll('#wrong li').length") == 1
        assert tab.run("document.querySelectorAll('#known option').length") == 500
        answer = gateway.call("GET", "/status.json", headers={"x-api-key": ADMIN})
        assert len(answer.body) < 2_000_000
        tab.look(width=390)
        assert tab.run("document.documentElement.scrollWidth <= innerWidth")
