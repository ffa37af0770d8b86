"""The SQLite broker at its port: how many messages go through it per second, on a real disk, with synchronous=FULL.

    python -m benchmarks.sqlite_port [directory]

The directory should be on the disk to be measured; by default the current one.  Beside each rate stands how often the
transactions reached the disk, because that is what the figures depend on most.
"""

from __future__ import annotations

import itertools
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from trepid.brokers.sqlite import SQLiteBroker
from trepid.brokers.sqlite.session import SQLiteSession
from trepid.ports.messages import Delivery, Publication, Settlement
from trepid.rules.verdicts import Done

PAYLOAD = b'{"v":1,"actor":"greet","args":["Trio"],"kwargs":{"mark":"!"}}'
QUEUE = "default"
NUMBERS = itertools.count()
DONE = Done(b'"Hello, Trio!"', 86_400.0)


def messages(count: int, **fields: float) -> list[Publication]:
    """Build new messages."""
    made = []
    for _ in range(count):
        number = next(NUMBERS)
        made.append(Publication(QUEUE, f"message-{number:012}", ("bench", number), PAYLOAD, **fields))  # type: ignore[arg-type]
    return made


async def take(session: SQLiteSession, limit: int) -> list[Delivery]:
    """Lease messages."""
    return await session.lease([QUEUE], limit, 30.0, owner="bench")


async def end(session: SQLiteSession, deliveries: Sequence[Delivery]) -> None:
    """Settle messages as done."""
    await session.settle([Settlement(delivery.ref, DONE) for delivery in deliveries])


def show(what: str, count: int, seconds: float, session: SQLiteSession, before: int) -> None:
    """Print one line of the table."""
    commits = session.statistics().transactions - before
    print(f"{what:<48}{count / seconds:>12,.0f} /s{commits / seconds:>12,.0f} commits/s", flush=True)


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[SQLiteSession]:
    """Open a broker with a fresh file."""
    async with SQLiteBroker(str(directory / f"{next(NUMBERS)}.db")).open() as session:
        await session.declare([QUEUE])
        yield session


async def publishing(session: SQLiteSession) -> None:
    """In batches, one by one, and from a hundred tasks at once."""
    for size, rounds in ((1000, 50), (100, 100)):
        batches = [messages(size) for _ in range(rounds)]
        before, start = session.statistics().transactions, time.perf_counter()
        for batch in batches:
            await session.publish(batch)
        show(f"publish, batches of {size}", size * rounds, time.perf_counter() - start, session, before)
    single = messages(500)
    before, start = session.statistics().transactions, time.perf_counter()
    for item in single:
        await session.publish([item])
    show("publish, one by one", len(single), time.perf_counter() - start, session, before)

    async def producer(items: Sequence[Publication]) -> None:
        for item in items:
            await session.publish([item])

    shares = [messages(200) for _ in range(100)]
    before, start = session.statistics().transactions, time.perf_counter()
    async with trio.open_nursery() as nursery:
        for share in shares:
            nursery.start_soon(producer, share)
    show("publish, one by one from 100 tasks", 20_000, time.perf_counter() - start, session, before)


async def cycling(session: SQLiteSession) -> None:
    """Lease and settle, in batches of several sizes, and with the settling of one beside the leasing of the next."""
    for size, rounds in ((1, 300), (10, 300), (100, 200)):
        await session.publish(messages(size * rounds))
        before, start = session.statistics().transactions, time.perf_counter()
        for _ in range(rounds):
            await end(session, await take(session, size))
        show(f"lease + settle, batches of {size}", size * rounds, time.perf_counter() - start, session, before)
    await session.publish(messages(20_000))
    before, start = session.statistics().transactions, time.perf_counter()
    async with trio.open_nursery() as nursery:
        while deliveries := await take(session, 100):
            nursery.start_soon(end, session, deliveries)
    show("lease + settle, batches of 100, overlapping", 20_000, time.perf_counter() - start, session, before)


async def flatness(directory: Path) -> None:
    """The price of a lease beside few and beside very many others."""
    for what, count, delay in (("1,000 waiting", 1000, 0.0), ("1,000,000 waiting", 1_000_000, 0.0)):
        async with opened(directory) as session:
            for _ in range(count // 1000):
                await session.publish(messages(1000, delay=delay))
            await _price(session, f"lease of 1 beside {what}")
    async with opened(directory) as session:
        for _ in range(100):
            await session.publish(messages(1000, delay=3600.0))
        await _price(session, "lease of nothing beside 100,000 delayed", empty=True)
        await session.publish(messages(300))
        await _price(session, "lease of 1 beside 100,000 delayed")


async def _price(session: SQLiteSession, what: str, *, empty: bool = False) -> None:
    times = []
    for _ in range(200):
        start = time.perf_counter()
        deliveries = await take(session, 1)
        times.append(time.perf_counter() - start)
        assert bool(deliveries) is not empty
    print(f"{what:<48}{statistics.median(times) * 1e6:>12,.0f} us (median)", flush=True)


def _producer(path: str, count: int) -> None:
    async def produce() -> None:
        async with SQLiteBroker(path).open() as session:
            for number in range(count):
                await trio.sleep(0.02)
                sent = str(time.monotonic()).encode()
                await session.publish([Publication(QUEUE, f"latency-{number}", ("producer", number), sent)])

    trio.run(produce)


async def latency(directory: Path) -> None:
    """From the call of publish in another process to the delivery in this one, with an idle worker."""
    path = str(directory / "latency.db")
    count, times = 200, list[float]()
    async with SQLiteBroker(path).open() as session:
        await session.declare([QUEUE])
        process = multiprocessing.get_context("spawn").Process(target=_producer, args=(path, count))
        process.start()
        while len(times) < count:
            for delivery in await session.lease([QUEUE], 10, 30.0, owner="bench", wait=30.0):
                times.append((time.monotonic() - float(delivery.payload)) * 1e3)
        await trio.to_thread.run_sync(process.join)
    times.sort()
    print(f"{'publish to delivery in another process':<48}{times[count // 2]:>12.2f} ms (p50), p99 {times[-3]:.2f} ms")


async def main(directory: str) -> None:
    """Measure everything, in a directory of its own inside the given one."""
    with tempfile.TemporaryDirectory(dir=directory) as name:
        folder = Path(name)
        async with opened(folder) as session:
            await publishing(session)
        async with opened(folder) as session:
            await cycling(session)
        await latency(folder)
        await flatness(folder)


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else ".")
