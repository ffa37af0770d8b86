"""What is ordinary goes in a round trip or two; what is not is done all the same, by the rules."""

import psycopg
import pytest
import trio

from tests.brokers.postgres.kit import connect, end, message, new_broker, put, take
from trepid.brokers.postgres import express
from trepid.errors import BrokerBusyError, BrokerLostError
from trepid.ports.messages import Settlement
from trepid.rules.life import Reply
from trepid.rules.publishing import Publishing
from trepid.rules.verdicts import Done, Failed, Failure


class Clock:
    def __init__(self):
        self.now = 1_700_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def session(postgres_server, clock):
    async with new_broker(postgres_server, clock=clock).open() as session:
        await session.declare(["q"])
        await take(session)  # from now on it knows the queue
        yield session


@pytest.fixture
def trips(session, monkeypatch):
    """How many round trips the writer has made, as it counts them: whatever is sent and waited for."""
    counted = []
    engine = session._writer_engine
    send = engine._send
    monkeypatch.setattr(engine, "_send", lambda steps: counted.append(steps) or send(steps))
    return counted


async def longest(session, trips, operation):
    """Return the answer to an operation, and how many round trips it took; none may go the long way."""
    began = []
    engine = session._writer_engine
    begin = engine.begin
    engine.begin = lambda: began.append(1) or begin()
    try:
        del trips[:]
        return await operation(), len(trips), len(began)
    finally:
        del engine.begin


async def test_ordinary_operations_take_a_round_trip_or_two(session, trips):
    published, *cost = await longest(session, trips, lambda: put(session, "a", "b"))
    assert [each.outcome for each in published] == [Publishing.ACCEPTED] * 2
    assert cost == [2, 0]
    deliveries, *cost = await longest(session, trips, lambda: take(session))
    assert [each.id for each in deliveries] == ["a", "b"]
    assert cost == [1, 0]
    for kept, delivery in zip((0.0, 60.0), deliveries, strict=True):
        replies, *cost = await longest(session, trips, lambda d=delivery, k=kept: end(session, [d], Done(b"1", k)))
        assert replies == [Reply.APPLIED]
        assert cost == [1, 0]
    assert (await session.stats("q")).done == 1
    await take(session)
    nothing, *cost = await longest(session, trips, lambda: take(session))
    assert nothing == []
    assert cost == [1, 0], "nor does looking in vain take longer"


async def test_a_batch_that_is_ordinary_in_part(session, clock):
    await put(session, "late", "in time", "settled")
    (late,) = await take(session, 1, lease_for=1.0)
    in_time, settled = await take(session, 2)
    assert await end(session, [settled], Done(None, 60.0)) == [Reply.APPLIED]
    clock.now += 2
    replies = await end(session, [late, in_time, settled], Done(None, 60.0))
    assert replies == [Reply.EXPIRED, Reply.APPLIED, Reply.REPEATED]
    assert (await session.stats("q")).done == 2


async def test_verdicts_of_several_callers_in_one_group(session):
    await put(session, "a", "b", "c", "d")
    deliveries = await take(session)
    got = {}

    async def settle(delivery, verdict):
        got[delivery.id] = await session.settle([Settlement(delivery.ref, verdict)])

    async with trio.open_nursery() as nursery:
        for n, delivery in enumerate(deliveries):
            nursery.start_soon(
                settle, delivery, Failed(Failure("E"), 1.0) if n == 1 else Done(b"%d" % n, 60.0 * (n % 2))
            )
    assert set(map(tuple, got.values())) == {(Reply.APPLIED,)}
    stats = await session.stats("q")
    assert (stats.done, stats.live) == (1, 1)


async def test_the_same_lease_settled_twice_at_once(session):
    await put(session, "a")
    (delivery,) = await take(session)
    replies = []

    async def settle():
        replies.extend(await end(session, [delivery], Done(b"1", 60.0)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(settle)
        nursery.start_soon(settle)
    assert sorted(replies) == sorted([Reply.APPLIED, Reply.REPEATED])


async def test_what_has_run_out_is_seen_before_anything_is_leased(session, clock):
    await put(session, "first", "second")
    (first,) = await take(session, 1, lease_for=1.0)
    await session.publish([message("third", ttl=5.0)])
    clock.now += 10  # the lease has run out, and the message is back; the ttl has passed
    # It comes back a second after the end of its lease, behind the other.
    assert [each.id for each in await take(session)] == ["second", "first"]
    assert (await session.stats("q")).dead == 1
    assert await end(session, [first]) == [Reply.SUPERSEDED]


async def test_an_objection_to_one_publish_is_none_to_another(session):
    await put(session, "a")
    got = {}

    async def publish(id):
        (published,) = await put(session, id)
        got[id] = published.outcome

    async with trio.open_nursery() as nursery:
        for id in ("a", "b", "c"):
            nursery.start_soon(publish, id)
    assert got == {"a": Publishing.EXISTING, "b": Publishing.ACCEPTED, "c": Publishing.ACCEPTED}
    for _ in range(express._CAREFUL + 1):
        await put(session, "a")
    assert (await session.stats("q")).ready == 3


async def test_a_queue_that_was_deleted_and_declared_again_is_another_one(session):
    await session.delete("q")
    assert await take(session) == []
    await session.declare(["q"])
    await put(session, "new")
    assert [each.id for each in await take(session)] == ["new"]


async def test_a_paused_queue_gives_nothing(session):
    await put(session, "a")
    await session.pause("q")
    assert await take(session) == []
    assert await take(session) == []
    await session.resume("q")
    assert len(await take(session)) == 1


async def test_delays_and_ttls_count_from_the_brokers_time(session, clock):
    await session.publish([message("soon", delay=3.0, ttl=5.0), message("now", ttl=2.0)])
    view, now = await session.get("q", "soon"), await session.get("q", "now")
    assert (view.due, view.enqueued, now.due) == (clock.now + 3, clock.now, clock.now)
    clock.now += 3
    assert [each.id for each in await take(session)] == ["soon"]


async def test_what_fails_in_the_pipeline_goes_the_long_way(session, postgres_server):
    """A lock that somebody holds fails the group; each request then has an answer of its own."""
    await put(session, "a")
    (delivery,) = await take(session)
    session._writer_engine._link.execute("SET lock_timeout = '100ms'")
    table = f"{session._address.schema}.messages"
    with connect(postgres_server) as user:
        user.execute(f"SELECT FROM {table} WHERE id = 'a' FOR UPDATE")
        with trio.fail_after(10), pytest.raises(BrokerBusyError):
            await end(session, [delivery])
        (published,) = await put(session, "b")
        assert published.outcome is Publishing.ACCEPTED
        user.rollback()
    assert await end(session, [delivery]) == [Reply.APPLIED]


async def test_a_connection_that_breaks_in_the_pipeline(session, postgres_server):
    await put(session, "a")
    with psycopg.connect(postgres_server.url, autocommit=True) as user, trio.fail_after(20):
        for _ in range(5):
            pid = session._writer_engine._link.info.backend_pid
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def publish():
                    while True:
                        try:
                            return await put(session, "b")
                        except BrokerLostError:
                            await trio.sleep(0.01)

                await trio.lowlevel.checkpoint()
                user.execute("SELECT pg_terminate_backend(%s)", (pid,))
    assert (await session.stats("q")).ready == 2
