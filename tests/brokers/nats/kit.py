"""Brokers on a server that tests share, each with a prefix of its own, and what looks behind them."""

import itertools
from contextlib import asynccontextmanager

import trio

from trepid.brokers.nats import NatsBroker
from trepid.brokers.nats.jetstream import api
from trepid.ports.messages import Publication, Settlement
from trepid.rules.verdicts import Done
from trepid.wire.nats.address import Address
from trepid.wire.nats.dialling import Dialler

DAY = 86_400.0
WINDOW = 0.1
PREFIXES = itertools.count()
TOKENS = itertools.count()


def fresh_broker(server, *, url=None, prefix=None, **options):
    prefix = prefix or f"nats{next(PREFIXES)}"
    return NatsBroker(f"{url or server.url}?prefix={prefix}", **options)


@asynccontextmanager
async def open_wire(url):
    """Open a connection that no broker uses."""
    async with Dialler(Address.parse(url.partition("?")[0])).dial() as connection:
        yield connection


async def sweep(url, prefix):
    """Delete every stream of a prefix."""
    async with open_wire(url) as connection:
        names = (await api(connection, "STREAM.NAMES")).get("streams") or []
        for name in names:
            if name.startswith(f"{prefix}-"):
                await api(connection, f"STREAM.DELETE.{name}")


async def ring(connection, prefix, queue="q"):
    """Ring the alarms of all delayed messages of a queue, due or not; return how many there were."""
    stream = f"{prefix}-later-{queue}"
    consumer = await api(connection, f"CONSUMER.INFO.{stream}.later")
    state = (await api(connection, f"STREAM.INFO.{stream}"))["state"]
    floor, last = consumer["ack_floor"]["stream_seq"], consumer["delivered"]["stream_seq"]
    number = consumer["delivered"]["consumer_seq"]
    for seq in range(max(floor + 1, state["first_seq"]), last + 1):
        connection.say(f"$JS.ACK.{stream}.later.1.{seq}.{number}.0.0", b"-NAK")
    await connection.round_trip()
    return consumer["num_ack_pending"]


async def shorten(connection, prefix):
    """Let the server recognise repeated publishes for a tenth of a second."""
    for name in (await api(connection, "STREAM.NAMES"))["streams"]:
        if name.startswith(f"{prefix}-"):
            config = (await api(connection, f"STREAM.INFO.{name}"))["config"]
            config["duplicate_window"] = int(WINDOW * 1e9)
            await api(connection, f"STREAM.UPDATE.{name}", config)


def publication(id="m", queue="q", payload=b"{}", **fields):
    fields.setdefault("token", ("kit", next(TOKENS)))
    return Publication(queue=queue, id=id, payload=payload, **fields)


async def take(session, limit=100, *, lease_for=60.0, owner="me", wait=0.0, queue="q"):
    return await session.lease([queue], limit, lease_for, owner=owner, wait=wait)


async def settle(session, delivery, verdict=None):
    (reply,) = await session.settle([Settlement(delivery.ref, verdict or Done(b"1", DAY))])
    return reply


async def drained(session, total, *, within=20.0, queue="q"):
    """Lease and settle until so many are done; return their ids in order."""
    ids = []
    with trio.fail_after(within):
        while len(ids) < total:
            deliveries = await take(session, wait=1.0, queue=queue)
            await session.settle([Settlement(each.ref, Done(None, 0)) for each in deliveries])
            ids += [each.id for each in deliveries]
    return ids
