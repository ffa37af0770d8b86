"""A worker process of the storm: every execution is written down before anything else happens.

Run as ``python -m tests.chaos.storm_worker DATABASE LOG_FOLDER``; it is killed, never asked.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import trio

import trepid

LEASE = 5.0

_log: int = -1


async def brave(ctx: trepid.Context, number: int) -> int:
    """Write down that it runs, and take a moment."""
    # One unbuffered write: it is on record even if the next instruction never happens.
    os.write(_log, f"{ctx.job.id}\n".encode())
    await trio.sleep(random.uniform(0.0, 0.2))
    return number


BRAVE = trepid.Actor(brave, max_crashes=100)


def main() -> None:
    """Work until killed."""
    global _log  # noqa: PLW0603 - one process, one log
    path, folder = sys.argv[1:]
    _log = os.open(Path(folder) / str(os.getpid()), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    trepid.run(trepid.Worker(BRAVE, tasks_limit=30, lease=LEASE), f"sqlite:{path}")


if __name__ == "__main__":
    main()
