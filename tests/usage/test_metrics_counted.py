"""What is counted of a call, and that the counts stay small whatever is called."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from proxy.api.endpoints import DIALECTS
from proxy.record.record import Attempt, Record
from proxy.usage.metrics import (
    BOUNDS,
    FAMILIES,
    LABELS,
    MOST_CALLERS,
    MOST_VALUES,
    OPERATIONS,
    OTHER,
    Metrics,
)
from proxy.version import __version__
from proxy.wire.chat import Usage
from tests.support.gateway import ROOT
from tests.support.pages import quoted, table

MODELS = {"m", "n"}
CHAT = "/v1/chat/completions"
ACCOUNT, REFUSED = "up/sk-...b780", "claude/sk-...0001"


def record_of(**fields: Any) -> Record:
    """A call that took 3 s and is well."""
    record = Record("req_1", endpoint=fields.pop("endpoint", CHAT), arrived=100.0)
    usual = {"model": "m", "caller": "ci", "status": 200, "end": "ok", "ended": 103.0}
    for name, value in (usual | fields).items():
        setattr(record, name, value)
    return record


def attempt(reason: str = "ok", **fields: Any) -> Attempt:
    usual: dict[str, Any] = {"client": ACCOUNT, "model": "up-m", "seconds": 2.0}
    return Attempt(**{**usual, "reason": reason, **fields})


def counted(*records: Record) -> dict[str, float]:
    """The counts that are not zero, as text; of a histogram how many there were, and their sum."""
    metrics = Metrics(list)
    for record in records:
        metrics.call(record, MODELS)
    found = {}
    for (name, *values), numbers in metrics.rows().items():
        labels = ",".join(
            f"{label}={value}" for label, value in zip(LABELS[name], values, strict=True)
        )
        row = f"{name.removesuffix('_seconds')}{{{labels}}}"
        if name in BOUNDS:
            found[f"{row} count"], found[f"{row} sum"] = sum(numbers[:-1]), numbers[-1]
        else:
            found[row] = numbers[0]
    del found[f"poolproxy_build_info{{version={__version__}}}"]
    return {row: number for row, number in found.items() if number}


def test_stream_is_counted_with_all_that_is_known() -> None:
    """The request, its attempts, what it waited for, its times and its tokens."""
    attempts = [
        attempt("rate_limit_exceeded", status=429, seconds=0.5, client=REFUSED),
        attempt(first_event_s=0.25, usage=Usage(9, 12, cached_tokens=4, reasoning_tokens=5)),
    ]
    record = record_of(stream=True, first_event=101.0, attempts=attempts)
    record.waited_s, record.is_kept = 0.125, False
    server = "gen_ai_operation_name=chat,gen_ai_provider_name=up,gen_ai_request_model=m,error_type="
    client = server.replace("model=m", "model=up-m")
    failed = "gen_ai_operation_name=chat,gen_ai_provider_name=anthropic,gen_ai_request_model=up-m"
    failed += ",error_type=rate_limit_exceeded"
    tokens = f"poolproxy_tokens_total{{caller=ci,client={ACCOUNT},model=up-m,type"
    assert counted(record) == {
        f"poolproxy_requests_total{{endpoint={CHAT},model=m,caller=ci,status=200,end=ok}}": 1,
        "poolproxy_stream_ends_total{reason=ok}": 1,
        "poolproxy_sticky_total{outcome=moved}": 1,
        "poolproxy_queue_wait{} count": 1,
        "poolproxy_queue_wait{} sum": 0.125,
        f"gen_ai_server_request_duration{{{server}}} count": 1,
        f"gen_ai_server_request_duration{{{server}}} sum": 3,
        f"gen_ai_server_time_to_first_token{{{server}}} count": 1,
        f"gen_ai_server_time_to_first_token{{{server}}} sum": 1,
        f"poolproxy_attempts_total{{client={REFUSED},model=up-m,outcome=rate_limit_exceeded}}": 1,
        f"poolproxy_attempts_total{{client={ACCOUNT},model=up-m,outcome=ok}}": 1,
        f"gen_ai_client_operation_duration{{{failed}}} count": 1,
        f"gen_ai_client_operation_duration{{{failed}}} sum": 0.5,
        f"gen_ai_client_operation_duration{{{client}}} count": 1,
        f"gen_ai_client_operation_duration{{{client}}} sum": 2,
        f"gen_ai_client_operation_time_to_first_chunk{{{client}}} count": 1,
        f"gen_ai_client_operation_time_to_first_chunk{{{client}}} sum": 0.25,
        f"{tokens}=input}}": 9,
        f"{tokens}=output}}": 12,
        f"{tokens}=input_cached}}": 4,
        f"{tokens}=output_reasoning}}": 5,
    }


def test_refused_call_counts_without_what_it_did_not_come_to() -> None:
    """A caller without a key, before the body was read."""
    refused = record_of(model="", caller="", status=401, end="invalid_api_key", ended=100.5)
    server = "gen_ai_operation_name=chat,gen_ai_provider_name=,gen_ai_request_model="
    server += ",error_type=invalid_api_key"
    unnamed = "model=,caller="
    assert counted(refused) == {
        f"poolproxy_requests_total{{endpoint={CHAT},{unnamed},status=401,end=invalid_api_key}}": 1,
        f"gen_ai_server_request_duration{{{server}}} count": 1,
        f"gen_ai_server_request_duration{{{server}}} sum": 0.5,
    }


def test_fallbacks_limits_and_waits_in_vain_are_counted() -> None:
    """Each by what it is about; who got no account has waited, too."""
    found = counted(
        record_of(fallback="n", attempts=[attempt()]),
        record_of(limit="max-concurrency", status=429, end="rate_limit_exceeded"),
        record_of(waited_s=30.0, status=503, end="no_client_free"),
        record_of(is_kept=True),
    )
    assert found["poolproxy_fallbacks_total{from=m,to=n}"] == 1
    assert found["poolproxy_limit_refusals_total{caller=ci,limit=max-concurrency}"] == 1
    assert found["poolproxy_sticky_total{outcome=kept}"] == 1
    assert (found["poolproxy_queue_wait{} count"], found["poolproxy_queue_wait{} sum"]) == (2, 30)


@pytest.mark.parametrize(
    ("endpoint", "path"),
    [
        ("/llm/v1/messages", "/v1/messages"),
        ("/v1/messages/count_tokens", "/v1/messages/count_tokens"),
        ("/v1/completions", "/v1/completions"),
        ("proxy.chat", "proxy.chat"),
        ("/v1/models", OTHER),
        ("/v1/chat/completions/", OTHER),
        ("/favicon.ico", OTHER),
        ("", OTHER),
    ],
)
def test_paths_are_those_of_endpoints(endpoint: str, path: str) -> None:
    """Whatever prefix is before them; all that are none are one."""
    (row, *_) = counted(record_of(endpoint=endpoint))
    assert f"endpoint={path}," in row


def test_every_dialect_has_an_operation() -> None:
    """Another one comes into the table, too."""
    assert {path for path in OPERATIONS if path.startswith("/")} == DIALECTS.keys()


def test_thousands_of_strangers_names_are_one() -> None:
    """Of models that nobody offers, and of paths: nothing grows with them."""
    metrics = Metrics(list)
    for number in range(5000):
        metrics.call(record_of(model=f"stranger-{number}", status=404), MODELS)
        metrics.call(record_of(endpoint=f"/stranger-{number}", model="", status=404), MODELS)
    names = {key[2] for key in metrics.rows() if key[0] == "poolproxy_requests_total"}
    assert names == {OTHER, ""}
    assert len(metrics._table) < 20
    assert (
        sum(row[0] for key, row in metrics.rows().items() if key[0] == "poolproxy_requests_total")
        == 10_000
    )


def test_values_beyond_the_most_are_other() -> None:
    """The first ones stay what they are; of callers fewer are told apart."""
    metrics = Metrics(list)
    models = [f"m{number}" for number in range(MOST_VALUES + 100)]
    for model in [*models, *models]:
        metrics.call(record_of(model=model, caller=f"of {model}"), models)
    rows = {key: row for key, row in metrics.rows().items() if key[0] == "poolproxy_requests_total"}
    assert {key[2] for key in rows} == {*models[:MOST_VALUES], OTHER}
    assert {key[3] for key in rows} == {*(f"of {one}" for one in models[:MOST_CALLERS]), OTHER}
    assert sum(row[0] for row in rows.values()) == 2 * len(models)


def test_model_that_was_tried_is_known() -> None:
    """A reload may have taken it away since."""
    (row, *_) = counted(record_of(model="gone", attempts=[attempt()]))
    assert "model=gone," in row


def test_what_an_upstream_names_can_be_written() -> None:
    """Half a surrogate is no text, and a code may be as long as it likes."""
    metrics = Metrics(list)
    metrics.call(record_of(end="\ud800", attempts=[attempt("x" * 5000)]), MODELS)
    for key in metrics.rows():
        assert max(map(len, ",".join(key).encode().decode().split(","))) <= 256


def test_secrets_are_masked() -> None:
    """A model's name, which an upstream's list made known, may quote a key."""
    record = record_of(attempts=[attempt(model="sk-secret")], fallback="sk-secret")
    record.mask = lambda text: text.replace("sk-secret", "***")
    assert "sk-secret" not in str(counted(record))


def test_moments_come_into_their_buckets() -> None:
    """A bucket holds what takes as long as its bound, or less; the last one whatever is longer."""
    for name, bounds in BOUNDS.items():
        assert list(bounds) == sorted(set(bounds)), name
    metrics = Metrics(list)
    for ended in (100.0, 100.01, 100.011, 100.02, 181.92, 182.0, 5000.0):
        metrics.call(record_of(ended=ended), MODELS)
    (numbers,) = [
        row for key, row in metrics.rows().items() if key[0].endswith("request_duration_seconds")
    ]
    bounds = BOUNDS["gen_ai_server_request_duration_seconds"]
    # Moments are floats: what is added to 100 may come out a little longer or shorter.
    assert (sum(numbers[:3]), numbers[len(bounds) - 1 : -1]) == (4, [1, 2])


def test_page_names_every_metric_with_its_labels() -> None:
    """And no other."""
    page = (ROOT / "docs" / "metrics.md").read_text()
    rows = list(
        itertools.chain(
            *(
                table(page, head)
                for head in (
                    "| name | labels | what it counts |",
                    "| name | labels | what it tells |",
                )
            )
        )
    )
    found = {quoted(row[0])[0]: quoted(row[1]) for row in rows}
    common = ["gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "error_type"]
    found |= {quoted(row[0])[0]: common for row in table(page, "| name | what it measures |")}
    assert found == LABELS
    assert all(text for _, text in FAMILIES.values())
