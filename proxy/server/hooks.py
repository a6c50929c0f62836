"""gunicorn's hooks: what the server does besides serving, and when.

docs.gunicorn.org/en/stable/settings.html#server-hooks
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from ..config import BUILT_IN, Config, ConfigSource, count, names
from ..errors import ConfigError
from ..gateway import Gateway, gateways
from . import systemd
from .addresses import check_addresses, note_bound
from .control.listener import COUNTS, DISABLED, Control, hand_over, opened
from .logs import unblock_gunicorns_logs
from .tuning import free_core, settle, tune

APPLICATION = "proxy.server.settings:application()"  # that workers serve
EXIT_CONFIG = 2

_ENDINGS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
_HELD = (signal.SIGHUP, signal.SIGUSR2)  # they wait from a worker's fork until it has handlers

log = logging.getLogger("proxy.serving")


def _is_ours(app: Any) -> bool:
    """Whether it is an application of ours, so that workers can stay when it changes."""
    return getattr(app, "app_uri", APPLICATION) in (APPLICATION, "proxy:create_app()")


class Hooks:
    """The hooks of one server, by gunicorn's names. Forked with it: each worker has its own."""

    def __init__(self, source: ConfigSource) -> None:
        self._source = source
        self._control: Control | None = None

    def on_starting(self, server: Any) -> None:
        """Check the addresses before they are bound, unless they are inherited (USR2, systemd)."""
        unblock_gunicorns_logs()
        opened(DISABLED), opened(COUNTS)
        os.register_at_fork(
            after_in_parent=partial(signal.pthread_sigmask, signal.SIG_UNBLOCK, _HELD)
        )
        systemd.expect_workers(server)
        server.handle_term = partial(self._announce_stop, server, server.handle_term)
        if _is_ours(server.app):
            # gunicorn looks it up on the arbiter at each SIGHUP. Its own starts new workers.
            server.handle_hup = partial(self._hang_up, server)
            server.manage_workers = partial(self._manage, server, server.manage_workers)
        elif self._source.config.status_page:
            from ..api import page  # noqa: F401  # makes what all workers have to know
        if "GUNICORN_FD" not in os.environ and "LISTEN_FDS" not in os.environ:
            check_addresses(server.cfg.address, shared=server.cfg.reuse_port)

    def _hang_up(self, server: Any) -> None:
        """At SIGHUP, in the master: have the workers, who go on, read the configuration again."""
        systemd.notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        self._read(server)
        server.log.reopen_files()
        if not server.num_workers:  # by SIGWINCH, in an upgrade that is taken back
            server.num_workers = server.cfg.workers
        server.kill_workers(signal.SIGHUP)
        systemd.notify("READY=1")

    def _manage(self, server: Any, manage_workers: Callable[[], None]) -> None:
        """In the master, once a second at least: workers that it forks begin with what is good."""
        if self._source.has_changed():
            self._read(server)
        manage_workers()

    def _read(self, server: Any) -> None:
        """In the master. Workers, who read it too, log what is wrong."""
        try:
            with contextlib.suppress(ConfigError):
                self._source.read()
                server.app.callable = None
        except Exception:  # it would end the server
            log.exception("the configuration could not be read again")

    def _announce_stop(self, server: Any, end: Callable[[], None]) -> None:
        """At the first SIGTERM, in the master: callers are told, and taken until a delay is over.

        gunicorn's own handler, `end`, closes the listeners at once, while a proxy in front still
        believes in this server. A second SIGTERM does, too.
        """
        server.handle_term = end
        systemd.stops(server)
        Gateway.is_stopping = True  # in workers that are forked from now on
        if hasattr(server.worker_class, "_announce_stop"):  # another one would die by it
            server.kill_workers(signal.SIGUSR2)
        if not (left_s := self._source.config.shutdown_delay_s):
            end()
        log.info("stopping: new callers are taken for %g s more", left_s)
        signal.signal(signal.SIGALRM, lambda *_: server.SIG_QUEUE.put_nowait(signal.SIGTERM))
        signal.setitimer(signal.ITIMER_REAL, left_s)

    def on_reload(self, server: Any) -> None:
        """At SIGHUP, if the application is not ours and gunicorn starts it anew."""
        unblock_gunicorns_logs()

    def when_ready(self, server: Any) -> None:
        """Print the summary. The bound addresses may be inherited: if one is too open, end."""
        config, cfg = self._source.config, server.cfg
        # With gunicorn's `reuse_port` each worker opens its own.
        names = [listener.getsockname() for listener in server.LISTENERS] or cfg.address
        if problems := config.listen_problems(*note_bound(names)):
            print("\n".join(problems), file=sys.stderr)
            server.halt(exit_status=EXIT_CONFIG)
        where = [str(listener) for listener in server.LISTENERS] or list(cfg.bind)
        said = summary(config, where, workers=cfg.workers, threads=cfg.threads)
        if config.state:
            from ..pool.shared.connection import Unfit, survey

            told, fault = survey(config.state)
            if isinstance(fault, Unfit):
                print(f"state: {told}", file=sys.stderr)
                server.halt(exit_status=EXIT_CONFIG)
            said += f"\n  state: {told}"
        if config.log_format == "json":
            log.info(said)
            return
        with contextlib.suppress(OSError):  # nobody may be reading any more, or the disk is full
            print(said, flush=True)

    def pre_fork(self, server: Any, worker: Any) -> None:
        """Give the worker a core, in the master, which knows those of all workers."""
        taken = [getattr(other, "core", None) for other in server.WORKERS.values()]
        worker.core = free_core(taken, server.cfg.workers)
        if _is_ours(server.app):
            # Load it once for all workers, which share what they do not write to. Any other
            # application is left to each worker: it may hold what does not survive a fork.
            server.app.wsgi()
        settle()
        # Before the fork, or the worker would put such a signal into a queue that nobody reads.
        signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)

    def post_fork(self, server: Any, worker: Any) -> None:
        """Obey signals to end in the worker, until gunicorn has set its handlers.

        The master's would put such a signal, which comes only once, into a queue that nobody reads.
        """
        for number in _ENDINGS:
            signal.signal(number, lambda *_: os._exit(0))
        while not server.SIG_QUEUE.empty():
            if server.SIG_QUEUE.get_nowait() in _ENDINGS:
                os._exit(0)

    def post_worker_init(self, worker: Any) -> None:
        """Tune the worker and open its control socket, before it takes a request."""
        tune(worker.core, worker.cfg.threads)
        for gateway in gateways:
            gateway.pool.open()
        self._open_control(worker)
        if _is_ours(worker.app):
            signal.signal(signal.SIGHUP, self._control.wake if self._control else signal.SIG_IGN)
            signal.siginterrupt(signal.SIGHUP, False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
        systemd.serves(worker.ppid)

    def _open_control(self, worker: Any) -> None:
        app = worker.app.callable
        proxies = getattr(app, "extensions", {}).get("proxy", {})
        if "proxy" not in proxies:
            return  # wrapped in something else: no control
        gateway = proxies["proxy"].gateway_of(app)
        gateway.reloader.report()
        if gateway.ledger is not None:
            gateway.ledger.begin()
        names = [one.getsockname() for one in worker.sockets]
        ports = [name[1] for name in names if isinstance(name, tuple)]
        try:
            self._control = Control(
                gateway,
                port=ports[0] if ports else self._source.config.port,
                instance=str(worker.ppid),
                orders_fd=opened(DISABLED),
                control_dir=self._source.config.control_dir,
                woken=worker.log.reopen_files,
            )
        except RuntimeError as error:
            log.warning("worker %s heeds neither SIGHUP nor commands: %s", worker.pid, error)

    def worker_exit(self, server: Any, worker: Any) -> None:
        """Close the control socket, after the worker has served its last request."""
        for number in (signal.SIGHUP, signal.SIGUSR2):  # Python resets them, and they would kill
            signal.signal(number, signal.SIG_IGN)
        if self._control is not None:
            self._control.close()
        for gateway in gateways:
            gateway.pool.close()

    def pre_exec(self, server: Any) -> None:
        """In the process that is about to become the new server (SIGUSR2)."""
        hand_over(server.cfg.env_orig)


def summary(config: Config, addresses: list[str], *, workers: int, threads: int) -> str:
    """What the server says at its start: what it serves, in a few lines."""
    if config.callers:
        access = f"{len(config.callers)} callers' keys"
    elif config.allow_unauthenticated:
        access = "open to everybody (allow-unauthenticated)"
    else:
        access = "open, this machine only: set api-keys before you put anything in front"
    lines = [f"poolproxy on {', '.join(addresses)} ({access})"]
    if config.path == BUILT_IN:
        lines.append(f"  {BUILT_IN}, as there is no config.yaml: `poolproxy init` writes it")
    pools = 1 if config.state else workers
    for provider in dict.fromkeys(client.provider for client in config.clients):
        clients = [client for client in config.clients if client.provider == provider]
        aliases = {model.alias for client in clients for model in client.models or ()}
        models = count(len(aliases), "model") if aliases else "the upstream's models"
        permits = [client.max_concurrency for client in clients]
        at_once = "unlimited" if 0 in permits else str(sum(permits) * pools)
        if pools > 1 and 0 not in permits:  # each has a pool of its own
            at_once += f" ({sum(permits)} per worker)"
        lines.append(f"  {provider}: {count(len(clients), 'client')}, {models}, {at_once} at once")
    lines += [f"  {provider}: off, {reason}" for provider, reason in config.providers_off]
    limited: dict[str, list[str]] = {}  # callers by what they may do
    for caller in config.callers:
        limited.setdefault(caller.limits(pools), []).append(caller.name or str(caller.key))
    lines += [f"  limits of {names(who)}: {limits}" for limits, who in limited.items() if limits]
    most = f"{config.max_requests_in_flight} requests in flight at most"
    lines.append(f"  {count(workers, 'worker')} of {threads} threads: {most}, each")
    lines += [f"  warning: {warning}" for warning in config.warnings]
    return "\n".join(lines)
