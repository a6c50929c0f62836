"""The way of one streamed request: which of our modules it enters, in order.

    python -m bench.map docs/ARCHITECTURE.md

The second request is traced (`sys.setprofile`), in the thread that serves it: what the first one
makes for all is not on the way. Prints a line a module with its length, and the sums; writes the
names between two marks of the page.
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path
from types import FrameType
from typing import Any

from werkzeug.test import EnvironBuilder, run_wsgi_app

import proxy
from bench import messages, processes

ROOT = Path(proxy.__file__).parent
BETWEEN_MARKS = re.compile(r"(?<=<!-- map -->\n).*(?=<!-- end of map -->\n)", re.DOTALL)


def main(page: Path) -> None:
    """Print the map, and renew it in the page."""
    with processes.mock_upstream() as (_, port):
        upstream = {
            "name": "mock",
            "base-url": f"http://127.0.0.1:{port}/v1",
            "api-keys": ["sk-bench-upstream"],
            "models": [{"name": messages.BURST}],
        }
        app = proxy.create_app({"openai-compatibility": [upstream]})
        _stream(app)
        entered = _entered(app)
    lines = 0
    for module in entered:
        length = len((ROOT / module).read_text().splitlines())
        lines += length
        print(f"{length:5} {module}")
    print(f"{lines:5} lines in {len(entered)} modules")
    names = textwrap.fill(", ".join(f"`{module}`" for module in entered), width=115)
    text, count = BETWEEN_MARKS.subn(f"{names}\n", page.read_text())
    assert count == 1, f"{page} has no place for the map"
    page.write_text(text)


def _entered(app: Any) -> list[str]:
    """Our modules in which a function is called while a streamed request is served."""
    found: dict[str, None] = {}

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            found[frame.f_code.co_filename] = None

    sys.setprofile(note)
    try:
        _stream(app)
    finally:
        sys.setprofile(None)
    return [str(Path(name).relative_to(ROOT)) for name in found if name.startswith(f"{ROOT}/")]


def _stream(app: Any) -> None:
    body = messages.request(messages.CHAT, messages.BURST, stream=True, chunks=5, body_bytes=1024)
    environ = EnvironBuilder(
        messages.PATHS[messages.CHAT], method="POST", data=body, content_type="application/json"
    ).get_environ()
    chunks, status, _ = run_wsgi_app(app, environ)
    answer = b"".join(chunks)
    assert status.startswith("200"), (status, answer)
    assert answer.endswith(b"[DONE]\n\n"), answer
    close = getattr(chunks, "close", None)
    if close is not None:
        close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
