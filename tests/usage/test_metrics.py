"""The counts of several processes as one, and what becomes of them when a process ends.

Where nothing is to happen at the same time each process is a `Metrics` here.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from tempfile import TemporaryFile
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from proxy.config import load_config
from proxy.gateway import Gateway
from proxy.record.record import Record
from proxy.usage.metrics import _HEAD, FAMILIES, OTHER, RETRY_S, Metrics
from proxy.version import __version__
from tests.support.gateway import PATIENCE_S, ROOT, environment


def nobody() -> list[dict[str, Any]]:
    return []


def record_of(model: str = "m", **fields: Any) -> Record:
    record = Record("req_1", endpoint="/v1/chat/completions", arrived=100.0)
    usual = {"model": model, "status": 200, "end": "ok", "ended": 100.5}
    for name, value in (usual | fields).items():
        setattr(record, name, value)
    return record


def count(metrics: Metrics, models: Iterable[str] = ("m",)) -> None:
    for model in models:
        metrics.call(record_of(model), {model})


def text(metrics: Any) -> str:
    return generate_latest(metrics).decode()


def samples(metrics: Metrics) -> dict[str, float]:
    """What the text says, by name and labels."""
    found = {}
    for family in text_string_to_metric_families(text(metrics)):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def requests(metrics: Metrics) -> Counter[str]:
    """So many requests by model."""
    found = Counter[str]()
    for row, number in samples(metrics).items():
        if row.startswith("poolproxy_requests_total"):
            found[row.partition(",model=")[2].partition(",")[0]] += int(number)
    return found


@pytest.fixture
def fd() -> Iterator[int]:
    """What a server's workers have in common."""
    with TemporaryFile(buffering=0) as file:
        yield file.fileno()


def worker(fd: int) -> Metrics:
    made = Metrics(nobody)
    made.fd = fd
    return made


def test_any_worker_tells_what_all_have_kept(fd: int) -> None:
    """Of others what they have written, of itself too."""
    one, other = worker(fd), worker(fd)
    count(one, "mmm")
    count(other, "mn")
    assert requests(one) == requests(other) == {}
    one.keep()
    assert requests(one) == requests(other) == {"m": 3}
    other.keep()
    assert requests(one) == requests(other) == {"m": 4, "n": 1}


DIES = """
import os, signal, sys
from proxy.usage import metrics
from proxy.record.record import Record

one = metrics.Metrics(list)
one.fd = int(sys.argv[1])
for _ in range(2):
    one.call(Record("req", endpoint="", arrived=0, model="m"), {"m"})
    one.keep()
one.call(Record("req", endpoint="", arrived=0, model="m"), {"m"})

def die(fd, data, at):
    write(fd, data[:20], at)
    os.kill(os.getpid(), signal.SIGKILL)

write, os.pwrite = os.pwrite, die
one.keep()
"""


def test_counts_of_a_dead_worker_stay(fd: int) -> None:
    """All that it has kept, though it is killed while it writes; others go on from there."""
    stays = worker(fd)
    count(stays)
    stays.keep()
    command = [sys.executable, "-c", DIES, str(fd)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), pass_fds=[fd], check=False)
    assert done.returncode == -signal.SIGKILL
    assert requests(stays) == {"m": 3}
    heir = worker(fd)
    count(heir)
    heir.keep()
    assert requests(stays) == {"m": 4}


ADDS = """
import sys
from proxy.usage.metrics import Metrics
from proxy.record.record import Record

one = Metrics(list)
one.fd = int(sys.argv[1])
sys.stdin.read()
for number in range(300):
    one.call(Record("req", endpoint="", arrived=0, model="m"), {"m"})
    one.keep()
"""


@pytest.mark.long
def test_workers_take_turns(fd: int) -> None:
    """At the same time, as fast as they can; who looks meanwhile sees numbers that only grow."""
    with ExitStack() as held:
        command = [sys.executable, "-c", ADDS, str(fd)]
        begun = [
            held.enter_context(
                subprocess.Popen(command, cwd=ROOT, env=environment(), pass_fds=[fd], stdin=-1)
            )
            for _ in range(3)
        ]
        one, before = worker(fd), 0
        for each in begun:
            assert each.stdin
            each.stdin.close()
        while before < 900:
            found = requests(one)["m"]
            assert found >= before
            before = found
            assert before == 900 or any(each.poll() in (None, 0) for each in begun)
        assert [each.wait(PATIENCE_S) for each in begun] == [0, 0, 0]
    assert requests(one) == {"m": 900}


def test_a_head_that_is_half_written_is_read_again(fd: int) -> None:
    """Its writer may stand still in the middle: what is seen is the same then, time and again."""
    one = worker(fd)
    heads = []
    for _ in range(2):
        count(one, "m")
        one.keep()
        heads.append(os.pread(fd, _HEAD.size, 0))
    for part in range(8, _HEAD.size, 8):
        os.pwrite(fd, heads[1][:part] + heads[0][part:], 0)
        timer = threading.Timer(0.05, os.pwrite, (fd, heads[1], 0))
        timer.start()
        assert requests(worker(fd)) == {"m": 2}
        timer.join()


HOLDS = """
import fcntl, sys
fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX)
print("ready", flush=True)
sys.stdin.read()
"""


def test_worker_that_stands_still_holds_up_no_scrape(fd: int) -> None:
    """With the lock of all: what was kept is told, and more is kept when it has gone."""
    one = worker(fd)
    count(one)
    one.keep()
    count(one)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(fd)], pass_fds=[fd], stdin=-1, stdout=-1
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == b"ready\n"
        keeping = threading.Thread(target=one.keep)
        keeping.start()
        assert requests(one) == {"m": 1}
        other.communicate()
        keeping.join(PATIENCE_S)
    assert requests(one) == {"m": 2}


def test_values_stay_what_they_were_whoever_is_asked(
    fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers have seen other models each; the first that were told of stay, others are `other`."""
    monkeypatch.setattr("proxy.usage.metrics.MOST_VALUES", 20)
    workers = [worker(fd) for _ in range(2)]
    before = Counter[str]()
    for step in range(3):
        for number, one in enumerate(workers):
            count(one, [f"{step}-{number}-{n}" for n in range(6)])
            one.keep()
        for one in workers:
            found = requests(one)
            assert all(found[model] >= times for model, times in before.items())
            assert len(found.keys() - {OTHER}) <= 20
            assert sum(found.values()) == 12 * (step + 1)
            before = found
    assert len(before) == 21


def test_full_disk_keeps_counts_in_memory(
    fd: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A warning, and no number is lost: they are told when there is room again."""
    one = worker(fd)
    count(one)
    one.keep()
    count(one)
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(os, "pwrite", lambda _fd, data, _at: len(data) - 1)
        now = one.keep() - RETRY_S
    assert now > 0
    assert "lags behind" in caplog.text
    assert requests(one) == {"m": 1}
    one.keep()
    assert requests(one) == {"m": 2}


def test_nothing_is_written_while_nothing_is_counted(
    fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle server leaves the file alone."""
    one = worker(fd)
    count(one)
    one.keep()
    monkeypatch.setattr(os, "pwrite", None)
    one.keep()
    assert requests(one) == {"m": 1}


def test_text_is_complete_without_any_call() -> None:
    """All names are there with their types; what can only grow from nothing begins at 0."""
    written = text(Metrics(nobody))
    told = {family.name: family.type for family in text_string_to_metric_families(written)}
    for name in FAMILIES:
        kind = "counter" if name.endswith("_total") else "gauge"
        kind = "histogram" if "_wait_" in name or name.startswith("gen_ai") else kind
        assert told[name.removesuffix("_total")] == kind, name
    found = samples(Metrics(nobody))
    assert found[f"poolproxy_build_info{{version={__version__}}}"] == 1
    assert found["poolproxy_reloads_total{result=ok}"] == 0
    assert found["poolproxy_reloads_total{result=failed}"] == 0


def test_histogram_is_cumulative() -> None:
    """As Prometheus wants it: each bucket holds those before it, and +Inf is the count."""
    metrics = Metrics(nobody)
    for ended in (100.005, 100.3, 100.3, 190.0):
        metrics.call(record_of(ended=ended), {"m"})
    name = "gen_ai_server_request_duration_seconds"
    labels = "error_type=,gen_ai_operation_name=chat,gen_ai_provider_name=,gen_ai_request_model=m"
    found = {row: number for row, number in samples(metrics).items() if row.startswith(name)}
    assert found[f"{name}_bucket{{{labels},le=0.01}}"] == 1
    assert found[f"{name}_bucket{{{labels},le=0.32}}"] == 3
    assert found[f"{name}_bucket{{{labels},le=81.92}}"] == 3
    assert found[f"{name}_bucket{{{labels},le=+Inf}}"] == found[f"{name}_count{{{labels}}}"] == 4
    assert found[f"{name}_sum{{{labels}}}"] == pytest.approx(90.605)


def test_values_of_labels_are_escaped() -> None:
    """A name may have quotes, line ends, and half a surrogate of an upstream's making."""
    metrics = Metrics(nobody)
    odd = 'a"b\\c\nd'
    metrics.call(record_of(odd), {odd})
    metrics.call(record_of("\ud83d"), {"\ud83d"})
    assert requests(metrics) == {odd: 1, "?": 1}


def gateway_of(**settings: Any) -> Gateway:
    alpha = {"name": "alpha", "base-url": "http://a.invalid/v1", "max-concurrency": 3}
    models = [{"name": "up", "alias": "m"}]
    tree = {"openai-compatibility": [{**alpha, "models": models}], "demo": [{}], **settings}
    return Gateway(load_config(tree))


def test_how_things_stand_is_summed_over_processes() -> None:
    """Permits, states and requests of each; a cooldown is as long as the longest."""
    facts = gateway_of().facts()
    alpha = {**facts["clients"][0], "in_flight": 2}
    others = [
        {**alpha, "models": {"up": {"state": "cooling down", "for_s": 3.5}}},
        {**alpha, "models": {"up": {"state": "cooling down", "for_s": 9.0}}},
        {**alpha, "models": {"": {"state": "disabled"}, "up": {"state": "ready"}}},
        {**alpha, "client": "gone", "leaving": True},
    ]
    waits = {"m": {"waiting": 4, "waited_s": 1.0}}
    told = [{**facts, "clients": [one], "queues": waits, "in_flight": 7} for one in others]
    found = samples(Metrics(lambda: told))
    assert found["poolproxy_requests_in_flight{}"] == 28
    assert found["poolproxy_requests_waiting{}"] == 16
    assert found["poolproxy_client_in_flight{client=alpha}"] == 6
    assert found["poolproxy_client_in_flight{client=gone}"] == 2
    assert found["poolproxy_client_permits{client=alpha}"] == 9
    assert "poolproxy_client_permits{client=gone}" not in found
    assert found["poolproxy_client_state{client=alpha,model=up,state=cooling down}"] == 2
    assert found["poolproxy_client_state{client=alpha,model=,state=disabled}"] == 1
    assert found["poolproxy_client_state{client=alpha,model=up,state=disabled}"] == 1
    assert found["poolproxy_cooldown_seconds{client=alpha,model=up}"] == 9


def test_account_that_is_out_is_so_for_each_of_its_models() -> None:
    """Who asks for accounts that are ready for a model finds none that cannot serve it."""
    (alpha, _), out = gateway_of().facts()["clients"], {"state": "out of service", "failures": 1}
    facts = {**gateway_of().facts(), "clients": [alpha]}
    name = "poolproxy_client_state{client=alpha,model="
    for health, told in (({}, "ready"), ({"": out}, "out of service")):
        alpha["models"] = {**health, "up": {"state": "ready", "failures": 0}}
        found = samples(Metrics(lambda: [facts]))
        states = {row.removeprefix(name): number for row, number in found.items() if name in row}
        assert states == {f"{model},state={told}}}": 1 for model in ("up", *health)}


def test_facts_of_a_gateway_are_told() -> None:
    """Without a limit there are infinitely many permits."""
    gateway = gateway_of()
    found = samples(Metrics(lambda: [gateway.facts()]))
    assert found["poolproxy_client_permits{client=demo}"] == float("inf")
    assert found["poolproxy_client_permits{client=alpha}"] == 3
    assert found["poolproxy_requests_in_flight{}"] == 0


def test_who_did_not_answer_is_left_out() -> None:
    """As `ask_all` has them."""
    facts = {**gateway_of().facts(), "in_flight": 5}
    answers = [{"pid": 1, "error": "no answer from worker 1: timed out"}, facts]
    assert samples(Metrics(lambda: answers))["poolproxy_requests_in_flight{}"] == 5


def test_registry_of_an_application_takes_it() -> None:
    """It looks for names that are there twice."""
    registry = CollectorRegistry(auto_describe=True)
    metrics = Metrics(nobody)
    registry.register(metrics)
    count(metrics)
    assert registry.get_sample_value("poolproxy_stream_ends_total") is None
    labels = {"endpoint": "/v1/chat/completions", "model": "m", "caller": "", "status": "200"}
    assert registry.get_sample_value("poolproxy_requests_total", {**labels, "end": "ok"}) == 1
