"""What the server does besides serving, and when: gunicorn's hooks.

docs.gunicorn.org/en/stable/settings.html#server-hooks
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import sys
from typing import Any

from ..config import Config
from ..errors import ConfigError
from .addresses import check_addresses, note_bound, servable
from .control import Control, forget
from .logs import unblock_gunicorns_logs
from .tuning import free_core, settle, tune

# What `settings` has workers serve.
APPLICATION = "proxy.server.settings:application()"

EXIT_CONFIG = 2

# Tells this server from another that had, or will have, the same process id. Made once, before
# any worker is forked, and not again at a reload.
_TOKEN = secrets.token_hex(4)

# In an upgrade by SIGUSR2 the old server tells the new one by this variable whose place it takes.
_PREDECESSOR = "POOLPROXY_PREDECESSOR"

log = logging.getLogger("proxy.serving")

_ENDINGS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def _instance(pid: int) -> str:
    """This server's name among those that were and will be."""
    return f"{pid}-{_TOKEN}"


def _exit(number: int, frame: object) -> None:
    """Nothing has begun that would have to be ended in order."""
    os._exit(0)


class Hooks:
    """The hooks of one server, by gunicorn's names. Forked with it: each worker has its own."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._control: Control | None = None

    def on_starting(self, server: Any) -> None:
        """Once, before the socket is bound; not if it is inherited (upgrade by USR2, systemd)."""
        unblock_gunicorns_logs()
        if "GUNICORN_FD" not in os.environ and "LISTEN_FDS" not in os.environ:
            check_addresses(server.cfg.address, shared=server.cfg.reuse_port)

    def on_reload(self, server: Any) -> None:
        """SIGHUP: before the new workers are forked."""
        unblock_gunicorns_logs()
        server.app.callable = None
        self._note_bound(server)

    def when_ready(self, server: Any) -> None:
        """The socket is bound: callers can connect."""
        self._note_bound(server)
        said = summary(
            self._config,
            [str(listener) for listener in server.LISTENERS] or list(server.cfg.bind),
            workers=server.cfg.workers,
            threads=server.cfg.threads,
        )
        with contextlib.suppress(BrokenPipeError):  # whoever started it may not listen any more
            print(said, flush=True)

    def _note_bound(self, server: Any) -> None:
        """Addresses may be the command line's, or inherited; end at one that is too open."""
        # With gunicorn's `reuse_port` each worker opens its own.
        names = [listener.getsockname() for listener in server.LISTENERS] or server.cfg.address
        try:
            servable(self._config, *note_bound(names))
        except ConfigError as error:
            print("\n".join(error.problems), file=sys.stderr)
            server.halt(exit_status=EXIT_CONFIG)

    def pre_fork(self, server: Any, worker: Any) -> None:
        """In the master, which knows the cores of all its workers."""
        taken = [getattr(other, "core", None) for other in server.WORKERS.values()]
        worker.core = free_core(taken, server.cfg.workers)
        if getattr(server.app, "app_uri", APPLICATION) == APPLICATION:
            # Once for all workers: they share what they do not write to. Another's application is
            # its own worker's: it may hold what a fork does not survive.
            server.app.wsgi()
        settle()

    def post_fork(self, server: Any, worker: Any) -> None:
        """In the worker, before gunicorn has set its handlers: until then those of the master hold.

        They would put a signal to end into a queue that nobody reads, and it is sent only once.
        """
        for number in _ENDINGS:
            signal.signal(number, _exit)
        while not server.SIG_QUEUE.empty():
            if (number := server.SIG_QUEUE.get_nowait()) in _ENDINGS:
                _exit(number, None)

    def post_worker_init(self, worker: Any) -> None:
        """The worker has loaded the application, and takes no request before this returns."""
        tune(worker.core, worker.cfg.threads)
        proxies = getattr(worker.wsgi, "extensions", {}).get("proxy", {})
        if "proxy" not in proxies:
            return  # wrapped in something else: no control
        names = [listener.getsockname() for listener in worker.sockets]
        ports = [name[1] for name in names if isinstance(name, tuple)]
        try:
            self._control = Control(
                proxies["proxy"].gateway,
                port=ports[0] if ports else self._config.port,
                instance=_instance(worker.ppid),
                predecessor=os.environ.get(_PREDECESSOR, ""),
                alone=not ports,  # a TCP port is no other's
            )
        except OSError as error:
            log.warning("`poolproxy status` will not find worker %s: %s", worker.pid, error)

    def worker_exit(self, server: Any, worker: Any) -> None:
        """The worker has served its last request."""
        if self._control is not None:
            self._control.close()

    def pre_exec(self, server: Any) -> None:
        """SIGUSR2: in the process that is about to become the new server."""
        server.cfg.env_orig[_PREDECESSOR] = _instance(server.pid)

    def on_exit(self, server: Any) -> None:
        """In the master, whose workers have ended."""
        forget(_instance(server.pid))


def summary(config: Config, addresses: list[str], *, workers: int, threads: int) -> str:
    """What the server says at its start: what it serves, in a few lines."""
    access = f"{len(config.callers)} callers' keys" if config.callers else "open, this machine only"
    if not config.callers and config.allow_unauthenticated:
        access = "open to everybody (allow-unauthenticated)"
    lines = [f"poolproxy on {', '.join(addresses)} ({access})"]
    for provider in dict.fromkeys(client.provider for client in config.clients):
        clients = [client for client in config.clients if client.provider == provider]
        models = {model.alias for client in clients for model in client.models or ()}
        permits = [client.max_concurrency for client in clients]
        lines.append(
            f"  {provider}: {_count(len(clients), 'client')}, "
            + (_count(len(models), "model") if models else "the upstream's models")
            + f", {'unlimited' if 0 in permits else _in_all(sum(permits), workers)} at once"
        )
    lines += [f"  {provider}: off, {reason}" for provider, reason in config.providers_off]
    lines.append(
        f"  {_count(workers, 'worker')} of {threads} threads: "
        f"{config.max_requests_in_flight} requests in flight at most, each"
    )
    lines += [f"  warning: {warning}" for warning in config.warnings]
    return "\n".join(lines)


def _in_all(permits: int, workers: int) -> str:
    """Each worker has a pool of its own."""
    return str(permits) if workers == 1 else f"{permits * workers} ({permits} per worker)"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
