"""How gunicorn runs the gateway: its settings, and the two ways to start it.

`gunicorn.conf.py` uses `load_or_exit`, `set_up_process` and `settings`; the command `serve` has no
such file and uses `run`. Nothing here is imported by an embedding application.
"""

from __future__ import annotations

import logging
import resource
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]

from ..app import create_app
from ..config import SERVED, Config, ConfigSource, Seen, load_config
from ..errors import ConfigError
from .addresses import in_force
from .hooks import APPLICATION, EXIT_CONFIG, Hooks
from .logs import set_up_logs

# Threads beyond `max-requests-in-flight`. They refuse excess requests at once, which would wait
# unseen in gthread's executor otherwise, and answer for health and models meanwhile.
SPARE_THREADS = 32

IDLE_CONNECTIONS = 4096  # beyond the threads: of callers that keep theirs open
OTHER_FILES = 64  # of a worker beside its connections: listeners, log, control socket, bells, ...

# Longer than nginx keeps an idle upstream connection (60 s by default), so that nginx never sends a
# request into a connection that we are closing.
KEEP_ALIVE_S = 75
GRACEFUL_TIMEOUT_S = 120  # that streams may go on for after SIGTERM

log = logging.getLogger("proxy.serving")


def load_or_exit() -> Config:
    """The configuration to serve. At a start, prints every problem and exits with status 2.

    At the SIGHUP of an application that is not ours, one that cannot be served changes nothing.
    """
    try:
        if SERVED:
            SERVED[0].read()
        else:
            _serve(partial(load_config, None))
    except ConfigError as error:
        if not SERVED:
            print("\n".join(error.problems), file=sys.stderr)
            sys.exit(EXIT_CONFIG)
        log.error("the configuration stays as it was: %s", error)  # noqa: TRY400
    return SERVED[0].config


def _serve(read: Callable[[Seen], Config]) -> None:
    """Have what `read` returns served, as far as it can be; raises ConfigError."""
    started: Config | None = None

    def read_servable(seen: Seen) -> Config:
        nonlocal started
        config = read(seen)
        started = started or config
        return in_force(started, config)

    SERVED.append(ConfigSource(read_servable))


def application() -> Flask:
    """The application of the configuration that is served."""
    return create_app(SERVED[0])


def settings(config: Config) -> dict[str, Any]:
    """gunicorn's settings (docs.gunicorn.org/en/stable/settings.html)."""
    threads = config.max_requests_in_flight + SPARE_THREADS
    connections = threads + IDLE_CONNECTIONS
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY:  # each thread may have an upstream, too
        connections = min(connections, files - threads - OTHER_FILES)
    host = config.host or "0.0.0.0"
    hooks = Hooks(SERVED[0] if SERVED else ConfigSource.of(config))
    return {
        "wsgi_app": APPLICATION,
        "bind": f"[{host}]:{config.port}" if ":" in host else f"{host}:{config.port}",
        "worker_class": "proxy.worker.Worker",
        "threads": threads,
        # At or below `threads`, gthread would turn keep-alive off.
        "worker_connections": max(threads + 1, connections),
        "keepalive": KEEP_ALIVE_S,
        "graceful_timeout": GRACEFUL_TIMEOUT_S,
        "forwarded_allow_ips": ",".join(config.trusted_proxies),
        # gunicorn by default takes SCRIPT_NAME from these addresses. With it any caller on this
        # machine could get another path served than the one that a proxy in front checked.
        "forwarder_headers": "",
        # Where gunicorn_h1c is installed, gunicorn would take it. It lets a request line with two
        # spaces pass, and closes without a word where a refused one has no end.
        "http_parser": "python",
        "loglevel": "debug" if config.debug else "warning",
        "control_socket_disable": True,
        "proc_name": "poolproxy",
        **{name: getattr(hooks, name) for name in vars(Hooks) if not name.startswith("_")},
    }


def run(read: Callable[[Seen], Config], *, workers: int | None = None) -> None:
    """Serve until a signal ends it; needs no file of this project's but the package.

    `read` is called at the start, and whenever the files that it notes have changed; raises what it
    raises at the start only. Settings in `$GUNICORN_CMD_ARGS` win over ours, `workers` over both.
    """
    # At SIGUSR2 the server starts itself anew by the words of its own command line.
    sys.argv = sys.orig_argv[1:]
    _serve(read)
    _Server({"workers": workers}).run()


class _Server(BaseApplication):  # type: ignore[misc]
    """gunicorn's idea of an application: its settings, and the WSGI callable for the workers."""

    def __init__(self, overrides: dict[str, Any]) -> None:
        self._overrides = overrides
        super().__init__(prog="poolproxy")

    def load_config(self) -> None:
        set_up_process(SERVED[0].config)
        ours = settings(SERVED[0].config)
        from_environ = self.cfg.parser().parse_args(self.cfg.get_cmd_args_from_env())
        for given in (ours, vars(from_environ), self._overrides):
            for name, value in given.items():
                if name in self.cfg.settings and value is not None:
                    self.cfg.set(name, value)

    def load(self) -> Flask:
        return application()


def set_up_process(config: Config) -> None:
    """Logging and the limit on open files; inherited by the workers."""
    set_up_logs(debug=config.debug, as_json=config.log_format == "json")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
