"""A full gateway refuses at once, and a stopped one lets what is under way end."""

from __future__ import annotations

import pytest

from tests.support.gateway import CHAT, Gateway, Lots, asked, data_of, text_of
from tests.support.upstream import Gate, Hold, Upstream, chunk, events


def test_full_gateway_then_graceful_stop(upstream: Upstream) -> None:
    """503 `too_many_requests_in_flight` for one too many; health is told all the same. After
    SIGTERM the running stream goes on to its end, and the server leaves without a complaint.
    """
    lots = Lots(upstream.url, {1: 2})
    gate = Gate()
    lot = lots.take()
    end = events(chunk({"content": "b"}, finish="stop"), "[DONE]").body
    upstream.reply(lot.key, events(chunk({"content": "a"}), Hold(gate), *end))
    config = {"max-requests-in-flight": 1, "openai-compatibility": lots.providers}
    with Gateway(config) as gateway:
        with gateway.open("POST", CHAT, asked(lot.model, stream=True)) as response:
            first = response.readline() + response.readline()

            refused = gateway.chat(lots.take().model)
            assert refused.status == 503
            assert refused.error["code"] == "too_many_requests_in_flight"
            assert refused.headers["x-should-retry"] == "true"
            assert gateway.call("GET", "/healthz").status == 200

            with gateway.connect() as idle:
                idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert idle.recv(65536).startswith(b"HTTP/1.1 200")
                gateway.terminate()
                while idle.recv(65536):
                    pass  # it closes what is idle, so it knows
            with pytest.raises(ConnectionRefusedError):  # a proxy in front goes elsewhere at once
                gateway.connect()
            gate.set()
            data = data_of(first + response.read())
        assert text_of(data) == "ab"
        assert data[-1] == b"[DONE]"
        assert gateway.wait_ended() == 0
        assert gateway.records()[-1]["end"] == "ok"
