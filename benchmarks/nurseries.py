"""Job nurseries: how long it takes to cancel a block of many jobs, until the end of each is confirmed; and maps.

Caller and worker are on two connections.  The worker runs some of the jobs, the others wait.
"""

from __future__ import annotations

import argparse
import resource
import time

import trio

import trepid
from benchmarks.harness import quantile
from benchmarks.places import ENGINES, places


async def stay() -> None:
    """Run until cancelled."""
    await trio.sleep_forever()


async def double(number: int) -> int:
    """Do next to nothing."""
    return 2 * number


STAY = trepid.Actor(stay, timeout=86_400)
DOUBLE = trepid.Actor(double)


async def _cancelled(url: str, results: str | None, jobs: int, running: int, rounds: int) -> list[float]:
    """Return the seconds from the cancellation of a block to its end."""
    seconds = []
    async with (
        trepid.open_connection(url, results=results) as near,
        trepid.open_connection(url, results=results) as far,
        trio.open_nursery() as nursery,
    ):
        worker = trepid.Worker(STAY, tasks_limit=running, graceful_shutdown_time=0)
        desk: trepid.RunningWorker = await nursery.start(worker.run, far)
        for _ in range(rounds):
            with trio.CancelScope() as scope:
                async with trepid.open_job_nursery(near) as children:
                    for _ in range(jobs):
                        children.start_soon(STAY.job())
                    while children.statistics().live < jobs or len(desk.statistics().running) < running:  # noqa: ASYNC110
                        await trio.sleep(0.01)
                    began = time.perf_counter()
                    scope.cancel()
            seconds.append(time.perf_counter() - began)
            left = (await near.stats()).live
            assert left == 0, f"{left} jobs are left"
        nursery.cancel_scope.cancel()
    return seconds


async def _mapped(url: str, results: str | None, jobs: int, limit: int) -> float:
    """Return jobs per second through a map, with the worker in the same process."""
    async with (
        trepid.open_connection(url, results=results) as near,
        trepid.open_connection(url, results=results) as far,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(trepid.Worker(DOUBLE).run, far)
        began, number = time.perf_counter(), 0
        async with trepid.open_job_nursery(near) as children:
            async for _ in children.map(DOUBLE, range(jobs), limit=limit, as_completed=True):
                number += 1
                if number % 100_000 == 0:
                    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                    print(f"    {number:>9,} done, at most {most:,.0f} MiB in use", flush=True)
        seconds = time.perf_counter() - began
        nursery.cancel_scope.cancel()
    return jobs / seconds


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--engines", nargs="*", default=ENGINES)
    options.add_argument("--jobs", type=int, default=1000)
    options.add_argument("--running", type=int, default=100)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--mapped", type=int, default=5000)
    options.add_argument("--limit", type=int, default=200)
    chosen = options.parse_args()
    print(
        f"\na block of {chosen.jobs:,} jobs, {chosen.running} running: from its cancellation to its end [s]; and maps"
    )
    for engine in chosen.engines:
        if engine == "memory":
            continue  # two connections would be two brokers
        with places(engine) as fresh, places("redis") as second:
            # RabbitMQ and NATS keep requests to cancel in a second engine.
            results = second() if engine in ("rabbitmq", "nats") else None
            if chosen.rounds:
                seconds = trio.run(_cancelled, fresh(), results, chosen.jobs, chosen.running, chosen.rounds)
                print(f"  {engine:<10} p50 {quantile(seconds, 0.5):6.2f}   max {max(seconds):6.2f}", flush=True)
            if chosen.mapped:
                rate = trio.run(_mapped, fresh(), results, chosen.mapped, chosen.limit)
                print(f"  {engine:<10} {rate:,.0f} jobs/s through a map of {chosen.mapped:,}", flush=True)


if __name__ == "__main__":
    main()
