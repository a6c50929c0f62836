"""One request and its response: what of the environ counts, and what no answer may have."""

from __future__ import annotations

import io
from typing import Any

import pytest

from proxy import create_app
from proxy.api import exchange
from proxy.api.auth import Doorkeeper
from proxy.api.exchange import _Lines, _read
from proxy.dialects.chat import CHAT

DEMO = {"demo": [{"name": "demo"}]}


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "\n", "a\r\nb"])
def test_header_of_several_lines_is_no_header(value: str) -> None:
    """What follows would be one that somebody else chose. Its name is told, and no more of it."""
    with pytest.raises(ValueError, match="the header x-a would have more than one line"):
        _Lines([("x-b", "fine"), ("x-a", value)])
    assert list(_Lines([("x-b", "fine")])) == [("x-b", "fine")]


@pytest.mark.parametrize(
    ("given", "is_kept"),
    [
        ("a", True),
        ("a" * 128, True),
        ("Req_1.2:3-4", True),
        ("a" * 129, False),
        ("", False),
        ("a b", False),
        ("a/b", False),
        ("\xe4", False),
    ],
)
def test_callers_id_is_kept_where_it_can_stand_anywhere(given: str, is_kept: bool) -> None:
    """In a header, a log, a file's name. Else the request gets one that no other has."""
    caller = create_app(DEMO).test_client()
    first, second = (
        caller.get("/v1/models", headers={"x-request-id": given}).headers["x-request-id"]
        for _ in range(2)
    )
    if is_kept:
        assert first == second == given
    else:
        assert first != second
        assert len(first) == len(second) == len("req_") + 32
        assert first.startswith("req_")


class Socket(io.RawIOBase):
    """A server's stream that gives a body in pieces; None: nothing came in time."""

    def __init__(self, *pieces: bytes | None) -> None:
        self.pieces = list(pieces)
        self.asked: list[int] = []

    def read(self, size: int = -1, /) -> Any:
        self.asked.append(size)
        return self.pieces.pop(0) if self.pieces else b""


def test_body_is_read_to_its_end_and_not_beyond() -> None:
    """Pieces are asked for by what is left; after the last byte nothing is."""
    stream = Socket(b"abc", b"de", b"f")
    assert _read(stream, 6) == b"abcdef"
    assert stream.asked == [6, 3, 1]
    stream = Socket(b"abc")
    assert _read(stream, 6) == b"abc"
    assert stream.asked == [6, 3]
    assert _read(Socket(), 0) == b""
    with pytest.raises(TimeoutError):
        _read(Socket(b"abc", None), 6)


@pytest.mark.parametrize(
    ("size", "pieces"), [(0, []), (1, [1]), (4, [4]), (5, [4, 1]), (8, [4, 4]), (9, [4, 4, 1])]
)
def test_large_answer_leaves_in_pieces(
    monkeypatch: pytest.MonkeyPatch, size: int, pieces: list[int]
) -> None:
    """Of a size each, so that the time for each begins anew; the length is that of all."""
    monkeypatch.setattr(exchange, "PIECE_BYTES", 4)
    app = create_app(DEMO)
    with app.test_request_context("/v1/models"):
        gateway = app.extensions["proxy"]["proxy"].gateway
        keeper = Doorkeeper(gateway)
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/v1/models"}
        one = exchange.Exchange(keeper, environ, CHAT)
        response = one.reply(b"x" * size)
        assert [len(piece) for piece in response.get_app_iter(environ)] == pieces
        assert response.headers["Content-Length"] == str(size)
        assert list(response.get_app_iter({**environ, "REQUEST_METHOD": "HEAD"})) == []
        empty = one.reply(b"", status=204)
        assert "Content-Length" not in empty.headers
