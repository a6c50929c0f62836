"""Keys of CLIProxyAPI's files that this program ignores, and the two warnings about them.

From its `config.example.yaml` and the yaml tags of `internal/config` (github.com/router-for-me/
CLIProxyAPI, read 2026-11), with the spellings of its earlier releases. What lies below such a key
is not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any


def _keys(text: str) -> frozenset[str]:
    return frozenset(text.split())


_CREDENTIAL = _keys("disable-cooling prefix request-retry request-scoped-errors")
_ACCOUNT = _CREDENTIAL | {"excluded-models"}

# What each section of `schema` may have besides, by its name.
IGNORED = {
    # The first two at the top in some early releases, under remote-management or ampcode in others.
    "File": _keys("""
        allow-localhost-unauthenticated restrict-management-to-localhost
        amp-model-mappings amp-restrict-management-to-localhost amp-upstream-api-key
        amp-upstream-url ampcode antigravity antigravity-signature-bypass-strict
        antigravity-signature-cache-enabled auth auth-auto-refresh-workers auth-dir claude-code
        claude-header-defaults codex codex-api-key codex-header-defaults codex-instructions-enabled
        commercial-mode credential-concurrency credential-in-flight disable-claude-cloak-mode
        disable-cooling disable-image-generation enable-gemini-cli-endpoint error-logs-max-files
        force-gpt-5-codex force-model-prefix gemini-web gpt-image-2-base-model home
        interactions-api-key logging-to-file logs-max-total-size-mb max-retry-credentials
        nonstream-keepalive nonstream-keepalive-interval oauth-excluded-models oauth-model-alias
        oauth-model-mappings oauth-request-scoped-errors passthrough-headers payload plugins pprof
        redis-usage-queue-retention-seconds remote-management routing save-cooldown-status tls
        transient-error-cooldown-seconds usage-statistics-enabled vertex-api-key
        video-result-auth-cache-ttl ws-auth xai xai-api-key
    """),
    "QuotaExceeded": _keys("antigravity-credits"),
    "Streaming": _keys("bootstrap-retries"),
    "ProviderEntry": _CREDENTIAL | {"support-prompt-cache-key"},
    "GeminiEntry": _ACCOUNT,
    "ClaudeEntry": _ACCOUNT
    | _keys("cloak experimental-cch-signing fingerprint-profile rebuild-mid-system-message"),
    "ModelEntry": _keys("""
        display-name force-mapping image input-modalities is-compat max-context-length
        output-modalities thinking
    """),
}

# Of all of them those by which CLIProxyAPI would serve other accounts or models, others first, or
# other callers.
_SERVING = _keys("""
    allow-localhost-unauthenticated amp-model-mappings amp-upstream-api-key ampcode
    antigravity-credits auth auth-dir codex-api-key disable-cooling excluded-models
    force-mapping force-model-prefix gemini-web home interactions-api-key max-retry-credentials
    oauth-excluded-models oauth-model-alias oauth-model-mappings payload plugins prefix
    request-retry routing transient-error-cooldown-seconds vertex-api-key ws-auth xai-api-key
""")


def warnings(ignored: Mapping[str, Any]) -> Iterator[str]:
    """Up to two warnings about ignored keys; those that change who is served come first.

    Keys are named by path, without the index in a list. One that is off (`false`, 0) changes none,
    and neither does a section that says `enabled: false`.
    """
    serving: dict[str, None] = {}
    others: dict[str, None] = {}
    for path, value in ignored.items():
        is_off = not value or (isinstance(value, Mapping) and value.get("enabled") is False)
        is_on = path.rpartition(".")[2] in _SERVING and not is_off
        (serving if is_on else others)[re.sub(r"\[\d+\]", "[]", path)] = None
    if serving:
        yield (
            "of CLIProxyAPI's settings these are not supported, and it would serve other accounts, "
            f"models or callers by them: {', '.join(serving)}"
        )
    if left := [path for path in others if path not in serving]:
        yield f"of CLIProxyAPI's settings these are ignored: {', '.join(left)}"
