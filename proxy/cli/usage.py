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
    from ..ledger import FILE, SUMS, default_dirs, report  # SQLite: no other command needs it

    by, wrong = args.by.split(","), None
    try:
        config = load_config(args.file, or_built_in=True)
        places = [config.state_dir] if config.state_dir else default_dirs(config.path)
    except ConfigError as error:  # of variables that the server has, and who asks has not
        wrong, places = error, default_dirs(args.file or default_path())
    found = [place for place in places if os.path.exists(os.path.join(place, FILE))]
    if not found:
        raise wrong or Failure(f"there is no ledger in {', '.join(places)}: is `usage` on?")
    try:
        rows = report(found[0], since=args.since, by=by)
    except (OSError, ValueError) as error:
        is_asked_wrong = isinstance(error, ValueError)
        raise Failure(str(error), Exit.CONFIG if is_asked_wrong else Exit.FAILED) from error
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
