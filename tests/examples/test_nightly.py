"""The nightly job, as its first lines say to run it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import ROOT, environment
from tests.support.upstream import MODEL, Received, Reply, Upstream, chat, error

QUESTIONS = [f"question {number}" for number in range(12)]


def run(folder: Path, upstream: Upstream) -> tuple[int, list[Any], str]:
    """Status, answers, and what else it says."""
    keys = ["key-1", "key-2"]
    provider = {"name": "up", "base-url": upstream.url, "api-keys": keys, "models": [MODEL]}
    (folder / "config.yaml").write_text(json.dumps({"openai-compatibility": [provider]}))
    done = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "examples" / "nightly.py", MODEL],
        cwd=folder,
        env=environment(PYTHONPATH=str(ROOT)),
        input="\n".join([*QUESTIONS, ""]),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def answer(received: Received) -> Reply:
    [message] = received.json()["messages"]
    if message["content"] == "question 7":
        return error(400, "not that one", code="bad")
    return chat(f"answer to {message['content']}")


@pytest.mark.parametrize("fails", [False, True])
def test_every_question_has_its_answer(upstream: Upstream, tmp_path: Path, fails: bool) -> None:
    """In order; one that fails is told, and the tokens of the others are counted."""
    upstream.default = answer if fails else (lambda received: chat("yes"))
    status, found, said = run(tmp_path, upstream)
    assert [one["question"] for one in found] == QUESTIONS
    if fails:
        assert found[7] == {"question": "question 7", "error": "not that one", "code": "bad"}
        assert found[8]["answer"] == "answer to question 8"
    assert status == int(fails)
    answered = 12 - fails
    bill = f"{9 * answered} + {3 * answered} tokens"
    assert said == f"12 questions, {int(fails)} without an answer; {bill}\n"
