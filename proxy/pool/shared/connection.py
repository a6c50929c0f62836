"""The way to the server that keeps the books: calls of its functions, and what it tells a process.

redis-py makes a connection, with its URLs, TLS, passwords and Sentinel. A call goes over it by
hand, and is repeated at most once: whatever is sent may be sent twice. Here is too which process is
which, over all hosts, and which of this host's are dead.
"""

from __future__ import annotations

import os
import secrets
from collections import deque
from collections.abc import Iterator
from contextlib import closing, suppress
from hashlib import sha1
from pathlib import Path
from queue import Empty, LifoQueue
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import redis
from hiredis import pack_command
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from ...config.schema import State

CALL_S = 5.0  # a call takes microseconds: a server that stalls for longer is away
CONNECT_S = 2.0
MOST_LINKS = 32  # more would wait for the server's one thread all the same

# Instances of different versions may use one server.
_BOOKS = Path(__file__).with_name("books.lua").read_text()
NAME = f"poolproxy_{sha1(_BOOKS.encode(), usedforsecurity=False).hexdigest()[:12]}"
LIBRARY = f"#!lua name={NAME}\nlocal NAME = '{NAME}'\n{_BOOKS}"

_SKIP = b"*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n$4\r\nSKIP\r\n"  # the next command has no answer


class Away(redis.RedisError):
    """The server cannot be asked, or does not do as it should; the message says why."""


class Unfit(Away):
    """It never will, as it is."""


class Link:
    """A connection to a server that will do. Raises RedisError, OSError."""

    def __init__(self, raw: Any, prefix: str) -> None:
        self.raw = raw
        self.prefix = prefix
        raw.connect()
        said = self.ask("INFO").decode(errors="replace").splitlines()
        info = dict(line.split(":", 1) for line in said if ":" in line)
        if why := unfit(info):
            raise Unfit(why)
        self.ask("FUNCTION", "LOAD", "REPLACE", LIBRARY)  # by the same
        self.run = info["run_id"]

    def ask(self, *words: Any) -> Any:
        self.raw.send_packed_command([pack_command(words)], check_health=False)
        return self.raw.read_response()

    def call(self, *call: Any) -> Any:
        return self.ask(*self._words(*call))

    def send(self, *call: Any) -> None:
        """As `call`, with no answer to come."""
        packed = pack_command(self._words(*call))
        self.raw.send_packed_command([_SKIP + packed], check_health=False)

    def _words(self, what: str, process: str, known: str, *words: Any) -> tuple[Any, ...]:
        return "FCALL", NAME, 1, self.prefix, what, process, f"{self.run} {known}", *words

    def messages(self, for_s: float) -> Iterator[bytes]:
        """What the process was told, as far as it is there, or comes before the time is over."""
        while self.raw.can_read(max(0.0, for_s)):
            yield self.raw.read_response()[2]
            for_s = 0.0

    def close(self) -> None:
        self.raw.disconnect()


class Server:
    """The server of a `state`. Opens nothing before the first call."""

    def __init__(self, state: State) -> None:
        bare, _, query = state.url.reveal().partition("?")
        options = dict(parse_qsl(query))
        self.prefix = f"{{pp:{options.pop('name', '') or state.name}}}:"
        self._pool = _pool(f"{bare}?{urlencode(options)}")
        self.forget()

    def forget(self) -> None:
        """Start anew without connections, as a forked child has to."""
        self._links: LifoQueue[Link | None] = LifoQueue()  # None: one may be opened
        for _ in range(MOST_LINKS):
            self._links.put(None)
        self._unsent: deque[tuple[Any, ...]] = deque()

    def close(self) -> None:
        """Close idle connections."""
        idle = self._links
        self.forget()
        with suppress(Empty):
            while True:
                if (link := idle.get_nowait()) is not None:
                    link.close()

    def call(self, what: str, process: str, known: str, *words: object) -> Any:
        """What the books say. Blocks for 5 s, where the server stalls; raises Away."""
        links = self._links
        try:
            link = links.get(timeout=CALL_S)
        except Empty:
            raise Away("no answer in time") from None
        try:
            if link is not None:
                with suppress(redis.ConnectionError, redis.ResponseError):
                    return link.call(what, process, known, *words)
                link.close()  # it broke while it was idle, or is a primary's no more
            link = Link(self._pool.make_connection(), self.prefix)
            return link.call(what, process, known, *words)
        except BaseException as error:
            if link is not None:
                link.close()  # its answer may still come
                link = None
            if isinstance(error, Away) or not isinstance(error, (redis.RedisError, OSError)):
                raise
            raise Away(str(error)) from error
        finally:
            links.put(link)
            self.send()

    def send(self, *call: Any) -> bool:
        """As `call`, and wait for nothing; False: no connection is free, the next call sends it."""
        self._unsent.extend([call] if call else [])
        is_sent = False
        with suppress(Empty, IndexError, redis.RedisError, OSError):
            while self._unsent:
                # Where there is none, who has one looks here when it is back.
                link = kept = self._links.get_nowait()
                try:
                    if link is None:
                        break
                    words, kept = self._unsent.popleft(), None  # it may break in the middle
                    link.send(*words)
                    kept, is_sent = link, is_sent or words == call
                finally:
                    self._links.put(kept)
        return is_sent

    def subscribe(self, process: str) -> Link:
        """A connection on which a process hears what it is told; raises RedisError, OSError."""
        link = Link(self._pool.make_connection(), self.prefix)
        # Two answers, and no message between them.
        link.ask("SUBSCRIBE", f"{self.prefix}to:{process}", f"{self.prefix}all")
        link.raw.read_response()
        return link


def _pool(url: str) -> Any:
    retry = Retry(NoBackoff(), 0)
    options: dict[str, Any] = {"protocol": 2, "retry": retry, "client_name": "poolproxy"}
    options |= {"socket_timeout": CALL_S, "socket_connect_timeout": CONNECT_S}
    options["max_connections"] = 2**31  # it counts all there ever were
    parts = urlsplit(url)
    if not parts.scheme.endswith("+sentinel"):
        return redis.ConnectionPool.from_url(url, **options)
    who, _, hosts = parts.netloc.rpartition("@")
    ends = [one.split(":") for one in hosts.split(",")]
    patience = {"socket_timeout": CONNECT_S, "retry": retry}
    sentinel = Sentinel(ends, sentinel_kwargs=patience)  # type: ignore[no-untyped-call]
    service, _, database = parts.path.strip("/").partition("/")
    options |= parse_url(f"redis://{who}@/{database}")  # type: ignore[no-untyped-call]
    options["ssl"] = parts.scheme.startswith("rediss")
    return SentinelConnectionPool(service, sentinel, **options)  # type: ignore[no-untyped-call]


def unfit(info: dict[str, str]) -> str:
    """Why a server, of which this is INFO, cannot keep the books; "": it can."""
    version = info.get("redis_version", "0")
    if int(version.split(".")[0]) < 7:  # functions
        return f"it is Redis {version}; 7.0 is the oldest that will do"
    if info.get("arch_bits") == "32":  # its functions' integers hold no microseconds since 1970
        return "it is built for 32 bits"
    if (policy := info.get("maxmemory_policy", "")).startswith("allkeys"):
        return f"by its maxmemory-policy, {policy}, it may forget permits in use: set noeviction"
    return "it is a replica; name the primary, or Sentinel" if info.get("role") == "slave" else ""


def survey(state: State) -> tuple[str, Away | None]:
    """Where a state is, and how many have a part in it, or what is wrong. Blocks for seconds."""
    url = urlsplit(state.url.reveal())  # shown without user, password and options
    shown = f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"
    try:
        with closing(Server(state)) as server:
            others = len(server.call("processes", "", ""))
    except Away as error:
        return f"{shown}: {error}", error
    return f"{shown} ({others} other process{'' if others == 1 else 'es'})", None


def _proc(name: str) -> str:
    """A file of the kernel's; "": it cannot be read, as where no descriptor is left."""
    try:
        return Path("/proc", name).read_text()
    except OSError:
        return ""


def _start_of(pid: int | str) -> str:
    """When the process began, in the kernel's ticks (proc(5), field 22); "": that cannot be read.

    A zombie may be the first thread of one that was killed while others still have its sockets.
    """
    stat = _proc(f"{pid}/stat").rpartition(")")[2].split()
    return ("ended" if stat[0] in "ZX" and int(stat[17]) <= 1 else stat[19]) if stat else ""


# What pids belong to: this start of this host, and a namespace in it. Without /proc nobody can tell
# that a process is dead: it expires.
_boot = _proc("sys/kernel/random/boot_id")[:8]
PLACE = f"{_boot}.{os.stat('/proc/self/ns/pid').st_ino:x}" if _boot else secrets.token_hex(8)


def own_name(serial: int) -> str:
    """The name of one of this process's pools."""
    return f"{PLACE}-{os.getpid()}-{_start_of(os.getpid())}-{serial}"


def is_dead(name: str) -> bool:
    """Whether it was one of this host's processes, and is no more."""
    place, pid, start, _ = name.split("-")
    if place != PLACE or not start:
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's
        pass
    return _start_of(pid) not in ("", start)
