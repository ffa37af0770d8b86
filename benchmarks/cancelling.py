"""From the request to cancel a running job until its end is confirmed, with producer and worker on two connections.

Some jobs run beside it, so that the worker holds more than the one lease.  A job stops at once when it is asked to:
what is measured is the way of the request, and of its answer.
"""

from __future__ import annotations

import argparse
import time

import trio

import trepid
from benchmarks.harness import quantile
from benchmarks.places import ENGINES, places

_BESIDE = 20


async def _cancelled(url: str, results: str | None, times: int) -> tuple[list[float], list[float]]:
    """Return, for each of *times* jobs, the seconds until it saw the request, and until its end was confirmed."""
    seen: dict[str, float] = {}
    running: dict[str, trio.Event] = {}

    async def stay(ctx: trepid.Context) -> None:
        running.setdefault(ctx.job.id or "", trio.Event()).set()
        try:
            await trio.sleep_forever()
        finally:
            seen[ctx.job.id or ""] = time.perf_counter()

    actor = trepid.Actor(stay, timeout=86_400)
    to_job, to_end = [], []
    async with (
        trepid.open_connection(url, results=results) as connection,
        trepid.open_connection(url, results=results) as producer,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(trepid.Worker(actor, graceful_shutdown_time=0).run, connection)
        await producer.enqueue_many([actor.job() for _ in range(_BESIDE)])
        for _ in range(times + 5):
            handle = await producer.enqueue(actor.job())
            await running.setdefault(handle.id, trio.Event()).wait()
            await trio.sleep(0.02)
            began = time.perf_counter()
            await handle.cancel()
            await handle.wait()
            to_end.append(time.perf_counter() - began)
            to_job.append(seen[handle.id] - began)
        nursery.cancel_scope.cancel()
    return to_job[5:], to_end[5:]


def _print(name: str, seconds: list[float]) -> None:
    p50, p99, worst = (1e3 * part for part in (quantile(seconds, 0.5), quantile(seconds, 0.99), max(seconds)))
    print(f"  {name:<34} p50 {p50:7.1f}   p99 {p99:7.1f}   max {worst:7.1f}")


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--times", type=int, default=300)
    options.add_argument("--engines", nargs="*", default=ENGINES)
    chosen = options.parse_args()
    print("\nfrom the request to cancel [ms]")
    for engine in chosen.engines:
        with places(engine) as fresh, places("redis") as second:
            # RabbitMQ and NATS keep requests to cancel in a second engine.
            results = second() if engine in ("rabbitmq", "nats") else None
            if engine == "memory":
                continue  # two connections would be two brokers
            to_job, to_end = trio.run(_cancelled, fresh(), results, chosen.times)
            name = f"{engine} with redis" if results else engine
            _print(f"{name}: to the job", to_job)
            _print(f"{name}: to the confirmed end", to_end)


if __name__ == "__main__":
    main()
