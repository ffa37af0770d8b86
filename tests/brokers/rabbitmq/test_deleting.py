"""A queue is deleted while others use it: that concerns nobody who uses another one."""

import pytest
import trio
from pamqp import commands

from tests.brokers.rabbitmq.tools import OOPS, new_url, opened, publication, put, settle, take
from trepid.brokers.rabbitmq import RabbitMQBroker
from trepid.brokers.rabbitmq.address import address_of
from trepid.ports.messages import Settlement
from trepid.rules.verdicts import Done, Failed, Returned
from trepid.wire.amqp import open_amqp

ROUNDS = 8


@pytest.fixture
def url(rabbitmq_server):
    return new_url(rabbitmq_server.url)


async def publish_until_refused(session, started):
    """Publish without a pause until there is no queue; what was published together is answered alike."""
    while True:
        answers = {each.outcome.value for each in await session.publish([publication() for _ in range(3)])}
        started.set()
        if answers == {"no queue"}:
            return
        assert answers == {"accepted"}


async def test_who_publishes_to_a_queue_that_is_deleted_keeps_its_connection(url):
    """RabbitMQ 3.10 closes the connection of whoever publishes to a quorum queue that is just being deleted."""
    async with opened(url, "other") as session, RabbitMQBroker(url).open() as deleter:
        await put(session, queue="other")
        (delivery,) = await take(session, queues=["other"])
        with trio.fail_after(30):
            for _ in range(ROUNDS):
                await session.declare(["q"])
                started = trio.Event()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(publish_until_refused, session, started)
                    await started.wait()
                    await deleter.delete("q")
        assert session._supervisor.losses == 0
        assert await settle(session, delivery, Done(b"1", 60)) == "applied", "its leases of other queues stand"


async def half_deleted(url, *, sealed):
    """Take one level of ``q`` away from who publishes, as somebody does who is about to delete it."""
    address = address_of(url)
    async with open_amqp(address.endpoint, address.login) as amqp:
        channel = await amqp.channel()
        if not sealed:
            await channel.call(commands.Exchange.Delete(exchange=address.names.seal("q")))
        exchange, key = address.names.home("q", "medium")
        queue = address.names.ready("q", "medium")
        await channel.call(commands.Queue.Unbind(queue=queue, exchange=exchange, routing_key=key))


@pytest.mark.parametrize(
    ("sealed", "answers"),
    [(False, ["no queue", "no queue", "accepted"]), (True, ["accepted", "accepted", "accepted"])],
)
async def test_what_got_in_before_the_deletion_goes_with_its_queue_and_is_answered_so(url, sealed, answers):
    """What is delayed is in no queue yet, and waits for the next one of that name."""
    async with opened(url) as session:
        await put(session)
        await half_deleted(url, sealed=sealed)
        batch = [publication("in", priority=9), publication("out"), publication("late", delay=60.0)]
        assert [each.outcome.value for each in await session.publish(batch)] == answers
        await session.delete("q")
        assert await put(session) == ["no queue"]


@pytest.mark.parametrize("fate", ["retried", "returned", "dead", "followed"])
async def test_a_copy_that_finds_no_way_into_a_queue_is_not_taken_for_one_of_a_deleted_queue(url, fate):
    """Somebody removed a binding by hand; acknowledging the original would lose the job without a word."""
    async with opened(url) as session:
        await put(session)
        (delivery,) = await take(session)
        address = address_of(url)
        async with open_amqp(address.endpoint, address.login) as amqp:
            channel = await amqp.channel()
            for name, exchange, key in address.names.ways_in("q"):
                await channel.call(commands.Queue.Unbind(queue=name, exchange=exchange, routing_key=key))
        verdicts = {"retried": Failed(OOPS, delay=0.0), "returned": Returned(), "dead": Failed(OOPS)}
        if fate == "followed":
            settlement = Settlement(delivery.ref, Done(b"1", 60))
            assert [each.value for each in await session.settle([settlement], then=[publication("m")])] == ["applied"]
        else:
            assert await settle(session, delivery, verdicts[fate]) == "applied"
        if fate == "dead":
            assert (await session.stats("q")).dead == 1
        else:
            assert [each.id for each in await take(session)] == ["m"]


async def test_a_queue_that_lost_its_seal_is_not_taken_for_a_deleted_one(url):
    async with opened(url) as session:
        await put(session)
        (delivery,) = await take(session)
        names = address_of(url).names
        lines = session._supervisor.current
        await lines.apart(lambda channel: channel.call(commands.Exchange.Delete(exchange=names.seal("q"))))
        assert await session.queues() == [], "so the session knows it no more"
        assert await settle(session, delivery, Failed(OOPS)) == "applied"
        assert (await session.stats("q")).dead == 1
