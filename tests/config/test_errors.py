"""What is wrong with a configuration is said all at once, with its path, and without any key."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from proxy.config import json_schema, load_config
from proxy.errors import ConfigError

KEY = "sk-or-v1-0123456789b780"
HASH = f"sha256:{hashlib.sha256(KEY.encode()).hexdigest()}"
URL = "https://openrouter.ai/api/v1"


def provider(**fields: Any) -> dict[str, Any]:
    """One OpenAI-compatible provider in a file of its own; `_` stands for `-`."""
    fields = {name.replace("_", "-"): value for name, value in fields.items()}
    return {"openai-compatibility": [{"name": "p", "base-url": URL, **fields}]}


def problems(tree: dict[str, Any], **environ: str) -> list[str]:
    """Every problem with `tree`, without the prefix that each line must have."""
    with pytest.raises(ConfigError) as caught:
        load_config(tree, environ=environ)
    assert str(caught.value) == "\n".join(caught.value.problems)
    assert all(problem.startswith("config: ") for problem in caught.value.problems)
    return [problem.removeprefix("config: ") for problem in caught.value.problems]


AT = "openai-compatibility[0]"
INTEGER = "a whole number from 0 to 65535"
PROXY = "an http, https, socks5 or socks5h URL, or direct"
CALLER = "a key of visible ASCII characters, not empty, or sha256: and 64 hex digits"

ONE_PROBLEM = [
    # Types and ranges
    ({"port": "8317"}, f"port: expected {INTEGER}, got '8317'"),
    ({"port": 65_536}, f"port: expected {INTEGER}, got 65536"),
    ({"port": -1}, f"port: expected {INTEGER}, got -1"),
    ({"port": True}, f"port: expected {INTEGER}, got true"),
    ({"port": 1.5}, f"port: expected {INTEGER}, got 1.5"),
    ({"port": 1 << 20_000}, f"port: expected {INTEGER}, got a huge number"),
    ({"port": []}, f"port: expected {INTEGER}, got a list"),
    ({"port": b"1"}, f"port: expected {INTEGER}, got a bytes"),
    ({"debug": "yes"}, "debug: expected true or false, got 'yes'"),
    ({"debug": 1}, "debug: expected true or false, got 1"),
    ({"host": 1}, "host: expected a host name or IP address, got 1: put it in quotes"),
    ({"host": "http://a"}, "host: expected a host name or IP address, got 'http://a'"),
    ({"host": "127.0.0.1:80"}, "host: expected a host name or IP address, got '127.0.0.1:80'"),
    ({"host": "[::1"}, "host: expected a host name or IP address, got '[::1'"),
    ({"host": "::1]"}, "host: expected a host name or IP address, got '::1]'"),
    (
        {"request-timeout": 0},
        "request-timeout: expected a number above 0 and up to 86400, got 0",
    ),
    (
        {"queue-timeout": float("inf")},
        "queue-timeout: expected a number from 0 to 86400, got inf",
    ),
    (
        {"queue-timeout": float("nan")},
        "queue-timeout: expected a number from 0 to 86400, got nan",
    ),
    ({"max-body-size": 0}, "max-body-size: expected a whole number, 1 or more, got 0"),
    ({"streaming": 5}, "streaming: expected a mapping, got a number"),
    (
        {"streaming": {"keepalive-seconds": -1}},
        "streaming.keepalive-seconds: expected a number from 0 to 86400, got -1",
    ),
    (provider(weight=1001), f"{AT}.weight: expected a whole number from 1 to 1000, got 1001"),
    (provider(weight=0), f"{AT}.weight: expected a whole number from 1 to 1000, got 0"),
    (
        provider(api_keys=[{"api-key": KEY, "weight": 0}]),
        f"{AT}.api-keys[0].weight: expected a whole number from 1 to 1000, got 0",
    ),
    (provider(completions="text"), f"{AT}.completions: expected chat or native, got 'text'"),
    (provider(headers=[]), f"{AT}.headers: expected a mapping, got a list"),
    (provider(api_keys=KEY), f"{AT}.api-keys: expected a list, got a string"),
    (provider(api_keys=[None]), f"{AT}.api-keys[0]: expected a string or a mapping, got nothing"),
    (
        provider(models=[]),
        f"{AT}.models: expected at least one entry; to mean all, leave the key out",
    ),
    ({"demo": [3]}, "demo[0]: expected a mapping, got a number"),
    # Fallbacks
    ({"fallbacks": ["a"]}, "fallbacks: expected a mapping, got a list"),
    (
        {"demo": [{}], "fallbacks": {"demo": "demo"}},
        "fallbacks.demo: expected a list, got a string",
    ),
    (
        {"demo": [{}], "fallbacks": {"demo": [""]}},
        "fallbacks.demo[0]: expected a model's name, got ''",
    ),
    ({"demo": [{}], "fallbacks": {"x": ["demo"]}}, "fallbacks.x: no provider has a model 'x'"),
    (
        {"demo": [{}], "fallbacks": {"demo": ["demo", "dmo"]}},
        "fallbacks.demo[1]: no provider has a model 'dmo'",
    ),
    # Missing and unknown
    ({"openai-compatibility": [{"name": "p"}]}, f"{AT}.base-url: missing: expected an http(s) URL"),
    (
        {"openai-compatibility": [{"base-url": URL}]},
        f"{AT}.name: missing: expected a name of 1 to 64 characters",
    ),
    ({"api-keys": [{"name": "n"}]}, f"api-keys[0].key: missing: expected {CALLER}"),
    ({"hots": "::1"}, "hots: unknown key; did you mean host?"),
    ({"Max_Cooldown": 5}, "Max_Cooldown: unknown key; did you mean max-cooldown?"),
    ({"zzzzzzz": 5}, "zzzzzzz: unknown key"),
    ({7: 5}, "7: unknown key"),
    ({"a b\n": 5}, "'a b\\n': unknown key"),
    (provider(base_ur=1), f"{AT}.base-ur: unknown key; did you mean base-url?"),
    # Texts
    (
        provider(base_url="openrouter.ai"),
        f"{AT}.base-url: expected an http(s) URL, got 'openrouter.ai'",
    ),
    (provider(base_url=""), f"{AT}.base-url: expected an http(s) URL, got ''"),
    (provider(name=""), f"{AT}.name: expected a name of 1 to 64 characters, got ''"),
    (provider(name="a\nb"), f"{AT}.name: expected a name of 1 to 64 characters, got 'a\\nb'"),
    (
        provider(name="n" * 70),
        f"{AT}.name: expected a name of 1 to 64 characters, got '{'n' * 60}…'",
    ),
    (
        {"state": "http://p"},
        "state: expected a redis, rediss, unix or redis+sentinel URL, got a string",
    ),
    (
        {"state": {"url": "redis+sentinel://h/x"}},
        "state.url: expected a redis, rediss, unix or redis+sentinel URL, got a string",
    ),
    (
        {"state": {"name": "x"}},
        "state.url: missing: expected a redis, rediss, unix or redis+sentinel URL",
    ),
    (
        {"state": "unix:"},
        "state: expected a redis, rediss, unix or redis+sentinel URL, got a string",
    ),
    ({"proxy-url": "ftp://p"}, f"proxy-url: expected {PROXY}, got 'ftp://p'"),
    ({"proxy-url": "$${x}"}, f"proxy-url: expected {PROXY}, got '$${{x}}'"),
    ({"proxy-url": "u:secret@p:1"}, f"proxy-url: expected {PROXY}, got '…@p:1'"),
    (
        provider(headers={"X Y": "1"}),
        f"{AT}.headers.'X Y': expected a header name, got 'X Y'",
    ),
    (
        provider(headers={"Content-Length": "1"}),
        f"{AT}.headers.Content-Length: expected a header name, got 'Content-Length'",
    ),
    (
        provider(headers={"X-Y": "geheim\r\n"}),
        f"{AT}.headers.X-Y: expected a header value, got a string",
    ),
    (
        provider(headers={"X-Y": 1}),
        f"{AT}.headers.X-Y: expected a header value, got a number: put it in quotes",
    ),
    (provider(models=[{"name": " m"}]), f"{AT}.models[0].name: expected a model's name, got ' m'"),
    # Keys
    (
        provider(api_keys=["two words"]),
        f"{AT}.api-keys[0]: expected a key of visible ASCII characters, got a string",
    ),
    (
        provider(api_keys=[123456]),
        f"{AT}.api-keys[0]: expected a string or a mapping, got a number",
    ),
    (
        provider(api_keys=[{"api-key": 123456}]),
        f"{AT}.api-keys[0].api-key: expected a key of visible ASCII characters, "
        "got a number: put it in quotes",
    ),
    (
        {"api-keys": [{"key": "k", "models": [None]}]},
        "api-keys[0].models[0]: expected a model's name, got nothing",
    ),
    ({"api-keys": [""]}, f"api-keys[0]: expected {CALLER}, got ''"),
    ({"api-keys": [" "]}, f"api-keys[0]: expected {CALLER}, got a string"),
    ({"api-keys": ["sha256:0123"]}, f"api-keys[0]: expected {CALLER}, got a string"),
    ({"api-keys": [f"sha256:{'g' * 64}"]}, f"api-keys[0]: expected {CALLER}, got a string"),
    ({"api-keys": [f"sha256:{'a' * 64} -"]}, f"api-keys[0]: expected {CALLER}, got a string"),
    ({"api-keys": [{"key": ""}]}, f"api-keys[0].key: expected {CALLER}, got ''"),
    # What stands twice
    (
        provider(api_keys=[KEY, {"api-key": f" {KEY}"}]),
        f"{AT}.api-keys[1]: the same key at the same base-url as in {AT}.api-keys[0]",
    ),
    (
        {
            "openai-compatibility": [
                {"name": "a", "base-url": URL, "api-keys": [KEY]},
                {"name": "b", "base-url": "https://OpenRouter.ai/api/v1/", "api-keys": [KEY]},
            ]
        },
        f"openai-compatibility[1].api-keys[0]: the same key at the same base-url as in "
        f"{AT}.api-keys[0]",
    ),
    (
        {
            "openai-compatibility": [
                {"name": "a", "base-url": "http://h/v1", "api-keys": [KEY]},
                {"name": "b", "base-url": "http://H:80/v1", "api-keys": [KEY]},
            ]
        },
        f"openai-compatibility[1].api-keys[0]: the same key at the same base-url as in "
        f"{AT}.api-keys[0]",
    ),
    (
        {"gemini-api-key": [KEY], "generative-language-api-key": [KEY]},
        "generative-language-api-key[0]: the same key at the same base-url as in gemini-api-key[0]",
    ),
    ({"demo": [{}, {}]}, "demo[1].name: the same as demo[0].name"),
    ({**provider(), "demo": [{"name": "p"}]}, f"demo[0].name: the same as {AT}.name"),
    (
        provider(models=["m", {"name": "n", "alias": "m"}]),
        f"{AT}.models[1]: the same alias as {AT}.models[0]: "
        "give it one of its own, which `fallbacks` may name",
    ),
    ({"api-keys": [KEY, KEY]}, "api-keys[1]: the same key as api-keys[0]"),
    ({"api-keys": [KEY, HASH]}, "api-keys[1]: the same key as api-keys[0]"),
    ({"api-keys": [HASH, HASH[:7] + HASH[7:].upper()]}, "api-keys[1]: the same key as api-keys[0]"),
    (
        {"api-keys": [{"key": "a", "name": "n"}, {"key": "b", "name": "n"}]},
        "api-keys[1].name: the same as api-keys[0].name",
    ),
    (
        {"api-keys": [{"key": "a", "tokens-per-day": 5}]},
        "api-keys[0]: limits per day need a name, by which usage is kept",
    ),
    # Files
    (provider(ca_bundle=5), f"{AT}.ca-bundle: expected a string, got 5: put it in quotes"),
    (provider(ca_bundle="/nowhere.pem"), f"{AT}.ca-bundle: no readable file at '/nowhere.pem'"),
    (provider(ca_bundle="/a\0b"), f"{AT}.ca-bundle: no readable file at '/a\\x00b'"),
    # Keys of callers in the place where early releases of CLIProxyAPI had them
    (
        {"auth": {"providers": [{"api-keys": [KEY]}]}},
        "auth: callers' keys are read from api-keys: move them there",
    ),
]


@pytest.mark.parametrize(("tree", "problem"), ONE_PROBLEM)
def test_problem_is_named_with_its_path_and_what_was_expected(
    tree: dict[str, Any], problem: str
) -> None:
    """One thing is wrong: one line says where, what was expected and what was there."""
    assert problems(tree) == [problem]


BOUNDS: list[tuple[str, float, float | None]] = [
    ("port", 0, 65_535),
    ("request-retry", 0, 100),
    ("shutdown-delay", 0, 86_400),
    ("max-cooldown", 0, 86_400),
    ("max-retry-interval", 0, 86_400),
    ("request-timeout", 0.001, 86_400),
    ("connect-timeout", 0.001, 86_400),
    ("first-byte-timeout", 0, 86_400),
    ("idle-timeout", 0.001, 86_400),
    ("queue-timeout", 0, 86_400),
    ("max-requests-in-flight", 1, None),
    ("max-body-size", 1, None),
    ("max-answer-size", 1, None),
    ("max-event-size", 1, None),
    ("request-log-max-bytes", 1, None),
    ("request-log-days", 0.001, 36_500),
    ("usage-days", 1, 36_500),
    ("streaming.keepalive-seconds", 0, 86_400),
    ("streaming.commit-after-seconds", 0, 86_400),
    ("api-keys.max-concurrency", 0, None),
    ("api-keys.rpm", 0, None),
    ("api-keys.tpm", 0, None),
    ("api-keys.requests-per-day", 0, None),
    ("api-keys.tokens-per-day", 0, None),
    ("openai-compatibility.max-concurrency", 0, None),
    ("openai-compatibility.weight", 1, 1000),
    ("openai-compatibility.priority", -1000, 1000),
    ("gemini-api-key.weight", 1, 1000),
    ("claude-api-key.max-concurrency", 0, None),
    ("demo.weight", 1, 1000),
    ("demo.delay-ms", 0, 60_000),
]
LARGE = 2**62


@pytest.mark.parametrize(("name", "least", "most"), BOUNDS)
def test_bounds_of_settings_hold_on_both_sides(name: str, least: float, most: float | None) -> None:
    """The least and the greatest value are taken, the next ones are not."""
    for value in (least, LARGE if most is None else most):
        load_config(with_setting(name, value), environ={})
    beyond = (least - 1, 0 if least == 0.001 else None, None if most is None else most + 1)
    for outside in beyond:
        if outside is not None:
            (problem,) = problems(with_setting(name, outside))
            assert "expected a" in problem


def with_setting(name: str, value: float) -> dict[str, Any]:
    """A file in which a setting of that name has this value."""
    section, _, field = name.rpartition(".")
    if not section:
        return {field: value}
    if section == "streaming":
        return {section: {field: value}}
    entries: dict[str, dict[str, Any]] = {
        "api-keys": {"key": "caller-key", "name": "ci"},
        "openai-compatibility": {"name": "p", "base-url": URL},
        "gemini-api-key": {"api-key": KEY},
        "claude-api-key": {"api-key": KEY},
        "demo": {"name": "demo"},
    }
    return {section: [{**entries[section], field: value}]}


def test_bounds_of_all_settings_are_tried() -> None:
    """A number that is added to the file comes into the table above."""
    tried = {name.rpartition(".")[2] for name, _, _ in BOUNDS}
    numbers = set()
    made = json_schema()["$defs"].values()
    for shape in [each for one in made for each in (one, *one.get("anyOf", ()))]:
        for name, field in shape.get("properties", {}).items():
            kinds = {one.get("type") for one in [field, *field.get("anyOf", ())]}
            if kinds & {"integer", "number"}:
                numbers.add(name)
    assert numbers == tried


def test_all_problems_come_at_once() -> None:
    """A user mends the file once, not once per problem; keys that stand twice are found too."""
    tree = {
        "port": "x",
        "bebug": True,
        **provider(base_url="x", weight=0, models=[{"alias": "a"}, 5], api_keys=[{"weight": "x"}]),
        "api-keys": [KEY, KEY, ""],
    }
    assert [problem.split(": ")[0] for problem in problems(tree)] == [
        "bebug",
        "port",
        "api-keys[2]",
        f"{AT}.weight",
        f"{AT}.models[0].name",
        f"{AT}.models[1]",
        f"{AT}.base-url",
        f"{AT}.api-keys[0].weight",
        "api-keys[1]",
    ]


@pytest.mark.parametrize(
    "url",
    ["http://", "//host", "ftp://h", "http://h:0", "http://h:99999", "http://h:x", "http://[::1",
     "http://h/?q", "http://h/#f", "http://u:p@h", "http://a b", "http://h/ü", "http://h/\n"],
)  # fmt: skip
def test_base_url_must_be_one_that_paths_can_be_appended_to(url: str) -> None:
    """Absolute http(s) with a host; neither user nor query nor fragment."""
    (problem,) = problems(provider(base_url=url))
    assert problem.startswith(f"{AT}.base-url: expected an http(s) URL, got ")


def test_unset_variable_is_a_problem_that_says_how_to_make_it_optional() -> None:
    """`${NAME}` without default needs the variable; `${` needs a name."""
    tree = {"host": "${HOST}", "port": "${PORT}", "proxy-url": "${A:-${B}}"}
    assert problems(tree) == [
        "host: HOST is not set in the environment (${HOST:-} may be empty)",
        "port: PORT is not set in the environment (${PORT:-} may be empty)",
        "proxy-url: expected ${NAME}, ${NAME:-default} or ${file:PATH} ($${ for a literal ${)",
        "proxy-url: B is not set in the environment (${B:-} may be empty)",
    ]


def test_file_that_cannot_be_filled_in_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its place, with its path; what is in it is not shown."""
    monkeypatch.chdir(tmp_path)
    for name, data in {"large": b"x" * 70_000, "bytes": b"\xff", "word": b"geheim"}.items():
        (tmp_path / name).write_bytes(data)
    names = ["none", ".", "large", "bytes", "nul\0"]
    tree: dict[str, Any] = {"api-keys": [f"${{file:{name}}}" for name in names]}
    tree |= {"port": "${file:word}", "host": "${file:}"}
    assert problems(tree) == [
        "host: expected ${NAME}, ${NAME:-default} or ${file:PATH} ($${ for a literal ${)",
        f"port: expected {INTEGER}, got the value of ${{file:word}}",
        "api-keys[0]: the file 'none' cannot be read: No such file or directory",
        "api-keys[1]: the file '.' cannot be read: Is a directory",
        "api-keys[2]: the file 'large' cannot be read: it has more than 65536 bytes",
        "api-keys[3]: the file 'bytes' cannot be read: expected UTF-8",
        "api-keys[4]: the file 'nul\\x00' cannot be read: embedded null byte",
    ]


def test_value_from_the_environment_is_never_shown() -> None:
    """It may be a secret that was put into the wrong variable."""
    tree = {"port": "${PORT}", "proxy-url": "${A}${B}", "api-keys": ["${CALLER:-}"]}
    assert problems(tree, PORT="geheim", A="very", B="secret") == [
        f"port: expected {INTEGER}, got the value of ${{PORT}}",
        f"api-keys[0]: expected {CALLER}, got the value of ${{CALLER}}",
        f"proxy-url: expected {PROXY}, got the value of ${{A}} and ${{B}}",
    ]


@pytest.mark.parametrize(
    "tree",
    [
        {"host": f"{KEY}/"},
        {"proxy-url": KEY},
        {KEY: 1},
        {"demo": [{KEY: KEY}]},
        provider(base_url=f"https://host/?key={KEY}"),
        provider(base_url=f"https://u:{KEY}@host"),
        provider(api_keys=[{KEY: None}]),
        provider(api_keys={"a": KEY}),
        provider(api_keys=[[KEY]]),
        provider(api_keys=[f"{KEY} {KEY}"]),
        provider(api_keys=[KEY, KEY]),
        provider(headers={"Authorization": f"Bearer {KEY}\n"}),
        provider(headers={KEY + " ": "x"}),
        provider(ca_bundle=KEY),
        {"api-keys": [f"{KEY}é"]},
        {"api-keys": [{"key": KEY, "name": KEY * 9}]},
    ],
)
def test_key_is_never_shown_wherever_it_was_put(tree: dict[str, Any]) -> None:
    """Errors end in terminals, logs and issues."""
    text = "\n".join(problems(tree))
    assert KEY not in text
    assert KEY[6:] not in text


@pytest.mark.parametrize("tree", [[], "text", 5, None])
def test_file_must_hold_a_mapping(tree: object, tmp_path: Path) -> None:
    """An empty file is more likely a mistake than a wish for defaults."""
    path = tmp_path / "config.yaml"
    path.write_text("" if tree is None else str(tree))
    with pytest.raises(ConfigError, match=r"config\.yaml: expected a mapping of settings, got "):
        load_config(path, environ={})
