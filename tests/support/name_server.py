"""A name server for tests: `socket.getaddrinfo` of this process, for names below `.test`.

RFC 6761 section 6.2 keeps `.test` for this. Other names are looked up as ever.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from typing import Any

import pytest

# In tests that wait for a lookup.
PATIENCE_S = 10.0


class NameServer:
    """Answers with `answers`; a name without any does not exist. Says nothing while `silent`.

    `asked`: the names so far, each as often as it was asked for.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: dict[str, Sequence[str]] = {}
        self.asked: list[str] = []
        self.reached = threading.Semaphore(0)  # released at each question
        self._speaks = threading.Event()
        self._speaks.set()
        self._getaddrinfo = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._look_up)

    def fall_silent(self) -> None:
        self._speaks.clear()

    def speak(self) -> None:
        """Answers what was asked meanwhile, too."""
        self._speaks.set()

    def wait_asked(self) -> None:
        """Block until one more question has come."""
        assert self.reached.acquire(timeout=PATIENCE_S)

    def _look_up(self, host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if not str(host).endswith((".test", ".test.")):
            return self._getaddrinfo(host, port, *args, **options)
        self.asked.append(host)
        self.reached.release()
        assert self._speaks.wait(60)
        found = self.answers.get(host)
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            one
            for address in found
            for one in self._getaddrinfo(address, port, type=socket.SOCK_STREAM)
        ]
