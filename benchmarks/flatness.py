"""Flatness: what a long queue costs.  Drain rates with few and with very many messages waiting, and memory growth."""

from __future__ import annotations

import argparse
import gc

import trio

import trepid
from benchmarks.actors import NOOP
from benchmarks.harness import Stopwatch, resident_mib
from benchmarks.places import ENGINES, places

SLOTS = 100


async def _fill(connection: trepid.Connection, job: trepid.Job[None], jobs: int) -> None:
    await connection.declare("default")
    while jobs > 0:
        await connection.enqueue_many([job] * min(jobs, 1000))
        jobs -= 1000


async def _drain(connection: trepid.Connection, jobs: int) -> float:
    watch = Stopwatch()
    report = await trepid.Worker(NOOP, tasks_limit=SLOTS, messages_limit=jobs).run(connection)
    rate = watch.rate(jobs)
    assert report.succeeded == jobs
    return rate


async def with_waiting(url: str, waiting: int, jobs: int, delay: float | None, rounds: int) -> list[float]:
    """Return drain rates while *waiting* other messages stay in the queue."""
    async with trepid.open_connection(url) as connection:
        # What waits is less urgent than what is drained, or not due yet.
        await _fill(connection, NOOP.job().options(priority=trepid.Priority.LOW, delay=delay), waiting)
        rates = []
        for _ in range(rounds):
            await _fill(connection, NOOP.job(), jobs)
            rates.append(await _drain(connection, jobs))
        return rates


async def growth(url: str, jobs: int) -> float:
    """Return how many MiB a million jobs leave behind, after as many again to warm up, in steps."""
    async with trepid.open_connection(url) as connection:
        step = min(jobs, 50_000)

        async def some() -> None:
            for _ in range(jobs // step):
                await _fill(connection, NOOP.job(), step)
                await _drain(connection, step)
            gc.collect()

        await some()
        before = resident_mib()
        await some()
        return (resident_mib() - before) * 1_000_000 / jobs


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("engines", nargs="*", default=["memory", "sqlite"], help=", ".join(ENGINES))
    options.add_argument("--many", type=int, default=1_000_000)
    options.add_argument("--delayed", type=int, default=100_000)
    options.add_argument("--jobs", type=int, default=10_000)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--growth", type=int, default=1_000_000)
    chosen = options.parse_args()
    for engine in chosen.engines:
        print(f"\n{engine}: drain, {SLOTS} slots [per second, each round]")
        with places(engine) as fresh:
            for name, waiting, delay in (
                ("1,000 waiting", 1000, None),
                (f"{chosen.many:,} waiting", chosen.many, None),
                (f"{chosen.delayed:,} delayed by a day", chosen.delayed, 86_400.0),
            ):
                rates = trio.run(with_waiting, fresh(), waiting, chosen.jobs, delay, chosen.rounds)
                print(f"  {name:<28} {'  '.join(f'{rate:8,.0f}' for rate in rates)}", flush=True)
            grown = trio.run(growth, fresh(), chosen.growth)
            print(f"  memory growth per million jobs, nothing kept: {grown:.1f} MiB")


if __name__ == "__main__":
    main()
