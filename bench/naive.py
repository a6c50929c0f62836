"""The reference: the proxy as it is usually written first. Flask, `requests.post`, `iter_lines`.

Runs under gunicorn's threads as `bench.naive:app`, its upstream in `$UPSTREAM`. It is meant to be
ordinary, not bad: each line is what the libraries' own pages show.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import requests
from flask import Flask, Response, request

UPSTREAM = os.environ["UPSTREAM"]

app = Flask(__name__)


@app.get("/healthz")
def healthz() -> str:
    return "ok"


@app.post("/v1/chat/completions")
def chat() -> Response:
    body = request.get_json()
    stream = bool(body.get("stream"))
    reply = requests.post(
        f"{UPSTREAM}/v1/chat/completions",
        json=body,
        headers={"Authorization": "Bearer sk-bench-upstream"},
        stream=stream,
        timeout=600,
    )
    if stream:
        return Response(_events(reply), reply.status_code, content_type="text/event-stream")
    return Response(
        reply.content, reply.status_code, content_type=reply.headers.get("Content-Type")
    )


def _events(reply: requests.Response) -> Iterator[bytes]:
    for line in reply.iter_lines():
        if line:
            yield line + b"\n\n"
