"""A server that was killed remembers what it has handed out, and not what was deleted since; it is helped."""

import pytest
import trio

from tests.brokers.nats.kit import drained, fresh_broker, open_wire, publication, take
from trepid.brokers.nats.jetstream import api
from trepid.brokers.nats.mending import gone


def consumer(floor, last):
    return {"ack_floor": {"stream_seq": floor}, "delivered": {"stream_seq": last}}


@pytest.mark.parametrize(
    ("floor", "last", "first", "deleted", "wanted"),
    [
        (0, 0, 1, [], []),
        (3, 9, 4, [5, 6, 12], [5, 6]),
        (1, 6, 4, None, [2, 3]),
        (1, 3, 50, [60], [2, 3]),
        (7, 9, 4, [5, 8], [8]),
    ],
)
def test_what_is_gone_and_may_be_waited_for(floor, last, first, deleted, wanted):
    assert gone(consumer(floor, last), {"first_seq": first, "deleted": deleted}) == wanted


async def test_what_is_held_stays_held(nats_server):
    broker = fresh_broker(nats_server, prefix="mended")
    async with broker.open() as session:
        await session.declare(["q"])
        await session.publish([publication(f"m{number}") for number in range(9)])
        held = (await take(session, 4))[1::2]
        async with broker.open() as other:
            assert len(await drained(other, 5)) == 5
        async with open_wire(nats_server.url) as connection:
            info = await api(connection, "CONSUMER.INFO.mended-medium-q.medium")
        assert info["num_ack_pending"] == 4
        assert len(held) == 2


async def test_a_queue_is_served_however_often_the_server_is_killed(own_nats):
    server = own_nats()
    async with fresh_broker(server).open() as session:
        await session.declare(["q"])
        for cycle in range(12):
            with trio.fail_after(10):
                while not session.connected:
                    await session._office.jetstream.changed()
            await session.publish([publication(f"m{cycle}")])
            ids = await drained(session, 1, within=5)
            # Of the deletions of the last seconds some are forgotten, so earlier messages may come again.
            while f"m{cycle}" not in ids:
                ids += await drained(session, 1, within=5)
            await trio.to_thread.run_sync(server.kill)
            await trio.to_thread.run_sync(server.start)
            while session.connected:
                await session._office.jetstream.changed()
