"""OpenAI chat <-> Anthropic's Messages API: pure translators, chat is the hub.

    request.py    chat request -> Messages request: what becomes of every parameter
    messages.py   its conversation: turns, tool calls and results
    parts.py      what is in a message: text, images, files
    schema.py     JSON Schema of tools and of structured outputs
    reply.py      Message -> chat.completion
    stream.py     event stream -> chat.completion.chunk
    errors.py     error answers and error events
    families.py   what each model family accepts
    thinking.py   thinking blocks on their way through a caller that speaks OpenAI
    api.py        paths, headers, the list of models

Facts are from platform.claude.com/docs and the types of the `anthropic` SDK 2.12, read 2026-11.
"""
