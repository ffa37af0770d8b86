"""The SQLite broker, durable to the loss of power: enqueue, drain, and huey's SQLite storage beside it.

Both run one worker process: Trepid's with 100 slots; huey's consumer with one thread, and huey's storage alone, in a
bare loop that dequeues and executes.  By default huey asks SQLite never to wait for the disk (``synchronous=OFF``): a
loss of power may cost jobs or the file; with ``fsync=True`` it waits, as Trepid always does.  That is what compares.
"""

from __future__ import annotations

import argparse
import logging
import threading
from pathlib import Path
from typing import Any

import trio

import trepid
from benchmarks.actors import KEPT, NOOP
from benchmarks.harness import Stopwatch, database, interleaved, report, run

SLOTS = 100


async def _fill(connection: trepid.Connection, actor: trepid.Actor[[], None], jobs: int) -> None:
    await connection.declare("default")
    job = actor.job()
    for _ in range(0, jobs, 1000):
        await connection.enqueue_many([job] * 1000)


async def enqueue_bulk(jobs: int) -> float:
    """Return messages per second, enqueued 1000 at a time."""
    with database() as path:
        async with trepid.open_connection(f"sqlite:{path}") as connection:
            watch = Stopwatch()
            await _fill(connection, NOOP, jobs)
            return watch.rate(jobs)


async def enqueue_single(jobs: int) -> float:
    """Return messages per second, enqueued one after the other."""
    with database() as path:
        async with trepid.open_connection(f"sqlite:{path}") as connection:
            await connection.declare("default")
            watch = Stopwatch()
            for _ in range(jobs):
                await connection.enqueue(NOOP.job())
            return watch.rate(jobs)


async def enqueue_tasks(jobs: int) -> float:
    """Return messages per second, enqueued one by one by 100 tasks at once."""
    with database() as path:
        async with trepid.open_connection(f"sqlite:{path}") as connection:
            await connection.declare("default")

            async def some() -> None:
                for _ in range(jobs // 100):
                    await connection.enqueue(NOOP.job())

            watch = Stopwatch()
            async with trio.open_nursery() as nursery:
                for _ in range(100):
                    nursery.start_soon(some)
            return watch.rate(jobs)


async def drain(actor: trepid.Actor[[], None], jobs: int) -> float:
    """Return messages per second of a worker that drains a full queue."""
    with database() as path:
        async with trepid.open_connection(f"sqlite:{path}") as connection:
            await _fill(connection, actor, jobs)
            watch = Stopwatch()
            worker = trepid.Worker(actor, tasks_limit=SLOTS, messages_limit=jobs)
            done = await worker.run(connection)
            rate = watch.rate(jobs)
            assert done.succeeded == jobs
            return rate


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
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--jobs", type=int, default=20_000)
    options.add_argument("--few", type=int, default=1000, help="for what is done one by one")
    options.add_argument("--rounds", type=int, default=5)
    chosen = options.parse_args()
    jobs, few = chosen.jobs, chosen.few
    figures = interleaved(
        {
            "huey, storage alone, not durable": lambda: huey_drain(few, fsync=False),
            "huey, storage alone, fsync": lambda: huey_drain(few, fsync=True),
            "huey, its consumer, fsync": lambda: huey_consumer(few),
            "trepid, nothing kept": run(lambda: drain(NOOP, jobs)),
            "trepid, results kept for a day": run(lambda: drain(KEPT, jobs)),
        },
        chosen.rounds,
    )
    report(f"SQLite, drain, no-op jobs, {SLOTS} slots", "per second", figures, "huey, storage alone, fsync")
    figures = interleaved(
        {
            "huey, not durable": lambda: huey_enqueue(few, fsync=False),
            "huey, fsync": lambda: huey_enqueue(few, fsync=True),
            "trepid, one by one": run(lambda: enqueue_single(few)),
            "trepid, 100 tasks": run(lambda: enqueue_tasks(jobs)),
            "trepid, 1000 at a time": run(lambda: enqueue_bulk(jobs)),
        },
        chosen.rounds,
    )
    report("SQLite, enqueue", "per second", figures, "huey, fsync")


if __name__ == "__main__":
    main()
