"""A worker process that is suspended: ``python -m tests.chaos.suspended_worker URL LOG_FOLDER SECONDS``."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import trio

import trepid
from tests.chaos.storm_worker import LEASE


def main() -> None:
    """Work until told to stop."""
    url, folder, seconds = sys.argv[1:]
    log = os.open(Path(folder) / str(os.getpid()), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def slow(ctx: trepid.Context) -> None:
        os.write(log, f"start {ctx.job.id} {time.time():.6f}\n".encode())
        await trio.sleep(float(seconds))
        os.write(log, f"end {ctx.job.id} {time.time():.6f}\n".encode())

    trepid.run(trepid.Worker(trepid.Actor(slow), tasks_limit=1, lease=LEASE), url)


if __name__ == "__main__":
    main()
