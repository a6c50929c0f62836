"""Words that a model gets where its vendor has no place for what a request says, or wants more.

They are the same for every vendor: a history that moves from one to another reads the same.
"""

from __future__ import annotations

from typing import Final

# Of the user, where a turn of the user has to be.
CONTINUE: Final = "Continue."

# The result of a call that has none.
NOT_RUN: Final = "This call was not run, or its result is lost."


def said_by_system(text: str) -> str:
    """What the system says in a turn of the user."""
    return f"<system>\n{text}\n</system>"


def result_without_call(text: str) -> str:
    """What a call gave that was cut off with the beginning of the history."""
    return f"<result>\n{text}\n</result>"
