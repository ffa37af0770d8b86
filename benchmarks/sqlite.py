"""The SQLite broker, durable to the loss of power: enqueue, drain, and huey's SQLite storage beside it.

Both run one worker process: Trepid's with 100 slots; huey's consumer with one thread, and huey's storage alone, in a
bare loop that dequeues and executes.  By default huey asks SQLite never to wait for the disk (``synchronous=OFF``): a
loss of power may cost jobs or the file; with ``fsync=True`` it waits, as Trepid always does.  That is what compares.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

from benchmarks.engine import measure
from benchmarks.harness import Measure, Stopwatch, database
from benchmarks.places import places


def huey(path: Path, *, fsync: bool) -> tuple[Any, Any]:
    """Return a huey on SQLite, and a task that does nothing."""
    from huey import SqliteHuey

    rival = SqliteHuey(filename=str(path), fsync=fsync, results=False)

    def nothing() -> None:
        """Do nothing."""

    return rival, rival.task()(nothing)


def huey_enqueue(jobs: int, *, fsync: bool) -> float:
    """Return tasks per second that huey enqueues."""
    with database() as path:
        _, task = huey(path, fsync=fsync)
        watch = Stopwatch()
        for _ in range(jobs):
            task()
        return watch.rate(jobs)


def huey_drain(jobs: int, *, fsync: bool) -> float:
    """Return tasks per second that one huey worker takes and executes."""
    with database() as path:
        rival, task = huey(path, fsync=fsync)
        for _ in range(jobs):
            task()
        watch = Stopwatch()
        for _ in range(jobs):
            rival.execute(rival.dequeue())
        return watch.rate(jobs)


def huey_consumer(jobs: int) -> float:
    """Return tasks per second that huey's own consumer executes, durably, with one thread."""
    from huey import SqliteHuey

    logging.getLogger("huey").setLevel(logging.WARNING)
    with database() as path:
        rival = SqliteHuey(filename=str(path), fsync=True, results=False)
        left, ended = jobs, threading.Event()

        def nothing() -> None:
            nonlocal left
            left -= 1
            if not left:
                ended.set()

        task = rival.task()(nothing)
        for _ in range(jobs):
            task()
        consumer = rival.create_consumer(workers=1, periodic=False, check_worker_health=False)
        watch = Stopwatch()
        consumer.start()
        assert ended.wait(60)
        rate = watch.rate(jobs)
        consumer.stop(graceful=True)
        return rate


def main() -> None:
    """Measure and print."""
    few = 1000
    raw_drain: dict[str, Measure] = {
        "huey, storage alone, fsync": lambda: huey_drain(few, fsync=True),
        "huey, storage alone, not durable": lambda: huey_drain(few, fsync=False),
        "huey, its consumer, fsync": lambda: huey_consumer(few),
    }
    raw_enqueue: dict[str, Measure] = {
        "huey, fsync": lambda: huey_enqueue(few, fsync=True),
        "huey, not durable": lambda: huey_enqueue(few, fsync=False),
    }
    with places("sqlite") as fresh:
        measure("SQLite", fresh, raw_drain, raw_enqueue)


if __name__ == "__main__":
    main()
