"""Keys: known to who sends or compares them, and shown by nothing else."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import hmac
import json
import os
import socket
import stat
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.api.auth import Doorkeeper
from proxy.app import create_app
from proxy.config import Config, load_config
from proxy.errors import ConfigError, InvalidKey, UpstreamError
from proxy.gateway import Gateway as OurGateway
from proxy.net.watch import CallerConnection
from proxy.record.transcript import DIRECTORY
from proxy.server.control.sockets import listen
from proxy.wire.chat import read_request
from proxy.wire.chat.reply import MAX_QUOTED_CHARS
from tests.security.conftest import AUTHORIZED, CALLER_KEY
from tests.support.gateway import Gateway, Lots
from tests.support.upstream import (
    Reply,
    Upstream,
    chat,
    chunk,
    error,
    error_object,
    events,
    garbage,
    json_reply,
)

KEYS = ("sk-upstream-0123456789aaaa", "AIza-upstream-0123456789bbbb", "sk-ant-0123456789-cccc")
HEADER_KEY, PROXY_PASSWORD = "sk-in-a-header-0123456789", "sk-of-the-proxy-0123456789"


def whole_config(base_url: str = "http://127.0.0.1:9/v1") -> Config:
    """One with a key in every place that takes one."""
    tree = {
        "api-keys": [{"name": "me", "key": CALLER_KEY}],
        "proxy-url": f"http://me:{PROXY_PASSWORD}@127.0.0.1:9",
        "openai-compatibility": [
            {
                "name": "p",
                "base-url": base_url,
                "api-keys": [KEYS[0]],
                "headers": {"X-Key": HEADER_KEY},
                "models": [{"name": "m"}],
            }
        ],
    }
    return load_config(tree, environ={})


ALL_SECRETS = (CALLER_KEY, KEYS[0], HEADER_KEY, PROXY_PASSWORD)


def test_no_object_of_ours_shows_a_key() -> None:
    """`repr` and `str` of all that hangs on an application, as debuggers and reports print it."""
    app = create_app(whole_config())
    seen: set[int] = set()
    left: list[Any] = [app.extensions["proxy"]]
    shown = 0
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        is_ours = type(one).__module__.partition(".")[0] == "proxy"
        if is_ours:
            text = f"{one!r} {one!s} {one}"
            assert not any(secret in text for secret in ALL_SECRETS), type(one)
            shown += 1
        if is_ours or isinstance(one, (dict, list, tuple, set, frozenset)):
            left += [each for each in gc.get_referents(one) if not isinstance(each, type)]
    assert shown > 10


def test_no_traceback_shows_a_key() -> None:
    """Of an attempt that fails, causes included."""
    app = create_app(whole_config())
    (client,) = app.extensions["proxy"]["proxy"].gateway.generation.clients
    request = read_request(b'{"model":"m","messages":[1]}')
    until = time.monotonic() + 5
    reply = client.send(
        request, model="m", headers={}, caller=CallerConnection(None), deadline=until
    )
    with contextlib.closing(reply), pytest.raises(UpstreamError) as caught:
        reply.head(until)
    text = "".join(traceback.format_exception(caught.value))
    assert "Traceback" in text
    assert not any(secret in text for secret in ALL_SECRETS), text


def test_configuration_errors_show_no_key() -> None:
    """Wherever in the file it was put by mistake."""
    for key in KEYS:
        trees: list[dict[str, Any]] = [{key: 1}, {"port": key}, {"openai-compatibility": [key]}]
        for tree in trees:
            with pytest.raises(ConfigError) as caught:
                load_config(tree, environ={})
            assert key not in "".join(traceback.format_exception(caught.value))


# What upstreams quote

OTHERS_KEY, LISTS_KEY = "sk-other-caller-0123456789", "sk-lists-0123456789dddd"
TENANT = "tenant in particular"
HEADER_TOKEN, PROXY_USER = "tok/of+the/header=0123456789", "proxy-user"

# What may be quoted by an upstream that was never sent it, and its mask.
SECRETS = {
    "another caller's key": (OTHERS_KEY, "sk-...6789"),
    "another client's key": (LISTS_KEY, "sk-...dddd"),
    "a header's credential": (HEADER_TOKEN, "tok...6789"),
    "a header's whole value": (f"Bearer {HEADER_TOKEN}", "Bea...6789"),
    "what was filled in from a file": (TENANT, "ten...ular"),
    "the proxy's password": (PROXY_PASSWORD, "sk-...6789"),
    "the proxy's user and password": (f"{PROXY_USER}:{PROXY_PASSWORD}", "pro...6789"),
}


@pytest.fixture(scope="module")
def guarded(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with a secret of each kind, which asks for a model list, and logs requests."""
    config = {
        "port": 0,
        "request-log": True,
        "request-retry": 0,
        "api-keys": [CALLER_KEY, OTHERS_KEY],
        "openai-compatibility": [
            {
                "name": "p",
                "base-url": upstream.url,
                "api-keys": ["${file:key}"],
                "headers": {
                    "X-Gate-Authorization": f"Bearer {HEADER_TOKEN}",
                    "X-Tenant": "${file:tenant}",
                },
                "max-concurrency": 0,
                "models": [{"name": "guarded"}],
            },
            {"name": "lists", "base-url": f"{upstream.url}/lists", "api-keys": [LISTS_KEY]},
            {
                "name": "behind-a-proxy",
                "base-url": "http://127.0.0.1:9/v1",
                "proxy-url": f"http://{PROXY_USER}:{PROXY_PASSWORD}@127.0.0.1:9",
                "models": [{"name": "never"}],
            },
        ],
    }
    path = tmp_path_factory.mktemp("guarded") / "config.yaml"
    path.write_text(json.dumps(config))
    path.with_name("key").write_text(f"{KEYS[0]}\n")
    path.with_name("tenant").write_text(TENANT)
    secrets = [CALLER_KEY, KEYS[0], *(secret for secret, _ in SECRETS.values())]
    with Gateway(path, secrets=secrets) as running:
        yield running
    written = "".join([file.read_text() for file in (path.parent / DIRECTORY).iterdir()])
    assert "the key " in written
    assert not [secret for secret in secrets if secret in written]


def quoting(secret: str) -> dict[str, tuple[Reply, bool]]:
    """Answers in which an upstream quotes a secret; whether of a stream."""
    text = f"the key {secret} is not allowed to"
    told = error_object(text, code=secret)
    begun = events(chunk({"content": "Hi"}), told)
    escaped = "".join([f"\\u{ord(each):04x}" for each in secret])
    odd = f'{{"error":{{"message":"the key {escaped}","type":"x","param":null,"code":null}}}}'
    cut = f"{'-' * (MAX_QUOTED_CHARS - len(secret) + 1)}{secret}"
    whole = chat("Hi")
    return {
        "envelope": (error(400, text, code=secret), False),
        "escaped": (Reply([odd.encode()], 400), False),
        "text": (Reply([text.encode()], 404), False),
        "cut off": (Reply([cut.encode()], 404), False),
        "of a passing fault": (Reply([text.encode()], 500), False),
        "header": (error(403, headers={"openai-key": secret}), False),
        "header of a success": (
            replace(whole, headers=[*whole.headers, ("openai-key", secret)]),
            False,
        ),
        "hidden in a success": (json_reply(told), False),
        "first event": (events(told), True),
        "later event": (begun, True),
    }


@pytest.mark.parametrize("kind", SECRETS)
@pytest.mark.parametrize("way", quoting(""))
def test_secret_that_an_upstream_quotes_is_masked(
    guarded: Gateway, upstream: Upstream, way: str, kind: str
) -> None:
    """In bodies, headers, codes and events of errors; in log and request log (at the close)."""
    secret, mask = SECRETS[kind]
    reply, stream = quoting(secret)[way]
    upstream.always(KEYS[0], reply)
    answer = guarded.chat("guarded", stream=stream, headers=AUTHORIZED)
    shown = f"{answer.headers} {answer.body.decode()}"
    assert secret not in shown
    assert secret[:-1] not in shown
    masks = ("…", "...") if way == "cut off" else (mask,)
    assert any(each in shown for each in masks), shown
    guarded.record_of(answer.headers["x-request-id"])
    assert secret not in guarded.log


def test_secret_that_a_model_list_quotes_is_masked(guarded: Gateway, upstream: Upstream) -> None:
    """In the log's warning."""
    said = ", ".join([secret for secret, _ in SECRETS.values()])
    upstream.pages["/v1/lists/models"] = error(403, f"the keys {said} are not allowed to")
    guarded.call("GET", "/v1/models", headers=AUTHORIZED)
    line = guarded.wait_for_line(lambda line: "no model list" in line)
    for secret, mask in SECRETS.values():
        assert secret not in line
        assert mask in line


def test_secret_that_a_caller_chose_as_a_name_is_masked(guarded: Gateway) -> None:
    """As model, path or id: in the log's line."""
    for path, model, request_id in (
        ("/v1/chat/completions", OTHERS_KEY, "a-model"),
        (f"/v1/{OTHERS_KEY}", "guarded", "a-path"),
        ("/v1/chat/completions", "guarded", OTHERS_KEY),
    ):
        headers = {**AUTHORIZED, "x-request-id": request_id}
        with guarded.open("POST", path, {"model": model, "messages": [1]}, headers) as answer:
            answer.read()
    assert guarded.record_of("a-model")["model"] == "sk-...6789"
    guarded.wait_for_line(lambda line: " proxy.request id=sk-...6789 " in line)


@pytest.mark.long
def test_debug_log_holds_no_key(upstream: Upstream) -> None:
    """Whatever goes well or wrong; the gateway's `close` looks for them, and so does this test."""
    lots = Lots(upstream.url, {1: 4})
    nowhere = Lots("http://127.0.0.1:9/v1", {1: 1})
    config = {
        "debug": True,
        "request-retry": 0,
        "api-keys": [CALLER_KEY],
        "openai-compatibility": [*lots.providers, *nowhere.providers],
    }
    with Gateway(config) as gateway:
        for reply in (chat("Hi"), error(401), error(500), garbage()):
            lot = lots.take()
            upstream.always(lot.key, reply)
            gateway.chat(lot.model, headers=AUTHORIZED)
        gateway.chat(nowhere.take().model, headers=AUTHORIZED)
        wrong = "Bearer sk-wrong-0123456789abcdef"
        assert gateway.chat("m", headers={"Authorization": wrong}).status == 401
        assert wrong not in gateway.log
        with gateway.connect() as sock:
            sock.sendall(f"GET / HTTP/1.1\r\nx-api-key: {CALLER_KEY}\r\n".encode())
            sock.shutdown(socket.SHUT_WR)  # in the middle of a head
            assert sock.recv(1) == b""
    assert CALLER_KEY not in gateway.log


# The check of callers' keys

MANY = 2_000


def doorkeeper(*keys: str) -> Doorkeeper:
    tree = {"api-keys": [*keys], "demo": [{"name": "demo", "models": [{"name": "m"}]}]}
    return Doorkeeper(OurGateway(load_config(tree, environ={})))


@pytest.mark.parametrize(
    "given",
    [
        CALLER_KEY[:-1],
        CALLER_KEY + "x",
        CALLER_KEY[1:],
        CALLER_KEY.upper(),
        CALLER_KEY + "\x00",
        CALLER_KEY[:3],
        "",
        f"{CALLER_KEY} {CALLER_KEY}",
        f"sk-...{CALLER_KEY[-4:]}",
        "\xff" * len(CALLER_KEY),
    ],
)
def test_only_the_whole_key_lets_in(given: str) -> None:
    """No beginning, end, mask or other spelling of it."""
    for variable, scheme in (("HTTP_AUTHORIZATION", "Bearer "), ("HTTP_X_API_KEY", "")):
        with pytest.raises(InvalidKey):
            doorkeeper(CALLER_KEY).admit({variable: scheme + given})


def cpu_s(work: Callable[[], object]) -> float:
    """The least CPU time that it takes."""
    taken = []
    for _ in range(7):
        began = time.thread_time()
        work()
        taken.append(time.thread_time() - began)
    return min(taken)


@pytest.mark.parametrize(
    "given",
    [
        lambda keys: "x" + keys[0][1:],
        lambda keys: keys[0][:-1] + "x",
        lambda keys: "x" * 1_000_000,
        lambda keys: keys[0],
        lambda keys: keys[-1],
    ],
    ids=["differs at the start", "differs at the end", "is long", "the first key", "the last key"],
)
def test_time_of_the_key_check_tells_nothing(given: Callable[[list[str]], str]) -> None:
    """The digests of all keys are compared, whatever was given: so many that one could see it."""
    keys = [f"caller-{at:09}" for at in range(MANY)]
    keeper = doorkeeper(*keys)
    environ = {"HTTP_X_API_KEY": given(keys)}

    def admit() -> None:
        with suppress(InvalidKey):
            keeper.admit(environ)

    known = [hashlib.sha256(key.encode()).digest() for key in keys]

    def compare_all() -> None:
        for key in known:
            hmac.compare_digest(key, known[0])

    for attempt in range(3):
        taken_s, whole_s = cpu_s(admit), cpu_s(compare_all)
        if taken_s > whole_s / 2:
            return
        assert attempt < 2, (taken_s, whole_s)


# Files


def test_control_sockets_are_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their directory has mode 0700, whatever the umask."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    before = os.umask(0)
    try:
        path, listener = listen(4711)
        listener.close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(Path(path).parent.stat().st_mode) == 0o700


def test_gateway_keeps_no_file_open_for_writing(gateway: Gateway) -> None:
    """It writes no file but counts: what it serves is in no place that somebody else could read."""
    children = Path(f"/proc/{gateway.pid}/task/{gateway.pid}/children").read_text().split()
    for pid in (str(gateway.pid), *children):
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed since it was listed
                target = os.readlink(fd)
                if not target.startswith("/") or target.endswith(" (deleted)"):
                    continue
                facts = Path(f"/proc/{pid}/fdinfo/{fd.name}").read_text()
                flags = facts.split("flags:")[1].split()[0]
                is_file = stat.S_ISREG(fd.stat().st_mode)
                assert not (is_file and int(flags, 8) & os.O_ACCMODE), target


# Keys that the file does not hold


@pytest.mark.long
def test_keys_from_files_and_digests_do_over_tls(
    secure: Upstream, ca_bundle: Path, tmp_path: Path
) -> None:
    """The account's key is read from a file, the caller's is known by its digest alone."""
    (tmp_path / "account").write_text(f"{KEYS[0]}\n")
    digest = hashlib.sha256(CALLER_KEY.encode()).hexdigest()
    config = {
        "port": 0,
        "api-keys": [{"name": "team", "key": f"sha256:{digest}"}],
        "openai-compatibility": [
            {
                "name": "p",
                "base-url": secure.url,
                "api-keys": ["${file:account}"],
                "ca-bundle": str(ca_bundle),
                "models": ["m"],
            }
        ],
    }
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    with Gateway(tmp_path / "config.yaml", secrets=[KEYS[0], CALLER_KEY, digest]) as gateway:
        answer = gateway.chat("m", headers=AUTHORIZED)
        assert answer.status == 200, answer.body
        assert answer.headers["x-proxy-client"] == "p/sk-...aaaa"
        assert gateway.record_of(answer.headers["x-request-id"])["caller"] == "team"
        refused = gateway.chat("m", headers={"Authorization": f"Bearer sha256:{digest}"})
        assert refused.status == 401
    assert len(secure.received(KEYS[0])) == 1
