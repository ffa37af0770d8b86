"""The memory broker against the floor: what one task and one deadline scope per message cost on bare Trio.

The floor keeps numbers in a deque, counts slots in an int, and starts one task with one deadline scope for each.  The
worker does the same, and besides: leases with tokens, envelopes, arguments, verdicts, settlement, statistics.
"""

from __future__ import annotations

import argparse
from collections import deque

import trio

import trepid
from benchmarks.actors import KEPT, NOOP, noop
from benchmarks.harness import Stopwatch, interleaved, report, run

SLOTS = 100


async def floor(jobs: int) -> float:
    """Return messages per second of the leanest loop that has a task and a deadline scope per message."""
    waiting = deque(range(jobs))
    free, done, wake = SLOTS, 0, trio.Event()

    async def job(_: int) -> None:
        nonlocal free, done
        try:
            with trio.move_on_after(30):
                await noop()
        finally:
            free += 1
            done += 1
            if free == 1:
                wake.set()

    watch = Stopwatch()
    async with trio.open_nursery() as nursery:
        while waiting:
            while free and waiting:
                free -= 1
                nursery.start_soon(job, waiting.popleft())
            await wake.wait()
            wake = trio.Event()
    assert done == jobs
    return watch.rate(jobs)


async def _filled(connection: trepid.Connection, job: trepid.Job[None], jobs: int) -> None:
    await connection.declare("default")
    for _ in range(0, jobs, 1000):
        await connection.enqueue_many([job] * 1000)


async def drain(actor: trepid.Actor[[], None], jobs: int) -> float:
    """Return messages per second of a worker that drains a full queue."""
    async with trepid.open_connection("memory:") as connection:
        await _filled(connection, actor.job(), jobs)
        watch = Stopwatch()
        worker = trepid.Worker(actor, tasks_limit=SLOTS, messages_limit=jobs)
        done = await worker.run(connection)
        rate = watch.rate(jobs)
        assert done.succeeded == jobs
        return rate


async def enqueue(jobs: int, *, many: bool) -> float:
    """Return messages enqueued per second."""
    async with trepid.open_connection("memory:") as connection:
        await connection.declare("default")
        watch = Stopwatch()
        if many:
            await _filled(connection, NOOP.job(), jobs)
        else:
            for _ in range(jobs):
                await connection.enqueue(NOOP.job())
        return watch.rate(jobs)


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--jobs", type=int, default=30_000)
    options.add_argument("--rounds", type=int, default=7)
    chosen = options.parse_args()
    jobs = chosen.jobs
    figures = interleaved(
        {
            "floor (deque, task and scope per message)": run(lambda: floor(jobs)),
            "drain, nothing kept": run(lambda: drain(NOOP, jobs)),
            "drain, results kept for a day": run(lambda: drain(KEPT, jobs)),
            "enqueue, 1000 at a time": run(lambda: enqueue(jobs, many=True)),
            "enqueue, one by one": run(lambda: enqueue(jobs, many=False)),
        },
        chosen.rounds,
    )
    report(
        f"memory broker, no-op jobs, {SLOTS} slots", "per second", figures, "floor (deque, task and scope per message)"
    )


if __name__ == "__main__":
    main()
