"""The command `poolproxy`: serve, check or write a configuration, and control a running instance.

Results go to stdout, problems to stderr. A problem that can be foreseen is a line and an exit
status, never a traceback. No key is ever printed.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from ..errors import ConfigError
from .arguments import parser
from .terminal import Exit, Failure


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, and return the exit status of the process."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # where the terminal lacks a letter
    args = parser().parse_args(argv)
    try:
        status = args.command(args) or Exit.OK
        sys.stdout.flush()
        return int(status)
    except ConfigError as error:
        print("\n".join(error.problems), file=sys.stderr)
        return Exit.CONFIG
    except Failure as failure:
        print(f"poolproxy: {failure}", file=sys.stderr)
        return failure.status
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # The reader (`head`) has seen enough; the interpreter's own last flush must not fail too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED
