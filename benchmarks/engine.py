"""What every engine is measured by: the same jobs, the same number of slots, and its raw operations beside them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import partial

import trio

import trepid
from benchmarks.actors import KEPT, NOOP
from benchmarks.harness import Measure, Stopwatch, interleaved, quantile, report, resident_mib, run
from benchmarks.latency import in_process
from benchmarks.places import Fresh

SLOTS = 100
RAW = "raw operations, no runtime"
"""The name of an engine's raw measure: what it does when nothing but batches of messages cross the wire."""


async def fill(connection: trepid.Connection, actor: trepid.Actor[[], None], jobs: int) -> None:
    """Enqueue *jobs* jobs, a thousand at a time."""
    await connection.declare("default")
    job = actor.job()
    for _ in range(0, jobs, 1000):
        await connection.enqueue_many([job] * 1000)


async def enqueue_bulk(fresh: Fresh, jobs: int) -> float:
    """Return messages per second, enqueued 1000 at a time."""
    async with trepid.open_connection(fresh()) as connection:
        await connection.declare("default")
        watch = Stopwatch()
        await fill(connection, NOOP, jobs)
        return watch.rate(jobs)


async def enqueue_single(fresh: Fresh, jobs: int) -> float:
    """Return messages per second, enqueued one after the other."""
    async with trepid.open_connection(fresh()) as connection:
        await connection.declare("default")
        watch = Stopwatch()
        for _ in range(jobs):
            await connection.enqueue(NOOP.job())
        return watch.rate(jobs)


async def enqueue_tasks(fresh: Fresh, jobs: int) -> float:
    """Return messages per second, enqueued one by one by 100 tasks at once."""
    async with trepid.open_connection(fresh()) as connection:
        await connection.declare("default")

        async def some() -> None:
            for _ in range(jobs // 100):
                await connection.enqueue(NOOP.job())

        watch = Stopwatch()
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(some)
        return watch.rate(jobs)


async def drain(fresh: Fresh, actor: trepid.Actor[[], None], jobs: int) -> float:
    """Return messages per second of a worker that drains a full queue."""
    async with trepid.open_connection(fresh()) as connection:
        await fill(connection, actor, jobs)
        watch = Stopwatch()
        worker = trepid.Worker(actor, tasks_limit=SLOTS, messages_limit=jobs)
        done = await worker.run(connection)
        rate = watch.rate(jobs)
        assert done.succeeded == jobs, done
        return rate


async def memory_per_job(fresh: Fresh, jobs: int) -> float:
    """Return by how many bytes this process has grown per job that it enqueued and ran, once warm."""
    await drain(fresh, NOOP, 2000)
    before = resident_mib()
    await drain(fresh, NOOP, jobs)
    return (resident_mib() - before) * 2**20 / jobs


def measure(title: str, fresh: Fresh, raw_drain: Mapping[str, Measure], raw_enqueue: Mapping[str, Measure]) -> None:
    """Measure an engine as the command line says, and print what came of it.

    Args:
      title: its name.
      fresh: returns the URL of an empty place.
      raw_drain: measures to compare the drain with; the first is the base of the ratios.
      raw_enqueue: measures to compare enqueuing with, in the same way.
    """
    options = argparse.ArgumentParser(description=f"Measure {title}.")
    options.add_argument("--jobs", type=int, default=20_000)
    options.add_argument("--few", type=int, default=1000, help="for what is done one by one")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--times", type=int, default=1000, help="how often the latency is taken")
    chosen = options.parse_args()
    jobs = chosen.jobs
    ours: dict[str, Measure] = {"trepid, nothing kept": run(partial(drain, fresh, NOOP, jobs))}
    if _keeps_results(fresh()):
        ours["trepid, results kept for a day"] = run(partial(drain, fresh, KEPT, jobs))
    figures = interleaved({**raw_drain, **ours}, chosen.rounds)
    report(f"{title}, drain, no-op jobs, {SLOTS} slots", "per second", figures, next(iter(raw_drain), None))
    ours = {
        "trepid, one by one": run(partial(enqueue_single, fresh, chosen.few)),
        "trepid, 100 tasks": run(partial(enqueue_tasks, fresh, jobs)),
        "trepid, 1000 at a time": run(partial(enqueue_bulk, fresh, jobs)),
    }
    figures = interleaved({**raw_enqueue, **ours}, chosen.rounds)
    report(f"{title}, enqueue", "per second", figures, next(iter(raw_enqueue), None))
    seconds = trio.run(in_process, fresh(), chosen.times)
    p50, p99 = quantile(seconds, 0.5) * 1e3, quantile(seconds, 0.99) * 1e3
    print(f"\n{title}, idle latency, enqueue to start [ms]\n  p50 {p50:.2f}   p99 {p99:.2f}")
    print(f"\n{title}, memory\n  {trio.run(memory_per_job, fresh, 2 * jobs):.0f} bytes per job, once warm")


def _keeps_results(url: str) -> bool:
    async def ask() -> bool:
        async with trepid.open_connection(url) as connection:
            return connection.capabilities.results != "none"

    return trio.run(ask)
