"""Flatness: what a long queue costs.  Drain rates with few and with very many messages waiting, and memory growth."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from statistics import median

import attrs
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


@attrs.frozen
class Backlog:
    """What waits while others are drained.

    Attributes:
      name: for the table.
      waiting: how many messages.
      urgent: whether they are as urgent as what is drained: then each round drains the oldest, and adds as many behind.
        Else they are less urgent.
      delay: seconds, if they are not due yet.
    """

    name: str
    waiting: int
    urgent: bool = False
    delay: float | None = None


async def with_backlogs(places: Sequence[tuple[str, Backlog]], jobs: int, rounds: int) -> list[list[float]]:
    """Return drain rates while other messages stay in the queue, for each place.

    The rounds are taken in turn, so that whatever else the machine does slows all of them.
    """
    rates: list[list[float]] = [[] for _ in places]
    async with AsyncExitStack() as stack:
        connections = []
        for url, backlog in places:
            connections.append(await stack.enter_async_context(trepid.open_connection(url)))
            priority = trepid.Priority.MEDIUM if backlog.urgent else trepid.Priority.LOW
            await _fill(connections[-1], NOOP.job().options(priority=priority, delay=backlog.delay), backlog.waiting)
        for _ in range(rounds):
            for connection, found in zip(connections, rates, strict=True):
                await _fill(connection, NOOP.job(), jobs)
                found.append(await _drain(connection, jobs))
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
    backlogs = [
        Backlog("1,000 waiting", 1000),
        Backlog(f"{chosen.many:,} waiting", chosen.many),
        Backlog("1,000 waiting, as urgent", 1000, urgent=True),
        Backlog(f"{chosen.many:,} waiting, as urgent", chosen.many, urgent=True),
        Backlog(f"{chosen.delayed:,} delayed by a day", chosen.delayed, delay=86_400.0),
    ]
    for engine in chosen.engines:
        print(f"\n{engine}: drain, {SLOTS} slots [per second: median, and each round]")
        with ExitStack() as stack:
            # Each in a place of its own: a server, if the engine has one.
            urls = [stack.enter_context(places(engine))() for _ in backlogs]
            measured = trio.run(with_backlogs, list(zip(urls, backlogs, strict=True)), chosen.jobs, chosen.rounds)
            for backlog, rates in zip(backlogs, measured, strict=True):
                each = "  ".join(f"{rate:8,.0f}" for rate in rates)
                print(f"  {backlog.name:<32} {median(rates):8,.0f}  |{each}", flush=True)
        if chosen.growth:
            with places(engine) as fresh:
                grown = trio.run(growth, fresh(), chosen.growth)
            print(f"  memory growth per million jobs, nothing kept: {grown:.1f} MiB")


if __name__ == "__main__":
    main()
