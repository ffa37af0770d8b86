"""A worker process of the storm against limits: ``python -m tests.chaos.limited_worker URL LOG_FOLDER``."""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path

import trio

import trepid

LEASE = 3.0
CONCURRENCY = 4
QUEUE = trepid.Queue("default", concurrency=7)
KEYS = "xyz"

_log: int = -1


def _note(what: str, text: str) -> None:
    os.write(_log, f"{what} {text} {time.time():.6f}\n".encode())


async def by_actor(ctx: trepid.Context) -> None:
    """One of at most four."""
    await _run(f"actor:{ctx.job.id}")


async def by_key(ctx: trepid.Context, key: str) -> None:
    """One for each key."""
    await _run(f"{key}:{ctx.job.id}")


async def _run(name: str) -> None:
    _note("start", name)
    await trio.sleep(random.uniform(0.0, 0.05))
    _note("end", name)


BY_ACTOR = trepid.Actor(by_actor, queue=QUEUE, max_crashes=100, concurrency=CONCURRENCY)
BY_KEY = trepid.Actor(by_key, queue=QUEUE, max_crashes=100, concurrency=1, key="key")


def main() -> None:
    """Work until killed."""
    global _log  # noqa: PLW0603 - one process, one log
    url, folder = sys.argv[1:]
    _log = os.open(Path(folder) / str(os.getpid()), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    trepid.run(trepid.Worker(BY_ACTOR, BY_KEY, tasks_limit=10, lease=LEASE), url)


if __name__ == "__main__":
    main()
