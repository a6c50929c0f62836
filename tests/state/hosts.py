"""Hosts for gateways: namespaces of their own where this machine has them, else this machine.

A host in namespaces has processes, a loopback and links of its own, as a machine has: one link to
this process, where the callers and the upstream are, and one to the host of Redis, which can be cut
while the other one stays. Nothing of them is left when they are closed, or this process ends.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.gateway import PATIENCE_S, ROOT

# RFC 2544, appendix C.2.2: these are for tests of networks, and nobody's.
_NET = "198.18"

# Whatever loses its parent in there is reaped: `cat` inherits that it ignores SIGCHLD.
_FIRST = ["sh", "-c", "trap '' CHLD; echo ready; exec cat"]


class Host:
    """This machine.

    `enter`: what a command has to begin with to run there; `plug_in`: on its network only.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.address = "127.0.0.1"
        self.upstream = "127.0.0.1"  # of this process, as the host sees it; the same for all hosts
        self.enter: list[str] = []
        self.plug_in: list[str] = []


class Far(Host):
    """One in namespaces of its own."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._process = subprocess.Popen(
            [
                *("unshare", "--net", "--pid", "--mount", "--mount-proc"),
                *("--fork", "--kill-child=KILL", *_FIRST),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"
        self.pid = child_of(self._process.pid)
        self.plug_in = ["nsenter", f"--target={self.pid}", "--net"]
        self.enter = [*self.plug_in, "--pid", "--mount", f"--wd={ROOT}"]
        self._far_end: tuple[Far, str] | None = None
        self.run("ip", "link", "set", "lo", "up")

    def close(self) -> None:
        """End all that runs there, without a word, as the loss of a machine does. Idempotent."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()  # its child goes with it, and takes all
        self._process.wait(PATIENCE_S)
        self._process.stdin.close()
        self._process.stdout.close()

    def run(self, *command: str) -> None:
        """Run a command to its end on its network."""
        run(*self.plug_in, *command)

    def link_to_redis(self, redis: Far, number: int, address: str) -> None:
        """A link of its own, on which `address` of that host can be reached."""
        name = f"host{number}"
        far, near = _ends(number + 32)
        stem = address.rpartition(".")[0]
        redis.run(
            *("ip", "link", "add", name, "type", "veth"),
            *("peer", "name", "redis", "netns", str(self.pid)),
        )
        redis.run("ip", "address", "add", f"{stem}.{far}/30", "dev", name)
        redis.run("ip", "link", "set", name, "up")
        self.run("ip", "address", "add", f"{stem}.{near}/30", "dev", "redis")
        self.run("ip", "link", "set", "redis", "up")
        self.run("ip", "route", "add", f"{address}/32", "via", f"{stem}.{far}")
        self._far_end = redis, name

    def cut(self) -> None:
        """Lose every packet between the host and Redis; nobody is told."""
        self._set("down")

    def mend(self) -> None:
        self._set("up")

    def _set(self, state: str) -> None:
        assert self._far_end is not None
        redis, name = self._far_end
        redis.run("ip", "link", "set", name, state)


def run(*command: str) -> None:
    """Run a command to its end; fails where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, (command, done.stderr)


def child_of(pid: int) -> int:
    """The only child of a process."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())


def why_not_far() -> str:
    """Why there can be no hosts in namespaces; "": there can."""
    if os.geteuid() != 0:
        return "only root may have network namespaces"
    for program in ("unshare", "nsenter", "ip"):
        if shutil.which(program) is None:
            return f"there is no {program}"
    if subprocess.run(
        ["unshare", "--net", "--pid", "--fork", "ip", "link", "set", "lo", "up"],
        capture_output=True,
        check=False,
    ).returncode:
        return "this machine lets nobody have network namespaces"
    return ""


def require_far() -> None:
    """Skip a test that needs hosts of their own; fail in CI where only a program is missing."""
    if why := why_not_far():
        if why.startswith("there is no") and os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)


@contextmanager
def hosts(count: int) -> Iterator[tuple[list[Host], Host]]:
    """So many hosts for gateways, and one for Redis."""
    if why_not_far():
        yield [Host(f"port{number}") for number in range(count)], Host("redis")
        return
    with ExitStack() as stack:

        def far(name: str) -> Far:
            made = Far(name)
            stack.callback(made.close)
            return made

        stem = f"{_NET}.{random.randrange(256)}"
        redis = far("redis")
        redis.address = f"{stem}.254"
        redis.run("ip", "address", "add", f"{redis.address}/32", "dev", "lo")
        found: list[Host] = []
        for number in range(count):
            host = far(f"host{number}")
            _link_to_here(host, number, stem)
            host.link_to_redis(redis, number, redis.address)
            found.append(host)
        yield found, redis


def _link_to_here(host: Far, number: int, stem: str) -> None:
    """The upstream has one address for all, or its accounts would be others to each host."""
    here, there = _ends(number)
    name = f"pp{random.getrandbits(32):08x}-{number}"
    run(
        *("ip", "link", "add", name, "type", "veth"),
        *("peer", "name", "front", "netns", str(host.pid)),
    )
    run("ip", "address", "add", f"{stem}.{here}/30", "dev", name)
    if number == 0:
        run("ip", "address", "add", f"{stem}.253/32", "dev", name)
    run("ip", "link", "set", name, "up")
    host.run("ip", "address", "add", f"{stem}.{there}/30", "dev", "front")
    host.run("ip", "link", "set", "front", "up")
    host.run("ip", "route", "add", f"{stem}.253/32", "via", f"{stem}.{here}")
    host.address, host.upstream = f"{stem}.{there}", f"{stem}.253"


def _ends(number: int) -> tuple[int, int]:
    """The last bytes of the two addresses of a link."""
    return 4 * number + 1, 4 * number + 2
