"""Receives into buffers that stay, and returns copies of what came.

A `recv` of sockets takes memory for all that may come, and gives back what is behind that which
did. What is left is a small block, and malloc cuts up its free memory at thousands of these: each
thread's cache keeps them, though Python asks for few blocks of their sizes.
"""

from __future__ import annotations

from collections.abc import Callable

# One read takes what a socket buffer holds at most by default (net.ipv4.tcp_rmem: 128 KiB, half of
# it for overhead).
RECV_BYTES = 64 * 1024

# Those that are free now. There are as many as threads ever received at one moment.
_buffers: list[memoryview] = []


def received(recv_into: Callable[..., int], size: int = RECV_BYTES, *flags: int) -> bytes:
    """What a socket's `recv_into` takes in: at most `size` bytes, which are RECV_BYTES at most."""
    try:
        buffer = _buffers.pop()
    except IndexError:
        buffer = memoryview(bytearray(RECV_BYTES))
    try:
        return bytes(buffer[: recv_into(buffer, size, *flags)])
    finally:
        _buffers.append(buffer)
