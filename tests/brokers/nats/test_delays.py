"""Delays on JetStream: the due time in the header decides, and the server's redelivery is only the alarm.

Time is bent by the session's clock, which decides what is due.  The server's alarms keep their own time, so what would
have rung by then is rung by hand: the message is asked for again, as the server does by itself when its timer ends.
That the timer is set to the right moment is seen in what the server is told.
"""

import json
from datetime import UTC, datetime

import pytest
import trio

from tests.brokers.engine_table import BentClock
from tests.brokers.nats.kit import (
    DAY,
    WINDOW,
    fresh_broker,
    open_wire,
    publication,
    ring,
    settle,
    shorten,
    sweep,
    take,
)
from trepid.brokers.nats.jetstream import api
from trepid.brokers.nats.names import LATER
from trepid.rules.life import Reply
from trepid.rules.publishing import Publishing
from trepid.testing import check_broker


def alarm(message):
    """Return the seconds after which the server was told to hand a message out again, or None."""
    word, _, told = message.payload.partition(b" ")
    return json.loads(told)["delay"] / 1e9 if word == b"-NAK" and told else None


async def test_thirty_days_with_a_lease_of_five_seconds_deliver_once(nats_server):
    clock = BentClock()
    broker = fresh_broker(nats_server, prefix="thirtydays", ack_wait=0.5, clock=clock)
    async with broker.open() as session, broker.open() as other, open_wire(nats_server.url) as connection:
        await session.declare(["q"])
        alarms = []
        connection.subscribe("$JS.ACK.thirtydays-later-q.>", lambda message: alarms.append(alarm(message)))
        await connection.round_trip()
        await session.publish([publication("later", delay=30 * DAY)])

        async def nobody_gets_it(wait):
            async with trio.open_nursery() as nursery:
                for each in (session, other):
                    nursery.start_soon(nothing, each, wait)

        async def nothing(each, wait):
            assert await take(each, lease_for=5.0, wait=wait) == []

        # Six times the server's patience with whom it handed something to, and it is not handed out again.
        await nobody_gets_it(3.0)
        consumer = await api(connection, "CONSUMER.INFO.thirtydays-later-q.later")
        assert (consumer["num_ack_pending"], consumer["delivered"]["consumer_seq"]) == (1, 1)
        assert [round(each, -1) for each in alarms] == [30 * DAY]
        # An alarm that rings too early, as after a loss of the server's memory, is only set anew.
        await clock.bend(30 * DAY - 60)
        assert await ring(connection, "thirtydays") == 1
        await nobody_gets_it(1.0)
        assert 50 < alarms[-1] < 60
        assert await ring(connection, "thirtydays") == 1
        await nobody_gets_it(0.0)
        await clock.bend(61)
        assert await ring(connection, "thirtydays") == 1
        (delivery,) = await take(session, lease_for=5.0, wait=2.0)
        assert (delivery.id, delivery.crashes) == ("later", 0)
        assert delivery.leased >= delivery.due
        await nobody_gets_it(3.0)
        assert await settle(session, delivery) is Reply.APPLIED
        assert (await session.stats("q")).live == 0
        await nobody_gets_it(0.5)
    await sweep(nats_server.url, "thirtydays")


async def test_the_conformance_case_of_a_month(nats_server):
    clock = BentClock()
    async with open_wire(nats_server.url) as connection:

        async def bend(seconds):
            await clock.bend(seconds)
            await ring(connection, "month")

        broker = fresh_broker(nats_server, prefix="month", clock=clock)
        conformance = await check_broker(lambda: broker, cases=["a_long_delay_delivers_once"], bend_time=bend, tick=0.1)
        assert conformance.passed == ("a_long_delay_delivers_once",)
    await sweep(nats_server.url, "month")


async def test_what_is_due_in_the_year_9999_is_looked_at_once(nats_server):
    broker = fresh_broker(nats_server)
    async with broker.open() as session:
        await session.declare(["q"])
        await session.publish([publication(due=datetime(9999, 12, 31, tzinfo=UTC).timestamp())])
        assert await take(session, wait=1.0) == []
        stream = session._office.names.stream("q", LATER)
        consumer = await session._office.jetstream.api(f"CONSUMER.INFO.{stream}.later")
        assert consumer["delivered"]["consumer_seq"] == 1


@pytest.mark.parametrize("meanwhile", ["nobody", "moved", "done", "forgotten"])
async def test_a_publish_that_is_repeated_after_its_due_time_is_recognised(meanwhile, nats_server):
    """The first is delayed, the second is not; so they are stored in different streams."""
    broker = fresh_broker(nats_server)
    async with broker.open() as session, open_wire(nats_server.url) as connection:
        await session.declare(["q"])
        if meanwhile == "forgotten":
            await shorten(connection, str(broker).partition("prefix=")[2])
        one = publication(due=await session.now() + 0.3)
        await session.publish([one])
        mine = []
        if meanwhile in ("moved", "done"):
            mine = await take(session, wait=5.0)
        if meanwhile == "done":
            await settle(session, mine[0])
        while await session.now() <= one.due + (WINDOW if meanwhile == "forgotten" else 0.0):
            await trio.sleep(0.05)
        (published,) = await session.publish([one])
        assert published.outcome is (Publishing.DUPLICATE if mine else Publishing.ACCEPTED)
        if meanwhile == "forgotten":
            await trio.sleep(2 * WINDOW)
        rest = await take(session, wait=1.5)
        assert len(mine) + len(rest) == 1
        for delivery in (*rest, *(mine if meanwhile == "moved" else ())):
            await settle(session, delivery)
        assert await take(session, wait=1.5) == []
        assert (await session.stats("q")).live == 0
