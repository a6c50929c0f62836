"""Anthropic's Messages API as callers speak it, by way of chat: pure translators.

`wire/claude` goes the other way: from chat to Claude's own API. Facts are from
platform.claude.com/docs and the types of the `anthropic` SDK 2.14, read 2026-11.
"""
