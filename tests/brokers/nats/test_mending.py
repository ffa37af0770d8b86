"""A server that was killed remembers what it has handed out, and not what was deleted since; it is helped."""

import time

import attrs
import pytest
import trio
import trio.testing

from tests.brokers.nats.kit import drained, fresh_broker, open_wire, publication, settle, sweep, take
from trepid.brokers.nats import mending, pulling
from trepid.brokers.nats.jetstream import api
from trepid.brokers.nats.mending import gone, mend
from trepid.brokers.nats.pulling import Pull
from trepid.rules.life import Reply, State


def consumer(floor, last):
    return {"ack_floor": {"stream_seq": floor}, "delivered": {"stream_seq": last}}


@pytest.mark.parametrize(
    ("floor", "last", "state", "wanted"),
    [
        (0, 0, (1, 0, None), []),
        (3, 9, (4, 12, [5, 6, 11]), [5, 6]),
        (1, 6, (4, 6, None), [2, 3]),
        (1, 3, (50, 60, [59]), [2, 3]),
        (7, 9, (4, 9, [5, 8]), [8]),
    ],
)
async def test_what_is_gone_and_may_be_waited_for(floor, last, state, wanted, monkeypatch):
    first, end, deleted = state

    async def answered(*_):
        await trio.lowlevel.checkpoint()
        messages = end + 1 - first - len(deleted or ())
        return {"state": {"first_seq": first, "last_seq": end, "messages": messages, "deleted": deleted}}

    monkeypatch.setattr(mending, "api", answered)
    assert await gone(None, "s", consumer(floor, last)) == wanted


async def test_what_is_gone_together_with_its_neighbours_is_found(nats_server):
    """2.9 lists what was deleted file by file, and forgets the files in which nothing is left."""
    broker = fresh_broker(nats_server, prefix="files")
    async with broker.open() as session, open_wire(nats_server.url) as connection:
        await session.declare(["q"])
        await session.publish([publication("held")])
        assert len(await take(session)) == 1
        total = 400
        await session.publish([publication(f"m{number}", payload=bytes(60_000)) for number in range(total)])
        async with broker.open() as other:
            assert len(await drained(other, total)) == total
        await session.publish([publication("last")])
        assert [each.id for each in await take(session, wait=1.0)] == ["last"]
        info = await api(connection, "CONSUMER.INFO.files-medium-q.medium")
        assert await gone(connection, "files-medium-q", info) == list(range(2, total + 2))
        await mend(connection, "files-medium-q", "medium")
        await connection.round_trip()
        info = await api(connection, "CONSUMER.INFO.files-medium-q.medium")
        assert info["num_ack_pending"] == 2
    await sweep(nats_server.url, "files")


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


async def test_a_server_that_miscounts_what_waits_is_not_waited_for(nats_server, monkeypatch):
    """After a look at the consumer 2.9 counts on with what is deleted before it was handed out, and then is silent."""
    broker = fresh_broker(nats_server, prefix="miscounted")
    async with broker.open() as session:
        await session.declare(["q"])
        assert await take(session) == []
        await session.publish([publication("a"), publication("b", priority=9)])
        await session.stats("q")
        async with open_wire(nats_server.url) as connection:
            for place in ("medium", "high"):
                await api(connection, f"STREAM.MSG.DELETE.miscounted-{place}-q", {"seq": 1})
        with trio.fail_after(20):
            assert await take(session) == []
        # The silence was mended: it is answered now, and another one would be borne for much too long.
        monkeypatch.setattr(pulling, "_SILENCE", 30.0)
        with trio.fail_after(20):
            assert await take(session) == []
        await session.publish([publication("d")])
        with trio.fail_after(20):
            assert [each.id for each in await take(session)] == ["d"]


async def test_what_is_handed_out_again_to_its_holder_is_held_once(nats_server):
    broker = fresh_broker(nats_server, prefix="forgetful")
    async with broker.open() as session:
        await session.declare(["q"])
        await session.publish([publication("held")])
        (delivery,) = await take(session)
        # A server that was killed may have forgotten what it handed out; so does one whose consumer is made anew.
        async with open_wire(nats_server.url) as connection:
            await api(connection, "CONSUMER.DELETE.forgetful-medium-q.medium")
        await session.declare(["q"])
        assert await take(session, wait=0.3) == []
        await session.publish([publication("new")])
        assert [each.id for each in await take(session, wait=2.0)] == ["new"]
        assert await settle(session, delivery) is Reply.APPLIED


async def test_what_comes_to_nobody_and_is_held_stays_with_its_holder(nats_server):
    broker = fresh_broker(nats_server, prefix="nobody")
    async with broker.open() as session:
        await session.declare(["q"])
        await session.publish([publication("leased"), publication("purged", priority=0)])
        leased, purged = await take(session)
        for lease in session._office.book.leases():
            session._intake._arrived(attrs.evolve(lease.message.parcel, deliveries=2))
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert await settle(session, leased) is Reply.APPLIED
        async with open_wire(nats_server.url) as connection:
            await api(connection, "CONSUMER.DELETE.nobody-low-q.low")
        await session.declare(["q"])
        assert await session.purge("q", [State.READY]) == 0
        assert await settle(session, purged) is Reply.APPLIED


async def test_what_came_before_the_server_was_killed_is_left_to_who_has_it_now(nats_server):
    """Else two work on it: its new holder, and whoever gets the copy that takes the lease from that one."""
    broker = fresh_broker(nats_server, prefix="earlier")
    async with broker.open() as session, broker.open() as other:
        await session.declare(["q"])
        await session.publish([publication()])
        (delivery,) = await take(other)
        (lease,) = other._office.book.leases()
        earlier = attrs.evolve(lease.message.parcel, server="a life before")
        session._intake._arrived(earlier)
        assert await session._intake._sorter.sort_all([earlier]) == ([], False)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert await take(session) == []
        assert await settle(other, delivery) is Reply.APPLIED


async def test_mending_does_not_answer_for_what_is_held(nats_server):
    """Seen on 2.9: an answer whose number is that of the next delivery to be answered moves the floor past the held."""
    broker = fresh_broker(nats_server, prefix="floors")
    stream = "floors-medium-q"
    async with broker.open() as session, open_wire(nats_server.url) as connection:
        await session.declare(["q"])
        await session.publish([publication("m1")])
        (first,) = await take(session)
        reply = session._office.book.leases()[0].message.parcel.message.reply
        for number in (2, 3):  # more deliveries of the first message: their numbers run ahead of places
            connection.say(reply, b"-NAK")
            pull = Pull(connection, stream, "q", "medium", 1, now=time.time, wait=5.0, at_once=True)
            assert [parcel.deliveries for parcel in await pull.wait()] == [number]
        assert await settle(session, first) is Reply.APPLIED
        await session.publish([publication("m2"), publication("m3"), publication("m4")])
        kept, *others = await take(session)
        assert (kept.id, [each.id for each in others]) == ("m2", ["m3", "m4"])
        for delivery in others:
            await settle(session, delivery)
        await mend(connection, stream, "medium")
        await connection.round_trip()
        info = await api(connection, f"CONSUMER.INFO.{stream}.medium")
        assert (info["num_ack_pending"], info["ack_floor"]["stream_seq"]) == (1, 1)
