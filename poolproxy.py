"""The command `poolproxy`. It is outside of the package, to tell when another one hides that.

The package's import name is `proxy`. An application may have a module of this name, and PyPI's
proxy.py has: whichever comes first on `sys.path`, or is installed last, is what `import proxy`
finds.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys


def main() -> int:
    """Run the command, and return its exit status; says in one line if the package is hidden."""
    if hidden_by := _other_package():
        print(
            f"poolproxy: `import proxy` finds {hidden_by}, which is not Poolproxy: rename it, or"
            " install Poolproxy where it is not (docs/embedding.md, The import name)",
            file=sys.stderr,
        )
        return 2
    return int(importlib.import_module("proxy.cli").main())


def _other_package() -> str | None:
    """What is found in the package's place, which is beside this file; None: the package."""
    spec = importlib.util.find_spec("proxy")
    found = (spec and spec.origin) or "nothing"
    ours = os.path.join(os.path.dirname(os.path.realpath(__file__)), "proxy", "__init__.py")
    if os.path.realpath(found) != ours:  # so it is not run
        return found
    # Files of both may be in one folder.
    names = getattr(importlib.import_module("proxy"), "__all__", ())
    return None if "create_app" in names else found


if __name__ == "__main__":
    sys.exit(main())
