"""The connections to a real Redis."""

from __future__ import annotations

import threading

import pytest

from proxy.config import Secret
from proxy.config.schema import State
from proxy.pool.shared.connection import Server
from tests.support.redis import RedisServer, require_redis

require_redis()


def test_words_that_come_while_a_process_subscribes_are_heard() -> None:
    """They are no answer to the subscription, and its answers are no words."""
    with RedisServer() as redis:
        server = Server(State(url=Secret(redis.unix_url), name="words"))
        is_over = threading.Event()

        def speak() -> None:
            with redis.client() as client:
                while not is_over.is_set():
                    client.publish("{pp:words}:to:me", "a word")

        speaker = threading.Thread(target=speak)
        speaker.start()
        try:
            for _ in range(50):
                link = server.subscribe("me")
                assert next(link.messages(5.0)) == b"a word"
                link.close()
        finally:
            is_over.set()
            speaker.join()
            server.close()


def test_an_answer_that_was_not_waited_for_is_no_later_calls() -> None:
    """As when a thread is to end in the middle of a call."""
    with RedisServer() as redis:
        server = Server(State(url=Secret(redis.unix_url)))
        first = server.call("processes", "me", "")
        link = server._links.get()
        assert link is not None
        link.raw.read_response = _interrupted
        server._links.put(link)
        with pytest.raises(KeyboardInterrupt):
            server.call("bury", "me", "", "nobody")
        assert server.call("processes", "me", "") == first == []
        server.close()


def test_a_connection_that_broke_is_not_taken_for_one_to_another_server() -> None:
    """What it knows of the server was another's, so that redis-py must not open it again."""
    with RedisServer() as redis:
        server = Server(State(url=Secret(redis.unix_url)))
        server.call("processes", "me", "")
        redis.restart()
        other = Server(State(url=Secret(redis.unix_url)))
        other.call("processes", "other", "")  # which has it know the functions
        other.close()
        server.send("release", "me", "", 1)
        server.call("processes", "me", "")
        link = server._links.get()
        assert link is not None
        with redis.client() as client:
            assert link.run == client.info("server")["run_id"]
        link.close()


def _interrupted() -> None:
    raise KeyboardInterrupt


def test_process_may_connect_any_number_of_times() -> None:
    """Whatever breaks its connections, for months; only so many at once are open."""
    with RedisServer() as redis:
        server = Server(State(url=Secret(redis.unix_url)))
        for _ in range(150):
            server.subscribe("place-1-1-1").close()
