"""A real browser, headless, told what to do over a pipe.

For pages whose scripts have to be waited for, or that need a user. Origins, cookies and preflights
are what a real browser makes of them. chromedevtools.github.io/devtools-protocol has its words.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

PROGRAM = shutil.which("chromium")

# A load, and whatever its scripts set going, may take this long on a busy machine.
BROWSER_S = 60.0

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
]


def program() -> str:
    """Chromium; skips where there is none, fails in CI, which installs it."""
    if PROGRAM is None:
        if os.environ.get("CI") == "true":
            pytest.fail("chromium is not installed")
        pytest.skip("chromium is not installed")
    return PROGRAM


class PageError(Exception):
    """What a script raised."""


class Browser:
    """One page after the other, of one user."""

    def __init__(self, profile: Path) -> None:
        read_orders, self._orders = os.pipe()
        self._answers, write_answers = os.pipe()
        # It reads from descriptor 3 and writes to 4.
        redirected = f'exec "$@" 3<&{read_orders} 4>&{write_answers}'
        command = [program(), *FLAGS, "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(
            ["bash", "-c", redirected, "bash", *command, "about:blank"],
            pass_fds=(read_orders, write_answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_orders)
        os.close(write_answers)
        self._number = 0
        self._buffer = b""
        self._events: list[str] = []  # that came while something else was waited for
        self._session = ""
        self._password = ""
        self.requested: list[str] = []  # each URL
        self.logged: list[str] = []  # errors, of the page's policy among others
        target = self._tell("Target.createTarget", url="about:blank")["targetId"]
        attached = self._tell("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Log"):
            self._tell(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it. Idempotent."""
        if self._process.returncode is None:
            self._process.terminate()
            self._process.wait(BROWSER_S)
            os.close(self._orders)
            os.close(self._answers)

    def open(self, url: str) -> None:
        """Go to a page, and wait until it is loaded."""
        self._events.clear()
        failed = self._tell("Page.navigate", url=url).get("errorText")
        assert not failed, failed
        self.wait_loaded()

    def run(self, script: str) -> Any:
        """What an expression of the page is, when it is fulfilled; raises PageError."""
        found = self._tell(
            "Runtime.evaluate",
            expression=script,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        if "exceptionDetails" in found:
            details = found["exceptionDetails"]
            raise PageError(details.get("exception", details).get("description", details["text"]))
        return found["result"].get("value")

    def wait_until(self, condition: str) -> None:
        """Until an expression of the page is true."""
        self.run(
            "new Promise(done => { const look = () => "
            f"({condition}) ? done() : setTimeout(look, 20); look(); }})"
        )

    def log_in(self, password: str) -> None:
        """What to answer from now on to whoever asks for a password; "": as one who knows none."""
        self._password = password
        self._tell("Fetch.enable", handleAuthRequests=True)

    def look(self, *, is_dark: bool = False, width: int = 1280, height: int = 900) -> None:
        """Show pages so from now on."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self._tell("Emulation.setEmulatedMedia", features=[scheme])
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        self._tell("Emulation.setDeviceMetricsOverride", **size, mobile=width < 600)

    def run_scripts(self, runs: bool) -> None:
        """Whether pages that come may run any."""
        self._tell("Emulation.setScriptExecutionDisabled", value=not runs)

    def press(self, key: str, code: int) -> None:
        """A key, by its name and its Windows code."""
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            told = {"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code}
            self._tell("Input.dispatchKeyEvent", **told, **(text if kind == "keyDown" else {}))

    def picture(self, path: Path) -> None:
        """The whole page as a PNG."""
        data = self._tell("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def wait_loaded(self) -> None:
        """Until the next page is loaded."""
        while "Page.loadEventFired" not in self._events:
            self._events.append(self._read().get("method", ""))
        self._events.clear()

    def _tell(self, method: str, **parameters: Any) -> Any:
        number = self._send(method, parameters)
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self._events.append(answer.get("method", ""))

    def _send(self, method: str, parameters: dict[str, Any]) -> int:
        self._number += 1
        order = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            order["sessionId"] = self._session
        os.write(self._orders, json.dumps(order).encode() + b"\0")
        return self._number

    def _note(self, method: str, told: dict[str, Any]) -> None:
        """What an event brings, or asks for."""
        if method == "Network.requestWillBeSent":
            self.requested.append(told["request"]["url"])
        elif method == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.logged.append(told["entry"]["text"])
        elif method == "Fetch.requestPaused":
            self._send("Fetch.continueRequest", {"requestId": told["requestId"]})
        elif method == "Fetch.authRequired":
            answer = {"response": "CancelAuth"}
            if password := self._password:
                answer = {"response": "ProvideCredentials", "username": "me", "password": password}
            told = {"requestId": told["requestId"], "authChallengeResponse": answer}
            self._send("Fetch.continueWithAuth", told)

    def _read(self) -> dict[str, Any]:
        """The next answer or event."""
        until = time.monotonic() + BROWSER_S
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], max(0, until - time.monotonic()))
            if not ready:
                raise TimeoutError("the browser says nothing")
            data = os.read(self._answers, 65536)
            if not data:
                raise TimeoutError("the browser has gone")
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        self._note(found.get("method", ""), found.get("params", {}))
        return found
