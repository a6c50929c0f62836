"""Messages over a Unix socket: a line each, bounded in size and time."""

from __future__ import annotations

import socket
import time

# A request is a verb and a label; an answer has a few hundred bytes for each client and model.
MAX_REQUEST_BYTES = 64 * 1024
MAX_ANSWER_BYTES = 64 * 1024 * 1024

# For a request to come, and for its answer to be taken.
REQUEST_TIMEOUT_S = 2.0
ANSWER_TIMEOUT_S = 10.0


def read_line(sock: socket.socket, *, max_bytes: int, timeout_s: float) -> bytes:
    """What comes up to a newline or the end; raises OSError when that is too long or too late."""
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
