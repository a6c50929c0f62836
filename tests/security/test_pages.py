"""No answer of the gateway's is a page in a browser: scripts of an upstream's never run there."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.security.conftest import AUTHORIZED
from tests.support.browser import BROWSER_S, FLAGS, program
from tests.support.gateway import Gateway, Lots
from tests.support.upstream import Reply, Upstream, chat, error_object

SCRIPT = "<script>document.title = 'it' + ' ran'</script>"
RAN = "it ran"


@pytest.fixture(scope="module")
def browser() -> str:
    """Chromium; skips where there is none, fails in CI, which installs it."""
    return program()


@contextmanager
def site(page: str) -> Iterator[str]:
    """A web site of one page; its URL."""

    with Upstream() as server:
        headers = [("Content-Type", "text/html; charset=utf-8")]
        server.pages["/"] = Reply([page.encode()], headers=headers)
        yield f"{server.origin}/"


def seen(browser: str, url: str, profile: Path) -> str:
    """The page that the browser ends at, as it is when its scripts have run."""
    command = [
        browser,
        *FLAGS,
        f"--user-data-dir={profile}",
        "--virtual-time-budget=10000",
        "--dump-dom",
        url,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BROWSER_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def sends_itself(url: str, model: str) -> str:
    """A page whose form is a chat request, and takes the browser to the answer."""
    before = json.dumps({"model": model, "messages": [1]})[:-1] + ', "user": "'
    return f"""<form method="post" enctype="text/plain" action="{url}">
        <input name='{before}' value='"}}'></form><script>document.forms[0].submit()</script>"""


def page_of(status: int) -> Reply:
    """An error object that says it is a page."""
    told = json.dumps(error_object(SCRIPT))
    return Reply([told.encode()], status, [("Content-Type", "text/html; charset=utf-8")])


@pytest.mark.long
def test_scripts_do_run_in_this_browser(browser: str, tmp_path: Path) -> None:
    """Else the next test would show nothing."""
    with site(SCRIPT) as there, site(f"<script>location = '{there}'</script>") as url:
        assert RAN in seen(browser, url, tmp_path)


@pytest.mark.long
def test_error_of_an_upstream_is_no_page(browser: str, upstream: Upstream, tmp_path: Path) -> None:
    """A page of the user's own machine may call an open gateway, and be taken to its answer."""
    lots = Lots(upstream.url, {1: 1})
    lot = lots.take()
    upstream.always(lot.key, page_of(400))
    with (
        Gateway({"openai-compatibility": lots.providers}) as gateway,
        site(sends_itself(f"{gateway.url}/v1/chat/completions", lot.model)) as url,
    ):
        shown = seen(browser, url, tmp_path)
    assert SCRIPT.partition("<script>")[2].partition("<")[0] in shown  # it is there, as text
    assert RAN not in shown


@pytest.mark.parametrize("status", [400, 403, 404, 418, 429, 500])
@pytest.mark.parametrize("stream", [False, True])
def test_error_is_json_whatever_the_upstream_called_it(
    gateway: Gateway, upstream: Upstream, lots: Lots, status: int, stream: bool
) -> None:
    """Whether the body passes as it came or is wrapped."""
    lot = lots.take()
    upstream.always(lot.key, page_of(status))
    answer = gateway.chat(lot.model, stream=stream, headers=AUTHORIZED)
    assert answer.status == status
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.error["message"] == SCRIPT


def test_every_answer_says_that_it_is_what_it_says(
    gateway: Gateway, upstream: Upstream, lots: Lots
) -> None:
    """Good ones, streams, errors of ours, also of what is no request."""
    lot = lots.take()
    upstream.always(lot.key, lambda one: chat("Hi"))
    answers = [
        gateway.call("GET", "/"),
        gateway.call("GET", "/healthz"),
        gateway.call("GET", "/v1/models", headers=AUTHORIZED),
        gateway.call("OPTIONS", "/v1/models"),
        gateway.call("GET", "/nowhere"),
        gateway.call("DELETE", "/v1/models"),
        gateway.chat(lot.model),
        gateway.chat(lot.model, headers=AUTHORIZED),
        gateway.chat(lot.model, stream=True, headers=AUTHORIZED),
        gateway.exchange(b"no request\r\n\r\n"),
    ]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff", answer
