"""What a file means: defaults, variables, inheritance, clients, their labels and identities."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from proxy.config import Config, Model, Secret, Seen, is_loopback, json_schema, load_config, mask
from proxy.errors import ConfigError

SHIPPED = Path(__file__).parents[2] / "config.yaml"
KEYS = ["sk-0123456789-aaaa", "sk-0123456789-bbbb", "sk-9876543210-aaaa"]
URL = "http://127.0.0.1:1234/v1"


def load(text: str, tmp_path: Path, **environ: str) -> Config:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return load_config(path, environ=environ)


def provider(**fields: Any) -> dict[str, Any]:
    fields = {name.replace("_", "-"): value for name, value in fields.items()}
    return {"name": "p", "base-url": URL, **fields}


def test_shipped_file_needs_neither_key_nor_network() -> None:
    """The first command of the README gives a working endpoint: the demo alone."""
    config = load_config(SHIPPED, environ={})
    (demo,) = config.clients
    assert (demo.kind, demo.label, demo.models) == ("demo", "demo", (Model("demo", "demo"),))
    assert (demo.max_concurrency, demo.delay_s, demo.base_url) == (0, 0.02, "")
    assert config.providers_off == (
        ("openai", "no key in OPENAI_API_KEY"),
        ("gemini", "no key in GEMINI_API_KEY"),
        ("claude", "no key in ANTHROPIC_API_KEY"),
    )
    assert (config.warnings, config.listen_problems()) == ((), [])


def test_shipped_file_serves_the_providers_whose_keys_are_set() -> None:
    """Each with 16 requests at once, and the upstream's own list of models."""
    names = ("OPENAI_API_KEY", "GEMINI_API_KEY", "ANTHROPIC_API_KEY")
    config = load_config(SHIPPED, environ=dict(zip(names, KEYS, strict=True)) | {"PORT": "9000"})
    assert [
        (client.kind, client.base_url, client.max_concurrency, client.models)
        for client in config.clients[:3]
    ] == [
        ("openai", "https://api.openai.com/v1", 16, None),
        ("gemini", "https://generativelanguage.googleapis.com", 16, None),
        ("claude", "https://api.anthropic.com", 16, None),
    ]
    assert config.port == 9000
    assert config.providers_off == ()


def test_file_is_the_one_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`$PROXY_CONFIG`, else `./config.yaml`; a missing one says which variable may name another."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_config(environ={})
    assert caught.value.problems == (
        "config.yaml: cannot be read: No such file or directory "
        "($PROXY_CONFIG may name another file, and `poolproxy init` writes one)",
    )
    (tmp_path / "config.yaml").write_text("port: 1")
    (tmp_path / "other.yaml").write_text("port: 2")
    assert load_config(environ={}).port == 1
    assert load_config(environ={"PROXY_CONFIG": "other.yaml"}).port == 2
    assert load_config("config.yaml", environ={"PROXY_CONFIG": "other.yaml"}).path == "config.yaml"


def test_left_out_and_empty_settings_have_the_defaults_of_the_contract(tmp_path: Path) -> None:
    """A key with nothing after it, all of its value commented out, is a key left out."""
    empty = load("api-keys:\nstreaming:\nopenai-compatibility:\nport:\n", tmp_path)
    assert msgspec.structs.replace(empty, path="", files={}) == load_config({}, environ={})
    assert msgspec.to_builtins(msgspec.structs.replace(empty, path="", files={}, warnings=())) == {
        "path": "", "files": {}, "host": "127.0.0.1", "port": 8317, "debug": False,
        "allow-unauthenticated": False, "cors": ("auto",),
        "trusted-proxies": ("127.0.0.1", "::1"), "control-dir": "",
        "log-format": "text", "shutdown-delay": 0.0, "callers": (),
        "request-retry": 3, "max-cooldown": 1800.0,
        "max-retry-interval": 5.0, "request-timeout": 600.0,
        "connect-timeout": 10.0, "first-byte-timeout": 0.0, "idle-timeout": 300.0,
        "queue-timeout": 30.0, "max-requests-in-flight": 1024, "max-body-size": 33554432,
        "max-answer-size": 268435456, "max-event-size": 16777216, "request-log": False,
        "request-log-dir": "", "request-log-max-bytes": 1073741824, "request-log-days": 7.0,
        "usage": False, "usage-days": 400, "state-dir": "",
        "sticky": True, "fallbacks": {}, "status-page": None, "state": None,
        "quota-exceeded": {"switch-project": True, "switch-preview-model": True},
        "streaming": {"keepalive-seconds": 15.0, "commit-after-seconds": 45.0},
        "metrics": {"public": False},
        "clients": (), "providers-off": (), "warnings": (),
    }  # fmt: skip
    assert empty.warnings == ("no client is configured: no request can be served",)


@pytest.mark.parametrize(
    ("text", "environ", "port", "debug"),
    [
        ("port: ${PORT}\ndebug: ${DEBUG}", {"PORT": "0x10", "DEBUG": "on"}, 16, True),
        ("port: ${PORT:-7}\ndebug: ${DEBUG:-0}", {}, 7, False),
        ("port: '${PORT:-7}'\ndebug: ${DEBUG:-no}", {"PORT": " 9\n", "DEBUG": "1"}, 9, True),
        ("{port: ${PORT:-7}, debug: ${DEBUG:-}}", {"PORT": "", "DEBUG": ""}, 7, False),
        ("port: 4${TWO}\ndebug: ${DEBUG:-}", {"TWO": "2"}, 42, False),
        ("port: ${PORT:-}", {}, 8317, False),
    ],
)
def test_variable_is_read_as_the_type_that_is_wanted(
    text: str, environ: dict[str, str], port: int, debug: bool, tmp_path: Path
) -> None:
    """Numbers and booleans as YAML reads them; empty is left out; 1 and 0 are booleans too."""
    config = load(text, tmp_path, **environ)
    assert (config.port, config.debug) == (port, debug)


def test_variable_in_a_string_stays_text_and_adds_no_structure(tmp_path: Path) -> None:
    """A key of digits stays a string; `]`, `: ` or ` #` in a value mean nothing to YAML."""
    config = load(
        """
        api-keys: [${DIGITS}, ${YAML}, {key: ${C:-x],:#?}, name: "a ${D:-b, c: d}"}]
        openai-compatibility:
        - {name: '$${NAME} ${D:-x}', base-url: "http://localhost:${N:-80}/v1/", models: [${M:-a:1}]}
        """,
        tmp_path,
        DIGITS="0123",
        YAML="}],#{k:v}",
    )
    assert [(key.key.reveal(), key.name) for key in config.callers] == [
        ("0123", ""),
        ("}],#{k:v}", ""),
        ("x],:#?", "a b, c: d"),
    ]
    (client,) = config.clients
    assert (client.provider, client.base_url) == ("${NAME} x", "http://localhost:80/v1")
    assert client.models == (Model("a:1", "a:1"),)


def test_secret_in_a_file_is_filled_in(tmp_path: Path) -> None:
    """Of any kind of key, and of other settings; line ends behind it are none of it.

    Paths are seen from the configuration's directory. The configuration knows its files.
    """
    (tmp_path / "secrets").mkdir()
    for name, text in {
        "client": f"{KEYS[0]}\n",
        "caller": "caller-${HOME}-0123456789\r\n",
        "tenant": "a tenant's \xa0",
        "port": "9000",
        "empty": "\n",
    }.items():
        (tmp_path / "secrets" / name).write_bytes(text.encode())
    config = load(
        f"""
        port: ${{file:secrets/port}}
        api-keys: [${{file:secrets/caller}}]
        openai-compatibility:
        - name: p
          base-url: {URL}
          api-keys: ["${{file:{tmp_path}/secrets/client}}"]
          headers: {{X-Tenant: "is ${{file:secrets/tenant}} ${{file:-x}}"}}
        gemini-api-key: [${{file:secrets/empty}}]
        """,
        tmp_path,
        file="variable",
    )
    (client,) = config.clients
    assert client.key == Secret(KEYS[0])
    assert client.headers == {"X-Tenant": "is a tenant's \xa0 variable"}
    assert (config.callers[0].key.reveal(), config.port) == ("caller-${HOME}-0123456789", 9000)
    assert config.providers_off == (("gemini", "no key in file:secrets/empty"),)
    names = ["port", "caller", "tenant", "client", "empty"]
    paths = [tmp_path / "secrets" / name for name in names]
    assert list(config.files) == list(map(str, paths))
    assert config.secrets.mask("to a tenant's \xa0") == "to a t...'s \xa0"
    assert load_config({}, environ={}).files == {}


def test_secrets_file_may_be_below_a_variables_directory(tmp_path: Path) -> None:
    """As systemd gives its credentials; a variable that is not there is a name like any other."""
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "key").write_text("caller-0123456789\n")
    text = "api-keys: ['${file:$CREDENTIALS_DIRECTORY/key}']"
    config = load(text, tmp_path, CREDENTIALS_DIRECTORY=str(tmp_path / "given"))
    assert config.callers[0].key.reveal() == "caller-0123456789"
    with pytest.raises(ConfigError, match=r"\$CRED.*cannot be read"):
        load(text, tmp_path)


def test_built_in_default_knows_the_file_that_would_replace_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who watches the files of a configuration sees that one come."""
    monkeypatch.chdir(tmp_path)
    seen: Seen = {}
    load_config(or_built_in=True, environ={}, seen=seen)
    assert seen == {"config.yaml": None}


def test_key_overrides_provider_overrides_default() -> None:
    """Permits, weight, priority and proxy come from the nearest place that says something."""
    tree = {
        "proxy-url": "http://global:1",
        "openai-compatibility": [
            provider(
                max_concurrency=4,
                weight=2,
                priority=7,
                proxy_url="socks5h://provider:1",
                headers={"X-A": "1"},
                completions="native",
                responses="native",
                models=["m"],
                api_keys=[
                    KEYS[0],
                    {
                        "api-key": KEYS[1],
                        "max-concurrency": 0,
                        "weight": 9,
                        "priority": 0,
                        "proxy-url": "none",
                    },
                ],
                api_key_entries=[{"api-key": KEYS[2], "proxy-url": "http://key:1"}],
            ),
            {"name": "plain", "base-url": URL + "/"},
        ],
        "gemini-api-key": [{"api-key": KEYS[0], "proxy-url": "direct", "base-url": ""}],
        "claude-api-key": [{"api-key": KEYS[1], "weight": 3, "models": [{"name": "c"}]}, ""],
        "demo": [{"priority": -1}],
    }
    config = load_config(tree, environ={})
    assert [(c.max_concurrency, c.weight, c.proxy_url) for c in config.clients] == [
        (4, 2, "socks5h://provider:1"),
        (0, 9, ""),
        (4, 2, "http://key:1"),
        (1, 1, "http://global:1"),
        (1, 1, ""),
        (1, 3, "http://global:1"),
        (0, 1, ""),
    ]
    assert [client.priority for client in config.clients] == [7, 0, 7, 0, 0, 0, -1]
    first, plain, gemini = config.clients[0], config.clients[3], config.clients[4]
    assert first.headers == {"X-A": "1"}
    assert (first.completions, first.responses) == ("native", "native")
    assert (plain.completions, plain.responses) == ("chat", "chat")
    assert (plain.base_url, plain.key, plain.models) == (URL, Secret(""), None)
    assert gemini.base_url == "https://generativelanguage.googleapis.com"
    assert config.clients[5].models == (Model("c", "c"),)


@pytest.mark.parametrize("more", [{}, {"responses": "chat"}, {"responses": "native"}])
@pytest.mark.parametrize("host", ["api.openai.com", "api.openai.com.evil.example", "openrouter.ai"])
def test_openais_own_api_has_responses_without_a_word(host: str, more: dict[str, str]) -> None:
    """What the file says counts everywhere."""
    tree = {"openai-compatibility": [{"name": "p", "base-url": f"https://{host}/v1", **more}]}
    (client,) = load_config(tree, environ={}).clients
    default = "native" if host == "api.openai.com" else "chat"
    assert client.responses == more.get("responses", default)


def test_label_tells_clients_apart_without_their_keys() -> None:
    """Provider and masked key, in ASCII; a number where two masks are the same."""
    tree = {
        "openai-compatibility": [
            provider(api_keys=[*KEYS, "sk-aaaaaaaaaa-aaaa", "short", "shirt"]),
            provider(name="ollama"),
            provider(name="p/sk-...aaaa#2"),
            provider(name="Zoë"),
        ],
        "demo": [{"name": "ollama2"}],
    }
    config = load_config(tree, environ={})
    assert [client.label for client in config.clients] == [
        "p/sk-...aaaa",
        "p/sk-...bbbb",
        "p/sk-...aaaa#2",
        "p/sk-...aaaa#3",
        "p/...",
        "p/...#2",
        "ollama",
        "p/sk-...aaaa#2#2",
        r"Zo\xeb",
        "ollama2",
    ]
    assert not any(key in repr(config) for key in KEYS)


def identities(*providers: dict[str, Any], **tree: Any) -> list[str]:
    tree = {name.replace("_", "-"): value for name, value in tree.items()}
    config = load_config({"openai-compatibility": list(providers), **tree}, environ={})
    return [client.identity for client in config.clients]


def test_identity_outlives_changes_of_all_but_kind_url_and_key() -> None:
    """A client is the same in another configuration whatever else changed there."""
    before = identities(provider(api_keys=KEYS[:2]), provider(name="q"), demo=[{"name": "demo"}])
    after = identities(
        provider(name="q", base_url="http://127.0.0.1:1234/v1/", weight=7),
        provider(
            name="renamed", max_concurrency=3, headers={"x-a": "b"}, api_keys=[KEYS[1], KEYS[0]]
        ),
        demo=[{"name": "demo", "delay-ms": 5}],
    )
    assert after == [before[2], before[1], before[0], before[3]]
    assert identities(provider(base_url="https://a.example/v1")) == identities(
        provider(base_url="https://A.example:443/v1")
    )


def test_identity_is_another_for_another_kind_url_or_key() -> None:
    """Of a demo provider: for another name."""
    found = [
        *identities(
            provider(api_keys=[KEYS[0]]),
            provider(name="q", base_url="http://127.0.0.1:1235/v1", api_keys=KEYS[:2]),
            provider(name="r"),
            claude_api_key=[{"api-key": KEYS[0]}],
            demo=[{"name": "demo"}, {"name": "another"}],
        ),
        *identities(claude_api_key=[{"api-key": KEYS[0], "base-url": URL}]),
    ]
    assert len(set(found)) == len(found) == 8
    assert not any(key[-4:] in one for one in found for key in KEYS)


def test_identity_counts_what_is_the_same() -> None:
    """Two providers without a key at one URL are two clients."""
    first, second = identities(provider(name="q"), provider(name="r"))
    assert (first, f"{first}#2") == (*identities(provider()), second)


@pytest.mark.parametrize(
    ("key", "masked"),
    [("", ""), ("elevenchars", "..."), ("twelve-chars", "twe...hars"), (KEYS[0], "sk-...aaaa")],
)
def test_mask_shows_the_ends_of_a_long_key_only(key: str, masked: str) -> None:
    """Three characters and four, from twelve on."""
    assert mask(key) == masked


def test_provider_is_off_when_it_has_no_key_left() -> None:
    """Empty keys are left out; none left: off, with the reason; no list at all: no key needed."""
    tree = {
        "openai-compatibility": [
            provider(name="left", api_keys=["${A:-}", KEYS[0], {"weight": 2}]),
            provider(name="off", api_keys=["${A:-}", {"api-key": "${B}"}]),
            provider(name="blank", api_keys=["", " "]),
            provider(name="disabled", disabled=True),
            provider(name="keyless", api_keys=[]),
        ],
    }
    config = load_config(tree, environ={"B": " \n"})
    assert [client.provider for client in config.clients] == ["left", "keyless"]
    assert config.providers_off == (
        ("off", "no key in A, B"),
        ("blank", "no key"),
        ("disabled", "disabled: true"),
    )


def test_callers_have_names_models_and_limits() -> None:
    """A caller's key is a string, or a mapping that says more."""
    limits = {"max-concurrency": 3, "rpm": 60, "tpm": 9000}
    limits |= {"requests-per-day": 500, "tokens-per-day": 70000}
    entry = {"name": "ci", "key": "k2\n", "models": ["a", "b"], "admin": True, **limits}
    callers = load_config({"api-keys": ["k1", entry]}, environ={}).callers
    assert [(one.name, one.models, one.key, one.admin, one.limits()) for one in callers] == [
        ("", None, Secret("k1"), False, ""),
        (
            "ci",
            ("a", "b"),
            Secret("k2"),
            True,
            "max-concurrency 3, rpm 60, tpm 9000, "
            "requests-per-day 500 in all, tokens-per-day 70000 in all",
        ),
    ]
    one = callers[1]
    assert (one.rpm, one.tpm, one.max_concurrency) == (60, 9000, 3)
    assert (one.requests_per_day, one.tokens_per_day) == (500, 70000)


def test_ca_bundle_is_found_from_where_the_file_is(tmp_path: Path) -> None:
    """Relative to the file, not to the working directory."""
    (tmp_path / "ca.pem").touch()
    text = f"claude-api-key: [{{api-key: {KEYS[0]}, ca-bundle: ca.pem}}]"
    (client,) = load(text, tmp_path).clients
    assert client.ca_bundle == str(tmp_path / "ca.pem")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True), ("127.9.9.9", True), ("localhost", True), ("::1", True),
        ("[::1]", True), ("::ffff:127.0.0.1", True), ("0.0.0.0", False), ("", False),
        ("::", False), ("::ffff:10.0.0.1", False), ("10.0.0.1", False), ("example.org", False),
    ],
)  # fmt: skip
def test_open_proxy_listens_on_loopback_only(host: str, loopback: bool) -> None:
    """Without callers' keys, anything wider needs an explicit word."""
    config = load_config({"host": host}, environ={})
    assert is_loopback(config.host) is loopback
    assert [line[:14] for line in config.listen_problems()] == ["config: host: "] * (not loopback)
    for more in ({"api-keys": ["k"]}, {"allow-unauthenticated": True}):
        assert load_config({"host": host, **more}, environ={}).listen_problems() == []


def test_schema_is_plain_json_and_knows_every_key_of_the_shipped_file() -> None:
    """Editors check with it what the program checks: names in kebab-case, references allowed."""
    schema = json_schema()
    assert json.loads(json.dumps(schema)) == schema
    properties = schema["$defs"]["File"]["properties"]
    assert set(yaml.safe_load(SHIPPED.read_text())) <= set(properties)
    assert properties["port"]["anyOf"] == [
        {"type": "integer", "minimum": 0, "maximum": 65535},
        {"type": "string", "pattern": r"\$\{"},
    ]
    assert schema["$defs"]["KeyEntry"]["anyOf"][0] == {"type": "string"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("auto", ["auto"]),
        ("off", ["off"]),  # to YAML it is false
        ("'off'", ["off"]),
        ("https://app.example", ["https://app.example"]),
        ("[]", []),
        (
            "[http://10.0.0.1:3000, 'http://[::1]:3000']",
            ["http://10.0.0.1:3000", "http://[::1]:3000"],
        ),
        ("[app://obsidian.md, tauri://localhost]", ["app://obsidian.md", "tauri://localhost"]),
    ],
)
def test_cors_is_a_word_or_origins(tmp_path: Path, text: str, found: list[str]) -> None:
    """As browsers send them."""
    path = tmp_path / "config.yaml"
    path.write_text(f"cors: {text}\n")
    assert list(load_config(path).cors) == found


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            "on",
            "*",
            "null",
            "app.example",
            "https://",
            "https://app.example/",
            "https://*.example",
        ),
        *("https://App.example", "https://app.example:443", "http://app.example:80"),
        *("https://me@app.example", "https://app.example?", True, 7, {}, [["auto"]]),
    ],
)
def test_cors_is_nothing_else(wrong: Any) -> None:
    """What no browser sends would match nothing, and nobody would know why."""
    for value in (wrong, [wrong]):
        with pytest.raises(ConfigError, match=r"cors.*expected (an origin|auto, off, or)"):
            load_config({"cors": value}, environ={})


def test_fallbacks_are_models_that_somebody_may_have() -> None:
    """Of a provider that is off too, and any name where an upstream has a list of its own."""
    off = provider(api_keys=[""], models=[{"name": "m", "alias": "a"}])
    tree = {"demo": [{}], "openai-compatibility": [off], "fallbacks": {"a": ["demo"]}}
    assert load_config(tree, environ={}).fallbacks == {"a": ("demo",)}
    own_list = {"openai-compatibility": [provider()], "fallbacks": {"any": ["other"]}}
    assert load_config(own_list, environ={}).fallbacks == {"any": ("other",)}


@pytest.mark.parametrize("more", [{}, {"disabled": True}, {"ask-usage": True}])
def test_tokens_that_nobody_tells_are_warned_of(more: dict[str, Any]) -> None:
    """A limit on tokens would count no streams of such a provider."""
    silent = {"name": "local", "base-url": "http://l.test", "ask-usage": False, **more}
    caller = {"key": "caller-0123456789-dddd", "tpm": 100}
    tree = {"api-keys": [caller], "openai-compatibility": [silent], "demo": [{}]}
    warnings = load_config(tree, environ={}).warnings
    text = "api-keys[0]: limits of tokens: streams of local do not count, "
    text += "as ask-usage is false there"
    assert warnings == (() if more else (text,))
    tree["api-keys"] = [{**caller, "tpm": 0, "rpm": 5}]
    assert load_config(tree, environ={}).warnings == ()
    tree["api-keys"] = [{**caller, "tpm": 0, "tokens-per-day": 5, "name": "ci"}]
    assert load_config(tree, environ={}).warnings == (() if more else (text,))
