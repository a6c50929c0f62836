"""The real Prometheus scrapes a gateway, set up as docs/metrics.md says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.commandline import wait_for
from tests.support.gateway import ROOT, Gateway
from tests.support.prometheus import Prometheus, faults_of, require_prometheus
from tests.support.upstream import MODEL, Upstream, error

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]

require_prometheus()

PAGE = (ROOT / "docs" / "metrics.md").read_text()
OPERATOR = "operators-key-0123456789"
CALLER = "callers-key-0123456789"


def configured(gateway: Gateway, folder: Path) -> dict[str, Any]:
    """What the page shows, with the place of this gateway and its key."""
    (shown,) = re.findall(r"^```\n(scrape_configs:\n.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (folder / "key").write_text(OPERATOR)
    shown = shown.replace("/etc/prometheus/poolproxy.key", str(folder / "key"))
    config = yaml.safe_load(shown.replace("127.0.0.1:8317", f"127.0.0.1:{gateway.port}"))
    assert isinstance(config, dict)
    return config


def test_prometheus_scrapes_what_the_page_says(upstream: Upstream, tmp_path: Path) -> None:
    """All workers as one target, through the death of one; promtool finds nothing to say, and the
    page's questions have answers.
    """
    provider = {"name": "up", "base-url": upstream.url, "models": [MODEL], "max-concurrency": 0}
    config = {
        "api-keys": [
            {"name": "app", "key": CALLER},
            {"name": "prometheus", "key": OPERATOR, "admin": True},
        ],
        "openai-compatibility": [{**provider, "api-keys": ["sk-0123456789-abcd"]}],
        "demo": [{"delay-ms": 0}],
        "request-retry": 0,
    }
    upstream.always("sk-0123456789-abcd", error(503))
    with Gateway(config, workers=2) as gateway:
        headers = {"Authorization": f"Bearer {CALLER}"}
        calls = 0

        def call(times: int) -> None:
            nonlocal calls
            for number in range(times):
                answer = gateway.chat("demo", stream=bool(number % 2), headers=headers)
                assert answer.status == 200
                assert gateway.chat(MODEL, headers=headers).status == 503
            calls += times

        with Prometheus(configured(gateway, tmp_path)) as prometheus:
            call(10)
            prometheus.wait_for('sum(poolproxy_requests_total{end="ok", caller="app"})', calls)
            (victim, *_) = gateway.workers()
            gateway.kill(victim)
            wait_for(lambda: len(gateway.workers() - {victim}) == 2, lambda: f"{gateway.workers()}")
            call(10)
            prometheus.wait_for('sum(poolproxy_requests_total{end="ok", caller="app"})', calls)
            prometheus.wait_for("sum(poolproxy_client_permits)", float("inf"))
            assert prometheus.value("sum(resets(poolproxy_requests_total[10m]))") == 0
            prometheus.wait_for("up", 1)
            assert prometheus.value("gen_ai_server_request_duration_seconds_count") is not None
            questions = re.findall(r"^- .*\? `(.*)`$", PAGE, re.MULTILINE)
            assert len(questions) == 6
            for question in questions:
                assert prometheus.ask("query", query=question) is not None, question
        scrape = gateway.call("GET", "/metrics", headers={"x-api-key": OPERATOR})
    assert faults_of(scrape.body) == ""


def test_promtool_has_an_eye_for_faults() -> None:
    """What is wrong with a text is said."""
    assert "counter metrics should have" in faults_of(b"# HELP a A.\n# TYPE a counter\na 1\n")
