"""The NATS broker on a private server: enqueue, drain and latency, and the wire alone beside them.

The floor is what JetStream itself does over the same connection, without fencing, results or a runtime: messages that
are pulled and acknowledged 100 at a time, and messages that are published with all confirmations under way.
"""

from __future__ import annotations

import secrets

import trio

from benchmarks.engine import RAW, SLOTS, measure
from benchmarks.harness import Measure, Stopwatch, run
from benchmarks.places import Fresh, places
from trepid.brokers.nats.jetstream import api, deleting
from trepid.brokers.nats.pulling import Pull
from trepid.wire.nats.address import Address
from trepid.wire.nats.connection import NatsConnection, Question
from trepid.wire.nats.dialling import Dialler

_PAYLOAD = b'{"v":1,"actor":"noop"}'


async def _stream(connection: NatsConnection) -> str:
    """Make a work queue as JetStream has it, with one consumer."""
    name = f"raw{secrets.token_hex(4)}"
    config = {"name": name, "subjects": [f"{name}.*"], "retention": "workqueue", "storage": "file"}
    await api(connection, f"STREAM.CREATE.{name}", config)
    consumer = {"durable_name": "c", "ack_policy": "explicit", "max_ack_pending": -1}
    await api(connection, f"CONSUMER.DURABLE.CREATE.{name}.c", {"stream_name": name, "config": consumer})
    return name


async def raw_enqueue(fresh: Fresh, jobs: int) -> float:
    """Return messages per second that are published and confirmed."""
    async with Dialler(Address.parse(fresh())).dial() as connection:
        name = await _stream(connection)
        watch = Stopwatch()
        await connection.ask_all([Question(f"{name}.{number}", _PAYLOAD) for number in range(jobs)])
        return watch.rate(jobs)


async def raw_drain(fresh: Fresh, jobs: int, *, delete: bool) -> float:
    """Return messages per second that are pulled, and acknowledged or deleted, with every answer waited for."""
    async with Dialler(Address.parse(fresh())).dial() as connection:
        name = await _stream(connection)
        await connection.ask_all([Question(f"{name}.{number}", _PAYLOAD) for number in range(jobs)])
        watch = Stopwatch()
        for _ in range(0, jobs, SLOTS):
            parcels = await Pull(connection, name, "", "c", SLOTS, now=trio.current_time).wait()
            if delete:
                questions = [deleting(name, parcel.seq) for parcel in parcels]
            else:
                questions = [Question(parcel.message.reply, b"+ACK") for parcel in parcels]
            await connection.ask_all(questions)
        return watch.rate(jobs)


def main() -> None:
    """Measure and print."""
    jobs = 10_000
    with places("nats") as fresh:

        async def acked() -> float:
            return await raw_drain(fresh, jobs, delete=False)

        async def deleted() -> float:
            return await raw_drain(fresh, jobs, delete=True)

        async def published() -> float:
            return await raw_enqueue(fresh, jobs)

        raw: dict[str, Measure] = {RAW: run(acked), "raw, deleted instead of acknowledged": run(deleted)}
        measure("NATS JetStream", fresh, raw, {RAW: run(published)})


if __name__ == "__main__":
    main()
