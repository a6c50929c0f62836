"""OpenAI's Responses, as callers speak it, and chat: pure translators, chat is the hub.

`request` makes a chat request, with the messages of `items` and the functions of `tools`; `stream`
makes events of chat's chunks, the last of which holds the whole Response (`answer`).
Facts are from platform.openai.com/docs/api-reference/responses and the types of the `openai` SDK
3.57 (types/responses), read 2026-11.
"""
