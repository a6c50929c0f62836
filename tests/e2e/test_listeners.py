"""What callers may come over besides TCP in the clear: gunicorn's own TLS, a Unix socket."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trustme

from tests.gateway import COMMAND, PATIENCE_S, ROOT, Gateway, curl, data_of, environment, text_of
from tests.hostile.callers import read_all

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


def test_callers_over_a_unix_socket(tmp_path: Path) -> None:
    """As behind an nginx on the same machine."""
    path = tmp_path / "s"
    arguments = f"--bind 127.0.0.1:0 --bind unix:{path}"
    with Gateway(DEMO, env={"GUNICORN_CMD_ARGS": arguments}):
        check("http://localhost", "--unix-socket", str(path))


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
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as plain:
            plain.settimeout(PATIENCE_S)
            plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"200" not in read_all(plain)
        check(url, "--cacert", str(trusted))


def test_application_that_fails(tmp_path: Path) -> None:
    """Another's, with this server's settings: an error in our shape, the reason in the log."""
    (tmp_path / "broken.py").write_text("def app(environ, start_response):\n    1 / 0\n")
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(DEMO))
    log = tmp_path / "log"
    env = {"PROXY_CONFIG": str(config), "PYTHONPATH": str(tmp_path)}
    with served(f"--error-logfile={log}", "broken:app", **env) as url:
        answer = curl("-i", url)
    head, _, body = answer.replace("\r\n", "\n").partition("\n\n")
    assert head.startswith("HTTP/1.1 500 Internal Server Error\n")
    assert json.loads(body)["error"]["type"] == "server_error"
    assert "ZeroDivisionError" in log.read_text()


@contextmanager
def served(*arguments: str, **env: str) -> Iterator[str]:
    """A server's URL; it ends in order."""
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=ROOT,
        env=environment(**env),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[2]
    finally:
        process.terminate()
        rest, _ = process.communicate(timeout=PATIENCE_S)
    assert "Traceback" not in rest
    assert process.returncode == 0
