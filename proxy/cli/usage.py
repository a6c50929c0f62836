"""`poolproxy usage`: what callers have used, by the ledger. No instance need run."""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys

from ..config import default_path, load_config
from ..config.wording import printable
from ..errors import ConfigError
from .terminal import Exit, Failure, table


def usage(args: argparse.Namespace) -> int:
    """Print the sums that are asked for; raises Failure, ConfigError."""
    from ..ledger import SUMS, report  # SQLite: no other command needs it

    by = args.by.split(",")
    try:
        rows = report(_folder(args.file), since=args.since, by=by)
    except ValueError as error:
        raise Failure(str(error), Exit.CONFIG) from error
    except OSError as error:
        raise Failure(str(error)) from error
    names = [*by, *SUMS]
    if args.json:
        print(json.dumps(rows, indent=2))
    elif args.csv:
        writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        head = [name.removesuffix("_tokens").replace("_", " ") for name in names]
        cells = [[printable(str(row[name])) or "-" for name in names] for row in rows]
        print(table(head, cells, right=range(len(by), len(names))))
    return Exit.OK


def _folder(file: str | None) -> str:
    """Where the ledger is; raises Failure, ConfigError."""
    from ..ledger import FILE, default_dirs

    wrong: Exception | None = None
    try:
        config = load_config(file, or_built_in=True)
        places = [config.state_dir] if config.state_dir else default_dirs(config.path)
    except ConfigError as error:  # of variables that the server has, and who asks has not
        wrong, places = error, default_dirs(file or default_path())
    for place in places:
        if os.path.exists(os.path.join(place, FILE)):
            return place
    raise wrong or Failure(f"there is no ledger in {', '.join(places)}: is `usage` on?")
