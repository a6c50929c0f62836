"""Every path answers, known or not, by any method, and errors are always in the envelope."""

from __future__ import annotations

import pytest

from tests.support.gateway import Gateway, Lot
from tests.support.upstream import Upstream, error

PATHS = [
    "/v1/models",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/responses",
    "/v1/responses/input_tokens",
    "/healthz",
    "/readyz",
    "/metrics",
]


def test_index_lists_endpoints(gateway: Gateway) -> None:
    """`GET /` tells name, version and endpoints as JSON."""
    answer = gateway.call("GET", "/")
    assert answer.status == 200
    about = answer.json()
    assert about["name"] == "poolproxy"
    assert about["version"]
    assert about["endpoints"] == PATHS


def test_models_are_listed_in_the_order_of_the_configuration(
    gateway: Gateway, lot: Lot, renamed: Lot
) -> None:
    """Aliases, with these four fields and no other."""
    answer = gateway.call("GET", "/v1/models").json()
    assert answer["object"] == "list"
    ids = [model["id"] for model in answer["data"]]
    assert ids.index(lot.model) < ids.index(renamed.model)
    assert renamed.upstream_name not in ids
    for model in answer["data"]:
        assert set(model) == {"id", "object", "created", "owned_by"}
        assert model["object"] == "model"
        assert isinstance(model["created"], int)


@pytest.mark.parametrize("slash", ["/", "%2F"])
def test_a_model_is_shown_by_its_id(gateway: Gateway, renamed: Lot, slash: str) -> None:
    """An id may hold slashes, plain or percent-encoded."""
    answer = gateway.call("GET", f"/v1/models/{renamed.model.replace('/', slash)}")
    assert answer.status == 200
    assert answer.json()["id"] == renamed.model
    assert answer.json()["owned_by"] == renamed.upstream_name


def test_unknown_model_is_404(gateway: Gateway, renamed: Lot) -> None:
    """The upstream's own name is no alias."""
    for answer in (
        gateway.call("GET", f"/v1/models/{renamed.upstream_name}"),
        gateway.chat(renamed.upstream_name),
        gateway.chat(renamed.upstream_name, stream=True),
    ):
        assert answer.status == 404
        assert answer.error["code"] == "model_not_found"
        assert answer.error["param"] == "model"


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/responses", "/v1/responses"),
        ("/v1/v1/responses", "/v1/responses"),
        ("/completions", "/v1/completions"),
        ("/models", "/v1/models"),
        ("/models/a/b", "/v1/models/a/b"),
        ("/v1/v1/models", "/v1/models"),
        ("/v1/v1/completions/", "/v1/completions"),
        ("/api/v1/chat/completions", "/v1/chat/completions"),
        ("/api/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("/v1//chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completions/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completions/models", "/v1/models"),
        ("/openai/deployments/m/chat/completions?api-version=1", "/v1/chat/completions"),
    ],
)
def test_path_that_was_meant_is_told(gateway: Gateway, path: str, meant: str) -> None:
    """To a base_url without the version, with it twice, and the like; by whatever method."""
    for method in ("POST", "GET"):
        answer = gateway.call(method, path)
        assert answer.status == 404
        said = f"there is no {path.partition('?')[0]}; did you mean {meant}? The base_url of"
        assert said in answer.error["message"]


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/v1/healthz", "did you mean /healthz?"),
        ("/chat", "GET / lists the endpoints"),
        ("/v1/", "GET / lists the endpoints"),
        ("/a/b/c/d/e/chat/completions", "GET / lists the endpoints"),
    ],
)
def test_other_paths_have_another_hint(gateway: Gateway, path: str, hint: str) -> None:
    """Where none of the dialects' endpoints was meant, an SDK's base_url is no topic."""
    answer = gateway.call("POST", path)
    assert answer.error["message"] == f"there is no {path}; {hint}"


def test_sdk_lists_and_retrieves_models(gateway: Gateway, renamed: Lot) -> None:
    """As the official SDK sees it."""
    with gateway.sdk() as sdk:
        assert renamed.model in [model.id for model in sdk.models.list()]
        assert sdk.models.retrieve(renamed.model).object == "model"


def test_model_that_no_client_can_serve_is_left_out(
    gateway: Gateway, upstream: Upstream, lot: Lot
) -> None:
    """Left out of the list, but known: a request for it is 429, not 404."""
    upstream.always(lot.key, error(429, headers={"Retry-After": "600"}))
    assert gateway.chat(lot.model).status == 429
    ids = [model["id"] for model in gateway.call("GET", "/v1/models").json()["data"]]
    assert lot.model not in ids
    assert gateway.call("GET", f"/v1/models/{lot.model}").status == 404
    assert gateway.chat(lot.model).status == 429


def test_healthy_and_ready(gateway: Gateway) -> None:
    """Alive, and at least one client is in service."""
    assert gateway.call("GET", "/healthz").status == 200
    assert gateway.call("GET", "/readyz").status == 200


@pytest.mark.long
def test_not_ready_while_no_client_is_in_service() -> None:
    """A client whose key is refused is out of service; the process is healthy all the same."""
    with Upstream() as refusing:
        refusing.default = error(401, "Incorrect API key provided.")
        provider = {"name": "p", "base-url": refusing.url, "api-keys": ["sk-000000000001"]}
        provider["models"] = ["m"]
        with Gateway({"openai-compatibility": [provider]}) as gateway:
            assert gateway.call("GET", "/readyz").status == 200
            assert gateway.chat("m").status == 502
            assert gateway.call("GET", "/readyz").status == 503
            assert gateway.call("GET", "/healthz").status == 200
            again = gateway.chat("m")
            assert again.status == 503
            assert again.error["code"] == "no_client_in_service"


@pytest.mark.parametrize("alias", ["a//b", "a///b", "a/", "a//"])
def test_slashes_of_a_models_id_stay(gateway: Gateway, alias: str) -> None:
    """No redirect to another model's."""
    answer = gateway.call("GET", f"/v1/models/{alias}")
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    assert repr(alias) in answer.error["message"]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "QUERY"])
@pytest.mark.parametrize(
    "path",
    ["/nothing", "/v1", "/v1/", "/v1/models/", "/v1//models", "//v1/models", "//", "/%00", "/x/y"],
)
def test_unknown_path_is_404_in_the_envelope(gateway: Gateway, method: str, path: str) -> None:
    """Whatever the method; no redirect, no HTML."""
    answer = gateway.call(method, path)
    assert answer.status == 404
    assert answer.error["code"] == "not_found"
    assert answer.error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/chat/completions", {"POST"}),
        ("DELETE", "/v1/models", {"GET", "HEAD"}),
        ("POST", "/v1/models/a/b", {"GET", "HEAD"}),
        ("POST", "/", {"GET", "HEAD"}),
        ("PUT", "/healthz", {"GET", "HEAD"}),
        ("TRACE", "/readyz", {"GET", "HEAD"}),
    ],
)
def test_wrong_method_is_405_in_the_envelope(
    gateway: Gateway, method: str, path: str, allowed: set[str]
) -> None:
    """With the methods that the path has (RFC 9110, 15.5.6)."""
    answer = gateway.call(method, path)
    assert answer.status == 405
    assert answer.error["code"] == "method_not_allowed"
    assert set(answer.headers["allow"].split(", ")) == allowed


@pytest.mark.parametrize("path", ["/", "/v1/models", "/healthz", "/readyz"])
def test_head_is_get_without_a_body(gateway: Gateway, path: str) -> None:
    """RFC 9110, 9.3.2."""
    answer = gateway.call("HEAD", path)
    assert answer.status == 200
    assert answer.body == b""
    assert int(answer.headers["content-length"]) > 0


def test_head_of_a_path_that_only_takes_post(gateway: Gateway) -> None:
    """405, and no body even so."""
    answer = gateway.call("HEAD", "/v1/chat/completions")
    assert answer.status == 405
    assert answer.body == b""


def test_options_of_a_known_path(gateway: Gateway) -> None:
    """An open gateway tells the methods, and nothing about other origins."""
    answer = gateway.call("OPTIONS", "/v1/chat/completions", headers={"Origin": "http://localhost"})
    assert answer.status == 204
    assert answer.headers["allow"] == "POST, OPTIONS"
    assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_every_answer_has_a_request_id(gateway: Gateway) -> None:
    """Kept where it is sound, else made."""
    for path in ("/", "/healthz", "/v1/models", "/nothing"):
        assert (
            gateway.call("GET", path, headers={"x-request-id": "a-1"}).headers["x-request-id"]
            == "a-1"
        )
        assert gateway.call("GET", path).headers["x-request-id"].startswith("req_")
