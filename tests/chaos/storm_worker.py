"""A worker process of the storm: every execution is written down before anything else happens.

Run as ``python -m tests.chaos.storm_worker URL LOG_FOLDER``; it is killed, or told to stop.
"""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path

import trio

import trepid
from trepid.ports.messages import Delivery

LEASE = 5.0
ABSENT = 75
"""The exit code of a worker that was started while its broker was away (EX_TEMPFAIL)."""

_log: int = -1


def _note(what: str, id: str, more: object = "") -> None:
    # One unbuffered write: it is on record even if the next instruction never happens.
    os.write(_log, f"{what} {id} {time.time():.6f} {more}\n".encode())


async def brave(ctx: trepid.Context, number: int) -> int:
    """Write down that it runs, take a moment, and write down that it has ended."""
    # What the message says of its past is no business of an actor, and there is no other way to see it on all engines.
    delivery: Delivery = ctx._delivery  # type: ignore[attr-defined]
    _note("start", delivery.id, f"{delivery.crashes} {delivery.leased:.6f}")
    await trio.sleep(random.uniform(0.0, 0.2))
    _note("end", ctx.job.id)
    return number


BRAVE = trepid.Actor(brave, max_crashes=100)


def main() -> None:
    """Work until killed."""
    global _log  # noqa: PLW0603 - one process, one log
    url, folder = sys.argv[1:]
    _log = os.open(Path(folder) / str(os.getpid()), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        trepid.run(trepid.Worker(BRAVE, tasks_limit=30, lease=LEASE), url)
    except trepid.BrokerLostError:
        # Only at the start: a worker that has started survives the loss of its broker.  Who runs it starts it again.
        sys.exit(ABSENT)


if __name__ == "__main__":
    main()
