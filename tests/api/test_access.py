"""Who gets in: web pages in a browser, and callers' keys.

`Page` does what a browser does for a script: fetch.spec.whatwg.org, "CORS protocol", 2026-11.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from proxy import create_app
from proxy.api.auth import Doorkeeper, LogIn
from proxy.config import Caller, load_config
from proxy.errors import InvalidKey, Refused
from proxy.gateway import Gateway
from tests.support.upstream import MODEL, Upstream, chat, error

CHAT = "/v1/chat/completions"
ASKED: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
KEY = "caller-key-0123456789"

# What a script may send and read anywhere without being asked about it (Fetch, 2.2.2).
SAFE_METHODS = {"GET", "HEAD", "POST"}
SAFE_TYPES = {"text/plain", "application/x-www-form-urlencoded", "multipart/form-data"}
SAFE_TO_READ = {"cache-control", "content-language", "content-length", "content-type"}


def served(upstream: Upstream, **settings: Any) -> FlaskClient:
    provider: dict[str, Any] = {"name": "up", "base-url": upstream.url, "max-concurrency": 0}
    provider |= {"api-keys": ["sk-1"], "models": [MODEL]}
    tree = {name.replace("_", "-"): value for name, value in settings.items()}
    return create_app({"openai-compatibility": [provider], **tree}).test_client()


def error_of(answer: TestResponse) -> dict[str, Any]:
    assert answer.mimetype == "application/json", answer.data
    found: dict[str, Any] = answer.get_json()["error"]
    return found


class BlockedByBrowser(Exception):
    """The script gets a TypeError, and no request but a preflight was sent."""


class Page:
    """A script of the page at `origin` calls a gateway, which `host` names in its URL."""

    def __init__(self, http: FlaskClient, origin: str, host: str = "127.0.0.1:8317") -> None:
        self._http = http
        self._origin = origin
        self._host = host
        self._is_same = urlsplit(origin).netloc == host
        self.may_read = False  # the last answer

    def fetch(self, method: str, path: str, body: str | None = None, **headers: str) -> Any:
        """The answer; what of its headers the script may read is in `readable`."""
        given = {name.replace("_", "-").lower(): value for name, value in headers.items()}
        if body is not None:
            given.setdefault("content-type", "text/plain;charset=UTF-8")
        sent = {**given, "Host": self._host}
        if not self._is_same or method not in ("GET", "HEAD"):
            sent["Origin"] = self._origin
        if not self._is_same:
            self._ask_first(method, path, given)
        answer = self._http.open(path, method=method, data=body, headers=sent)
        allowed = answer.headers.get("Access-Control-Allow-Origin")
        self.may_read = self._is_same or allowed in ("*", self._origin)
        return answer

    def readable(self, answer: TestResponse) -> set[str]:
        """The names of the headers that the script sees."""
        names = {name.lower() for name, _ in answer.headers}
        exposed = answer.headers.get("Access-Control-Expose-Headers", "").lower().split(", ")
        return names if "*" in exposed else names & (SAFE_TO_READ | set(exposed))

    def _ask_first(self, method: str, path: str, headers: dict[str, str]) -> None:
        unsafe = {
            name
            for name, value in headers.items()
            if name != "content-type" or value.partition(";")[0] not in SAFE_TYPES
        }
        if method in SAFE_METHODS and not unsafe:
            return
        asking = {"Access-Control-Request-Method": method, "Origin": self._origin}
        if unsafe:
            asking["Access-Control-Request-Headers"] = ",".join(sorted(unsafe))
        answer = self._http.options(path, headers={**asking, "Host": self._host})
        allowed = answer.headers.get("Access-Control-Allow-Headers", "").lower().split(",")
        methods = answer.headers.get("Access-Control-Allow-Methods", "").split(", ")
        if not (
            answer.status_code in range(200, 300)
            and answer.headers.get("Access-Control-Allow-Origin") in ("*", self._origin)
            and (method in methods or method in SAFE_METHODS)
            and unsafe <= {name.strip() for name in allowed}
        ):
            raise BlockedByBrowser


# Pages and an open gateway


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://evil.example:8317"])
def test_hostile_page_spends_nothing(upstream: Upstream, origin: str) -> None:
    """Neither by what needs no preflight nor by what does: no upstream hears of it."""
    page = Page(served(upstream), origin)
    for stream in (False, True):
        answer = page.fetch("POST", CHAT, json.dumps({**ASKED, "stream": stream}))
        assert (answer.status_code, page.may_read) == (403, False)
    assert page.fetch("POST", "/v1/completions", "{}").status_code == 403
    assert page.fetch("GET", "/v1/models").status_code == 403
    with pytest.raises(BlockedByBrowser):
        page.fetch("POST", CHAT, json.dumps(ASKED), content_type="application/json")
    assert upstream.received() == []


@pytest.mark.parametrize("host", ["evil.example:8317", "evil.example", "127.0.0.1.evil.example"])
def test_dns_rebinding_spends_nothing(upstream: Upstream, host: str) -> None:
    """The page's own name has come to mean 127.0.0.1: to the browser it is the same origin."""
    page = Page(served(upstream), f"http://{host}", host)
    for method, path in (("POST", CHAT), ("GET", "/v1/models"), ("GET", f"/v1/models/{MODEL}")):
        body = json.dumps(ASKED) if method == "POST" else None
        answer = page.fetch(method, path, body, content_type="application/json")
        assert error_of(answer)["code"] == "forbidden"
    assert upstream.received() == []


def test_page_of_this_machine_calls_it(upstream: Upstream) -> None:
    """Served by a program here, it may; it cannot read the answer from another port, though."""
    page = Page(served(upstream), "http://localhost:3000")
    assert page.fetch("POST", CHAT, json.dumps(ASKED)).status_code == 200
    assert not page.may_read
    page = Page(served(upstream), "http://localhost:8317", "localhost:8317")
    answer = page.fetch("POST", CHAT, json.dumps(ASKED), content_type="application/json")
    assert (answer.status_code, page.may_read) == (200, True)


OURS = [
    "localhost",
    "LOCALHOST:8317",
    "localhost.",
    "app.localhost:1",
    "127.0.0.1",
    "127.255.0.1:80",
    "127.0.0.1.",
    "[::1]",
    "[::1]:8317",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
]
NOT_OURS = [
    "",
    "evil.example",
    "localhost.evil.example",
    "evil-localhost",
    "127.0.0.1.evil.example:8317",
    "localhost@evil.example",
    "evil.example@localhost",
    "localhost:8317@evil.example",
    "localhost/@evil.example",
    "evil.example/localhost",
    "localhost#evil.example",
    "evil.example?.localhost",
    "localhost\\evil.example",
    "localhost:8317:8317",
    "localhost:x",
    "localhost,evil.example",
    "localhost evil.example",
    "localhost..",
    "localhost\n",
    "0.0.0.0",
    "0.0.0.0:8317",
    "128.0.0.1",
    "192.168.0.1",
    "[::]",
    "[::2]",
    "[fe80::1]",
    "[::ffff:10.0.0.1]",
    "[::1",
    "::1",
    "[localhost]",
    "[127.0.0.1]x",
    "xn--lcalhost-l6a",
    "l\xf6calhost",
    "127.1",
    "2130706433",
    "0x7f.0.0.1",
]


@pytest.mark.parametrize("host", OURS)
def test_names_of_this_machine(host: str) -> None:
    """As `Host` and in an `Origin` of any scheme, in any case, with any port."""
    door = Doorkeeper(Gateway(load_config({"demo": [{}]})))
    door.admit({"HTTP_HOST": host})
    for scheme in ("http", "https", "HTTP", "tauri"):
        door.admit({"HTTP_HOST": "localhost", "HTTP_ORIGIN": f"{scheme}://{host}"})


@pytest.mark.parametrize("host", NOT_OURS)
def test_names_that_are_not_this_machine(host: str) -> None:
    """Nor what only looks like one. Numbers that mean one are written out by browsers."""
    door = Doorkeeper(Gateway(load_config({"demo": [{}]})))
    with pytest.raises(Refused):
        door.admit({"HTTP_HOST": host})
    with pytest.raises(Refused):
        door.admit({"HTTP_HOST": "localhost", "HTTP_ORIGIN": f"http://{host}"})


NOT_OUR_ORIGINS = [
    "",
    "null",
    "localhost",
    "//localhost",
    "http:localhost",
    "http://localhost/",
    "http://localhost, null",
    "http://localhost http://evil.example",
    "file://",
    "chrome-extension://abc",
]


@pytest.mark.parametrize("origin", NOT_OUR_ORIGINS)
def test_origins_that_are_not_this_machine(origin: str) -> None:
    """`null` is a sandboxed frame's or a local file's: anybody's."""
    door = Doorkeeper(Gateway(load_config({"demo": [{}], "allow-unauthenticated": True})))
    with pytest.raises(Refused):
        door.admit({"HTTP_HOST": "localhost", "HTTP_ORIGIN": origin})


def open_to_all() -> Doorkeeper:
    return Doorkeeper(Gateway(load_config({"demo": [{}], "allow-unauthenticated": True})))


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("shop.example", "https://shop.example"),
        ("shop.example", "http://shop.example"),
        ("Shop.Example", "https://shop.example"),
        ("shop.example.", "https://shop.example"),
        ("shop.example", "https://shop.example."),
        ("shop.example:443", "https://shop.example"),
        ("shop.example:80", "http://shop.example"),
        ("shop.example", "https://shop.example:443"),
        ("shop.example:8443", "https://shop.example:8443"),
        ("10.0.0.1:8317", "http://10.0.0.1:8317"),
        ("[2001:db8::1]", "https://[2001:db8::1]"),
        ("[2001:DB8:0::1]:8317", "http://[2001:db8::1]:8317"),
        ("shop.example", "http://localhost:3000"),
    ],
)
def test_open_to_everybody_takes_pages_of_the_same_host(host: str, origin: str) -> None:
    """`allow-unauthenticated`: an embedding application's own, whatever its name. TLS may end in
    front, so that the scheme is not to be told."""
    open_to_all().admit({"HTTP_HOST": host})
    open_to_all().admit({"HTTP_HOST": host, "HTTP_ORIGIN": origin})


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("shop.example", "https://evil.example"),
        ("shop.example", "https://shop.example.evil.example"),
        ("shop.example", "https://a.shop.example"),
        ("a.shop.example", "https://shop.example"),
        ("shop.example", "https://shop.example:8443"),
        ("shop.example:8443", "https://shop.example"),
        ("shop.example:443", "http://shop.example"),
        ("shop.example", "app://shop.example"),
        ("shop.example", "https://me@shop.example"),
        ("shop.example", "https://shop.example/"),
        ("shop.example", "https://shop.example, https://evil.example"),
        ("shop.example, evil.example", "https://shop.example"),
        ("shop.example", "shop.example"),
        ("shop.example", "null"),
        ("null", "null"),
        ("", ""),
        ("", "https://"),
        ("[2001:db8::1]", "https://[2001:db8::2]"),
        ("127.0.0.1:8317", "https://shop.example"),
        (None, "https://shop.example"),
    ],
)
def test_open_to_everybody_takes_no_other_pages(host: str | None, origin: str) -> None:
    """Of other sites, other ports, frames without an origin; where a proxy put another name in
    `Host`, the answer says so."""
    environ = {"HTTP_ORIGIN": origin} | ({} if host is None else {"HTTP_HOST": host})
    with pytest.raises(Refused, match=r"`api-keys`.*keys.*`Host`"):
        open_to_all().admit(environ)


@pytest.mark.parametrize(
    "environ",
    [
        {"HTTP_HOST": "shop.example"},
        {"HTTP_HOST": "localhost", "HTTP_ORIGIN": "https://shop.example"},
        {"HTTP_HOST": "shop.example", "HTTP_ORIGIN": "https://shop.example"},
    ],
)
def test_refusal_names_the_ways_out(environ: dict[str, str]) -> None:
    """Keys, leave for everybody, or the log-in of an application."""
    ways = r"`api-keys`.*keys.*`allow-unauthenticated: true`.*`Proxy.authenticate`"
    with pytest.raises(Refused, match=ways):
        Doorkeeper(Gateway(load_config({"demo": [{}]}))).admit(environ)


def test_page_of_an_embedding_application_calls_it(upstream: Upstream) -> None:
    """From its own origin, by any name; a page of another site can't."""
    http = served(upstream, allow_unauthenticated=True)
    page = Page(http, "https://shop.example", "shop.example")
    answer = page.fetch("POST", CHAT, json.dumps(ASKED), content_type="application/json")
    assert (answer.status_code, page.may_read) == (200, True)
    other = Page(http, "https://evil.example", "shop.example")
    assert other.fetch("POST", CHAT, json.dumps(ASKED)).status_code == 403
    assert not other.may_read


# Operators

HERE = {"REMOTE_ADDR": "127.0.0.1", "HTTP_HOST": "localhost:8317"}


@pytest.mark.parametrize("setting", [{}, {"allow-unauthenticated": True}])
def test_operator_of_an_open_gateway_is_on_this_machine(setting: dict[str, Any]) -> None:
    """Whatever the gateway is open to: by a name of this machine, and not through a proxy."""
    door = Doorkeeper(Gateway(load_config({"demo": [{}], **setting})))
    for address in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"):
        door.admit_operator({**HERE, "REMOTE_ADDR": address})
    door.admit_operator({**HERE, "HTTP_ORIGIN": "http://127.0.0.1:8317"})
    for other in (
        {"REMOTE_ADDR": "10.0.0.1"},
        {"REMOTE_ADDR": ""},  # on a Unix socket there are proxies
        {"HTTP_HOST": "evil.example", "HTTP_ORIGIN": "http://evil.example"},
        {"HTTP_HOST": "evil.example"},
        {"HTTP_ORIGIN": "https://evil.example"},
        {"HTTP_ORIGIN": "null"},
        {"HTTP_X_FORWARDED_FOR": "127.0.0.1"},
        {"HTTP_X_FORWARDED_PROTO": "https"},
        {"HTTP_X_FORWARDED_HOST": "localhost"},
        {"HTTP_FORWARDED": "for=127.0.0.1"},
        {"HTTP_X_REAL_IP": "127.0.0.1"},
        {"HTTP_VIA": "1.1 proxy"},
    ):
        with pytest.raises(Refused):
            door.admit_operator({**HERE, **other})


def test_page_that_may_ask_models_is_no_operator() -> None:
    """`cors` of an open gateway lets a page ask models, and nothing else."""
    page = "https://app.example"
    door = Doorkeeper(Gateway(load_config({"demo": [{}], "cors": [page]})))
    door.admit({**HERE, "HTTP_ORIGIN": page})
    with pytest.raises(Refused):
        door.admit_operator({**HERE, "HTTP_ORIGIN": page})


def test_operator_has_a_key_for_it() -> None:
    """From anywhere. Being on this machine is not enough where there are keys."""
    keys = [{"name": "ops", "key": "operators-key-0123", "admin": True}, KEY]
    door = Doorkeeper(Gateway(load_config({"demo": [{}], "api-keys": keys})))
    asked = {"REMOTE_ADDR": "10.0.0.1", "HTTP_HOST": "llm.example", "HTTP_VIA": "1.1 proxy"}
    assert door.admit_operator({**asked, "HTTP_X_API_KEY": "operators-key-0123"}).name == "ops"
    with pytest.raises(Refused, match="admin: true"):
        door.admit_operator({**HERE, "HTTP_X_API_KEY": KEY})
    with pytest.raises(InvalidKey):
        door.admit_operator(HERE)


def test_operator_is_whom_the_application_says() -> None:
    """By its log-in alone: who is on this machine may be any of its users."""
    users: list[Caller | str] = [Caller("boss", admin=True), Caller("user"), "name"]
    door = Doorkeeper(Gateway(load_config({"demo": [{}]})), LogIn(lambda: users.pop(0)))
    assert door.admit_operator({"REMOTE_ADDR": "10.0.0.1"}).name == "boss"
    for _ in range(2):
        with pytest.raises(Refused):
            door.admit_operator(HERE)


def test_program_without_host_gets_in() -> None:
    """HTTP/1.0 has no `Host`; browsers always send one."""
    Doorkeeper(Gateway(load_config({"demo": [{}]}))).admit({})


# Pages and a gateway with keys


def test_page_with_a_key_gets_and_reads_everything(upstream: Upstream) -> None:
    """From any origin, by any name; preflights carry no key."""
    http = served(upstream, api_keys=[KEY])
    for origin in ("https://app.example", "null"):
        page = Page(http, origin, "ai.example")
        with_key = {
            "authorization": f"Bearer {KEY}",
            "x_stainless_os": "Linux",
            "x_request_id": "i",
        }
        for stream in (False, True):
            body = json.dumps({**ASKED, "stream": stream})
            answer = page.fetch("POST", CHAT, body, content_type="application/json", **with_key)
            assert (answer.status_code, page.may_read) == (200, True)
            assert {"x-request-id", "x-proxy-client", "x-proxy-attempts"} <= page.readable(answer)
        assert page.fetch("GET", "/v1/models", **with_key).status_code == 200
        assert page.may_read


def test_page_reads_whatever_a_caller_is_told(upstream: Upstream) -> None:
    """How its limits stand, the id in Anthropic's words, and what an upstream says besides."""
    http = served(upstream, api_keys=[{"name": "ci", "key": KEY, "rpm": 9}])
    upstream.reply("sk-1", chat("Hi").with_headers({"openai-processing-ms": "7"}))
    page = Page(http, "https://app.example")
    told = {"x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"}
    for path, more in ((CHAT, "openai-processing-ms"), ("/v1/messages", "request-id")):
        body = json.dumps({**ASKED, "max_tokens": 9})
        answer = page.fetch("POST", path, body, authorization=f"Bearer {KEY}")
        assert (answer.status_code, page.may_read) == (200, True)
        assert {more, *told} <= page.readable(answer)


def test_page_reads_errors_and_their_hints(upstream: Upstream) -> None:
    """Else its script could not tell a wrong key from a broken network, nor how long to wait."""
    page = Page(served(upstream, api_keys=[KEY]), "https://app.example")
    refused = page.fetch("POST", CHAT, "{}", authorization="Bearer wrong")
    assert (refused.status_code, page.may_read) == (401, True)
    assert page.fetch("GET", "/none").status_code == 404
    assert page.may_read
    upstream.reply("sk-1", error(429, headers={"Retry-After": "60"}))
    limited = page.fetch("POST", CHAT, json.dumps(ASKED), authorization=f"Bearer {KEY}")
    assert (limited.status_code, page.may_read) == (429, True)
    assert {"retry-after", "retry-after-ms", "x-should-retry"} <= page.readable(limited)


def test_preflight_says_no_more_than_asked(upstream: Upstream) -> None:
    """The requested headers are echoed as they came; without any there are none."""
    http = served(upstream, api_keys=[KEY])
    asking = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    plain = http.options(CHAT, headers=asking)
    assert plain.status_code == 204
    assert plain.headers["Access-Control-Allow-Methods"] == "POST, OPTIONS"
    assert "Access-Control-Allow-Headers" not in plain.headers
    wanted = "Authorization, X-Odd_1, content-type"
    echoed = http.options(CHAT, headers={**asking, "Access-Control-Request-Headers": wanted})
    assert echoed.headers["Access-Control-Allow-Headers"] == wanted
    assert "Access-Control-Allow-Credentials" not in echoed.headers


def test_no_cors_headers_without_an_origin_or_without_keys(upstream: Upstream) -> None:
    """They are for pages; an open gateway has none for anybody."""
    keyed, opened = served(upstream, api_keys=[KEY]), served(upstream)
    headers = {"Authorization": f"Bearer {KEY}"}
    local = {"Origin": "http://localhost:3000"}
    for answer in (
        keyed.get("/v1/models", headers=headers),
        opened.get("/v1/models", headers=local),
        opened.get("/none", headers=local),
        opened.options(CHAT, headers={**local, "Access-Control-Request-Headers": "x"}),
    ):
        assert not [name for name, _ in answer.headers if name.lower().startswith("access-")]


# Origins that are listed

LISTED = ["https://app.example", "http://localhost:3000"]


@pytest.mark.parametrize("keys", [[], [KEY]])
def test_listed_origins_may_read(upstream: Upstream, keys: list[str]) -> None:
    """And no others; of an open gateway they may be whatever they are called."""
    http = served(upstream, api_keys=keys, cors=LISTED)
    for origin in LISTED:
        page = Page(http, origin)
        for stream in (False, True):
            body = json.dumps({**ASKED, "stream": stream})
            answer = page.fetch(
                "POST", CHAT, body, content_type="application/json", authorization=f"Bearer {KEY}"
            )
            assert (answer.status_code, page.may_read) == (200, True)
            assert "x-request-id" in page.readable(answer)
            assert answer.headers["Vary"] == "Origin"
        if keys:
            assert page.fetch("GET", "/v1/models").status_code == 401
            assert page.may_read
    for origin in ("https://evil.example", "null", "https://app.example.evil.example"):
        page = Page(http, origin)
        with pytest.raises(BlockedByBrowser):
            page.fetch("POST", CHAT, json.dumps(ASKED), content_type="application/json")
        answer = page.fetch("POST", CHAT, json.dumps(ASKED))
        assert (answer.status_code, page.may_read) == (401 if keys else 403, False)


def test_listed_origins_are_no_names_of_ours(upstream: Upstream) -> None:
    """A page of one of them, whose own name has come to mean this machine, is refused."""
    answer = Page(served(upstream, cors=LISTED), "https://app.example", "app.example")
    assert answer.fetch("POST", CHAT, json.dumps(ASKED)).status_code == 403


@pytest.mark.parametrize("cors", ["off", []])
def test_no_page_may_read(upstream: Upstream, cors: Any) -> None:
    """Where a proxy in front has headers of its own."""
    http = served(upstream, api_keys=[KEY], cors=cors)
    headers = {"Origin": "https://app.example", "Access-Control-Request-Headers": "authorization"}
    for answer in (http.options(CHAT, headers=headers), http.get("/v1/models", headers=headers)):
        assert not [name for name, _ in answer.headers if name.lower().startswith("access-")]
    program = {"Origin": "https://app.example", "Authorization": f"Bearer {KEY}"}
    assert http.get("/v1/models", headers=program).status_code == 200


# Keys

HEADERS = ["HTTP_AUTHORIZATION", "HTTP_X_API_KEY", "HTTP_X_GOOG_API_KEY"]


@pytest.mark.parametrize(
    "wrong",
    [
        *("", " ", KEY[:-1], KEY + "0", KEY.upper(), f"{KEY} {KEY}", f"Bearer {KEY}"),
        # Bytes beyond ASCII, as WSGI spells them (PEP 3333); some look like spaces.
        *("\xff", "schl\xfcssel", KEY + "\xa0", "\x85" + KEY, KEY + "\xe2\x80\xa6"),
    ],
)
def test_wrong_keys(wrong: str) -> None:
    """Compared byte by byte, whatever they are; only HTTP's own white space around is left out."""
    door = Doorkeeper(Gateway(load_config({"demo": [{}], "api-keys": [KEY, "another-key"]})))
    for form in ("{}", " {}\t"):
        for name, value in zip(HEADERS, (f"Bearer {form}", form, form), strict=True):
            assert door.admit({name: value.format(KEY)}).key.reveal() == KEY
            with pytest.raises(InvalidKey):
                door.admit({name: value.format(wrong)})


def test_other_schemes_are_no_keys() -> None:
    """`Bearer` in any case (RFC 9110 section 11.1) is the one."""
    door = Doorkeeper(Gateway(load_config({"demo": [{}], "api-keys": [KEY]})))
    door.admit({"HTTP_AUTHORIZATION": f"bEARER   {KEY}"})
    for wrong in (KEY, f"Basic {KEY}", f"Bearer{KEY}", f"Bearer, {KEY}", "Bearer"):
        with pytest.raises(InvalidKey):
            door.admit({"HTTP_AUTHORIZATION": wrong, "HTTP_X_API_KEY": KEY})


@pytest.mark.parametrize("first", range(3))
def test_first_header_present_decides(first: int) -> None:
    """`Authorization`, then `x-api-key`, then `x-goog-api-key`; an empty one is present too."""
    door = Doorkeeper(Gateway(load_config({"demo": [{}], "api-keys": [KEY]})))
    form = {"HTTP_AUTHORIZATION": "Bearer {}"}
    values = {name: form.get(name, "{}").format(KEY) for name in HEADERS[first:]}
    door.admit({**values, **dict.fromkeys(HEADERS[first + 1 :], "wrong")})
    for wrong in ("wrong", "", KEY[:-1]):
        with pytest.raises(InvalidKey):
            door.admit({**values, HEADERS[first]: form.get(HEADERS[first], "{}").format(wrong)})


def test_key_in_the_query_is_none(upstream: Upstream) -> None:
    """It would end in logs."""
    http = served(upstream, api_keys=[KEY])
    for name in ("key", "api_key", "api-key", "access_token"):
        assert error_of(http.get(f"/v1/models?{name}={KEY}"))["code"] == "invalid_api_key"


def test_restricted_key_sees_and_uses_its_models_only(upstream: Upstream) -> None:
    """What it may not use does not exist for it: 404, in lists, by id and in requests."""
    upstream.default = chat("a")
    providers = [
        {"name": name, "base-url": upstream.url, "api-keys": [f"sk-{name}"], "models": [name]}
        for name in ("mine", "other")
    ]
    caller = {"name": "narrow", "key": KEY, "models": ["mine", "gone"]}
    app = create_app({"openai-compatibility": providers, "api-keys": [caller, "wide-key"]})
    http, headers = app.test_client(), {"x-api-key": KEY}
    listed = http.get("/v1/models", headers=headers).get_json()["data"]
    assert [model["id"] for model in listed] == ["mine"]
    for path in (CHAT, "/v1/completions"):
        for model in ("mine", "other", "gone", "never"):
            answer = http.post(path, json={**ASKED, "model": model, "prompt": "a"}, headers=headers)
            assert answer.status_code == (200 if model == "mine" else 404), (path, model)
    unknown = error_of(http.get("/v1/models/never", headers=headers))["message"]
    hidden = error_of(http.get("/v1/models/other", headers=headers))["message"]
    assert hidden.replace("other", "never") == unknown
    assert len(http.get("/v1/models", headers={"x-api-key": "wide-key"}).get_json()["data"]) == 2


def test_headers_are_named_for_old_browsers() -> None:
    """They do not know that `*` is all."""
    caller = create_app({"api-keys": ["caller-key-000001"], "demo": [{}]}).test_client()
    answer = caller.get("/healthz", headers={"Origin": "https://page.example"})
    assert answer.headers["Access-Control-Expose-Headers"] == (
        "*, x-request-id, x-proxy-client, x-proxy-attempts, x-proxy-model, "
        "retry-after, retry-after-ms, x-should-retry"
    )
