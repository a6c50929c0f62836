"""The official SDK for Node, and LangChain, as callers of embeddings."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.callers.conversation import Conversation
from tests.callers.environments import LANGCHAIN, NODE
from tests.support import embeddings
from tests.support.dialects import BY_KIND, configuration
from tests.support.embeddings import vector
from tests.support.gateway import Gateway
from tests.support.upstream import Upstream, error

# Installing one takes up to a minute.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TEXTS = ["Hello", "there", "ü 🌍"]


@pytest.fixture(scope="module")
def gateway(upstream: Upstream) -> Iterator[Gateway]:
    clients = [BY_KIND[kind].client(upstream.origin, f"key-{kind}", kind) for kind in KINDS]
    clients[1]["gemini-api-key"][0]["models"][0]["name"] = embeddings.GEMINI_MODEL
    upstream.always("key-openai", embeddings.openai)
    upstream.always("key-gemini", embeddings.tells(tokens=True))
    with Gateway(configuration(*clients, **{"request-retry": 0})) as running:
        yield running


KINDS = ("openai", "gemini", "claude")


@pytest.fixture(scope="module")
def node(gateway: Gateway) -> Iterator[Conversation]:
    with Conversation(NODE, "openai_node.mjs", f"{gateway.url}/v1") as running:
        yield running


@pytest.fixture(scope="module")
def langchain(gateway: Gateway) -> Iterator[Conversation]:
    with Conversation(LANGCHAIN, "langchain_chat.py", f"{gateway.url}/v1") as running:
        yield running


@pytest.mark.parametrize("kind", ["openai", "gemini"])
@pytest.mark.parametrize("form", [None, "float", "base64"])
def test_node(node: Conversation, kind: str, form: str | None) -> None:
    """It asks for base64 by itself, and decodes that; what a caller asks for it leaves as it is."""
    more = {"encoding_format": form} if form else {}
    heard = node.ask("embed", kind, input=TEXTS, **more)
    assert (heard.message, heard.total_tokens) == ("", heard.total_tokens)
    assert heard.total_tokens
    if form != "base64":
        assert heard.calls == [vector(text) for text in TEXTS]


def test_node_hears_of_errors(node: Conversation, upstream: Upstream) -> None:
    """The upstream's, and ours where nobody embeds."""
    upstream.reply("key-openai", error(400, "Out of luck."))
    heard = node.ask("embed", "openai", input=TEXTS)
    assert (heard.status, "Out of luck." in heard.message) == (400, True)
    heard = node.ask("embed", "claude", input=TEXTS)
    assert (heard.status, heard.code) == (400, "unsupported_parameter")


@pytest.mark.parametrize("kind", ["openai", "gemini"])
def test_langchain(langchain: Conversation, kind: str) -> None:
    """In lists of 1,000 by default, which are more than Gemini takes at once."""
    texts = [f"text {n}" for n in range(1200)]
    heard = langchain.ask("embed", kind, input=texts)
    assert heard.message == ""
    assert heard.calls == [vector(text) for text in texts]
