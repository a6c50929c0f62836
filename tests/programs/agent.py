"""An agent as its library's own pages show it: LangChain's or pydantic-ai's, in one dialect.

`agent.py LIBRARY DIALECT MODEL TASK` runs the task twice, whole and streamed, and prints its last
word each time. The gateway's address is in `BASE`, a caller's key in `KEY`. Whatever would leave
this machine fails.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterable
from typing import Any

BASE, KEY = os.environ["BASE"], os.environ["KEY"]


def keep_inside(event: str, arguments: tuple[Any, ...]) -> None:
    """Ends the program where a socket would get beyond loopback, or another name is looked up."""
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    if host not in ("127.0.0.1", b"127.0.0.1"):
        os.write(2, f"{event}: {host!r} is not for agents\n".encode())
        os._exit(3)


def run_shell(command: str) -> str:
    """Run a shell command and return its output."""
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    return done.stdout


def langchain(dialect: str, model: str, task: str) -> tuple[str, str]:
    from langchain.agents import create_agent  # type: ignore[import-not-found]

    if dialect == "messages":
        from langchain_anthropic import ChatAnthropic  # type: ignore[import-not-found]

        chat = ChatAnthropic(model=model, base_url=BASE, api_key=KEY)
    else:
        from langchain_openai import ChatOpenAI  # type: ignore[import-not-found]

        is_responses = dialect == "responses"
        chat = ChatOpenAI(
            model=model,
            base_url=f"{BASE}/v1",
            api_key=KEY,
            use_responses_api=is_responses,
        )
    agent = create_agent(chat, [run_shell])
    asked = {"messages": [{"role": "user", "content": task}]}
    whole = agent.invoke(asked)["messages"][-1].text
    streamed = ""
    for piece, where in agent.stream(asked, stream_mode="messages"):
        if where["langgraph_node"] == "tools":
            streamed = ""  # what was said before the tool ran
        else:
            streamed += piece.text
    return whole, streamed


def pydantic_ai(dialect: str, model: str, task: str) -> tuple[str, str]:
    from pydantic_ai import Agent  # type: ignore[import-not-found]
    from pydantic_ai.models.anthropic import AnthropicModel  # type: ignore[import-not-found]
    from pydantic_ai.models.openai import (  # type: ignore[import-not-found]
        OpenAIChatModel,
        OpenAIResponsesModel,
    )
    from pydantic_ai.providers.anthropic import (  # type: ignore[import-not-found]
        AnthropicProvider,
    )
    from pydantic_ai.providers.openai import OpenAIProvider  # type: ignore[import-not-found]

    if dialect == "messages":
        chat = AnthropicModel(model, provider=AnthropicProvider(base_url=BASE, api_key=KEY))
    else:
        made = {"chat": OpenAIChatModel, "responses": OpenAIResponsesModel}[dialect]
        chat = made(model, provider=OpenAIProvider(base_url=f"{BASE}/v1", api_key=KEY))
    agent = Agent(chat, tools=[run_shell])

    async def read(_run: Any, events: AsyncIterable[Any]) -> None:
        """With one of these, answers are streamed, also those that ask for tools."""
        async for _event in events:
            pass

    async def both() -> tuple[str, str]:
        whole = await agent.run(task)
        streamed = await agent.run(task, event_stream_handler=read)
        return whole.output, streamed.output

    return asyncio.run(both())


if __name__ == "__main__":
    sys.addaudithook(keep_inside)
    library, *asked_for = sys.argv[1:]
    run = {"langchain": langchain, "pydantic-ai": pydantic_ai}[library]
    print(*run(*asked_for), sep="\n")
