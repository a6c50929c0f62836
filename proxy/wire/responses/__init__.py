"""OpenAI's Responses, as callers speak it, and chat: pure translators, chat is the hub.

    request.py    Responses request -> chat request
    items.py      its input: items -> messages
    tools.py      its tools as functions, and what their calls are to the caller
    stream.py     chat.completion.chunk -> events, whose last one holds the whole Response
    answer.py     the Response: its items, usage and parameters

Facts are from platform.openai.com/docs/api-reference/responses and the types of the `openai` SDK
3.57 (types/responses), read 2026-11.
"""
