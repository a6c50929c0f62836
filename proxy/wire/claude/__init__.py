"""OpenAI chat to Anthropic's Messages API and back: pure translators, chat is the hub.

Facts are from platform.claude.com/docs and the types of the `anthropic` SDK 2.12, read 2026-11.
"""
