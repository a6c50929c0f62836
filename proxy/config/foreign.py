"""Keys that CLIProxyAPI's files may hold and this program lacks: warned about, ignored.

From its `config.example.yaml` and the yaml tags of `internal/config` (github.com/router-for-me/
CLIProxyAPI, read 2026-11), with the spellings of its earlier releases. What lies below such a key
is not looked at.
"""

from __future__ import annotations

TOP = frozenset(
    {
        "amp-model-mappings",
        "amp-restrict-management-to-localhost",
        "amp-upstream-api-key",
        "amp-upstream-url",
        "ampcode",
        "antigravity",
        "antigravity-signature-bypass-strict",
        "antigravity-signature-cache-enabled",
        "auth",
        "auth-auto-refresh-workers",
        "auth-dir",
        "claude-code",
        "claude-header-defaults",
        "codex",
        "codex-api-key",
        "codex-header-defaults",
        "codex-instructions-enabled",
        "commercial-mode",
        "credential-concurrency",
        "credential-in-flight",
        "disable-claude-cloak-mode",
        "disable-cooling",
        "disable-image-generation",
        "enable-gemini-cli-endpoint",
        "error-logs-max-files",
        "force-gpt-5-codex",
        "force-model-prefix",
        "gemini-web",
        "gpt-image-2-base-model",
        "home",
        "interactions-api-key",
        "logging-to-file",
        "logs-max-total-size-mb",
        "max-retry-credentials",
        "nonstream-keepalive",
        "nonstream-keepalive-interval",
        "oauth-excluded-models",
        "oauth-model-alias",
        "oauth-model-mappings",
        "oauth-request-scoped-errors",
        "passthrough-headers",
        "payload",
        "plugins",
        "pprof",
        "redis-usage-queue-retention-seconds",
        "remote-management",
        "routing",
        "save-cooldown-status",
        "tls",
        "transient-error-cooldown-seconds",
        "usage-statistics-enabled",
        "vertex-api-key",
        "video-result-auth-cache-ttl",
        "ws-auth",
        "xai",
        "xai-api-key",
        # At the top in some early releases, under remote-management or ampcode in others.
        "allow-localhost-unauthenticated",
        "restrict-management-to-localhost",
    }
)
QUOTA_EXCEEDED = frozenset({"antigravity-credits"})
STREAMING = frozenset({"bootstrap-retries"})

_CREDENTIAL = frozenset(
    {"disable-cooling", "prefix", "priority", "request-retry", "request-scoped-errors"}
)
PROVIDER = _CREDENTIAL | {"support-prompt-cache-key"}
GEMINI = _CREDENTIAL | {"excluded-models"}
CLAUDE = GEMINI | {
    "cloak",
    "experimental-cch-signing",
    "fingerprint-profile",
    "rebuild-mid-system-message",
}
MODEL = frozenset(
    {
        "display-name",
        "force-mapping",
        "image",
        "input-modalities",
        "is-compat",
        "max-context-length",
        "output-modalities",
        "thinking",
    }
)
