"""The command line on a running instance: status, disable, enable."""

from __future__ import annotations

import json
import os
import re
import signal
from argparse import Namespace
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.cli.running import _find, _place
from proxy.config import load_config
from proxy.errors import ConfigError
from tests.support.commandline import Instance, Shell, provider, serving, wait_for
from tests.support.gateway import Gateway, run_python
from tests.support.upstream import HANG, MODEL, Upstream, chunk, error, events

GOOD = "sk-good-0123456789-aaaa"
BAD = "sk-bad-0123456789-bbbb"
COLD = "sk-cold-0123456789-cccc"
SECRETS = (GOOD, BAD, COLD)

# More requests than would all reach the same one of two workers.
MANY = 16


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


def test_status_adds_up_all_workers(instance: Instance) -> None:
    """Permits and counts of both, states in words, and in how many workers they hold."""
    served = {status for status, _ in (instance.chat("twice") for _ in range(MANY))}
    assert served == {200}
    assert instance.chat("cold")[0] == 429
    status, out, err = instance.command("status")
    assert (status, err) == (0, "")
    head, *_ = out.splitlines()
    assert re.fullmatch(r"poolproxy \S+ on port \d+: 2 workers \(pid \d+, \d+\), .*", head)
    assert re.search(r"^alpha/sk-...aaaa +ready +0/2 +0 +\d+ +0  twice$", out, re.MULTILINE)
    assert re.search(
        r"^cold/sk-...cccc +cooling down in 1 of 2 workers +0/2 +0 +0 +1  cold$",
        out,
        re.MULTILINE,
    )
    assert re.search(r"^demo +ready +0/∞ ", out, re.MULTILINE)
    assert re.search(
        r"^cold/\S+ \(cold\): cooling down since .*: 429: The upstream refuses\.$", out, re.M
    )


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
        assert summed["answered"] == sum(client["answered"] for client in each)


@pytest.mark.long
def test_disabled_client_is_used_by_no_worker(instance: Instance) -> None:
    """Until it is enabled again: 503 from whichever worker."""
    assert instance.command("disable", "demo")[:2] == (0, "demo: disabled in 2 of 2 workers\n")
    assert re.search(r"^demo +disabled ", instance.command("status").out, re.MULTILINE)
    for _ in range(MANY):
        status, body = instance.chat("demo")
        assert (status, body["error"]["code"]) == (503, "no_client_in_service")
    assert instance.command("enable", "demo")[:2] == (0, "demo: enabled in 2 of 2 workers\n")
    assert {instance.chat("demo")[0] for _ in range(MANY)} == {200}


def test_status_of_a_model_says_why(instance: Instance) -> None:
    """Its clients alone, and of each why it does not serve; a file's name is still one."""
    instance.command("disable", "bbbb")
    try:
        status, out, err = instance.command("status", "twice")
    finally:
        instance.command("enable", "bbbb")
    assert (status, err) == (0, "")
    assert re.findall(r"^(\w+)/[^:\s]+ +(ready|disabled by hand) ", out, re.M) == [
        ("alpha", "disabled by hand"),
        ("alpha", "ready"),
    ]
    assert "demo" not in out
    status, out, err = instance.command("status", "nothing")
    assert (status, out, err.splitlines()[0]) == (1, "", "poolproxy: there is no model 'nothing'")


@pytest.mark.parametrize("model", [(), ("cold",)])
def test_reset_ends_a_cooldown(instance: Instance, model: tuple[str, ...]) -> None:
    """In every worker, for one model or for all."""
    assert instance.chat("cold")[0] == 429
    done = instance.command("reset", "cold", *model)
    assert (done.status, done.out) == (0, "cold/sk-...cccc: reset in 2 of 2 workers\n")
    assert re.search(r"^cold/sk-...cccc +ready ", instance.command("status", "cold").out, re.M)


def test_client_may_be_named_as_its_provider_is_in_the_file() -> None:
    """Though the label has the letters of a header only."""
    label = load_config({"demo": [{"name": "Zoë"}]}, environ={}).clients[0].label
    assert label.isascii()
    assert _find("zoë", [label, "demo"]) == label


@pytest.mark.parametrize("part", ["alpha/sk-...aaaa", "AAAA", "sk-...aaaa", "SK-...aaaa"])
def test_client_may_be_named_by_a_part(instance: Instance, part: str) -> None:
    """Whatever is in one label only, in either case."""
    done = instance.command("enable", part)
    assert (done.status, done.out) == (0, "alpha/sk-...aaaa: enabled in 2 of 2 workers\n")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("alpha", "may be any of alpha/sk-...aaaa, alpha/sk-...bbbb"),
        ("dmeo", "did you mean demo?"),
        ("zzz", "there are alpha/sk-...aaaa, alpha/sk-...bbbb, cold/sk-...cccc, demo"),
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


@pytest.mark.long
def test_reload_tells_what_changed_or_what_is_wrong(instance: Instance) -> None:
    """In all workers before it ends. What is wrong is printed, as `status` does, with status 2."""
    text = instance.shell.read()
    config = {**yaml.safe_load(text), "queue-timeout": 7}
    instance.shell.write(config)
    done = instance.command("reload")
    said = {"queue-timeout 30 -> 7", "nothing changed"}  # it may have been quicker by itself
    assert done.status == 0
    assert all(line.rpartition(": ")[2] in said for line in done.out.splitlines()), done
    assert " of 2 workers: " in done.out
    instance.shell.write("port: [")
    done = instance.command("reload")
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("config.yaml: line 1, column 8: not YAML: ")
    assert done.err.count("\n") == 1
    done = instance.command("status")
    assert done.status == 0
    assert "the configuration stays as it was: config.yaml: line 1" in done.out
    instance.shell.write(text)
    assert instance.command("reload").status == 0
    assert "stays as it was" not in instance.command("status").out


@pytest.mark.parametrize("running", [[], [8317], [1, 2]])
def test_file_that_is_wrong_names_no_port(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, running: list[int]
) -> None:
    """Then the only instance is meant: somebody may ask it what is wrong."""
    (tmp_path / "config.yaml").write_text("port: [")
    monkeypatch.setattr("proxy.cli.running.running_ports", lambda: running)
    args = Namespace(file=str(tmp_path / "config.yaml"), port=None)
    if len(running) == 1:
        assert _place(args) == (running[0], "")
    else:
        with pytest.raises(ConfigError):
            _place(args)


@pytest.mark.long
def test_clients_that_leave_are_told_of(instance: Instance, upstream: Upstream) -> None:
    """Until their last request has ended; nobody can disable one any more."""
    upstream.default = events(chunk({"content": "a"}), HANG)
    text = instance.shell.read()
    config = yaml.safe_load(text)
    del config["demo"]
    config["openai-compatibility"].append(provider("slow", upstream.url, models=[{"name": "slow"}]))
    instance.shell.write(config)
    assert instance.command("reload").status == 0
    with instance.open_stream("slow"):
        instance.shell.write(text)
        assert instance.command("reload").status == 0
        assert instance.log().count("1 client more, 1 less (drains 1 request)") == 1
        out = instance.command("status").out
        assert re.search(r"^slow +leaving +1/", out, re.MULTILINE), out
        assert instance.command("disable", "slow").status == 1
    wait_for(lambda: "leaving" not in instance.command("status").out)


@pytest.mark.slow
def test_disabled_client_stays_so_in_workers_that_start_later() -> None:
    """Neither another label nor a worker's death puts a client back into service."""

    def config_of(name: str) -> dict[str, Any]:
        entry = {"name": name, "base-url": upstream.url, "models": [{"name": "m"}]}
        return {"port": 0, "openai-compatibility": [entry]}

    def labels_in(running: Instance) -> set[str]:
        return {each["client"] for one in running.workers().values() for each in one["clients"]}

    def orders_of(worker: int) -> bytes:
        """What is in its files without a name."""
        found = []
        for path in Path(f"/proc/{worker}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed since it was listed
                if os.readlink(path).endswith(" (deleted)"):
                    found.append(path.read_bytes())
        return b"".join(found)

    with Upstream() as upstream, Shell(config_of("p")) as shell:
        with serving(shell) as running:
            assert running.command("disable", "p").status == 0
            before = set(running.workers())
            shell.write(config_of("renamed"))
            labels = {"renamed"}
            wait_for(lambda: labels_in(running) == labels, running.log)
            wait_for(lambda: b'["renamed"]' in orders_of(min(before)), running.log)
            running.killed = min(before)
            os.kill(running.killed, signal.SIGKILL)
            wait_for(lambda: len(set(running.workers()) - before) == 1, running.log)
            assert {running.chat("m")[0] for _ in range(MANY)} == {503}
        with serving(shell) as running:
            assert running.chat("m")[0] == 200


@pytest.mark.long
def test_service_is_found_by_its_file() -> None:
    """Where `control-dir` says: by FILE, whatever the port; an order holds, and is forgotten."""
    with Shell({}) as place:
        home = place.path / "poolproxy-service"
        place.write({"port": 0, "control-dir": str(home), "demo": [{"name": "demo"}]})
        with serving(place, workers=1) as running:
            assert len([*home.glob("*.sock")]) == 1
            assert place.run("status", "--port", str(running.port)).status == 4
            done = running.command("disable", "demo", "config.yaml")
            assert (done.status, done.out) == (0, "demo: disabled in 1 of 1 worker\n")
            assert "demo    disabled" in running.command("status", "config.yaml").out
        assert list(home.glob("*.sock")) == []


@pytest.mark.long
def test_health_is_asked_over_http() -> None:
    """`ok` and status 0, or why not and 1: it serves, has a client in service, or is gone."""
    with Shell({"port": 0, "demo": [{"name": "demo"}]}) as place:
        with serving(place, workers=1) as running:
            assert running.command("health") == (0, "ok\n", "")
            keys, demo = ["caller-0123456789"], [{"name": "demo"}]
            place.write({"host": "", "port": running.port, "api-keys": keys, "demo": demo})
            assert place.run("health").out == "ok\n"
            assert running.command("disable", "demo").status == 0
            assert running.command("health").status == 0
            status, _, err = place.run("health", "--ready")
            assert (status, "/readyz says 503" in err) == (1, True), err
        status, out, err = place.run("health")
        assert (status, out, "refused" in err) == (1, "", True), err


@pytest.mark.long
@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_instance_may_listen_at_an_ipv6_address(host: str, tmp_path: Path) -> None:
    """With or without brackets in the file; it says so, and is found there."""
    config = {"host": host, "demo": [{"name": "demo"}]}
    with Gateway(config) as running:
        assert running.url == f"http://[::1]:{running.port}"
        assert running.chat("demo").status == 200
        file = tmp_path / "config.yaml"
        file.write_text(json.dumps({**config, "port": running.port}))
        assert run_python("-m", "proxy", "health", str(file)) == "ok\n"
