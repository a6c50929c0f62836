"""How gunicorn runs the gateway: its settings, its hooks, and what it says at start.

Used by `gunicorn.conf.py` and, without that file, by `run`. Nothing here is imported by an
embedding application.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import secrets
import signal
import socket
import stat
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]

from ..app import create_app
from ..config import Config, load_config
from ..errors import ConfigError
from .control import Control, forget
from .logs import set_up_logs, unblock_gunicorns_logs
from .summary import summary
from .tuning import free_core, settle, tune

# Threads beyond `max-requests-in-flight`: they refuse at once what is too much, instead of letting
# it wait unseen in gthread's executor, and answer for health and models meanwhile.
SPARE_THREADS = 32

# Connections beyond the threads: idle ones of callers that keep theirs open.
IDLE_CONNECTIONS = 4096

# Files of a worker beside its connections: listeners, log, control socket, bells and the like.
OTHER_FILES = 64

# Longer than nginx keeps an idle upstream connection (60 s by default), so that it never sends a
# request into one that we are closing.
KEEP_ALIVE_S = 75

# After SIGTERM streams may go on for so long.
GRACEFUL_TIMEOUT_S = 120

_APPLICATION = "proxy.server.settings:application()"

EXIT_CONFIG = 2
EXIT_BUSY = 3

# Tells this server from another that had, or will have, the same process id. Made once, before
# any worker is forked, and not again at a reload.
_TOKEN = secrets.token_hex(4)

# In an upgrade by SIGUSR2 the old server tells the new one by this variable whose place it takes.
_PREDECESSOR = "POOLPROXY_PREDECESSOR"

log = logging.getLogger("proxy.serving")


_loaded: list[Config] = []  # by `load_or_exit`, the last one
_bound: list[tuple[str, int]] = []  # where the server listens, once it does


def load_or_exit(environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration to serve; at a start prints every problem and exits with status 2.

    Later, when gunicorn reads its own file again at SIGHUP, what cannot be served is logged and
    changes nothing.
    """
    try:
        _loaded[:] = [_successor(_loaded[0] if _loaded else None, load_config(environ=environ))]
    except ConfigError as error:
        if not _loaded:
            print("\n".join(error.problems), file=sys.stderr)
            sys.exit(EXIT_CONFIG)
        log.error("the configuration stays as it was: %s", error)  # noqa: TRY400
    return _loaded[0]


def application() -> Flask:
    """What workers serve: that configuration, also if they start when its file was edited."""
    return create_app(_loaded[0])


def servable(config: Config, *hosts: str) -> Config:
    """The configuration, if a server may listen with it, `hosts` too; else raises ConfigError."""
    if problems := config.listen_problems(*hosts):
        raise ConfigError(problems)
    return config


def _successor(old: Config | None, new: Config) -> Config:
    """`new`, if it may take the place of `old` in a server that listens; else raises ConfigError.

    gunicorn gives its old address up before it tries the new one, and ends where that fails.
    """
    if old is None:
        return servable(new)
    old_address = old.host or "0.0.0.0", old.port
    servable(new, *(host for host, port in _bound if (host, port) != old_address))
    new_address = new.host or "0.0.0.0", new.port
    moves = new_address != old_address and old.port in [port for _, port in _bound]
    # Workers of before the reload listen on for a while: what is in use may be in part our own.
    if moves and (why := _why_not(new_address)):
        raise ConfigError([why])
    return new


def settings(config: Config) -> dict[str, Any]:
    """gunicorn's settings (docs.gunicorn.org/en/stable/settings.html)."""
    threads = config.max_requests_in_flight + SPARE_THREADS
    host = config.host or "0.0.0.0"
    hooks = _Hooks(config)
    return {
        "wsgi_app": _APPLICATION,
        "bind": f"[{host}]:{config.port}" if ":" in host else f"{host}:{config.port}",
        "worker_class": "proxy.worker.Worker",
        "threads": threads,
        # At or below `threads`, gthread would turn keep-alive off.
        "worker_connections": max(threads + 1, _most_connections(threads)),
        "keepalive": KEEP_ALIVE_S,
        "graceful_timeout": GRACEFUL_TIMEOUT_S,
        "forwarded_allow_ips": "127.0.0.1,::1",
        # None: by SCRIPT_NAME, which gunicorn takes from these addresses by default, any caller on
        # this machine could have a path served other than the one that a proxy in front checked.
        "forwarder_headers": "",
        "loglevel": "debug" if config.debug else "warning",
        "control_socket_disable": True,
        "proc_name": "poolproxy",
        "on_starting": hooks.on_starting,
        "on_reload": hooks.on_reload,
        "when_ready": hooks.when_ready,
        "pre_fork": hooks.pre_fork,
        "post_fork": hooks.post_fork,
        "post_worker_init": hooks.post_worker_init,
        "worker_exit": hooks.worker_exit,
        "pre_exec": hooks.pre_exec,
        "on_exit": hooks.on_exit,
    }


_ENDINGS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def _instance(pid: int) -> str:
    """This server's name among those that were and will be."""
    return f"{pid}-{_TOKEN}"


def _exit(number: int, frame: object) -> None:
    """Nothing has begun that would have to be ended in order."""
    os._exit(0)


class _Hooks:
    """What the server does besides serving, and when. Forked with it, so each worker has its own.

    docs.gunicorn.org/en/stable/settings.html#server-hooks
    """

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
        _bound[:] = [name[:2] for name in names if isinstance(name, tuple)]
        try:
            servable(self._config, *(host for host, _ in _bound))
        except ConfigError as error:
            print("\n".join(error.problems), file=sys.stderr)
            server.halt(exit_status=EXIT_CONFIG)

    def pre_fork(self, server: Any, worker: Any) -> None:
        """In the master, which knows the cores of all its workers."""
        taken = [getattr(other, "core", None) for other in server.WORKERS.values()]
        worker.core = free_core(taken, server.cfg.workers)
        if getattr(server.app, "app_uri", _APPLICATION) == _APPLICATION:
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


def run(read: Callable[[], Config], *, workers: int | None = None) -> None:
    """Serve until a signal ends it; needs no file of this project's but the package.

    `read` is called at the start, and again at SIGHUP; raises what it raises at the start only.
    Settings in `$GUNICORN_CMD_ARGS` win over ours, `workers` over both.
    """
    # By the words of its own command line the server starts itself anew at SIGUSR2.
    sys.argv = sys.orig_argv[1:]
    _Server(read, workers).run()


class _Server(BaseApplication):  # type: ignore[misc]
    """gunicorn's idea of an application: its settings, and the WSGI callable for the workers.

    Workers get the configuration that the server has read: one that starts later does not see a
    file that was edited meanwhile.
    """

    def __init__(self, read: Callable[[], Config], workers: int | None) -> None:
        self._read = read
        self._overrides = {} if workers is None else {"workers": workers}
        self._config = read()
        super().__init__(prog="poolproxy")

    def load_config(self) -> None:
        set_up_process(self._config)
        for name, value in settings(self._config).items():
            if name in self.cfg.settings:  # as gunicorn takes them from a file
                self.cfg.set(name, value)
        parser = self.cfg.parser()
        from_environ = vars(parser.parse_args(self.cfg.get_cmd_args_from_env()))
        del from_environ["args"]
        for name, value in {**from_environ, **self._overrides}.items():
            if value is not None:
                self.cfg.set(name, value)

    def load(self) -> Any:
        return create_app(self._config)

    def reload(self) -> None:
        """SIGHUP: read the file again; what cannot be served is logged and changes nothing."""
        try:
            self._config = _successor(self._config, self._read())
        except ConfigError as error:
            log.error("the configuration stays as it was: %s", error)  # noqa: TRY400
        else:
            self.callable = None
            super().reload()


def set_up_process(config: Config) -> None:
    """Logging and the limit on open files; inherited by the workers."""
    set_up_logs(debug=config.debug)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def check_addresses(addresses: Iterable[Any], *, shared: bool = False) -> None:
    """Exit with status 3 and one clear line if gunicorn could not listen at one of these.

    `shared`: with others that share it as well (its `reuse_port`).
    """
    for address in addresses:
        if isinstance(address, tuple):
            why = _why_not(address, shared=shared)
        else:
            why = None if isinstance(address, int) else _why_not_unix(address)
        if why:
            print(f"poolproxy: {why}", file=sys.stderr)
            sys.exit(EXIT_BUSY)


def _why_not_unix(path: str) -> str | None:
    """Why a server cannot listen on this Unix socket, which gunicorn would replace in silence."""
    if os.path.exists(path) and not stat.S_ISSOCK(os.stat(path).st_mode):
        return f"cannot listen on unix:{path}: it is there, and no socket"
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):  # nobody's, or left from a crash
            return None
        except BlockingIOError:  # somebody's who is busy
            pass
        except OSError as error:
            return f"cannot listen on unix:{path}: {error.strerror}"
    return f"unix:{path} is in use: bind another, or stop what listens there"


def _why_not(address: tuple[str, int], *, shared: bool = False) -> str | None:
    """Why a server cannot listen at this address."""
    host, port = address
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return f"port {port} is in use: set another `port`, or stop what listens there"
        return f"cannot listen on {host}:{port}: {error.strerror}"
    return None


def _most_connections(threads: int) -> int:
    """What the limit on open files leaves for callers, beside a thread's upstream each."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = threads + IDLE_CONNECTIONS
    return wanted if most == resource.RLIM_INFINITY else min(wanted, most - threads - OTHER_FILES)
