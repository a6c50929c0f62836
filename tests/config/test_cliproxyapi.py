"""A file of CLIProxyAPI's is taken as it is: what this program lacks is warned about.

The keys are those of its `config.example.yaml` (read 2026-11) with everything commented in, and of
its earlier releases.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxy.config import Model, load_config
from proxy.config.cliproxyapi import _SERVING, IGNORED
from tests.support.gateway import ROOT

URL = "http://127.0.0.1:1234/v1"
CREDENTIAL = """
    weight: 5
    prefix: t
    priority: 1
    disable-cooling: false
    request-retry: 3
    request-scoped-errors: [{status: 400, match: [x], match-regexr: [x$], action: stop}]
    headers: {X-Custom-Header: v, X-Session: $ABC}
    proxy-url: "socks5://proxy.example.com:1080"
"""
MODELS = """
    models:
      - name: n1
        alias: a1
        display-name: N
        max-context-length: 1048576
        force-mapping: true
        is-compat: false
        thinking: {levels: [high, auto]}
"""
CURRENT = f"""
host: ""
port: 8317
tls: {{enable: false, cert: "", key: ""}}
remote-management:
  allow-remote: false
  secret-key: ""
  disable-control-panel: false
  panel-github-repository: https://example.com/panel
auth-dir: ~/.cli-proxy-api
api-keys: [caller-key-0123456789, caller-key-9876543210]
debug: false
pprof: {{enable: false, addr: "127.0.0.1:8316"}}
credential-concurrency: {{max-limit: 1000000, busy-retry-min: 250ms}}
credential-in-flight: {{snapshot-interval: 2s}}
plugins: {{enabled: false, dir: plugins, configs: {{example: {{enabled: true, mode: safe}}}}}}
commercial-mode: false
logging-to-file: false
logs-max-total-size-mb: 0
error-logs-max-files: 10
usage-statistics-enabled: false
redis-usage-queue-retention-seconds: 60
proxy-url: ""
force-model-prefix: false
passthrough-headers: false
request-retry: 3
max-retry-credentials: 0
max-retry-interval: 30
disable-cooling: false
save-cooldown-status: false
transient-error-cooldown-seconds: 0
disable-claude-cloak-mode: false
claude-code: {{disable-cloaking-model-list: false}}
disable-image-generation: false
gpt-image-2-base-model: gpt-5.4-mini
video-result-auth-cache-ttl: 3h
auth-auto-refresh-workers: 16
quota-exceeded: {{switch-project: true, switch-preview-model: false, antigravity-credits: true}}
routing: {{strategy: round-robin, session-affinity: false}}
codex: {{identity-confuse: false, live-media-relay: {{enabled: false}}}}
antigravity: {{sensitive-words: [API]}}
xai: {{inject-x-search: false}}
ws-auth: true
request-log: false
nonstream-keepalive-interval: 0
streaming: {{keepalive-seconds: 15, bootstrap-retries: 1}}
antigravity-signature-cache-enabled: true
antigravity-signature-bypass-strict: false
gemini-api-key:
  - api-key: AIzaSy0000000001
    base-url: https://generativelanguage.googleapis.com
    excluded-models: [gemini-2.5-pro, "*-preview"]{CREDENTIAL}{MODELS}
  - api-key: AIzaSy0000000002
interactions-api-key: [{{api-key: AIzaSy0000000003}}]
codex-api-key: [{{api-key: sk-atSM, base-url: https://www.example.com}}]
xai-api-key: [{{api-key: xai-, websockets: true}}]
claude-api-key:
  - api-key: sk-ant-0000000001
  - api-key: sk-ant-0000000002
    base-url: https://www.example.com
    excluded-models: [claude-3-*]
    rebuild-mid-system-message: false
    cloak: {{mode: auto, strict-mode: false, sensitive-words: [API]}}
    fingerprint-profile: ""
    experimental-cch-signing: false{CREDENTIAL}{MODELS}
claude-header-defaults: {{user-agent: x, os: MacOS}}
codex-header-defaults: {{user-agent: x}}
openai-compatibility:
  - name: openrouter
    disabled: false
    base-url: https://openrouter.ai/api/v1
    support-prompt-cache-key: false
    api-key-entries:
      - api-key: sk-or-v1-0000b780
        weight: 5
        proxy-url: "socks5://proxy.example.com:1080"
      - api-key: sk-or-v1-0000b781{CREDENTIAL}{MODELS}
        image: false
        input-modalities: [text, image]
        output-modalities: [text]
vertex-api-key: [{{api-key: vk-123, base-url: https://example.com/api}}]
oauth-model-alias: {{vertex: [{{name: a, alias: b, fork: true}}]}}
oauth-excluded-models: {{vertex: [a]}}
oauth-request-scoped-errors: {{vertex: [{{status: 400, action: stop}}]}}
payload: {{default: [{{models: [{{name: a}}], params: {{a.b: 1}}}}], filter: []}}
"""

EARLIER = """
port: 8317
auth-dir: ~/.cli-proxy-api
api-keys: [caller-key-0123456789]
auth: {providers: [{name: default, type: config-api-key, api-keys: [caller-key-0123456789]}]}
allow-localhost-unauthenticated: true
force-gpt-5-codex: true
gemini-web: {context: true, code-mode: false, max-chars-per-request: 1000000}
ampcode: {upstream-url: https://ampcode.com, upstream-api-key: ${UNSET}}
oauth-model-mappings: {codex: [{name: a, alias: b}]}
amp-upstream-url: https://ampcode.com
amp-upstream-api-key: ${UNSET}
amp-model-mappings: [{from: a, to: b}]
amp-restrict-management-to-localhost: true
restrict-management-to-localhost: true
codex-instructions-enabled: true
enable-gemini-cli-endpoint: true
home: {host: x}
generative-language-api-key: [AIzaSy0000000001, AIzaSy0000000002]
openai-compatibility:
  - name: openrouter
    base-url: https://openrouter.ai/api/v1
    api-keys: [sk-or-v1-0000b780, sk-or-v1-0000b781]
    models: [{name: "moonshotai/kimi-k2:free", alias: kimi-k2}]
"""


SERVING = [
    "auth-dir",
    "routing",
    "ws-auth",
    "interactions-api-key",
    "codex-api-key",
    "xai-api-key",
    "vertex-api-key",
    "oauth-model-alias",
    "oauth-excluded-models",
    "payload",
    "quota-exceeded.antigravity-credits",
    "openai-compatibility[].prefix",
    "openai-compatibility[].request-retry",
    "openai-compatibility[].models[].force-mapping",
    "gemini-api-key[].excluded-models",
    "gemini-api-key[].prefix",
    "gemini-api-key[].request-retry",
    "gemini-api-key[].models[].force-mapping",
    "claude-api-key[].excluded-models",
    "claude-api-key[].prefix",
    "claude-api-key[].request-retry",
    "claude-api-key[].models[].force-mapping",
]


def test_current_file_is_served_with_warnings(tmp_path: Path) -> None:
    """Every key of the example: three of its kinds of upstream are served, the rest is named."""
    path = tmp_path / "config.yaml"
    path.write_text(CURRENT)
    config = load_config(path, environ={})
    assert [(client.label, client.weight) for client in config.clients] == [
        ("openrouter/sk-...b780", 5),
        ("openrouter/sk-...b781", 5),
        ("gemini/AIz...0001", 5),
        ("gemini/AIz...0002", 1),
        ("claude/sk-...0001", 1),
        ("claude/sk-...0002", 5),
    ]
    assert [client.priority for client in config.clients] == [1, 1, 1, 0, 0, 1]
    assert config.clients[0].models == (Model("n1", "a1"),)
    assert config.clients[0].headers == {"X-Custom-Header": "v"}
    assert (len(config.callers), config.quota_exceeded.switch_preview_model) == (2, False)
    serving, ignored = (warning.partition(": ") for warning in config.warnings[:2])
    assert serving[0].endswith("it would serve other accounts, models or callers by them")
    assert serving[2].split(", ") == SERVING
    assert ignored[0] == "of CLIProxyAPI's settings these are ignored"
    others = ignored[2].split(", ")
    assert {
        "tls",
        "disable-cooling",
        "streaming.bootstrap-retries",
        "claude-api-key[].cloak",
        "openai-compatibility[].support-prompt-cache-key",
        "openai-compatibility[].models[].thinking",
    } <= set(others)
    assert [warning.partition(": ")[0] for warning in config.warnings[2:]] == [
        "openai-compatibility[0].headers.X-Session",
        "gemini-api-key[0].headers.X-Session",
        "claude-api-key[1].headers.X-Session",
    ]
    named = {name.partition(".")[0].removesuffix("[]") for name in (*SERVING, *others)}
    assert named & IGNORED["File"] == IGNORED["File"] & set(_top_keys(CURRENT))


def test_earlier_spellings_are_served_with_warnings(tmp_path: Path) -> None:
    """Bare strings for keys; what stands below an ignored key is not even filled in."""
    path = tmp_path / "config.yaml"
    path.write_text(EARLIER)
    config = load_config(path, environ={})
    assert [client.label for client in config.clients] == [
        "openrouter/sk-...b780",
        "openrouter/sk-...b781",
        "gemini/AIz...0001",
        "gemini/AIz...0002",
    ]
    serving, ignored = config.warnings
    assert serving.endswith(
        "by them: auth-dir, auth, allow-localhost-unauthenticated, gemini-web, ampcode, "
        "oauth-model-mappings, amp-upstream-api-key, amp-model-mappings, home"
    )
    assert ignored.endswith(
        "ignored: force-gpt-5-codex, amp-upstream-url, amp-restrict-management-to-localhost, "
        "restrict-management-to-localhost, codex-instructions-enabled, enable-gemini-cli-endpoint"
    )


@pytest.mark.parametrize(
    ("keys", "tree"),
    [
        (IGNORED["File"], lambda section: {**section, "api-keys": ["caller"]}),
        (IGNORED["QuotaExceeded"], lambda section: {"quota-exceeded": section}),
        (IGNORED["Streaming"], lambda section: {"streaming": section}),
        (
            IGNORED["ProviderEntry"],
            lambda section: {"openai-compatibility": [{"name": "p", "base-url": URL, **section}]},
        ),
        (IGNORED["GeminiEntry"], lambda section: {"gemini-api-key": [section]}),
        (IGNORED["ClaudeEntry"], lambda section: {"claude-api-key": [section]}),
        (IGNORED["ModelEntry"], lambda section: {"demo": [{"models": [{"name": "m", **section}]}]}),
    ],
)
def test_no_key_is_both_ignored_and_known(
    keys: frozenset[str], tree: Callable[[dict[str, int]], dict[str, Any]]
) -> None:
    """What is supported one day leaves the list of what is ignored."""
    config = load_config(tree(dict.fromkeys(keys, 1)), environ={})
    named = [
        path.rpartition(".")[2]
        for warning in config.warnings
        if warning.startswith("of CLIProxyAPI's")
        for path in warning.partition(": ")[2].split(", ")
    ]
    assert sorted(named) == sorted(keys)


def test_what_is_off_serves_nobody_otherwise() -> None:
    """And a file without such keys has nothing said of it."""
    demo = {"demo": [{"models": [{"name": "m"}]}]}
    off: dict[str, Any] = {
        "force-model-prefix": False,
        "max-retry-credentials": 0,
        "payload": None,
        "plugins": {"enabled": False, "dir": "plugins"},
        "routing": {},
    }
    (warning,) = load_config({**demo, **off}, environ={}).warnings
    assert warning.endswith(
        "are ignored: force-model-prefix, max-retry-credentials, payload, plugins, routing"
    )
    assert load_config(demo, environ={}).warnings == ()


# As people publish a file of theirs, with the example's keys left in.
POSTED = """
port: 8317
remote-management: {allow-remote: false, secret-key: '', disable-control-panel: false}
auth-dir: '~/.cli-proxy-api'
api-keys:
  - 'your-api-key-1'
  - 'your-api-key-2'
debug: false
logging-to-file: false
usage-statistics-enabled: false
proxy-url: ''
request-retry: 3
quota-exceeded: {switch-project: true, switch-preview-model: true}
openai-compatibility:
  - name: 'z.ai'
    base-url: 'https://api.z.ai/api/paas/v4'
    api-key-entries:
      - api-key: 'sk-or-v1-...b780'
    models:
      - name: 'glm-4.6'
        alias: 'glm-4.6'
gemini-api-key:
  - api-key: 'AIzaSy...01'
"""


def test_posted_file_is_served_with_warnings(tmp_path: Path) -> None:
    """What changes who is served first, then the rest, then the example's keys; no more lines."""
    path = tmp_path / "config.yaml"
    path.write_text(POSTED)
    config = load_config(path, environ={})
    texts = [warning.partition(": ") for warning in config.warnings]
    assert texts[0][2] == "auth-dir"
    assert texts[1][2] == "remote-management, logging-to-file, usage-statistics-enabled"
    refused = "a placeholder: the upstream will refuse it"
    assert [(text[0], text[2].partition(",")[0]) for text in texts[2:]] == [
        ("openai-compatibility[0].api-key-entries[0]", refused),
        ("gemini-api-key[0]", refused),
        ("api-keys[0]", "a placeholder"),
        ("api-keys[1]", "a placeholder"),
    ]
    (problem,) = config.listen_problems("0.0.0.0")
    assert "api-keys[0], api-keys[1]: everybody knows" in problem


PLACEHOLDERS = ["your-api-key-1", "your-api-key", "YOUR_API_KEY", "sk-your-key-here", "sk-1234"]
PLACEHOLDERS += ["sk-my_special_key", "your-openai-api-key", "<your-key>", "sk-...", "sk-P****"]
PLACEHOLDERS += ["sk-proj-xxxx", "sk-or-v1-...b780"]


@pytest.mark.long
@pytest.mark.parametrize("key", PLACEHOLDERS)
def test_placeholders_are_no_keys(key: str) -> None:
    """The example's: a warning on this machine, an error on all interfaces."""
    tree = {"demo": [{}], "api-keys": ["a-key-of-ours-0123456789", {"name": "b", "key": key}]}
    config = load_config(tree, environ={})
    (warning,) = config.warnings
    assert warning.startswith("api-keys[1]: a placeholder, which everybody knows")
    assert config.listen_problems() == []
    for host in ("", "0.0.0.0", "10.0.0.1"):
        (problem,) = load_config({**tree, "host": host}, environ={}).listen_problems()
        assert problem.startswith("config: api-keys[1]: everybody knows this placeholder")
    (problem,) = config.listen_problems("0.0.0.0")
    assert "0.0.0.0" in problem
    meant = {**tree, "host": "", "allow-unauthenticated": True}
    assert load_config(meant, environ={}).listen_problems() == []


@pytest.mark.parametrize("key", ["sk-12345", "your-own-0123456789", "my-key-at-work", "my-monkey"])
def test_keys_are_no_placeholders(key: str) -> None:
    """Also short and simple ones."""
    config = load_config({"demo": [{}], "api-keys": [key], "host": ""}, environ={})
    assert "placeholder" not in "".join(config.warnings)
    assert config.listen_problems() == []


def test_short_keys_are_told_together() -> None:
    """Fewer than 16 characters; digests are long enough, and placeholders told already."""
    keys = ["a" * 15, "b" * 16, "your-api-key", f"sha256:{'0' * 64}", {"name": "n", "key": "c"}]
    placeholder, short = load_config({"demo": [{}], "api-keys": keys}, environ={}).warnings
    assert placeholder.startswith("api-keys[2]: a placeholder")
    assert short == "api-keys[0], api-keys[4]: fewer than 16 characters can be guessed"


def test_page_on_migrating_has_what_changes_who_is_served() -> None:
    """Each such setting of CLIProxyAPI's is in its table."""
    page = (ROOT / "docs" / "migrating.md").read_text().partition("## LiteLLM")[0]
    assert set(re.findall(r"`([a-z-]+)`", page)) >= _SERVING


def _top_keys(text: str) -> list[str]:
    return [line.split(":")[0] for line in text.splitlines() if line[:1].isalpha()]
