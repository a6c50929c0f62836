"""The benchmark: what a request costs here, in other gateways, and in the naive way to write one.

`python -m bench` measures side by side, `python -m bench growth` shows what grows with what. Linux
only (epoll, /proc), loopback only. Nothing here is imported by the gateway.
"""
