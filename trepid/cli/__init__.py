"""The command line: a door for operators.

What it needs is imported by each command when it runs, so that ``trepid --help`` answers at once.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line on ``sys.argv``, and leave the process with its exit code.

    Without the extra ``cli`` it says how to install it, and exits with 2.
    """
    try:
        from trepid.cli.root import trepid
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in {"click", "rich", "rich_click"}:
            raise
        print('error: the command line needs the extra "cli"\n hint: pip install "trepid[cli]"', file=sys.stderr)
        sys.exit(2)
    trepid.main(prog_name="trepid")
