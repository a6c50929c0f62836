"""Bytes and dialects: pure, without sockets, threads or a clock. Chat is the hub of dialects."""
