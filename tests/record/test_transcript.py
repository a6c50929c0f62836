"""`request-log`: whole requests and answers in files, no key in any of them, no request harmed."""

from __future__ import annotations

import errno
import gc
import gzip
import hashlib
import json
import logging
import math
import os
import re
import shutil
import stat
import subprocess
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from proxy import create_app
from proxy.config import load_config, mask
from proxy.net.helpers import Task
from proxy.net.watch import CallerConnection
from proxy.record.record import Record
from proxy.record.transcript import DIRECTORY, RequestLog, Transcript, _threads
from tests.support.commandline import wait_for
from tests.support.upstream import (
    HANG,
    MODEL,
    Gate,
    Hold,
    Reply,
    Upstream,
    chat,
    chunk,
    error,
    events,
    stream,
)

CHAT = "/v1/chat/completions"
CALLERS_KEY = "sk-caller-0123456789abcdef"
KEY = "sk-upstream-0123456789abcdef"
OTHER_KEY = "sk-other-0123456789abcdef"
MESSAGES = [{"role": "user", "content": "Hi"}]
HEADERS = {"Authorization": f"Bearer {CALLERS_KEY}", "X-Request-Id": "req:1"}


def caller_of(directory: Path, base_url: str, **more: Any) -> FlaskClient:
    """A caller of a gateway whose configuration file is in `directory`."""
    config = {
        "request-log": True,
        "api-keys": [{"name": "ci", "key": CALLERS_KEY}],
        "openai-compatibility": [
            {
                "name": "up",
                "base-url": base_url,
                "api-keys": [KEY, OTHER_KEY],
                "models": [{"name": MODEL, "alias": "m"}],
            }
        ],
        **more,
    }
    path = directory / "config.yaml"
    path.write_text(json.dumps(config))  # YAML as well
    return create_app(path).test_client()


def asked(**more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": MESSAGES, **more}


def files(directory: Path) -> list[Path]:
    return sorted((directory / DIRECTORY).glob("*"))


def only_file(directory: Path) -> str:
    """The text of the only file; fails if a key is in it or in its name."""
    (path,) = files(directory)
    text = path.read_text()
    for key in (CALLERS_KEY, KEY, OTHER_KEY):
        assert key not in text + path.name
    return text


TIME = re.compile(r"(?m)^--- (\d+\.\d{3}) s\n")


def without_times(text: str) -> str:
    """A stream without what says when each piece of it left."""
    return TIME.sub("", text)


SECTION = re.compile(r"(?ms)^=== ([A-Z ]+) ===\n(.*?)(?=\n=== [A-Z ]+ ===\n|\Z)")


def sections(text: str) -> dict[str, str]:
    """The parts of a file by title, in their order."""
    return {title: content.rstrip("\n") for title, content in SECTION.findall(text)}


TITLES = ["REQUEST INFO", "HEADERS", "REQUEST BODY", "ATTEMPTS", "RESPONSE", "END"]


def test_a_unary_request_is_written_whole(tmp_path: Path, upstream: Upstream) -> None:
    """What came, byte for byte, who served it, what went back, and its line in the log."""
    body = b'{"model":  "m", "messages": [{"role": "user", "content": "Gr\xc3\xbc\xc3\x9fe"}]}'
    caller = caller_of(tmp_path, upstream.url)
    more = {"X-Name": "J\xc3\xb6rg", "Content-Type": "text/json"}
    answer = caller.post(CHAT, data=body, headers={**HEADERS, **more})
    found = sections(only_file(tmp_path))
    assert list(found) == TITLES
    assert 'Caller: "ci"\nModel: "m"' in found["REQUEST INFO"]
    assert f'Method: POST\nEndpoint: "{CHAT}"' in found["REQUEST INFO"]
    shown = found["HEADERS"].splitlines()
    length = f"Content-Length: {len(body)}"
    assert {"X-Name: J\u00f6rg", "Content-Type: text/json", length} <= set(shown)
    assert found["REQUEST BODY"] == body.decode()
    assert re.fullmatch(r"up/sk-...cdef(#2)? \(200 ok, waited \d.\d+ s\)", found["ATTEMPTS"])
    head, _, sent = found["RESPONSE"].partition("\n\n")
    assert head.startswith("Status: 200\nContent-Type: application/json\nx-request-id: req:1\n")
    assert sent == answer.get_data(as_text=True)
    assert found["END"].startswith("id=req:1 caller=ci ")
    assert " end=ok " in found["END"]


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_coded_body_is_written_as_it_reads(
    tmp_path: Path, upstream: Upstream, coding: str
) -> None:
    """Who looks for what was asked finds no compressed bytes."""
    body = json.dumps(asked()).encode()
    packed = gzip.compress(body) if coding == "gzip" else zlib.compress(body)
    upstream.reply(KEY, chat("Hello"))
    caller = caller_of(tmp_path, upstream.url)
    answer = caller.post(CHAT, data=packed, headers={**HEADERS, "Content-Encoding": coding})
    assert answer.status_code == 200
    assert sections(only_file(tmp_path))["REQUEST BODY"] == body.decode()


def test_a_stream_is_written_as_it_leaves(tmp_path: Path, upstream: Upstream) -> None:
    """Before the caller has more than a beginning of it, the file has the same; then the rest."""
    upstream.reply(None, stream("Hello", " there"))
    caller = caller_of(tmp_path, upstream.url)
    answer = caller.post(CHAT, json=asked(stream=True), headers=HEADERS, buffered=False)
    pieces = answer.iter_encoded()
    first = next(pieces)
    assert without_times(only_file(tmp_path)).partition("\n\n=== END")[0].endswith(first.decode())
    sent = first + b"".join(pieces)
    answer.close()
    found = sections(only_file(tmp_path))
    assert list(found) == TITLES
    assert "Content-Type: text/event-stream" in found["RESPONSE"]
    assert without_times(found["RESPONSE"]).endswith("\n\n" + sent.decode().rstrip("\n"))
    times = [float(told) for told in TIME.findall(found["RESPONSE"])]
    assert times == sorted(times)
    assert 0 < times[0] <= times[-1] < 60
    assert " end=ok " in found["END"]


def test_a_caller_who_leaves_leaves_a_file(tmp_path: Path, upstream: Upstream) -> None:
    """What went out until then, and how it ended."""
    upstream.reply(None, events(chunk({"content": "Hello"}), HANG))
    caller = caller_of(tmp_path, upstream.url)
    answer = caller.post(CHAT, json=asked(stream=True), headers=HEADERS, buffered=False)
    next(answer.iter_encoded())
    answer.close()
    found = sections(only_file(tmp_path))
    assert "Hello" in found["RESPONSE"]
    assert " end=caller_gone " in found["END"]


def test_an_error_of_the_upstream_is_written(tmp_path: Path, upstream: Upstream) -> None:
    """The envelope as it went to the caller."""
    upstream.reply(None, error(400, "No.", code="bad"))
    answer = caller_of(tmp_path, upstream.url).post(CHAT, json=asked(), headers=HEADERS)
    found = sections(only_file(tmp_path))
    assert found["RESPONSE"].startswith("Status: 400\n")
    assert found["RESPONSE"].endswith("\n\n" + answer.get_data(as_text=True))
    assert "(400 bad" in found["ATTEMPTS"]
    assert " status=400 end=bad " in found["END"]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{no JSON", HEADERS, 400),
        (b'{"model": "none", "messages": [{}]}', HEADERS, 404),
        (b"x" * 2000, HEADERS, 413),
        (b"{}", {"Authorization": f"Bearer {OTHER_KEY}"}, 401),
    ],
    ids=["no-json", "no-model", "too-large", "no-caller"],
)
def test_an_error_of_ours_is_written(
    tmp_path: Path, upstream: Upstream, body: bytes, headers: dict[str, str], status: int
) -> None:
    """However early it is: with what was read of the body."""
    caller = caller_of(tmp_path, upstream.url, **{"max-body-size": 1000})
    answer = caller.post(CHAT, data=body, headers=headers)
    assert answer.status_code == status
    found = sections(only_file(tmp_path))
    assert found["REQUEST BODY"] == ("" if status in (401, 413) else body.decode())
    assert found["RESPONSE"].startswith(f"Status: {status}\n")
    assert found["RESPONSE"].endswith(answer.get_data(as_text=True))


def test_headers_with_secrets_are_masked(tmp_path: Path, upstream: Upstream) -> None:
    """Also those that are not configured here; the scheme is no secret."""
    secrets = {
        name: f"{name}-0123456789-wxyz"
        for name in ("X-Api-Key", "X-Goog-Api-Key", "Api-Key", "Cookie", "X-Auth-Token")
    }
    given = {**HEADERS, **secrets, "Proxy-Authorization": "Basic dXNlcjpwYXNzd29yZA=="}
    app = caller_of(tmp_path, upstream.url).application
    app.test_client(use_cookies=False).post(CHAT, json=asked(), headers=given)
    shown = sections(only_file(tmp_path))["HEADERS"].splitlines()
    assert f"Authorization: Bearer {mask(CALLERS_KEY)}" in shown
    assert "Proxy-Authorization: Basic dXN...ZA==" in shown
    for name, value in secrets.items():
        assert f"{name}: {mask(value)}" in shown


def test_keys_are_masked_wherever_they_stand(tmp_path: Path, upstream: Upstream) -> None:
    """In what the caller says, its id and model, and in what the upstream answers, cut anywhere."""
    said = f"keys {CALLERS_KEY} {KEY} {OTHER_KEY}"
    upstream.reply(None, chat(said), error(400, said, code=KEY))
    caller = caller_of(tmp_path, upstream.url)
    for model in ("m", "m", KEY):
        headers = {**HEADERS, "X-Request-Id": KEY}
        body = {"model": model, "messages": [{"role": "user", "content": said}]}
        caller.post(CHAT, json=body, headers=headers)
    assert len(files(tmp_path)) == 3
    for path in files(tmp_path):
        text = path.name + path.read_text()
        assert not [key for key in (CALLERS_KEY, KEY, OTHER_KEY) if key in text]
        assert mask(KEY) in text


def test_keys_are_masked_in_streams(tmp_path: Path, upstream: Upstream) -> None:
    """As in unary answers; the caller gets what the upstream said."""
    upstream.reply(None, stream(f"your key is {CALLERS_KEY}", "!"))
    caller = caller_of(tmp_path, upstream.url)
    answer = caller.post(CHAT, json=asked(stream=True), headers=HEADERS)
    assert CALLERS_KEY.encode() in answer.data
    assert f"your key is {mask(CALLERS_KEY)}" in only_file(tmp_path)


def test_cost_of_a_write_does_not_grow_with_keys(tmp_path: Path) -> None:
    """A chunk of a stream, with one caller's key and with a thousand."""
    chunk_sent = b'data: {"choices":[{"index":0,"delta":{"content":"Hello there"}}]}\n\n'
    transcripts = []
    for count in (1, 1000):
        place = tmp_path / str(count) / "config.yaml"
        place.parent.mkdir()
        keys = [f"sk-caller-{hashlib.sha256(b'%d' % at).hexdigest()}" for at in range(count)]
        demo = [{"name": "demo", "models": [{"name": "m"}]}]
        place.write_text(json.dumps({"api-keys": keys, "demo": demo}))
        record = Record("req_1", endpoint=CHAT, arrived=0.0)
        transcripts.append(Transcript(RequestLog(load_config(place)), record, {}))

    def cpu_s(transcript: Transcript) -> float:
        taken = []
        for _ in range(20):
            began = time.thread_time()
            for _ in range(20):
                transcript.write(chunk_sent)
            taken.append(time.thread_time() - began)
        return min(taken)

    for attempt in range(5):
        one_s, thousand_s = map(cpu_s, transcripts)
        if thousand_s < 3 * one_s:
            return
        assert attempt < 4, (one_s, thousand_s)


def test_files_are_their_owners_only(tmp_path: Path, upstream: Upstream) -> None:
    """Whatever the umask: the directory 0700, a file 0600."""
    before = os.umask(0)
    try:
        caller_of(tmp_path, upstream.url).post(CHAT, json=asked(), headers=HEADERS)
    finally:
        os.umask(before)
    (path,) = files(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_each_request_has_a_file_named_by_time_and_id(tmp_path: Path, upstream: Upstream) -> None:
    """Ids may repeat, and hold what file names should not; listing and health are no requests."""
    caller = caller_of(tmp_path, upstream.url)
    assert not files(tmp_path)
    for _ in range(5):
        caller.post(CHAT, json=asked(), headers=HEADERS)
    caller.get("/v1/models", headers=HEADERS)
    caller.get("/healthz")
    names = [path.name for path in files(tmp_path)]
    assert len(names) == 5
    for name in names:
        assert re.fullmatch(r"\d{8}T\d{6}\.\d{6}Z-req_1\.log", name)


def test_off_writes_nothing(tmp_path: Path, upstream: Upstream) -> None:
    """The default."""
    caller = caller_of(tmp_path, upstream.url, **{"request-log": False})
    for is_stream in (False, True):
        assert caller.post(CHAT, json=asked(stream=is_stream), headers=HEADERS).status_code == 200
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_a_mapping_logs_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That in which the gateway was made."""
    monkeypatch.chdir(tmp_path)
    config = {"request-log": True, "demo": [{"name": "demo", "delay-ms": 0}]}
    caller = create_app(config).test_client()
    monkeypatch.chdir("/")
    body = {"model": "demo", "messages": MESSAGES}
    assert caller.post(CHAT, json=body).status_code == 200
    assert caller.post("/v1/completions", json={"model": "demo", "prompt": "Hi"}).status_code == 200
    texts = [path.read_text() for path in files(tmp_path)]
    assert ["You said: Hi" in text for text in texts] == [True, True]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [found.getMessage() for found in caplog.records if found.levelno >= logging.WARNING]


def test_requests_do_not_need_their_files(
    tmp_path: Path, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    """A place that cannot be written in: one warning for all of them."""
    (tmp_path / DIRECTORY).write_text("in the way")
    caller = caller_of(tmp_path, upstream.url)
    for is_stream in (False, True):
        answer = caller.post(CHAT, json=asked(stream=is_stream), headers=HEADERS)
        assert answer.status_code == 200
        assert b"there" in answer.data
    (warning,) = warnings(caplog)
    assert warning.endswith(f"cannot write in {tmp_path / DIRECTORY}: Not a directory")


# Bounds


def old_file(place: Path, days: float, size: int, name: str = "req_old.log") -> Path:
    """One that was made so many days ago."""
    made = datetime.now(timezone.utc) - timedelta(days=days)
    path = place / f"{made:%Y%m%dT%H%M%S.%fZ}-{name}"
    path.write_bytes(bytes(size))
    return path


def bytes_of(place: Path, others: list[Path]) -> int:
    """Of all other files there, but for those that are removed while they are looked at."""
    total = 0
    for path in {*place.iterdir()}.difference(others):
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def test_the_folder_is_kept_within_its_bounds(tmp_path: Path, upstream: Upstream) -> None:
    """The oldest go; what is not ours stays, whatever its name begins with."""
    place = tmp_path / "elsewhere" / "logs"
    place.mkdir(parents=True)
    ancient = old_file(place, 8, 10)
    others = [old_file(place, 30, 90_000, "note.txt"), place / "req.log", place / "dir"]
    others[1].write_text("mine")
    others[2].mkdir()
    older, newer = old_file(place, 3, 30_000), old_file(place, 2, 30_000)
    caller = caller_of(
        tmp_path,
        upstream.url,
        **{"request-log-dir": "elsewhere/logs", "request-log-max-bytes": 64_000},
    )
    assert caller.post(CHAT, json=asked(), headers=HEADERS).status_code == 200
    wait_for(lambda: not older.exists())
    assert not ancient.exists()
    assert newer.exists()
    assert all(other.exists() for other in others)
    said = [{"role": "user", "content": "x" * 9_000}]
    for _ in range(20):
        caller.post(CHAT, json={"model": "m", "messages": said}, headers=HEADERS)
    wait_for(lambda: bytes_of(place, others) <= 64_000)
    assert not newer.exists()


def test_an_eighth_of_the_room_is_freed_at_once(tmp_path: Path, upstream: Upstream) -> None:
    """So that not each further file has the oldest looked for."""
    place = tmp_path / "logs"
    place.mkdir()
    for days in range(1, 101):
        old_file(place, days / 200, 1_000)
    caller = caller_of(
        tmp_path, upstream.url, **{"request-log-dir": "logs", "request-log-max-bytes": 72_000}
    )
    assert caller.post(CHAT, json=asked(), headers=HEADERS).status_code == 200
    last = _threads.start(Task(lambda: None))  # there is one thread that looks
    last.wait(math.inf, CallerConnection(None))
    assert 60_000 < bytes_of(place, []) <= 64_000  # the request's own file may have grown


def test_a_look_at_the_folder_needs_little_memory(tmp_path: Path) -> None:
    """Little more than names: there may be hundreds of thousands, and each worker looks."""
    caller_of(tmp_path, "http://127.0.0.1:9/v1")
    log = RequestLog(load_config(tmp_path / "config.yaml"))
    place = tmp_path / DIRECTORY
    place.mkdir()
    count = 1000
    for number in range(count):
        old_file(place, 0.001, 10, f"req_{number:032}.log")
    tracemalloc.start()
    try:
        log._remove_oldest()
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(files(tmp_path)) == count
    assert most < 400 * count


def test_file_that_cannot_be_removed_saves_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user's, in a folder that both may write to; nor one that is gone meanwhile."""
    (tmp_path / DIRECTORY).mkdir()
    gone, theirs, older, newer = (
        old_file(tmp_path / DIRECTORY, days, 30_000) for days in (4, 3, 2, 1)
    )
    unlink = os.unlink

    def refuse(path: str) -> None:
        if path == str(theirs):
            raise PermissionError(errno.EPERM, "Operation not permitted")
        unlink(path)
        if path == str(gone):
            raise FileNotFoundError

    monkeypatch.setattr(os, "unlink", refuse)
    config = {"request-log": True, "request-log-max-bytes": 80_000}
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    RequestLog(load_config(tmp_path / "config.yaml"))._remove_oldest()
    assert [path.exists() for path in (gone, theirs, older, newer)] == [False, True, False, True]


def test_the_folder_is_looked_at_now_and_then_only(
    tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the first request, after many bytes, and each hour."""
    looks: list[RequestLog] = []

    def look(log: RequestLog) -> None:
        looks.append(log)

    monkeypatch.setattr(RequestLog, "_remove_oldest", look)
    log = RequestLog(load_config({"request-log": True, "request-log-max-bytes": 64_000}))
    for size in (1, 900, 1, 1, 99, 1000, 1):
        log.wrote(size)
    wait_for(lambda: len(looks) == 3)
    log._looks_at = time.monotonic()
    log.wrote(1)
    wait_for(lambda: len(looks) == 4)


def fill_disk(path: Path) -> None:
    """Have further writes to the file fail for want of space (Linux: full(4))."""
    path.unlink()
    path.symlink_to("/dev/full")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The directory of the files, on a disk of 64 KiB of its own."""
    place = tmp_path / DIRECTORY
    place.mkdir()
    if os.geteuid() or shutil.which("mount") is None:
        pytest.skip("to mount a disk takes root")
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a disk cannot be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)  # a look may go on


def test_a_full_disk_leaves_nothing_and_is_gone_on_with(
    tmp_path: Path, small_disk: Path, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    """Not one file, nor half of one, whether there is any room; when there is, all is written."""
    caller = caller_of(tmp_path, upstream.url)
    filler = small_disk / "filler"
    for free in (0, 4096):
        with open(filler, "wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4096)):
                pass
        os.truncate(filler, filler.stat().st_size - free)
        for is_stream in (False, True):
            said = [{"role": "user", "content": "x" * 5000}]
            asked_for = {"model": "m", "messages": said, "stream": is_stream}
            assert caller.post(CHAT, json=asked_for, headers=HEADERS).status_code == 200
        assert files(tmp_path) == [filler]
    filler.unlink()
    assert caller.post(CHAT, json=asked(), headers=HEADERS).status_code == 200
    assert list(sections(only_file(tmp_path))) == TITLES
    (warning,) = warnings(caplog)
    assert warning.endswith("No space left on device")


def remove_directory(path: Path) -> None:
    path.unlink()
    path.parent.rmdir()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (fill_disk, "No space left on device"),
        (remove_directory, "No such file or directory"),
    ],
)
def test_a_stream_outlives_its_file(
    tmp_path: Path,
    upstream: Upstream,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Path], None],
    reason: str,
) -> None:
    """What was begun to be written cannot be gone on with."""
    is_spoilt = Gate()
    begin, end = chunk({"content": "Hello"}), chunk({}, finish="stop")
    upstream.reply(None, events(begin, Hold(is_spoilt), end, "[DONE]"))
    caller = caller_of(tmp_path, upstream.url)
    answer = caller.post(CHAT, json=asked(stream=True), headers=HEADERS, buffered=False)
    (path,) = files(tmp_path)
    spoil(path)
    is_spoilt.set()
    sent = b"".join(answer.iter_encoded())
    answer.close()
    assert sent.endswith(b"data: [DONE]\n\n")
    (warning,) = warnings(caplog)
    assert warning.endswith(reason)


def test_a_fault_of_ours_is_written(tmp_path: Path, upstream: Upstream) -> None:
    """The 500 that stands for it."""
    caller = caller_of(tmp_path, upstream.url)
    gateway = caller.application.extensions["proxy"]["proxy"].gateway
    gateway.generation = gateway.generation._replace(registry=None)
    answer = caller.post(CHAT, json=asked(), headers=HEADERS)
    assert answer.status_code == 500
    found = sections(only_file(tmp_path))
    assert found["RESPONSE"].startswith("Status: 500\n")
    assert " end=error " in found["END"]


@pytest.mark.parametrize("logs", [True, False])
def test_nothing_of_a_request_is_left_to_the_collector(
    tmp_path: Path, upstream: Upstream, *, logs: bool
) -> None:
    """However it ended. Thousands of records would lie around until it comes, with all they hold.

    And between what lives: the memory of what goes much later than it might is not used up again.
    """
    # The status page remembers some.
    settings = {"request-log": logs, "request-retry": 0, "status-page": False}
    caller = caller_of(tmp_path, upstream.url, **settings)

    def ask(model: str, answer: Reply, *, is_stream: bool) -> int:
        for key in (KEY, OTHER_KEY):
            upstream.always(key, answer)
        body = asked(stream=is_stream, model=model)
        with caller.post(CHAT, json=body, headers=HEADERS, buffered=True) as told:
            return told.status_code

    before = {id(one) for one in records()}
    gc.disable()
    try:
        for is_stream in (False, True):
            whole = stream("Hello", " there") if is_stream else chat("Hello")
            cut = whole.cut_at(len(whole.wire_bytes()) // 2)
            assert ask("m", whole, is_stream=is_stream) == 200
            assert ask("m", cut, is_stream=is_stream) in (200, 502)
            assert ask("m", error(400), is_stream=is_stream) == 400
            assert ask("none", whole, is_stream=is_stream) == 404
        assert not [one.line() for one in records() if id(one) not in before]
    finally:
        gc.enable()


def records() -> list[Record]:
    return [one for one in gc.get_objects() if type(one) is Record]
