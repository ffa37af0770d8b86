"""The RabbitMQ broker on a private server: enqueue, drain, latency, and the wire alone beside them.

The floor is the protocol without an engine: messages of the same size published with confirmation in flight, and
consumed and acknowledged through a window of 100, over one connection, in one quorum queue.  One by one has a floor of
its own, one message in flight: a quorum queue writes each to disk before it confirms.
"""

from __future__ import annotations

import itertools
from urllib.parse import urlsplit

import trio
from pamqp import commands

from benchmarks.engine import RAW, SLOTS, measure
from benchmarks.harness import Stopwatch, run
from benchmarks.places import places
from trepid.wire.amqp import Amqp, Batch, Delivered, Login, open_amqp
from trepid.wire.amqp.frames import persistent
from trepid.wire.endpoint import Endpoint

_NUMBERS = itertools.count()
_JOBS = 20_000
_FEW = 1000
_ONE = "the wire alone, one in flight"
_PROPERTIES = persistent(b"trepid", b"x" * 120)
_BODY = b"x" * 60


async def _published(amqp: Amqp, queue: str, jobs: int, in_flight: int = 1000) -> None:
    channel = await amqp.channel(confirming=True)
    await channel.call(commands.Queue.Declare(queue=queue, durable=True, arguments={"x-queue-type": "quorum"}))
    for _ in range(0, jobs, in_flight):
        stored = trio.Event()
        batch = Batch(lambda _batch, _error, stored=stored: stored.set())  # type: ignore[misc]
        for number in range(in_flight):
            channel.publish(("", queue), _PROPERTIES, _BODY, batch, number)
        batch.seal()
        await stored.wait()


async def _consumed(amqp: Amqp, queue: str, jobs: int) -> None:
    channel = await amqp.channel()
    left, through = jobs, trio.Event()

    def take(message: Delivered) -> None:
        nonlocal left
        channel.ack(message.tag)
        left -= 1
        if not left:
            through.set()

    channel.consume(queue, "floor", take, prefetch=SLOTS)
    await through.wait()


def _floor(url: str, *, drain: bool) -> float:
    parts = urlsplit(url)

    async def main() -> float:
        queue = f"floor{next(_NUMBERS)}"
        async with open_amqp(Endpoint("amqp://floor", parts.hostname or "", parts.port or 0), Login()) as amqp:
            watch = Stopwatch()
            await _published(amqp, queue, _JOBS)
            if drain:
                watch = Stopwatch()
                await _consumed(amqp, queue, _JOBS)
            rate = watch.rate(_JOBS)
            channel = await amqp.channel()
            await channel.call(commands.Queue.Delete(queue=queue))
            return rate

    return run(main)()


def _one_by_one(url: str) -> float:
    parts = urlsplit(url)

    async def main() -> float:
        queue = f"floor{next(_NUMBERS)}"
        async with open_amqp(Endpoint("amqp://floor", parts.hostname or "", parts.port or 0), Login()) as amqp:
            watch = Stopwatch()
            await _published(amqp, queue, _FEW, 1)
            rate = watch.rate(_FEW)
            channel = await amqp.channel()
            await channel.call(commands.Queue.Delete(queue=queue))
            return rate

    return run(main)()


def main() -> None:
    """Start a server and measure."""
    with places("rabbitmq") as fresh:
        url = fresh()
        measure(
            "RabbitMQ",
            fresh,
            {RAW: lambda: _floor(url, drain=True)},
            {RAW: lambda: _floor(url, drain=False), _ONE: lambda: _one_by_one(url)},
        )


if __name__ == "__main__":
    main()
