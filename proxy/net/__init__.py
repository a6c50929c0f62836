"""Sockets and the clock: connections of callers and to upstreams, and waiting without a thread."""
