"""Anthropic's Messages API as callers speak it, by way of chat: pure translators.

    request.py    Messages request -> chat request
    blocks.py     what is in a message: text, media, results of tools
    tools.py      tools and the choice among them
    answer.py     what a Message, its events and errors are made of
    stream.py     chat chunks -> events, or a Message
    native.py     what changes in a request that Claude itself gets

`wire/claude` goes the other way: from chat to Claude's own API. Facts are from
platform.claude.com/docs and the types of the `anthropic` SDK 2.14, read 2026-11.
"""
