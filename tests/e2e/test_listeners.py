"""What callers may come over besides TCP in the clear: gunicorn's own TLS, a Unix socket."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from proxy.server.settings import SPARE_THREADS
from proxy.server.worker import HEAD_TIMEOUT_S
from tests.support.callers import head, read_all, statuses, trickle
from tests.support.commandline import wait_for
from tests.support.gateway import (
    COMMAND,
    PATIENCE_S,
    ROOT,
    Gateway,
    curl,
    data_of,
    environment,
    text_of,
)
from tests.support.leaks import death_in

DEMO = {"port": 0, "demo": [{"name": "demo"}]}
HI = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}]}
ANSWER = "Hello from the demo provider. You said: Hi"


def check(base: str, *options: str) -> None:
    """A unary call and a stream, on one connection each; the first three times on one."""
    chat = f"{base}/v1/chat/completions"
    unary = json.dumps(HI)
    answers = curl(*options, "-d", unary, chat, chat, chat)
    decoder, at = json.JSONDecoder(), 0
    for _ in range(3):
        answer, at = decoder.raw_decode(answers, at)
        assert answer["choices"][0]["message"]["content"] == ANSWER
    stream = json.dumps({**HI, "stream": True})
    data = data_of(curl(*options, "-N", "-d", stream, chat).encode())
    assert (text_of(data), data[-1]) == (ANSWER, b"[DONE]")


@pytest.mark.long
def test_callers_over_a_unix_socket(tmp_path: Path) -> None:
    """As behind an nginx on the same machine."""
    path = tmp_path / "s"
    arguments = f"--bind 127.0.0.1:0 --bind unix:{path}"
    with Gateway(DEMO, env={"GUNICORN_CMD_ARGS": arguments}):
        check("http://localhost", "--unix-socket", str(path))


@pytest.mark.long
def test_callers_over_tls(tmp_path: Path) -> None:
    """gunicorn's, by its own settings."""
    authority = trustme.CA()
    trusted, pem = tmp_path / "ca.pem", tmp_path / "server.pem"
    authority.cert_pem.write_to_path(str(trusted))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(pem))
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(DEMO))
    arguments = f"--certfile {pem} --keyfile {pem}"
    with served(PROXY_CONFIG=str(config), GUNICORN_CMD_ARGS=arguments) as url:
        with connected(url) as plain:
            plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"200" not in read_all(plain)
        check(url, "--cacert", str(trusted))


FAILURES = {
    "ZeroDivisionError": "1 / 0",
    "Header": "start_response('200 OK', [('X-Value', 'a\\0b')]); return [b'']",
}


@pytest.mark.long
@pytest.mark.parametrize("name", FAILURES)
def test_application_that_fails(tmp_path: Path, name: str) -> None:
    """Another's, with this server's settings: an error in our shape, the reason in the log."""
    code = f"def app(environ, start_response):\n    {FAILURES[name]}\n"
    (tmp_path / "broken.py").write_text(code)
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(DEMO))
    log = tmp_path / "log"
    env = {"PROXY_CONFIG": str(config), "PYTHONPATH": str(tmp_path)}
    with served(f"--error-logfile={log}", "broken:app", **env) as url:
        answer = curl("-i", url)
    assert death_in(log.read_text()) is None
    head, _, body = answer.replace("\r\n", "\n").partition("\n\n")
    assert head.startswith("HTTP/1.1 500 Internal Server Error\n")
    assert json.loads(body)["error"]["type"] == "server_error"
    assert name in log.read_text()


UPGRADES = """
def app(environ, start_response):
    sock = environ["gunicorn.socket"]
    sock.sendall(b"HTTP/1.1 101 Switching Protocols\\r\\n\\r\\n")
    sock.sendall(f"may be silent for {sock.receive_timeout_s} s".encode())
    sock.sendall(b", " + sock.recv(100))
    raise StopIteration  # as simple-websocket does under gunicorn
"""


@pytest.mark.long
def test_application_with_websockets(tmp_path: Path) -> None:
    """Frames are not held, nor a silent caller's connection closed."""
    (tmp_path / "upgrades.py").write_text(UPGRADES)
    (tmp_path / "config.yaml").write_text(json.dumps(DEMO))
    env = {"PROXY_CONFIG": str(tmp_path / "config.yaml"), "PYTHONPATH": str(tmp_path)}
    with served("upgrades:app", **env) as url, connected(url) as sock:
        sock.sendall(head("/", "Upgrade: websocket", "Connection: upgrade", method="GET"))
        came = b""
        while not came.endswith(b" s"):
            came += sock.recv(1000)
        sock.sendall(b"echo")
        assert (came + sock.recv(1000)).endswith(b"\r\n\r\nmay be silent for inf s, echo")


@pytest.mark.long
def test_callers_beyond_the_open_files_wait(tmp_path: Path) -> None:
    """The worker serves on, and takes those in who remain when others have gone."""
    (tmp_path / "config.yaml").write_text(json.dumps({**DEMO, "max-requests-in-flight": 8}))
    log = tmp_path / "log"
    limited = ["sh", "-c", 'ulimit -n 50 && exec "$@"', "sh", *COMMAND, f"--error-logfile={log}"]
    env = {"PROXY_CONFIG": str(tmp_path / "config.yaml")}
    with served(command=limited, **env) as url:
        with contextlib.ExitStack() as idle:
            for _ in range(60):
                idle.enter_context(connected(url))
            wait_for(lambda: "callers have to wait: Too many open files" in log.read_text())
        assert json.loads(curl(f"{url}/healthz")) == {"status": "ok"}
        assert log.read_text().count("callers have to wait") == 1
    assert death_in(log.read_text()) is None


@pytest.mark.long
def test_callers_beyond_the_limit_on_connections_wait(tmp_path: Path) -> None:
    """Until one of the others has gone, again and again."""
    limit = 40
    arguments = f"--worker-connections {limit}"
    config = {**DEMO, "max-requests-in-flight": 1}
    with Gateway(config, env={"GUNICORN_CMD_ARGS": arguments}) as gateway:
        for _ in range(3):
            with contextlib.ExitStack() as idle:
                for _ in range(limit):
                    idle.enter_context(gateway.connect())
                late = gateway.connect()
                late.sendall(head("/healthz", "Connection: close", method="GET"))
                assert not select.select([late], [], [], 0.5)[0]
            with late:
                assert statuses(read_all(late)) == [200]


@pytest.mark.long
def test_handshakes_leave_threads_to_others(tmp_path: Path) -> None:
    """More than there are threads: the oldest go, and who shakes hands at once is served."""
    authority = trustme.CA()
    trusted, pem = tmp_path / "ca.pem", tmp_path / "server.pem"
    authority.cert_pem.write_to_path(str(trusted))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(pem))
    (tmp_path / "config.yaml").write_text(json.dumps({**DEMO, "max-requests-in-flight": 1}))
    env = {"PROXY_CONFIG": str(tmp_path / "config.yaml")}
    with (
        served(f"--certfile={pem}", f"--keyfile={pem}", **env) as url,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(3 * (1 + SPARE_THREADS)):
            stack.enter_context(connected(url)).sendall(b"\x16")
        began = time.monotonic()
        for _ in range(3):
            assert json.loads(curl("--cacert", str(trusted), f"{url}/healthz"))
        assert time.monotonic() - began < 10


@pytest.mark.slow
def test_callers_over_tls_have_a_time_for_their_heads(tmp_path: Path) -> None:
    """One that begins no handshake, one in the middle of its, and one who sends bit by bit."""
    authority = trustme.CA()
    pem = tmp_path / "server.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(pem))
    (tmp_path / "config.yaml").write_text(json.dumps(DEMO))
    env = {"PROXY_CONFIG": str(tmp_path / "config.yaml")}
    with served(f"--certfile={pem}", f"--keyfile={pem}", **env) as url:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        began = time.monotonic()
        with (
            connected(url) as silent,
            connected(url) as odd,
            context.wrap_socket(connected(url), server_hostname="127.0.0.1") as slow,
        ):
            odd.sendall(b"\x16")
            with contextlib.suppress(OSError):
                trickle([slow], head("/healthz", method="GET"), gap_s=1.0, until=began + 60)
            for sock in (silent, odd):
                assert read_all(sock) == b""
        assert HEAD_TIMEOUT_S - 1 < time.monotonic() - began < HEAD_TIMEOUT_S + 10


def connected(url: str) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))
    sock.settimeout(2 * PATIENCE_S)
    return sock


@contextmanager
def served(*arguments: str, command: Sequence[str] = tuple(COMMAND), **env: str) -> Iterator[str]:
    """A server's URL; it ends in order."""
    process = subprocess.Popen(
        [*command, *arguments],
        cwd=ROOT,
        env=environment(**env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        first = process.stdout.readline()
        assert first.startswith("poolproxy on "), first
        yield first.split()[2]
    finally:
        process.terminate()
        rest, _ = process.communicate(timeout=PATIENCE_S)
    assert "Traceback" not in rest
    assert death_in(rest) is None, rest
    assert process.returncode == 0
