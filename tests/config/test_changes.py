"""The line that says what a new configuration changes."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.config import changes, load_config

KEYS = [f"sk-{number}-0123456789" for number in range(6)]
CALLERS = [f"sk-caller-{number}-01234567" for number in range(6)]


def config(*keys: str, **more: Any) -> dict[str, Any]:
    provider = {"name": "p", "base-url": "https://p.test/v1", "models": [{"name": "m"}]}
    entries = [{**provider, "api-keys": list(keys)}] if keys else []
    return {"openai-compatibility": entries, "demo": [{"name": "demo"}], **more}


def named(*names: str, **more: Any) -> dict[str, Any]:
    return {
        "api-keys": [
            {"name": name, "key": key, **more} for name, key in zip(names, CALLERS, strict=False)
        ]
    }


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "nothing": (config(), config(), ""),
    "clients": (config(KEYS[0]), config(KEYS[1], KEYS[2]), "2 clients more, 1 less"),
    "more": (config(), config(KEYS[0]), "1 client more"),
    "less": (config(*KEYS[:2]), config(), "2 clients less"),
    "weight": (
        config({"api-key": KEYS[0]}),  # type: ignore[arg-type]
        config({"api-key": KEYS[0], "weight": 2, "max-concurrency": 5}),  # type: ignore[arg-type]
        "1 client changed",
    ),
    "priority": (
        config({"api-key": KEYS[0]}),  # type: ignore[arg-type]
        config({"api-key": KEYS[0], "priority": 1}),  # type: ignore[arg-type]
        "1 client changed",
    ),
    "caller gone": (named("ci", "me"), named("ci"), 'caller "me" gone'),
    "caller new": (
        {},
        {"api-keys": [CALLERS[0]]},
        'caller "sk-...4567" new',
    ),
    "callers": (named("a"), named(*"bcd"), 'caller "b", "c", "d" new, caller "a" gone'),
    "caller's models": (
        named("ci"),
        named("ci", models=["m"]),
        "1 caller changed",
    ),
    "caller's key": (
        named("ci"),
        {"api-keys": [{"name": "ci", "key": CALLERS[5]}]},
        "1 caller changed",
    ),
    "settings": (
        {"queue-timeout": 30, "request-log": False},
        {"queue-timeout": 2.5, "debug": True, "max-body-size": 2**20},
        "debug false -> true, queue-timeout 30 -> 2.5, max-body-size 33554432 -> 1048576",
    ),
    "section": (
        {},
        {"streaming": {"keepalive-seconds": 5}, "quota-exceeded": {"switch-project": False}},
        "quota-exceeded changed, streaming changed",
    ),
    "provider off": (config(KEYS[0]), config(""), "1 client less, off: p"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_changes_is_said(case: str) -> None:
    """In one line, values only where they hold no secret."""
    old, new, said = CASES[case]
    told = ", ".join(changes(load_config(old, environ={}), load_config(new, environ={})))
    assert told.replace("…", "...") == said


def test_requests_that_drain_are_counted() -> None:
    """Of clients that are gone."""
    old, new = load_config(config(KEYS[0])), load_config(config(KEYS[1]))
    assert changes(old, new, draining=3) == ["1 client more", "1 less (drains 3 requests)"]


def test_no_secret_is_said() -> None:
    """Headers and outbound proxies hold credentials."""
    provider = {"name": "p", "base-url": "https://p.test/v1", "api-keys": [KEYS[0]]}
    secret = {"headers": {"x-key": KEYS[1]}, "proxy-url": "http://u:pass-word-0@h.test:1"}
    old = load_config({"openai-compatibility": [provider]})
    new = load_config({"openai-compatibility": [{**provider, **secret}]})
    assert changes(old, new) == ["1 client changed"]
