"""The command line: what it prints, how it ends, what it does to a running instance."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.commandline import COMMAND, Instance, Shell, serving, wait_for
from tests.gateway import PATIENCE_S, ROOT
from tests.upstream import MODEL, Upstream, error, json_reply

GOOD = "sk-good-0123456789-aaaa"
BAD = "sk-bad-0123456789-bbbb"
COLD = "sk-cold-0123456789-cccc"
CALLER = "caller-0123456789-dddd"
SECRETS = (GOOD, BAD, COLD, CALLER)

# More requests than would all reach the same one of two workers.
MANY = 16


def provider(name: str, url: str, *keys: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "base-url": url, "api-keys": list(keys), **more}


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@pytest.fixture
def shell() -> Iterator[Shell]:
    """One with the demo provider only."""
    with Shell({"port": 0, "demo": [{"name": "demo"}]}, secrets=SECRETS) as place:
        yield place


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    """Two workers, for tests that leave all clients as they were."""
    with Upstream() as server:
        server.always(COLD, error(429, headers={"Retry-After": "600"}))
        models = [{"name": f"vendor/{MODEL}", "alias": "twice"}]
        config = {
            "port": 0,
            "openai-compatibility": [
                provider("alpha", server.url, GOOD, BAD, models=models),
                provider("cold", server.url, COLD, models=[{"name": "cold"}]),
            ],
            "demo": [{"name": "demo", "max-concurrency": 0}],
        }
        with Shell(config, secrets=SECRETS) as place, serving(place) as running:
            yield running


# check


def test_check_prints_what_would_be_served(shell: Shell) -> None:
    """Clients masked, models under both names, callers masked, limits, warnings; status 0."""
    models = [{"name": "vendor/kimi", "alias": "kimi"}]
    shell.write(
        {
            "port": 8317,
            "api-keys": [{"name": "team", "key": CALLER, "models": ["kimi"]}],
            "queue-timeout": 7,
            "openai-compatibility": [provider("alpha", "https://a.test/v1", GOOD, models=models)],
            "gemini-api-key": [{"api-key": "${NONE:-}"}],
            "usage-statistics-enabled": True,
        }
    )
    done = shell.run("check")
    assert done.status == 0, done
    for line in (
        r"config.yaml: valid; would listen on .*, port 8317",
        r"  alpha/sk-…aaaa +https://a.test/v1 +1 +1 +kimi \(its vendor/kimi\)",
        r"  gemini: off, .*NONE.*",
        r"  team +cal…dddd +no limit +kimi",
        r"  queue-timeout +7 s",
        r"  .*usage-statistics-enabled.*",
    ):
        assert re.search(f"^{line}$", done.out, re.MULTILINE), (line, done.out)


def test_check_prints_every_problem_on_stderr_and_exits_2(shell: Shell) -> None:
    """All errors at once, each with file and path; stdout stays empty."""
    shell.write({"port": "no", "openai-compatibility": [provider("a", "nowhere", GOOD)]})
    status, out, err = shell.run("check", "config.yaml")
    assert (status, out) == (2, "")
    assert [line.split(": ")[1] for line in err.splitlines()] == [
        "port",
        "openai-compatibility[0].base-url",
    ]


def test_check_refuses_what_serve_would_refuse(shell: Shell) -> None:
    """An open proxy on all interfaces is a problem of the configuration."""
    shell.write({"host": "0.0.0.0", "demo": [{"name": "demo"}]})
    for command in ("check", "serve"):
        done = shell.run(command)
        assert done.status == 2, done
        assert done.err.startswith("config.yaml: host: without api-keys"), done


@pytest.mark.parametrize(("host", "shown"), [("0.0.0.0", "0.0.0.0"), ("[::]", "::")])
def test_serve_checks_the_host_that_it_was_told(shell: Shell, host: str, shown: str) -> None:
    """An option is no way around the rule for open proxies."""
    done = shell.run("serve", "--host", host)
    assert done.status == 2, done
    assert f"whoever reaches {shown} could spend" in done.err


def test_check_names_a_file_that_is_not_there(shell: Shell) -> None:
    """One line, status 2."""
    status, _, err = shell.run("check", "missing.yaml")
    assert (status, err) == (2, "missing.yaml: cannot be read: No such file or directory\n")


def test_probe_tells_latency_and_models(shell: Shell, upstream: Upstream) -> None:
    """A client that answers is ok, also if its list lacks a configured model, which is said."""
    models = [{"name": MODEL}, {"name": "unheard-of"}]
    shell.write(
        {
            "openai-compatibility": [
                provider("alpha", upstream.url, GOOD),
                provider("beta", upstream.url, BAD, models=models),
            ],
            "demo": [{"name": "demo"}],
        }
    )
    status, out, _ = shell.run("check", "--probe")
    assert status == 0, out
    assert re.search(r"^  alpha/sk-…aaaa +\d+ ms  ok, lists 1 model$", out, re.MULTILINE)
    assert re.search(r"^  beta/.* ok, lists 1 model, but not unheard-of$", out, re.MULTILINE)
    assert re.search(r"^  demo +\d+ ms  ok, lists 1 model$", out, re.MULTILINE)
    assert {one.key for one in upstream.received()} == {GOOD, BAD}


def test_probe_says_in_plain_words_why_an_upstream_failed(shell: Shell, upstream: Upstream) -> None:
    """Status 1; the others are asked all the same; a key said back by the upstream is masked."""
    refusal = json_reply(
        {"error": {"message": f"Incorrect key: {BAD}\x1b[31m", "code": "invalid_api_key"}}, 401
    )
    listing = upstream.pages["/v1/models"]
    assert callable(listing)
    upstream.pages["/v1/models"] = lambda one: refusal if one.key == BAD else listing(one)
    with socket.create_server(("127.0.0.1", 0)) as unused:
        closed = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    shell.write(
        {
            "openai-compatibility": [
                provider("alpha", upstream.url, BAD, GOOD),
                provider("closed", closed, COLD),
            ]
        }
    )
    status, out, _ = shell.run("check", "--probe")
    assert status == 1, out
    assert re.search(r"^  alpha/sk-…bbbb .*failed: Incorrect key: … *\[31m$", out, re.MULTILINE)
    assert "\x1b" not in out
    assert re.search(r"^  alpha/sk-…aaaa .*ok, lists 1 model$", out, re.MULTILINE)
    assert re.search(r"^  closed/.*failed: cannot connect to .*Connection refused", out, re.M)


def test_schema_is_a_json_schema(shell: Shell) -> None:
    """For editors: needs no configuration at all."""
    (shell.path / "config.yaml").unlink()
    status, out, _ = shell.run("check", "--schema")
    schema = json.loads(out)
    assert status == 0
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert "openai-compatibility" in json.dumps(schema)


# The command line itself


@pytest.mark.parametrize("arguments", [(), ("server",), ("serve", "--port", "70000"), ("disable",)])
def test_wrong_command_line_is_explained(shell: Shell, arguments: tuple[str, ...]) -> None:
    """The usage and the error on stderr, status 2."""
    status, out, err = shell.run(*arguments)
    assert (status, out) == (2, "")
    assert "usage: poolproxy" in err


@pytest.mark.parametrize(
    "arguments", [(), ("serve",), ("check",), ("status",), ("disable",), ("enable",)]
)
def test_help_tells_the_exit_statuses(shell: Shell, arguments: tuple[str, ...]) -> None:
    """Each command's help is complete."""
    status, out, _ = shell.run(*arguments, "--help")
    assert status == 0
    assert re.findall(r"^  (\d)    ", out, re.MULTILINE) == ["0", "1", "2", "3", "4"]


def test_terminal_that_cannot_show_a_character_gets_an_escape(shell: Shell) -> None:
    """`…` in an ASCII locale is no reason to fail."""
    shell.write({"openai-compatibility": [provider("alpha", "https://a.test/v1", GOOD)]})
    status, out, _ = shell.run("check", PYTHONIOENCODING="ascii")
    assert status == 0
    assert r"alpha/sk-\u2026aaaa" in out


def test_reader_that_has_seen_enough_is_no_error_to_print(shell: Shell) -> None:
    """`poolproxy check | head -0`: nothing on stderr."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "wb") as closed:
        done = subprocess.run(
            [*COMMAND, "check", "--schema"],
            cwd=shell.path,
            env=shell.environment(),
            stdout=closed,
            stderr=subprocess.PIPE,
            timeout=PATIENCE_S,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, b"")


# serve


def test_serve_and_gunicorn_have_the_same_settings(shell: Shell) -> None:
    """One place of truth: what differs is how the application is named, and nothing else."""
    shell.write({"port": 8399, "demo": [{"name": "demo"}], "max-requests-in-flight": 40})
    script = (
        "import sys; from proxy import serving; from proxy.config import load_config\n"
        "from gunicorn.app.wsgiapp import WSGIApplication\n"
        "ours = serving._Server(load_config, 3).cfg\n"
        f"sys.argv = ['gunicorn', '-w', '3', '-c', {str(ROOT / 'gunicorn.conf.py')!r}]\n"
        "theirs = WSGIApplication().cfg\n"
        "for name in ours.settings:\n"
        "    a, b = (str(getattr(c.settings[name].get(), '__func__', c.settings[name].get()))\n"
        "            for c in (ours, theirs))\n"
        "    if a != b: print(name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=shell.path,
        env=shell.environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (done.stdout.split(), done.stderr) == (["config"], "")


def test_serve_says_when_the_port_is_taken(shell: Shell) -> None:
    """One line, status 3."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        status, _, err = shell.run("serve", "--port", port)
    assert status == 3
    assert err.startswith(f"poolproxy: port {port} is in use"), err


def test_serve_takes_further_settings_of_gunicorn_from_the_environment(shell: Shell) -> None:
    """`$GUNICORN_CMD_ARGS` wins over the configuration, as with gunicorn itself."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = shell.run("serve", GUNICORN_CMD_ARGS=f"--bind 127.0.0.1:{port}")
    assert done.status == 3
    assert f"port {port} is in use" in done.err, done


def test_serve_ends_at_sigterm_and_leaves_nothing(shell: Shell) -> None:
    """Away from the checkout, with the file named: exit status 0, no socket left, status is 4."""
    (shell.path / "config.yaml").rename(shell.path / "mine.yaml")
    running = Instance(shell, "mine.yaml")
    assert running.chat("demo")[0] == 200
    assert running.stop() == 0
    assert shell.sockets() == []
    status, _, err = running.command("status")
    assert (status, err.count("\n")) == (4, 1)
    assert f"no instance of this user's runs on port {running.port}" in err


def test_reload_with_a_broken_file_changes_nothing(shell: Shell) -> None:
    """SIGHUP: the problems are logged, callers are served on; a good file then takes effect."""
    with serving(shell, workers=1) as running:
        shell.write("port: [")
        before = set(running.workers())
        running.process.send_signal(signal.SIGHUP)
        wait_for(lambda: running.workers().keys().isdisjoint(before), running.log)
        assert "the configuration stays as it was: config.yaml" in running.log()
        assert running.chat("demo")[0] == 200
        shell.write({"port": 0, "demo": [{"name": "demo", "models": [{"name": "other"}]}]})
        running.process.send_signal(signal.SIGHUP)
        wait_for(lambda: running.chat("other")[0] == 200, running.log)


# status, disable, enable


def test_status_adds_up_all_workers(instance: Instance) -> None:
    """Permits and counts of both, states in words, and in how many workers they hold."""
    served = {status for status, _ in (instance.chat("twice") for _ in range(MANY))}
    assert served == {200}
    assert instance.chat("cold")[0] == 429
    status, out, err = instance.command("status")
    assert (status, err) == (0, "")
    head, *_ = out.splitlines()
    assert re.fullmatch(r"poolproxy \S+ on port \d+: 2 workers \(pid \d+, \d+\), .*", head)
    assert re.search(r"^alpha/sk-…aaaa +ready +0/2 +0 +\d+ +0  twice$", out, re.MULTILINE)
    assert re.search(
        r"^cold/sk-…cccc +cooling down for \d+ s in 1 of 2 workers +0/2 +0 +1 +1  "
        r"cold \(cooling down\)$",
        out,
        re.MULTILINE,
    )
    assert re.search(r"^demo +ready +0/∞ ", out, re.MULTILINE)


def test_status_as_json_has_the_sums_and_each_worker(instance: Instance) -> None:
    """For scripts: the same facts, unrounded."""
    _, out, _ = instance.command("status", "--json")
    facts = json.loads(out)
    assert facts["port"] == instance.port
    assert len(facts["workers"]) == 2
    for summed in facts["clients"]:
        each = [
            client
            for worker in facts["workers"]
            for client in worker["clients"]
            if client["client"] == summed["client"]
        ]
        assert summed["served"] == sum(client["served"] for client in each)


def test_disabled_client_is_used_by_no_worker(instance: Instance) -> None:
    """Until it is enabled again: 503 from whichever worker."""
    assert instance.command("disable", "demo")[:2] == (0, "demo: disabled in 2 of 2 workers\n")
    assert re.search(r"^demo +disabled ", instance.command("status").out, re.MULTILINE)
    for _ in range(MANY):
        status, body = instance.chat("demo")
        assert (status, body["error"]["code"]) == (503, "no_client_in_service")
    assert instance.command("enable", "demo")[:2] == (0, "demo: enabled in 2 of 2 workers\n")
    assert {instance.chat("demo")[0] for _ in range(MANY)} == {200}


@pytest.mark.parametrize("part", ["alpha/sk-…aaaa", "AAAA", "sk-…aaaa"])
def test_client_may_be_named_by_a_part(instance: Instance, part: str) -> None:
    """Whatever is in one label only, in either case."""
    done = instance.command("enable", part)
    assert (done.status, done.out) == (0, "alpha/sk-…aaaa: enabled in 2 of 2 workers\n")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("alpha", "may be any of alpha/sk-…aaaa, alpha/sk-…bbbb"),
        ("dmeo", "did you mean demo?"),
        ("zzz", "there are alpha/sk-…aaaa, alpha/sk-…bbbb, cold/sk-…cccc, demo"),
    ],
)
def test_client_that_is_not_there_is_answered_with_those_that_are(
    instance: Instance, name: str, said: str
) -> None:
    """Status 1, one line, nothing done."""
    status, out, err = instance.command("disable", name)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert said in err


def test_instance_on_another_port_is_pointed_at(instance: Instance) -> None:
    """Status 4, and where there is one."""
    status, _, err = instance.shell.run("status", "--port", "1")
    assert status == 4
    assert f"--port {instance.port}" in err


def test_disabled_client_stays_so_in_workers_that_start_later(shell: Shell) -> None:
    """Neither a reload nor a worker's death puts a client back into service."""
    with serving(shell) as running:
        assert running.command("disable", "demo").status == 0
        before = set(running.workers())
        os.kill(min(before), signal.SIGKILL)
        wait_for(lambda: len(set(running.workers()) - before) == 1, running.log)
        running.process.send_signal(signal.SIGHUP)
        wait_for(lambda: running.workers().keys().isdisjoint(before), running.log)
        assert {running.chat("demo")[0] for _ in range(MANY)} == {503}
    with serving(shell) as running:
        assert running.chat("demo")[0] == 200
