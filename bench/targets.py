"""What is measured, and how each is started: in the configuration in which it would be run.

Every target forwards to the same mock upstream with a key of the upstream's, listens on loopback,
keeps its connections on both sides, and has one worker unless asked for more.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench import messages
from bench.processes import ROOT, BenchError, end, environment

_BOOT_LIMIT_S = 90.0
_POLL_S = 0.002


@dataclass(frozen=True)
class Pool:
    """The pool that a gateway is given: as an operator with a few keys would have it."""

    clients: int = 8
    permits: int = 256  # each client's; together more than the callers of any row
    in_flight: int = 1024  # requests that the worker takes at once
    aliases: int = 1  # names for each of the mock's models, the first being its own
    translates: bool = False  # there are accounts of Claude's and Gemini's, too
    state: str = ""  # where it is shared by all processes
    slow: int = 0  # models `slow-00000` and so on, each of a client with one permit

    @property
    def keys(self) -> list[str]:
        """The clients', for the upstream."""
        return [f"sk-bench-upstream-{index:06}" for index in range(self.clients)]


@dataclass(frozen=True)
class Site:
    """What a target is started with."""

    port: int
    upstream_port: int
    directory: Path  # its own, removed afterwards
    workers: int = 1
    pool: Pool = Pool()
    authority: Path | None = None  # of the upstream's certificate; None: it doesn't speak TLS

    @property
    def upstream(self) -> str:
        return f"{'https' if self.authority else 'http'}://127.0.0.1:{self.upstream_port}"


@dataclass(frozen=True)
class Launch:
    """How to start a target, and how to talk to it."""

    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    cwd: Path = ROOT
    ready_path: str = "/healthz"
    headers: dict[str, str] = field(default_factory=dict)
    model_headers: dict[str, dict[str, str]] = field(default_factory=dict)  # further ones
    stop: signal.Signals = signal.SIGTERM


@dataclass(frozen=True)
class Running:
    """A target that has answered its first request. `pid` 0: the mock itself, without a gateway."""

    name: str
    port: int
    pid: int = 0
    boot_s: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    model_headers: dict[str, dict[str, str]] = field(default_factory=dict)

    def headers_for(self, model: str) -> dict[str, str]:
        """What callers of this model send."""
        return self.headers | self.model_headers.get(model, {})


Recipe = Callable[[Site], Launch]


def _gunicorn() -> list[str]:
    return [str(Path(sys.executable).with_name("gunicorn"))]


def naive(site: Site) -> Launch:
    return Launch(
        [
            *_gunicorn(),
            *("--bind", f"127.0.0.1:{site.port}"),
            *("--worker-class", "gthread"),
            *("--workers", str(site.workers)),
            *("--threads", "1024"),  # one each for 1,000 streams
            *("--worker-connections", "4096"),  # at or below `threads` there is no keep-alive
            *("--config", os.devnull),  # not the gateway's gunicorn.conf.py
            "--no-control-socket",
            "bench.naive:app",
        ],
        env={"UPSTREAM": site.upstream},
        stop=signal.SIGQUIT,  # at once: idle keep-alive connections would be waited for
    )


def poolproxy(site: Site) -> Launch:
    config = site.directory / "config.yaml"
    config.write_text(json.dumps(_poolproxy_config(site)))  # JSON is YAML
    workers = str(site.workers)
    return Launch(
        [*_gunicorn(), "--config", "gunicorn.conf.py", "--workers", workers],
        env={"PROXY_CONFIG": str(config), "WEB_CONCURRENCY": workers},
        stop=signal.SIGQUIT,
    )


def unpinned(site: Site) -> Launch:
    """Poolproxy, whose workers do not keep to a core of their own."""
    launch = poolproxy(site)
    launch.env["PROXY_PIN_WORKERS"] = "0"
    return launch


def _poolproxy_config(site: Site) -> dict[str, object]:
    pool = site.pool
    models = [{"name": name} for name in messages.MODELS]
    models += [
        {"name": messages.UNARY, "alias": alias_of(index)} for index in range(1, pool.aliases)
    ]
    trust = {"ca-bundle": str(site.authority)} if site.authority else {}
    provider = {
        "name": "mock",
        "base-url": f"{site.upstream}/v1",
        "api-keys": pool.keys,
        "max-concurrency": pool.permits,
        "models": models,
        **trust,
    }
    others = {
        kind: [
            {
                "api-key": f"sk-{model}-0123456789",
                "base-url": site.upstream,
                "max-concurrency": pool.permits,
                "models": [{"name": model}],
                **trust,
            }
        ]
        for kind, model in (
            ("claude-api-key", messages.CLAUDE),
            ("gemini-api-key", messages.GEMINI),
        )
        if pool.translates
    }
    slow = [
        {
            "name": f"slow-{index:05}",
            "base-url": f"{site.upstream}/v1",
            "api-keys": [f"sk-bench-slow-{index:06}"],
            "models": [{"name": messages.SLOW, "alias": f"slow-{index:05}"}],
        }
        for index in range(pool.slow)
    ]
    return {
        "host": "127.0.0.1",
        "port": site.port,
        "max-requests-in-flight": pool.in_flight,
        "api-keys": [messages.CALLER_KEY],
        "openai-compatibility": [provider, *slow],
        **others,
        **({"queue-timeout": 120} if slow else {}),
        **({"state": pool.state} if pool.state else {}),
    }


def alias_of(index: int) -> str:
    """The name under which poolproxy offers the mock's unary model for the `index`th time."""
    return f"vendor/alias-{index:05}" if index else messages.UNARY


def nginx(site: Site) -> Launch:
    config = site.directory / "nginx.conf"
    trust = _NGINX_TRUST.format(site=site) if site.authority else ""
    scheme = site.upstream.partition(":")[0]
    config.write_text(_NGINX.format(site=site, scheme=scheme, trust=trust))
    argv = [find_nginx() or "nginx", "-p", str(site.directory), "-c", str(config)]
    return Launch([*argv, "-e", str(site.directory / "error.log")])


def find_nginx() -> str | None:
    """The nginx of this machine, on the path or where distributions put it."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


_NGINX = """\
daemon off;
pid nginx.pid;
worker_processes {site.workers};
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
    access_log access.log;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    client_max_body_size 32m;
    client_body_buffer_size 16m;  # bodies stay in memory, as in the other targets
    keepalive_requests 1000000;
    upstream mock {{
        server 127.0.0.1:{site.upstream_port};
        keepalive 1024;
        keepalive_requests 1000000;
    }}
    server {{
        listen 127.0.0.1:{site.port} backlog=4096;
        location = /healthz {{ return 200; }}
        location / {{
            proxy_pass {scheme}://mock;{trust}
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Authorization "Bearer sk-bench-upstream";
            proxy_buffering off;
            proxy_read_timeout 600s;
        }}
    }}
}}
"""

_NGINX_TRUST = """
            proxy_ssl_verify on;
            proxy_ssl_trusted_certificate {site.authority};
            proxy_ssl_name localhost;"""

RECIPES: dict[str, Recipe] = {
    "naive": naive,
    "nginx": nginx,
    "poolproxy": poolproxy,
    "unpinned": unpinned,
}


def available() -> list[str]:
    """The targets that this machine can run without further installation."""
    found = ["direct", "naive"]
    if find_nginx():
        found.append("nginx")
    if (ROOT / "gunicorn.conf.py").exists():
        found += ["poolproxy", "unpinned"]
    return found


@contextlib.contextmanager
def running(
    name: str,
    upstream_port: int,
    *,
    workers: int = 1,
    pool: Pool | None = None,
    authority: Path | None = None,
) -> Iterator[Running]:
    """Start a target, yield it once it has answered 200, and end it."""
    if name == "direct":
        yield Running(name, upstream_port)
        return
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        site = Site(free_port(), upstream_port, directory, workers, pool or Pool(), authority)
        launch = RECIPES[name](site)
        # What OpenSSL, requests and Node trust, in this order.
        trusting = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
        trust = dict.fromkeys(trusting, str(authority)) if authority else {}
        log = stack.enter_context((directory / "output.log").open("wb"))
        start = time.perf_counter()
        process = subprocess.Popen(
            launch.argv,
            cwd=launch.cwd,
            env=environment(launch.env | trust),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        stack.callback(end, process, by=launch.stop)
        while not _answers(site.port, launch.ready_path):
            if process.poll() is not None or time.perf_counter() - start > _BOOT_LIMIT_S:
                output = (directory / "output.log").read_text(errors="replace")
                raise BenchError(f"{name} did not start; its output:\n{output[-3000:]}")
            time.sleep(_POLL_S)
        boot_s = time.perf_counter() - start
        yield Running(name, site.port, process.pid, boot_s, launch.headers, launch.model_headers)


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def free_port() -> int:
    """A port that nobody listens at, until a target that is told of it does.

    It stays bound while this process lives, or the kernel would give it to somebody else meanwhile.
    That keeps no target from it: they ask for SO_REUSEADDR, as is done here.
    """
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    port: int = sock.getsockname()[1]
    sock.detach()
    return port
