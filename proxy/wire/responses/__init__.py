"""OpenAI's Responses, as callers speak it, by way of chat: pure translators.

Facts are from platform.openai.com/docs/api-reference/responses and the types of the `openai` SDK
3.57 (types/responses), read 2026-11.
"""
