"""A caller as a running program: it is asked in JSON lines, and answers each with one.

A question is `{call, model, ...}`, an answer what the call came to; the programs are in `programs`.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from tests.callers.environments import Package, installed
from tests.support.gateway import PATIENCE_S, environment

PROGRAMS = Path(__file__).with_name("programs")


class Heard(NamedTuple):
    """What a caller made of one answer; after a failure its status, message and code.

    `pieces`: the text as it came, in one piece if not streamed. `calls`: tools' names, arguments.
    """

    pieces: list[str]
    calls: list[list[Any]]
    total_tokens: int | None
    status: int | None
    message: str
    code: str | None

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class Conversation:
    """A program from its start to `close()`. `base_url` is the gateway's, with `/v1`."""

    def __init__(self, package: Package, program: str, base_url: str) -> None:
        home = installed(package)
        interpreter = ["node"] if package.by_npm else [str(home / "bin/python")]
        # In its package's home, where Node looks for modules first.
        self._process = subprocess.Popen(
            [*interpreter, str(_placed(program, home))],
            cwd=home,
            env=environment(
                CALLER_BASE_URL=base_url,
                LITELLM_LOCAL_MODEL_COST_MAP="True",
                LITELLM_TELEMETRY="False",
                LANGSMITH_TRACING="false",
            ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, call: str, model: str, **more: Any) -> Heard:
        """One call; fails if the program ends instead of answering."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"call": call, "model": model, **more}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the caller ended with status {self._process.wait(PATIENCE_S)}"
        return Heard(**json.loads(line))

    def close(self) -> None:
        """The end of its input ends the program. Idempotent."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            status = self._process.wait(PATIENCE_S)
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
        assert status == 0


def _placed(program: str, home: Path) -> Path:
    """The program's path: Node finds packages from where a program lies, so its lies with them."""
    source = PROGRAMS / program
    if source.suffix != ".mjs":
        return source
    place = home / program
    if not place.exists() or place.read_bytes() != source.read_bytes():
        place.write_bytes(source.read_bytes())
    return place
