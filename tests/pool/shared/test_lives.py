"""What a process imports, and whose what is after a fork."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.config import load_config
from proxy.errors import ConfigError
from proxy.pool.shared.connection import PLACE, is_dead, own_name
from tests.support.commandline import wait_for
from tests.support.gateway import run_python
from tests.support.redis import RedisServer, require_redis

require_redis()

NOTHING = """
import sys
from proxy import create_app
app = create_app({"demo": [{"name": "demo"}]})
asked = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}]}
assert app.test_client().post("/v1/chat/completions", json=asked).status_code == 200
print([name for name in sys.modules if "redis" in name or "shared" in name.split(".")])
"""

FORKED = """
import os, sys, threading
from proxy import create_app
app = create_app({"state": sys.argv[1], "demo": [{"name": "demo", "max-concurrency": 2}]})
pool = app.extensions["proxy"]["proxy"].gateway_of(app).pool
assert threading.active_count() == 1, "nothing starts before the first request"
asked = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}]}
def ask():
    assert app.test_client().post("/v1/chat/completions", json=asked).status_code == 200
    return pool._me
ours = ask()
child = os.fork()
if not child:
    assert ask() != ours
    pool.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert ask() == ours
pool.close()
assert threading.active_count() == 1
"""


@pytest.mark.long
def test_without_state_nothing_of_it_is_imported() -> None:
    """Neither redis-py nor what would use it."""
    assert run_python("-c", NOTHING).strip() == "[]"


@pytest.mark.long
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="a fork beside a thread is a warning there")
def test_a_forked_child_is_a_process_of_its_own() -> None:
    """An application may be made, and have served, before its server forks."""
    with RedisServer() as redis:
        assert run_python("-c", FORKED, redis.unix_url) == ""


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """And how to get it."""
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigError, match=r"pip install 'poolproxy\[redis\]'"):
        load_config({"state": "redis://h"})


def test_a_process_is_dead_when_another_has_its_pid_or_none() -> None:
    """As far as it is of this host; of another one nobody can tell."""
    name = own_name(1)
    place, pid, start, serial = name.split("-")
    assert pid == str(os.getpid())
    assert not is_dead(name)
    assert is_dead(f"{place}-{pid}-{int(start) - 1}-{serial}")
    assert is_dead(f"{place}-{2**22 + 1}-{start}-{serial}")
    assert not is_dead(f"elsewhere-{2**22 + 1}-{start}-{serial}")


LEADERLESS = """
import ctypes, os, sys, threading
def live_on():
    print(open("/proc/self/stat").read().rpartition(")")[2].split()[19], flush=True)
    sys.stdin.read()
    os._exit(0)
threading.Thread(target=live_on).start()
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)  # exit(2)
"""


@pytest.mark.skipif(os.uname().machine not in ("x86_64", "aarch64"), reason="a number of Linux's")
def test_a_process_is_not_dead_while_a_thread_of_it_lives() -> None:
    """When it is killed its first thread may be a zombie, and sockets are still open."""
    command = [sys.executable, "-c", LEADERLESS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        start = process.stdout.readline().decode().strip()
        name = f"{PLACE}-{process.pid}-{start}-0"
        stat = Path(f"/proc/{process.pid}/stat")
        wait_for(lambda: ") Z " in stat.read_text())
        assert not is_dead(name)
        process.stdin.close()
        wait_for(lambda: is_dead(name))


def test_a_process_is_not_dead_because_no_descriptor_is_left_to_look_at_it() -> None:
    """Its permits would be lent while it uses them."""
    with subprocess.Popen(["sleep", "60"]) as other:
        start = Path(f"/proc/{other.pid}/stat").read_text().split()[21]
        name = f"{PLACE}-{other.pid}-{start}-0"
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            was_dead = is_dead(name)
            other.kill()
            other.wait()
            assert is_dead(name)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert not was_dead
