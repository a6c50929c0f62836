"""`GET /metrics`: who may ask, and what comes of refusals, limits and reloads."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from proxy import ConfigError, Proxy, create_app
from tests.support.gateway import run_python
from tests.support.upstream import MODEL, Gate, Hold, Upstream, chunk, events

CHAT = "/v1/chat/completions"
ASKED: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}]}
KEY = "caller-key-0123456789"
OPERATOR = {"name": "ops", "key": "operators-key-0123456789", "admin": True}
DEMO: dict[str, Any] = {"demo": [{"delay-ms": 0}]}


def served(**settings: Any) -> FlaskClient:
    return create_app({**DEMO, **settings}).test_client()


def total(http: FlaskClient, name: str, **labels: str) -> float:
    """The sum of all samples with this name and these labels, by an operator's scrape."""
    answer = http.get("/metrics", headers={"x-api-key": str(OPERATOR["key"])})
    assert answer.status_code == 200, answer.data
    return sum(
        sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def test_open_gateway_tells_this_machine_only() -> None:
    """Straight, and by a name of its own: what comes through a proxy is anybody's."""
    http = served(**{"allow-unauthenticated": True})
    answer = http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "# TYPE poolproxy_requests_total counter" in answer.text
    assert http.get("/metrics", headers={"X-Forwarded-For": "127.0.0.1"}).status_code == 403
    assert http.get("/metrics", headers={"Host": "llm.example"}).status_code == 403
    far = {"REMOTE_ADDR": "10.0.0.1"}
    answer = http.get("/metrics", environ_overrides=far)
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (403, "forbidden")


def test_keys_are_asked_for_where_there_are_some() -> None:
    """An operator's; another caller's key is known, and not enough."""
    http = served(**{"api-keys": [KEY, OPERATOR]})
    asked = {"": 401, "wrong-key": 401, KEY: 403, OPERATOR["key"]: 200}
    for key, status in asked.items():
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        assert http.get("/metrics", headers=headers).status_code == status


def test_public_metrics_are_for_all() -> None:
    """From anywhere, without a key, by way of a proxy."""
    http = served(**{"api-keys": [KEY], "metrics": {"public": True}})
    passed_on = {"X-Forwarded-For": "192.0.2.1", "Host": "llm.example"}
    far = {"REMOTE_ADDR": "10.0.0.1"}
    assert http.get("/metrics", headers=passed_on, environ_overrides=far).status_code == 200


def test_other_methods_are_405() -> None:
    """As on every path."""
    answer = served().post("/metrics")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_metrics_show_no_key() -> None:
    """Neither an upstream's nor a caller's, nor one that somebody took for a name."""
    provider = {"name": "up", "base-url": "http://127.0.0.1:9/v1", "models": ["m"]}
    key = "sk-0123456789abcdef"
    http = served(
        **{"openai-compatibility": [{**provider, "api-keys": [key]}], "api-keys": [KEY, OPERATOR]}
    )
    for name in ("m", key, KEY):
        http.post(CHAT, json={**ASKED, "model": name}, headers={"x-api-key": KEY})
        http.get(f"/{name}")
    told = http.get("/metrics", headers={"x-api-key": str(OPERATOR["key"])}).text
    assert "up/sk-...cdef" in told
    assert key not in told
    assert KEY not in told
    assert str(OPERATOR["key"]) not in told


def test_refusals_count_wherever_they_come_from() -> None:
    """Before a call becomes one, on paths that have none, and by Flask."""
    http = served(**{"api-keys": [KEY, OPERATOR]})
    name = "poolproxy_requests_total"
    http.post(CHAT, json=ASKED)
    http.get("/v1/models")
    http.get("/nowhere")
    http.get("/nowhere/else")
    http.put(CHAT)
    http.post(CHAT, data="{", headers={"x-api-key": KEY})
    assert total(http, name, endpoint=CHAT, status="401", end="invalid_api_key") == 1
    assert total(http, name, endpoint="other", status="401") == 1
    assert total(http, name, endpoint="other", status="404", end="not_found") == 2
    assert total(http, name, endpoint=CHAT, status="405") == 1
    assert total(http, name, endpoint=CHAT, status="400", model="") == 1
    assert total(http, name) == 6


def test_callers_limit_is_counted_by_its_name(upstream: Upstream) -> None:
    """Of whom, and which: others' 429 are not among them."""
    gate = Gate()
    upstream.default = events(
        chunk({"content": "a"}), Hold(gate), chunk({}, finish="stop"), "[DONE]"
    )
    limited = {"name": "limited", "key": KEY, "max-concurrency": 1}
    provider = {"name": "up", "base-url": upstream.url, "models": [MODEL], "max-concurrency": 0}
    http = served(**{"api-keys": [limited, OPERATOR], "openai-compatibility": [provider]})
    asked, headers = {**ASKED, "model": MODEL, "stream": True}, {"x-api-key": KEY}
    first = http.post(CHAT, json=asked, headers=headers)
    assert http.post(CHAT, json=asked, headers=headers).status_code == 429
    name = "poolproxy_limit_refusals_total"
    assert total(http, name, caller="limited", limit="max-concurrency") == total(http, name) == 1
    assert total(http, "poolproxy_requests_in_flight") == 1
    gate.set()
    first.get_data()
    first.close()
    assert total(http, "poolproxy_requests_in_flight") == 0
    assert total(http, "poolproxy_stream_ends_total", reason="ok") == 1


def test_readings_of_the_configuration_are_counted(tmp_path: Path) -> None:
    """Those that came into force, and those that could not."""
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(DEMO))
    app = create_app(path)
    proxy, http = app.extensions["proxy"]["proxy"], app.test_client()
    name = "poolproxy_reloads_total"
    proxy.gateway.reloader.reload()
    path.write_text("port: high")
    for _ in range(2):
        with pytest.raises(ConfigError):
            proxy.gateway.reloader.reload()
    assert (total(http, name, result="ok"), total(http, name, result="failed")) == (1, 2)


def test_sessions_and_fallbacks_are_counted() -> None:
    """By whether their account served, and from which model to which."""
    provider = {"name": "up", "base-url": "http://127.0.0.1:9/v1", "models": ["m"]}
    http = served(
        **{"openai-compatibility": [provider], "fallbacks": {"m": ["demo"]}, "request-retry": 0}
    )
    answer = http.post(CHAT, json={**ASKED, "model": "m"}, headers={"x-session-id": "s"})
    assert (answer.status_code, answer.headers["x-proxy-model"]) == (200, "demo")
    assert total(http, "poolproxy_fallbacks_total", **{"from": "m", "to": "demo"}) == 1
    assert total(http, "poolproxy_sticky_total", outcome="kept") == 1
    assert total(http, "poolproxy_attempts_total", outcome="upstream_unreachable") == 1
    assert total(http, "poolproxy_attempts_total", client="demo", outcome="ok") == 1


# In an application


def test_application_has_no_metrics_of_ours_among_its_paths() -> None:
    """Whether they are asked for or not."""
    for wants in (False, True):
        app, proxy = Flask("theirs"), Proxy(DEMO)
        assert proxy.collector if wants else True
        proxy.init_app(app, url_prefix="/llm")
        assert app.test_client().get("/llm/metrics").status_code == 404


def test_applications_registry_has_the_calls_of_all_applications() -> None:
    """From when it is asked for; by HTTP and from Python, with a prefix or without."""
    proxy, registry = Proxy(), CollectorRegistry(auto_describe=True)
    apps = [Flask("one"), Flask("two")]
    for app in apps:
        app.config["POOLPROXY_CONFIG"] = DEMO
    proxy.init_app(apps[0], url_prefix="/llm")
    assert apps[0].test_client().post(f"/llm{CHAT}", json=ASKED).status_code == 200
    registry.register(proxy.collector)
    proxy.init_app(apps[1])
    apps[0].test_client().post(f"/llm{CHAT}", json=ASKED)
    apps[1].test_client().post(CHAT, json=ASKED)
    with apps[1].app_context():
        proxy.chat(**ASKED)
    labels = {"model": "demo", "caller": "", "status": "200", "end": "ok"}
    for endpoint, count in ((CHAT, 2), ("proxy.chat", 1)):
        found = registry.get_sample_value(
            "poolproxy_requests_total", {"endpoint": endpoint, **labels}
        )
        assert found == count
    assert registry.get_sample_value("poolproxy_client_in_flight", {"client": "demo"}) == 0
    assert proxy.collector is proxy.collector


LAZY = """
import sys
from proxy import Proxy, create_app

def has(name):
    return any(one == name or one.startswith(name + ".") for one in sys.modules)

demo = {"demo": [{"delay-ms": 0}]}
asked = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}]}
with Proxy(demo) as proxy:
    proxy.chat(**asked)
assert not has("proxy.usage.metrics")
http = create_app(demo).test_client()
http.post("/v1/chat/completions", json=asked)
assert not has("prometheus_client")
assert http.get("/metrics").status_code == 200
assert has("prometheus_client")
"""


@pytest.mark.long
def test_nothing_is_imported_before_it_is_needed() -> None:
    """No room of ours where nobody asks for metrics, no package of others before a scrape."""
    run_python("-c", LAZY)


def test_counts_are_complete_with_many_threads() -> None:
    """None is lost, none counted twice."""
    http = served()
    app = http.application

    def call() -> None:
        for _ in range(25):
            app.test_client().post("/v1/completions", json={"model": "none", "prompt": "Hi"})

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert total(http, "poolproxy_requests_total", status="404") == 200
