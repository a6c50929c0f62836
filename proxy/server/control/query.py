"""The command line's end of the control sockets: asks all workers one question."""

from __future__ import annotations

import os
import socket
from typing import Any

import msgspec

from .paths import sockets, unlink

# For an answer to come, or more of it.
ANSWER_TIMEOUT_S = 10.0


def ask_all(
    port: int,
    request: dict[str, str],
    *,
    control_dir: str = "",
    timeout_s: float = ANSWER_TIMEOUT_S,
) -> list[dict[str, Any]]:
    """The answers of all workers on this port, by pid; none if no instance runs that may be asked.

    A worker that does not answer in time has `error` in place of facts. A worker that starts
    meanwhile is asked too, so that none misses an order. Blocks for `timeout_s` a worker at most.
    """
    answers: dict[str, dict[str, Any] | None] = {}
    while found := [path for path in sockets(port, control_dir) if path not in answers]:
        for path in found:
            answers[path] = _ask(path, request, timeout_s)
    return sorted(filter(None, answers.values()), key=lambda answer: int(answer["pid"]))


def _ask(path: str, request: dict[str, str], timeout_s: float) -> dict[str, Any] | None:
    """The answer of one worker; None: it is gone."""
    pid = int(os.path.basename(path).removesuffix(".sock"))
    try:
        with socket.socket(socket.AF_UNIX) as worker:
            worker.settimeout(timeout_s)
            worker.connect(path)
            worker.sendall(msgspec.json.encode(request) + b"\n")
            with worker.makefile("rb") as answers:
                line = answers.readline()
        answer = msgspec.json.decode(line, type=dict[str, Any])
    except (ConnectionRefusedError, FileNotFoundError):
        unlink(path)
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        return {"pid": pid, "error": f"no answer from worker {pid}: {error}"}
    return {**answer, "pid": pid}
