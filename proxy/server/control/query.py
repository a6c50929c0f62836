"""The command line's end of the control sockets: asks all workers one question."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

import msgspec

from .paths import sockets, unlink

# An answer has a few hundred bytes for each client and model.
MAX_ANSWER_BYTES = 64 * 1024 * 1024

# For an answer to come; on the worker's side, for it to be taken.
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
            line = read_line(worker, max_bytes=MAX_ANSWER_BYTES, timeout_s=timeout_s)
        answer = msgspec.json.decode(line, type=dict[str, Any])
    except ConnectionRefusedError:
        unlink(path)
        return None
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        return {"pid": pid, "error": f"no answer from worker {pid}: {error}"}
    return {**answer, "pid": pid}


def read_line(sock: socket.socket, *, max_bytes: int, timeout_s: float) -> bytes:
    """Read up to a newline or the end; raises OSError for what is too long or too late."""
    deadline = time.monotonic() + timeout_s
    line = bytearray()
    while not line.endswith(b"\n"):
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        sock.settimeout(left_s)
        data = sock.recv(64 * 1024)
        if not data:
            break
        line += data
        if len(line) > max_bytes:
            raise OSError(f"a message of more than {max_bytes} bytes")
    return bytes(line)
