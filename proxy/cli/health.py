"""`poolproxy health`: ask an instance over HTTP whether it serves, as a container's check does."""

from __future__ import annotations

import argparse
import http.client

from ..config import load_config
from .exit import Exit, Failure

# The gateway answers from memory, by a thread of its own.
TIMEOUT_S = 4.0

# Where an instance that listens at all addresses can be asked.
_NEAR = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


def health(args: argparse.Namespace) -> int:
    """Print `ok` if it serves; raises Failure, ConfigError. Blocks for some seconds at most."""
    host, port = "127.0.0.1", args.port
    if port is None or args.file is not None:
        config = load_config(args.file, or_built_in=True)
        host, port = _NEAR.get(config.host, config.host), config.port if port is None else port
    path = "/readyz" if args.ready else "/healthz"
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise Failure(f"no answer from {host}, port {port}: {error}") from error
    finally:
        connection.close()
    if status != http.client.OK:
        raise Failure(f"{host}, port {port}: {path} says {status}")
    print("ok")
    return Exit.OK
