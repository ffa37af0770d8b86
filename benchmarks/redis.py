"""The Redis broker on a private server: the floor of batched scripts, enqueue, drain and latency.

The floor leases and settles 100 messages at a time through the session, without a worker: as many round trips as a
worker needs, and nothing else.  By default the server keeps nothing on disk; ``--durable`` asks it to sync every write.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import trio

import trepid
from benchmarks.actors import KEPT, NOOP
from benchmarks.harness import Stopwatch, interleaved, quantile, report, run
from trepid.brokers.redis import RedisBroker
from trepid.ports.messages import Publication, Settlement
from trepid.rules.verdicts import Done

SLOTS = 100
_PREFIXES = itertools.count()


@contextmanager
def server(*, durable: bool) -> Generator[str, None, None]:
    """Start a private server and yield the URL of its socket."""
    with tempfile.TemporaryDirectory(prefix="trepid-bench-") as folder:
        socket = Path(folder) / "redis.sock"
        settings = ["--appendonly", "yes", "--appendfsync", "always"] if durable else ["--appendonly", "no"]
        with subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", str(socket), "--dir", folder, "--save", "", *settings],  # noqa: S607 - the one on the path
            stdout=subprocess.DEVNULL,
        ) as process:
            try:
                while not socket.exists():
                    time.sleep(0.01)
                yield f"unix://{socket}"
            finally:
                process.terminate()


class Benchmark:
    """The measures, on one server; each has a prefix of its own."""

    def __init__(self, url: str) -> None:
        self._url = url

    def url(self) -> str:
        """Return a URL that nobody has used."""
        return f"{self._url}?prefix=bench{next(_PREFIXES)}"

    async def floor(self, jobs: int) -> float:
        """Return messages per second, leased and settled 100 at a time by nobody in particular."""
        async with RedisBroker(self.url()).open() as session:
            await session.declare(["default"])
            for first in range(0, jobs, 1000):
                await session.publish(
                    [Publication("default", f"{first + n:032}", ("bench", first + n), b"{}") for n in range(1000)]
                )
            watch = Stopwatch()
            while deliveries := await session.lease(["default"], SLOTS, 30.0, owner="floor"):
                await session.settle([Settlement(each.ref, Done(None, 0.0)) for each in deliveries])
            return watch.rate(jobs)

    async def drain(self, actor: trepid.Actor[[], None], jobs: int) -> float:
        """Return messages per second of a worker that drains a full queue."""
        async with trepid.open_connection(self.url()) as connection:
            await self._fill(connection, actor, jobs)
            watch = Stopwatch()
            done = await trepid.Worker(actor, tasks_limit=SLOTS, messages_limit=jobs).run(connection)
            rate = watch.rate(jobs)
            assert done.succeeded == jobs
            return rate

    async def _fill(self, connection: trepid.Connection, actor: trepid.Actor[[], None], jobs: int) -> None:
        await connection.declare("default")
        for _ in range(0, jobs, 1000):
            await connection.enqueue_many([actor.job()] * 1000)

    async def bulk(self, jobs: int) -> float:
        """Return messages per second, enqueued 1000 at a time."""
        async with trepid.open_connection(self.url()) as connection:
            watch = Stopwatch()
            await self._fill(connection, NOOP, jobs)
            return watch.rate(jobs)

    async def single(self, jobs: int) -> float:
        """Return messages per second, enqueued one after the other."""
        async with trepid.open_connection(self.url()) as connection:
            await connection.declare("default")
            watch = Stopwatch()
            for _ in range(jobs):
                await connection.enqueue(NOOP.job())
            return watch.rate(jobs)

    async def tasks(self, jobs: int) -> float:
        """Return messages per second, enqueued one by one by 100 tasks at once."""
        async with trepid.open_connection(self.url()) as connection:
            await connection.declare("default")

            async def some() -> None:
                for _ in range(jobs // 100):
                    await connection.enqueue(NOOP.job())

            watch = Stopwatch()
            async with trio.open_nursery() as nursery:
                for _ in range(100):
                    nursery.start_soon(some)
            return watch.rate(jobs)

    async def latencies(self, jobs: int) -> list[float]:
        """Return the microseconds from enqueuing to the start of the job on an idle worker, one after the other."""
        began, waits = 0.0, list[float]()
        started = trio.Event()

        async def noted() -> None:
            waits.append((time.perf_counter() - began) * 1e6)
            started.set()
            await trio.lowlevel.checkpoint()

        actor = trepid.Actor(noted, result_ttl=0)
        url = self.url()
        async with (
            trepid.open_connection(url) as ours,
            trepid.open_connection(url) as theirs,
            trio.open_nursery() as nursery,
        ):
            running = await nursery.start(trepid.Worker(actor).run, theirs)
            for _ in range(jobs):
                await trio.sleep(0.005)
                started = trio.Event()
                began = time.perf_counter()
                await ours.enqueue(actor.job())
                await started.wait()
            running.stop()
        return waits


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--jobs", type=int, default=20_000)
    options.add_argument("--few", type=int, default=2000, help="for what is done one by one")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--durable", action="store_true", help="appendonly yes, appendfsync always")
    chosen = options.parse_args()
    jobs, few = chosen.jobs, chosen.few
    with server(durable=chosen.durable) as url:
        bench = Benchmark(url)
        title = "Redis, every write synced" if chosen.durable else "Redis, nothing on disk"
        floor = "lease and settle 100, no worker"
        figures = interleaved(
            {
                floor: run(lambda: bench.floor(jobs)),
                "trepid, nothing kept": run(lambda: bench.drain(NOOP, jobs)),
                "trepid, results kept for a day": run(lambda: bench.drain(KEPT, jobs)),
            },
            chosen.rounds,
        )
        report(f"{title}, drain, no-op jobs, {SLOTS} slots", "per second", figures, floor)
        figures = interleaved(
            {
                "one by one": run(lambda: bench.single(few)),
                "100 tasks": run(lambda: bench.tasks(jobs)),
                "1000 at a time": run(lambda: bench.bulk(jobs)),
            },
            chosen.rounds,
        )
        report(f"{title}, enqueue", "per second", figures, "one by one")
        waits = trio.run(bench.latencies, min(few, 500))
        print(f"\n{title}, from enqueue to start, idle worker [us]")
        print(f"  p50 {statistics.median(waits):,.0f}   p99 {quantile(waits, 0.99):,.0f}")


if __name__ == "__main__":
    main()
