"""A nightly job on the pool, without a server: asks a model about each line of its input.

    python examples/nightly.py MODEL < questions.txt > answers.jsonl

Reads config.yaml in the working directory. Eight threads share the accounts; each account has as
many requests in flight as its `max-concurrency` allows, and the others wait for their turn.
"""

from __future__ import annotations

import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from proxy import Call, Proxy, ProxyError


class Bill:
    """What all calls together have used."""

    def __init__(self, proxy: Proxy) -> None:
        self.prompt_tokens = self.completion_tokens = 0
        self._lock = threading.Lock()  # receivers run in the threads that call
        proxy.call_ended.connect(self.add)

    def add(self, app: object, *, call: Call) -> None:
        if call.usage is not None:
            with self._lock:
                self.prompt_tokens += call.usage.prompt_tokens or 0
                self.completion_tokens += call.usage.completion_tokens or 0


def main(model: str) -> int:
    with Proxy("config.yaml") as proxy, ThreadPoolExecutor(8) as threads:
        bill = Bill(proxy)

        def answer(question: str) -> dict[str, object]:
            messages = [{"role": "user", "content": question}]
            try:
                found = proxy.chat(model=model, messages=messages, caller="nightly", timeout=300)
            except ProxyError as error:
                return {"question": question, "error": error.message, "code": error.code}
            return {"question": question, "answer": found["choices"][0]["message"]["content"]}

        questions = [line for line in map(str.strip, sys.stdin) if line]
        failed = 0
        for found in threads.map(answer, questions):
            failed += "error" in found
            print(json.dumps(found))
        print(
            f"{len(questions)} questions, {failed} without an answer; "
            f"{bill.prompt_tokens} + {bill.completion_tokens} tokens",
            file=sys.stderr,
        )
        return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
