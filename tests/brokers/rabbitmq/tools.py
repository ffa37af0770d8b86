"""What the tests of the RabbitMQ engine share: brokers of their own on one server, and nothing left behind."""

import itertools
from contextlib import asynccontextmanager

import trio
from pamqp import commands

from trepid.brokers.rabbitmq import RabbitMQBroker
from trepid.brokers.rabbitmq.address import address_of
from trepid.brokers.rabbitmq.topology import RUNGS
from trepid.ports.messages import Publication, Settlement
from trepid.rules.verdicts import Failure
from trepid.wire.amqp import open_amqp

PREFIXES = itertools.count()
TOKENS = itertools.count()
OOPS = Failure("ValueError", "oops")


def new_url(url, **options):
    """Return a URL with a prefix that nobody else has."""
    more = "".join(f"&{key}={value}" for key, value in options.items())
    return f"{url}?prefix=t{next(PREFIXES)}{more}"


async def demolish(*urls, queues=()):
    """Remove everything that brokers at these URLs have made on their server."""
    for url in urls:
        address = address_of(url)
        names = address.names
        async with RabbitMQBroker(url).open() as session:
            found = {*queues, *await session.queues()}
        async with open_amqp(address.endpoint, address.login) as amqp:
            channel = await amqp.channel()
            doomed = [name for queue in found for name in names.all(queue)]
            doomed += [names.wait(step) for step in range(RUNGS)] + [names.stray, names.registry]
            asked = [channel.ask(commands.Queue.Delete(queue=name)) for name in doomed]
            gone = [names.after(step) for step in range(RUNGS)] + [names.enter, names.due, names.door, names.stray]
            gone += [names.seal(queue) for queue in found]
            asked += [channel.ask(commands.Exchange.Delete(exchange=name)) for name in gone]
            for reply in asked:
                await reply.wait()


@asynccontextmanager
async def opened(url, *queues):
    """Open a broker with some queues, by default ``q``, and demolish it afterwards; the body's exception is bare."""
    try:
        async with RabbitMQBroker(url).open() as session:
            await session.declare(queues or ["q"])
            yield session
    finally:
        with trio.move_on_after(15, shield=True):
            await demolish(url)


def publication(id="m", queue="q", payload=b"{}", **fields):
    return Publication(queue, id, ("tests", next(TOKENS)), payload, **fields)


async def put(session, *ids, **fields):
    return [each.outcome.value for each in await session.publish([publication(id, **fields) for id in ids or ("m",)])]


async def take(session, limit=10, *, lease_for=60.0, wait=5.0, queues=("q",), owner="me"):
    return await session.lease(list(queues), limit, lease_for, owner=owner, wait=wait)


async def settle(session, delivery, verdict):
    (reply,) = await session.settle([Settlement(delivery.ref, verdict)])
    return reply.value
