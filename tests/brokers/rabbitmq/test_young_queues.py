"""A server that is killed right after its first queues were made: it has all of them when it returns."""

import trio

from tests.brokers.rabbitmq.tools import OOPS, new_url, put, settle, take
from trepid.brokers.rabbitmq import RabbitMQBroker
from trepid.rules.publishing import Publishing
from trepid.rules.verdicts import Buried


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
