"""Limits of callers: official SDKs heed them, and each of several workers counts for itself."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from proxy import Call, Caller, Usage, create_app
from proxy.net.watch import Clock
from proxy.record.record import Attempt, Record
from proxy.usage.limits import Limits
from tests.support.gateway import MESSAGES, PATIENCE_S, Gateway, Response
from tests.support.wsgi import werkzeug_server

KEY = "caller-key-0123456789"


class Stopwatch(Clock):
    """It stands still until it is started: what a slow machine does before costs no time."""

    def __init__(self) -> None:
        began = self.began = list[float]()
        self.monotonic = lambda: time.monotonic() - began[0] if began else 0.0

    def start(self, _: object, *, call: Call) -> None:
        """At the first call that is refused."""
        if call.status == 429 and not self.began:
            self.began.append(time.monotonic())


def record_of(tokens: int) -> Record:
    """A request that took so many."""
    attempt = Attempt("demo", usage=Usage(tokens))
    return Record("r", endpoint="", arrived=0.0, attempts=[attempt])


@pytest.mark.long
@pytest.mark.parametrize("name", ["openai", "anthropic"])
def test_official_sdks_wait_as_long_as_they_are_told(name: str) -> None:
    """So that their next try is let in. Where it would be too long they raise at once."""
    app = create_app({"api-keys": [{"name": "ci", "key": KEY, "tpm": 600}], "demo": [{}]})
    proxy = app.extensions["proxy"]["proxy"]
    with werkzeug_server(app) as port:
        url, clock, ci = f"http://127.0.0.1:{port}", Stopwatch(), Caller("ci", tpm=600)
        usual: Any = {"api_key": KEY, "timeout": PATIENCE_S, "max_retries": 1}
        gpt = openai.OpenAI(base_url=f"{url}/v1", **usual)
        claude = anthropic.Anthropic(base_url=url, **usual)
        sdks: dict[str, tuple[Any, type[Exception]]] = {
            "openai": (gpt.chat.completions.with_raw_response.create, openai.RateLimitError),
            "anthropic": (claude.messages.with_raw_response.create, anthropic.RateLimitError),
        }
        create, refusal = sdks[name]
        asked: Any = {"model": "demo", "messages": MESSAGES, "max_tokens": 9}
        with gpt, claude:
            proxy.gateway.limits = limits = Limits(clock, lambda: None)
            limits.charge(ci, record_of(602))  # 0.3 s until one is left
            with proxy.call_ended.connected_to(clock.start):
                answer = create(**asked)
            assert (answer.status_code, answer.retries_taken) == (200, 1)
            assert answer.headers["x-ratelimit-limit-tokens"] == "600"
            limits.charge(ci, record_of(1200))
            statuses = list[int]()

            def keep(_: object, *, call: Call) -> None:
                statuses.append(call.status)

            with proxy.call_ended.connected_to(keep), pytest.raises(refusal, match="its tpm"):
                create(**asked)
            assert statuses == [429]


@pytest.mark.long
def test_each_worker_counts_for_itself() -> None:
    """As the summary says: a burst of n in each of them, and what comes back meanwhile."""
    config = {"demo": [{"delay-ms": 0}], "api-keys": [{"name": "ci", "key": KEY, "rpm": 2}]}
    with Gateway(config, workers=2) as gateway:
        gateway.wait_for_line(lambda line: line == "  limits of ci: rpm 4 (2 per worker)\n")
        began = time.monotonic()
        headers = {"Authorization": f"Bearer {KEY}"}
        answers = [gateway.chat("demo", headers=headers) for _ in range(40)]
        statuses = [answer.status for answer in answers]
        assert set(statuses) == {200, 429}
        minutes = (time.monotonic() - began) / 60
        assert 2 <= statuses.count(200) <= 4 + 4 * minutes
        refused = next(answer for answer in answers if answer.status == 429)
        assert refused.error["code"] == "rate_limit_exceeded"
        assert refused.headers["x-ratelimit-limit-requests"] == "2"
        assert refused.headers["x-should-retry"] == "true"
        record = gateway.record_of(refused.headers["x-request-id"])
        assert (record["caller"], record["status"], record["attempts"]) == ("ci", "429", "0")


# Planted into a gateway: it starts at noon (UTC).
NOON = "import time\nreal = time.time\ntime.time = lambda: real() + {ahead_s}\n"


@pytest.mark.long
def test_a_day_is_one_for_all_workers_and_over_restarts(tmp_path: Path) -> None:
    """What ended in another worker is known within seconds; hints are for midnight."""
    ahead_s = 43_200 - time.time() % 86_400
    (tmp_path / "sitecustomize.py").write_text(NOON.format(ahead_s=ahead_s))
    env = {"PYTHONPATH": str(tmp_path)}
    ci = {"name": "ci", "key": KEY, "requests-per-day": 5}
    config = {"demo": [{"delay-ms": 0}], "api-keys": [ci], "state-dir": str(tmp_path)}
    headers = {"Authorization": f"Bearer {KEY}"}
    with Gateway(config, workers=2, env=env) as gateway:
        gateway.wait_for_line(lambda line: line == "  limits of ci: requests-per-day 5 in all\n")
        answers = list[Response]()
        while len(answers) < 20 or {one.status for one in answers[-20:]} != {429}:
            answers.append(gateway.chat("demo", headers=headers))
        statuses = [answer.status for answer in answers]
        assert 5 <= statuses.count(200) <= 10  # each may have let in all, before it knew
        refused = answers[-1]
        rest_s = 86_400 - (time.time() + ahead_s) % 86_400
        assert refused.headers["x-ratelimit-remaining-requests-day"] == "0"
        assert refused.headers["x-should-retry"] == "false"
        assert float(refused.headers["retry-after"]) == pytest.approx(rest_s, abs=PATIENCE_S)
    with Gateway(config, workers=2, env=env) as gateway:
        assert gateway.chat("demo", headers=headers).status == 429
