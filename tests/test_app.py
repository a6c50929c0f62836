"""The standalone application leaves out work of Flask's, and nothing of what Flask does."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, request, session, url_for

from proxy import create_app
from proxy.config import Config, ConfigSource, load_config
from proxy.gateway import Gateway
from tests.e2e.test_endpoints import PATHS

DEMO = {"demo": [{"name": "demo"}]}


def seen() -> dict[str, str]:
    """What an endpoint of one's own sees of its request."""
    own = url_for("seen", rest="x", _external=True)
    return {"url": request.url, "path": request.path, "own": own, "root": request.root_path}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"HTTP_HOST": "EXAMPLE.com:8080"},
        {"SCRIPT_NAME": "/\xc3\xa4"},
        {"wsgi.url_scheme": "https"},
        {"HTTP_HOST": "b\xfccher.example"},
    ],
    ids=["plain", "host", "prefix", "https", "malformed host"],
)
@pytest.mark.parametrize("settings", [{}, {"SERVER_NAME": "own.example"}], ids=["", "named"])
@pytest.mark.parametrize("path", ["/mine/a", "/mine/\u00e4%20?q=\u00e4", "/mine/b;c?x=%E4"])
def test_requests_look_as_in_flask(
    environ: dict[str, str], settings: dict[str, str], path: str
) -> None:
    """Routes, hosts and addresses are worked out to the same end."""
    found = []
    for app in (Flask("plain"), create_app(DEMO)):
        app.config.update(settings)
        app.add_url_rule("/mine/<path:rest>", "seen", lambda rest: seen())
        answer = app.test_client().get(path, environ_overrides=environ)
        found.append((answer.status_code, answer.get_json() if answer.is_json else None))
    (status, plain), (own_status, own) = found
    assert own_status == status
    if status == 200:
        assert own == plain


def test_sessions_work_with_a_key() -> None:
    """And say that they need one without."""
    app = create_app(DEMO)

    def count() -> dict[str, Any]:
        session["n"] = session.get("n", 0) + 1
        return dict(session)

    app.add_url_rule("/count", "count", count)
    caller = app.test_client()
    assert caller.get("/count").status_code == 500
    app.secret_key = "for the test"
    assert [caller.get("/count").get_json() for _ in range(2)] == [{"n": 1}, {"n": 2}]


BODY = json.dumps({"model": "demo", "messages": [{"role": "user", "content": "Hi"}]}).encode()


@pytest.mark.parametrize("length", ["five", "-1", "+5", "5.0", "\xb2", "1" * 19])
def test_length_that_is_no_number_is_refused(length: str) -> None:
    """Where a server lets it through."""
    caller = create_app(DEMO).test_client()
    answer = caller.post(
        "/v1/chat/completions", data=BODY, environ_overrides={"CONTENT_LENGTH": length}
    )
    assert answer.status_code == 400
    message = answer.get_json()["error"]["message"]
    assert message == "the request's Content-Length is not a number"


@pytest.mark.parametrize("coding", ["chunked", "Chunked", "CHUNKED"])
@pytest.mark.parametrize("length", ["1", "five", ""])
def test_chunks_count_and_not_a_length_beside_them(coding: str, length: str) -> None:
    """RFC 9112 section 6.3; however they are spelled."""
    caller = create_app(DEMO).test_client()
    framing = {
        "CONTENT_LENGTH": length,
        "HTTP_TRANSFER_ENCODING": coding,
        "wsgi.input_terminated": True,
    }
    answer = caller.post("/v1/chat/completions", data=BODY, environ_overrides=framing)
    assert answer.status_code == 200


@pytest.mark.parametrize("path", ["//v1/models", "/v1//models", "/v1/models//demo"])
def test_path_with_two_slashes_is_none_of_ours(path: str) -> None:
    """A proxy in front may have let it pass by its rules for another path. Nor is it redirected."""
    caller = create_app(DEMO).test_client()
    answer = caller.get("/v1/models", environ_overrides={"PATH_INFO": path})
    assert answer.status_code == 404
    if path.startswith("//"):
        assert "two slashes" in answer.get_json()["error"]["message"]


def test_one_model_is_told_of_if_it_is_listed() -> None:
    """By its name; of others a 404 says which it was."""
    caller = create_app(DEMO).test_client()
    [listed] = caller.get("/v1/models").get_json()["data"]
    assert caller.get(f"/v1/models/{listed['id']}").get_json() == listed
    answer = caller.get("/v1/models/none")
    assert answer.status_code == 404
    assert "'none'" in answer.get_json()["error"]["message"]


def test_what_it_tells_whoever_asks() -> None:
    """Its paths, and how it stands, word for word: probes compare them."""
    caller = create_app(DEMO).test_client()
    told = caller.get("/").get_json()
    assert told.keys() == {"name", "version", "endpoints"}
    assert told["name"] == "poolproxy"
    assert told["endpoints"] == PATHS
    for path in told["endpoints"]:
        assert caller.get(path).status_code in (200, 405), path
    assert caller.get("/healthz").data == b'{"status":"ok"}'
    assert caller.get("/readyz").data == b'{"status":"ready"}'


def test_readiness_is_that_of_its_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """And of the process, which may be about to end; its life is another matter."""
    caller = create_app({}).test_client()
    for is_stopping, said in (
        (False, b'{"status":"no client in service"}'),
        (True, b'{"status":"shutting down"}'),
    ):
        monkeypatch.setattr(Gateway, "is_stopping", is_stopping)
        answer = caller.get("/readyz")
        assert (answer.status_code, answer.data) == (503, said)
        assert caller.get("/healthz").status_code == 200


@pytest.mark.parametrize("names", [["a"], ["a", "b", "c"], []])
def test_list_of_models_is_one_page_of_anthropics(names: list[str]) -> None:
    """For callers who say that they speak its API, by what their SDKs page with."""
    caller = create_app({"demo": [{"models": names}] if names else []}).test_client()
    answer = caller.get("/v1/models", headers={"anthropic-version": "2023-06-01"})
    told = answer.get_json()
    listed = told.pop("data")
    assert [(model["id"], model["display_name"], model["type"]) for model in listed] == [
        (name, name, "model") for name in names
    ]
    first, last = (names[0], names[-1]) if names else (None, None)
    assert told == {"has_more": False, "first_id": first, "last_id": last}
    assert caller.get("/v1/models").get_json().keys() == {"object", "data"}


def test_application_of_a_server_is_of_the_configuration_that_it_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless another one is meant by now, or is given."""
    path = tmp_path / "config.yaml"
    path.write_text("demo: [{name: demo}]\n")
    monkeypatch.setenv("PROXY_CONFIG", str(path))
    served = ConfigSource(partial(load_config, None))
    monkeypatch.setattr("proxy.app.SERVED", [served])

    def config_of(app: Flask) -> Config:
        return app.extensions["proxy"]["proxy"].gateway.config  # type: ignore[no-any-return]

    assert config_of(create_app()) is served.config
    assert config_of(create_app(str(path))) is not served.config
    given = load_config(DEMO)
    assert config_of(create_app(given)) is given
    assert config_of(create_app(ConfigSource.of(given))) is given
    other = tmp_path / "other.yaml"
    other.write_text("demo: [{name: other}]\n")
    monkeypatch.setenv("PROXY_CONFIG", str(other))
    assert config_of(create_app()).path == str(other)
