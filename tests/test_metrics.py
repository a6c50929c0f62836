"""The counts of several processes as one, and what becomes of them when a process ends.

Here each process is a `Metrics`: the locks of slots tell them apart as they do processes.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from proxy.config import load_config
from proxy.gateway import Gateway
from proxy.metrics import FAMILIES, OTHER, RETRY_S, Metrics
from proxy.record.record import Record
from proxy.version import __version__
from tests.support.gateway import run_python

SERVER = "1-2"


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


def samples(metrics: Metrics) -> dict[str, float]:
    """What the text says, by name and labels."""
    found = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
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
def home(tmp_path: Path) -> Path:
    return tmp_path


def worker(home: Path, server: str = SERVER) -> Metrics:
    made = Metrics(nobody)
    made.share(str(home), server, nobody)
    return made


def test_any_worker_tells_what_all_have_kept(home: Path) -> None:
    """Of others what they have written, of itself too."""
    one, other = worker(home), worker(home)
    count(one, "mmm")
    count(other, "mn")
    assert requests(one) == requests(other) == {}
    one.keep()
    assert requests(one) == requests(other) == {"m": 3}
    other.keep()
    assert requests(one) == requests(other) == {"m": 4, "n": 1}


DIES = """
import os, sys
from proxy.metrics import Metrics
from proxy.record.record import Record

one = Metrics(list)
one.share(sys.argv[1], sys.argv[2], list)
for _ in range(2):
    one.call(Record("req", endpoint="", arrived=0, model="m"), {"m"})
    one.keep()
one.call(Record("req", endpoint="", arrived=0, model="m"), {"m"})
os._exit(0)
"""


def test_slot_of_a_dead_worker_goes_to_the_next(home: Path) -> None:
    """With all that it has written; so there are no more files than workers at once."""
    stays = worker(home)
    run_python("-c", DIES, str(home), SERVER)
    assert requests(stays) == {"m": 2}
    heir = worker(home)
    count(heir)
    heir.keep()
    assert requests(stays) == {"m": 3}
    assert heir._slot == os.path.join(heir.folder, "1")
    assert worker(home)._slot == os.path.join(heir.folder, "2")


def test_folders_of_dead_servers_are_removed_at_the_next_start(home: Path) -> None:
    """Those in which a worker lives stay, and so does what is not ours."""
    alive = worker(home, "alive")
    for name in ("counts-dead", "other"):
        (home / name).mkdir()
        (home / name / "0").write_bytes(b"")
    (home / "counts-file").touch()
    one = worker(home, "new")
    assert {path.name for path in home.iterdir()} >= {"counts-alive", "counts-new", "other"}
    assert not (home / "counts-dead").exists()
    (home / "counts-late").mkdir()
    worker(home, "new")  # no start: its server runs already
    assert (home / "counts-late").exists()
    assert os.path.exists(alive.folder)
    assert os.path.exists(one.folder)


def test_folder_is_its_users_alone(home: Path) -> None:
    """Models' and callers' names are in it."""
    folder = Path(worker(home).folder)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_values_stay_what_they_were_whoever_is_asked(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers have seen other models each; the first that were told of stay, others are `other`."""
    monkeypatch.setattr("proxy.metrics.MOST_VALUES", 20)
    workers = [worker(home) for _ in range(2)]
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
    home: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A warning, and no number is lost: they are told when there is room again."""
    one = worker(home)
    count(one)
    one.keep()
    blocked = Path(f"{one._slot}.new")
    blocked.mkdir()  # in the way of the file, for root too
    count(one)
    with caplog.at_level(logging.WARNING):
        now = one.keep() - RETRY_S
    assert now > 0
    assert "lags behind" in caplog.text
    assert requests(one) == {"m": 1}
    blocked.rmdir()
    one.keep()
    assert requests(one) == {"m": 2}


def test_nothing_is_written_while_nothing_is_counted(home: Path) -> None:
    """An idle server leaves its disk alone."""
    one = worker(home)
    count(one)
    one.keep()
    before = os.stat(one._slot).st_mtime_ns, os.stat(one._slot).st_ino
    one.keep()
    assert (os.stat(one._slot).st_mtime_ns, os.stat(one._slot).st_ino) == before


def test_scrapes_take_turns(home: Path) -> None:
    """Which names a label has is decided by one at a time."""
    one = worker(home)
    count(one)
    one.keep()
    path = Path(one.folder, "values.lock")
    requests(one)
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody holds it any more


def test_text_is_complete_without_any_call() -> None:
    """All names are there with their types; what can only grow from nothing begins at 0."""
    text = Metrics(nobody).text().decode()
    told = {family.name: family.type for family in text_string_to_metric_families(text)}
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
        {**alpha, "models": {"up": {"state": "ready"}}, "disabled": True},
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
    assert found["poolproxy_client_state{client=alpha,model=up,state=ready}"] == 1
    assert found["poolproxy_client_state{client=alpha,model=,state=disabled}"] == 1
    assert found["poolproxy_cooldown_seconds{client=alpha,model=up}"] == 9


def test_facts_of_a_gateway_are_told() -> None:
    """Without a limit there are infinitely many permits."""
    gateway = gateway_of()
    found = samples(Metrics(lambda: [gateway.facts()]))
    assert found["poolproxy_client_permits{client=demo}"] == float("inf")
    assert found["poolproxy_client_permits{client=alpha}"] == 3
    assert found["poolproxy_requests_in_flight{}"] == 0


def test_who_did_not_answer_or_is_another_servers_is_left_out(home: Path) -> None:
    """As `ask_all` has them."""
    facts = gateway_of().facts()
    one = Metrics(nobody)
    answers = [{"pid": 1, "error": "no answer from worker 1: timed out"}, facts, None]
    one.share(str(home), SERVER, lambda: [a for a in answers if a])
    answers[2] = {**facts, "counts": one.folder, "in_flight": 5}
    assert samples(one)["poolproxy_requests_in_flight{}"] == 5


def test_registry_of_an_application_takes_it() -> None:
    """It looks for names that are there twice."""
    registry = CollectorRegistry(auto_describe=True)
    metrics = Metrics(nobody)
    registry.register(metrics)
    count(metrics)
    assert registry.get_sample_value("poolproxy_stream_ends_total") is None
    labels = {"endpoint": "/v1/chat/completions", "model": "m", "caller": "", "status": "200"}
    assert registry.get_sample_value("poolproxy_requests_total", {**labels, "end": "ok"}) == 1
