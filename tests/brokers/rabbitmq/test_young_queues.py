"""A server that is killed right after its first queues were made: it has all of them when it returns."""

import trio
from pamqp import commands

from tests.brokers.rabbitmq.tools import OOPS, new_url, put, settle, take
from trepid.brokers.rabbitmq import RabbitMQBroker, topology
from trepid.brokers.rabbitmq.address import address_of
from trepid.brokers.rabbitmq.building import queue_called
from trepid.rules.publishing import Publishing
from trepid.rules.verdicts import Buried
from trepid.wire.amqp import open_amqp


async def confirmed(session, *ids, **fields):
    assert await put(session, *ids, **fields) == [Publishing.ACCEPTED.value] * len(ids)


async def test_queues_that_were_just_made_outlive_a_kill(own_rabbitmq):
    server = await trio.to_thread.run_sync(own_rabbitmq)
    async with RabbitMQBroker(new_url(server.url)).open() as session:
        await session.declare(["q"])
        for level, priority in (("high", 9), ("medium", 5), ("low", 0)):
            await confirmed(session, level, priority=priority)
        # One step of the ladder, made for this message, and the last queue that is made before the kill.
        await confirmed(session, "late", delay=2.0)
        server.kill()
        await trio.to_thread.run_sync(server.start)
        came = []
        with trio.fail_after(30):
            while not session.connected:
                await trio.sleep(0.02)
            while len(came) < 4:
                came += await take(session, wait=20)
            assert {each.id for each in came} == {"high", "medium", "low", "late"}
            # The queue of dead letters has a leader, too: what is published to it is confirmed.
            assert await settle(session, came[0], Buried(OOPS, "no")) == "applied"
            # And so has the registry, without which neither can be done.
            await session.declare(["r"])
            assert await session.queues() == ["q", "r"]
            await confirmed(session, "m", queue="r")


async def make_without_a_seal(address, names, queue, step):
    """Do the first half of what a session does, and no more, as if the server had been killed meanwhile."""
    async with open_amqp(address.endpoint, address.login) as amqp:
        channel = await amqp.channel()
        for name in names.all(queue):
            await channel.call(queue_called(name, topology.ordinary()))
        await channel.call(queue_called(names.wait(step), topology.stepping(names, step)))


async def test_queues_of_a_server_that_was_killed_over_them_are_made_anew(own_rabbitmq):
    server = await trio.to_thread.run_sync(own_rabbitmq)
    url = new_url(server.url)
    address = address_of(url)
    (step,) = topology.steps(1.0)
    await make_without_a_seal(address, address.names, "q", step)
    server.kill()
    await trio.to_thread.run_sync(server.start)
    async with RabbitMQBroker(url).open() as one, RabbitMQBroker(url).open() as two:
        with trio.fail_after(40):
            assert await put(one, "m") == [Publishing.NO_QUEUE.value]
            # Both find it so at the same time, and neither removes what the other has made.
            async with trio.open_nursery() as nursery:
                for number, session in enumerate((one, two)):
                    nursery.start_soon(declare_and_publish, session, f"m{number}")
            came = []
            while len(came) < 2:
                came += await take(one, wait=20)
            assert {each.id for each in came} == {"m0", "m1"}


async def declare_and_publish(session, id):
    await session.declare(["q"])
    # The step came last before the kill: it has no leader.
    await confirmed(session, id, delay=1.0)


async def test_a_queue_that_lost_its_seal_keeps_its_messages(rabbitmq_server):
    url = new_url(rabbitmq_server.url)
    address = address_of(url)
    async with RabbitMQBroker(url).open() as session:
        await session.declare(["q"])
        await confirmed(session, "m")
        async with open_amqp(address.endpoint, address.login) as amqp:
            await (await amqp.channel()).call(commands.Exchange.Delete(exchange=address.names.seal("q")))
    async with RabbitMQBroker(url).open() as session:
        await session.declare(["q"])
        [delivery] = await take(session)
        assert delivery.id == "m"


async def test_a_delay_that_was_used_before_makes_nothing_anew(rabbitmq_server):
    url = new_url(rabbitmq_server.url)
    for _ in range(2):
        async with RabbitMQBroker(url).open() as session:
            await session.declare(["q"])
            await confirmed(session, "m", delay=0.125)
            [delivery] = await take(session)
            assert delivery.id == "m"
    names = (await trio.to_thread.run_sync(lambda: rabbitmq_server.ctl("list_queues", "name"))).split()
    prefix = url.partition("prefix=")[2]
    assert [name for name in names if name.startswith(f"{prefix}::decoy")] == []
