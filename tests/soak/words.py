"""A request's nonce, and the words that are the only right answer to it."""

from __future__ import annotations

import random
import re

NONCE = re.compile(rb"soak-[0-9a-f]{14}")


def make_nonce(chance: random.Random) -> str:
    return f"soak-{chance.getrandbits(56):014x}"


def answer_to(nonce: str) -> str:
    """The nonce 1 to 24 times, and an end."""
    count = 1 + int(nonce[-2:], 16) % 24
    return f"{nonce} " * count + "end"
