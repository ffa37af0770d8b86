"""Limits: what is particular to SQLite about them; the rest is in the conformance suite and in the traces."""

import random
import sqlite3

import pytest
import trio

from tests.brokers.sqlite.kit import PRELUDE, Hold, end, message, put, python, take
from tests.brokers.test_differential import START, Trace
from trepid.brokers.sqlite import SQLiteBroker, passing
from trepid.ports.messages import Firing, Settlement
from trepid.rules.gates import Limit
from trepid.rules.life import Reply, State
from trepid.rules.publishing import Publishing
from trepid.rules.verdicts import Done, Failed, Failure, Returned
from trepid.values.unique import Unique

ACCEPTED, FULL = Publishing.ACCEPTED, Publishing.FULL


@pytest.fixture
def path(tmp_path):
    return tmp_path / "jobs.db"


@pytest.fixture
async def session(path):
    async with SQLiteBroker(path).open() as session:
        await session.declare(["q"])
        yield session


class Clock:
    """Seconds since the epoch, as a test says."""

    now = START

    def __call__(self):
        return self.now


async def outcomes(session, *ids, **fields):
    return [published.outcome for published in await put(session, *ids, **fields)]


# ----------------------------------------------------------------------------------------------------- very many gates


@pytest.fixture
def few_at_once(monkeypatch):
    monkeypatch.setattr(passing, "GATES_AT_ONCE", 3)


async def test_gates_take_turns_where_they_are_too_many_for_one_look(session, few_at_once):
    for number in range(10):
        await put(session, f"first{number}", f"second{number}", gate=f"a:{number}")
    await session.limit([Limit("q", "a", concurrency=1)])
    got = [each.gate for _ in range(4) for each in await take(session, 3)]
    assert sorted(got) == sorted({f"a:{number}" for number in range(10)})
    assert await take(session) == []


async def test_an_open_gate_among_very_many_shut_ones_is_found_without_waiting(session, few_at_once):
    await session.limit([Limit("q", "a", concurrency=1)])
    for number in range(20):
        await put(session, f"first{number}", f"second{number}", gate=f"a:{number:02}")
    held = [each for _ in range(20) for each in await take(session, 1)]
    assert len(held) == 20
    assert await take(session) == []
    for delivery in random.Random(3).sample(held, 20):
        await end(session, [delivery])
        assert [each.gate for each in await take(session, 1)] == [delivery.gate]


async def test_ungated_messages_pass_however_many_gates_are_shut(session, few_at_once):
    await session.limit([Limit("q", "a", concurrency=1)])
    for number in range(10):
        await put(session, f"first{number}", f"second{number}", gate=f"a:{number}", priority=9)
    while await take(session):
        pass
    await put(session, "free")
    assert [each.id for each in await take(session)] == ["free"]


async def test_a_rate_far_away_wakes_who_waits(path, few_at_once):
    """The opening of one gate is remembered while the others are looked at."""
    async with SQLiteBroker(path).open() as session:
        await session.declare(["q"])
        await session.limit([Limit("q", "a", count=1, per=0.3), Limit("q", "b", count=1, per=600.0)])
        for number in range(10):
            await put(session, f"b:{number}1", f"b:{number}2", gate=f"b:{number}")
        while await take(session):
            pass
        # Its span begins last, so that it cannot be over before anybody waits.
        await put(session, "a:01", "a:02", gate="a:0")
        assert [each.id for each in await take(session, 1)] == ["a:01"]
        with trio.fail_after(20):
            assert [each.id for each in await take(session, wait=60)] == ["a:02"]


def steps(transaction, work):
    """Return how many steps SQLite's machine takes for something, in units of ten."""
    count = 0

    def step():
        nonlocal count
        count += 1

    transaction.connection.set_progress_handler(step, 10)
    try:
        work(transaction)
    finally:
        transaction.connection.set_progress_handler(None, 0)
    return count


async def lease_in_steps(session, limit=1):
    from trepid.brokers.sqlite import leasing

    wish = passing.Wish(["q"], limit, 60.0, "w", [0])
    return await session._write(steps, lambda transaction: leasing.lease(transaction, wish, 0.0))


async def test_what_waits_before_a_shut_gate_costs_nothing(session):
    await session.limit([Limit("q", "a", concurrency=1)])
    await put(session, "held", "next", gate="a")
    await take(session, 1)
    await put(session, *(f"free{number}" for number in range(10)))
    beside_one = await lease_in_steps(session)
    await put(session, *(f"a{number}" for number in range(3000)), gate="a", priority=9)
    await put(session, *(f"b{number}" for number in range(3000)), gate="a", delay=60.0)
    assert await lease_in_steps(session) <= beside_one + 2


async def test_a_look_is_bounded_by_gates_and_not_by_what_waits(session):
    await put(session, *(f"m{number}" for number in range(1000)), gate="a:x")
    few = await lease_in_steps(session)
    for gate in range(2 * passing.GATES_AT_ONCE):
        await session.publish([message(f"g{gate}", gate=f"a:{gate:04}")])
    many = await lease_in_steps(session)
    assert many < few + 20 * passing.GATES_AT_ONCE
    assert await lease_in_steps(session) < 1.2 * many


# -------------------------------------------------------------------------------------------------------- bookkeeping


async def counted(session):
    """Return how many messages live in the bounded queues, as it is kept, and as it is."""

    def count(transaction):
        return transaction.run(
            "SELECT live, (SELECT count(*) FROM messages WHERE queue = key AND state < 3) FROM queues "
            "WHERE live IS NOT NULL AND name IS NOT NULL"
        ).fetchall()

    return await session._write(count)


class BoundedTrace(Trace):
    """A trace in queues that are always bounded."""

    async def compare(self):
        for kept, there in await counted(self.session):
            assert kept == there


@pytest.mark.parametrize("seed", range(5))
async def test_what_lives_is_counted_through_all_of_its_life(seed, path):
    moment = [START]
    async with SQLiteBroker(path, clock=lambda: moment[0]).open() as session:
        trace = BoundedTrace(random.Random(seed), session, moment, repeats=True)
        await session.declare(["a", "b"])
        trace.ledger.declare("a")
        trace.ledger.declare("b")
        for _ in range(150):
            for queue in ("a", "b"):
                limit = Limit(queue, max_size=6)
                await session.limit([limit])
                trace.ledger.limit([limit])
            await trace.step()


async def test_a_bound_counts_what_was_there_before(session):
    await put(session, "ready", "gated", "leased", priority=9, gate="a")
    await take(session, 1)
    await put(session, "later", delay=60.0)
    await put(session, "gated-later", delay=60.0, gate="a")
    await session.limit([Limit("q", max_size=6)])
    assert await counted(session) == [(5, 5)]
    assert await outcomes(session, "one") == [ACCEPTED]
    assert await outcomes(session, "more") == [FULL]
    await session.limit([Limit("q", max_size=7)])  # raised, and not counted anew
    assert await outcomes(session, "more", "again") == [FULL, FULL]
    assert await outcomes(session, "more") == [ACCEPTED]
    await session.limit([Limit("q")])
    assert await outcomes(session, "again") == [ACCEPTED]
    assert await counted(session) == []


async def test_what_time_has_ended_takes_no_room(path):
    clock = Clock()
    async with SQLiteBroker(path, clock=clock).open() as session:
        await session.declare(["q"])
        await session.limit([Limit("q", max_size=2)])
        await put(session, "brief", ttl=5.0)
        await put(session, "crashing", max_crashes=1, priority=9)
        await take(session, 1, lease_for=5.0)
        assert await outcomes(session, "x") == [FULL]
        clock.now += 6.0
        assert await outcomes(session, "x", "y") == [ACCEPTED, ACCEPTED]
        assert await session.requeue("q") == 2
        assert await counted(session) == [(4, 4)]
        assert await session.purge("q", [State.READY]) == 4
        assert await counted(session) == [(0, 0)]


async def test_a_request_that_fails_in_a_group_is_not_counted(session):
    await session.limit([Limit("q", max_size=9)])

    async def fail():
        with pytest.raises(OverflowError):
            await session.publish([message("a1"), message("a2", priority=2**70)])

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            hold = Hold()
            nursery.start_soon(session._write, hold)
            await trio.to_thread.run_sync(hold.began.wait)
            nursery.start_soon(put, session, "b")
            nursery.start_soon(fail)
            nursery.start_soon(put, session, "c")
            while len(session._writer._line) < 3:
                await trio.lowlevel.checkpoint()
            hold.go.set()
    assert await counted(session) == [(2, 2)]


async def rows(session, table):
    def count(transaction):
        return transaction.run(f"SELECT count(*) FROM {table}").fetchone()[0]

    return await session._write(count)


async def test_the_past_does_not_pile_up(path):
    """Starts at gates nobody comes to any more, and keys that are held no longer, go away in passing, or when swept."""
    clock = Clock()
    async with SQLiteBroker(path, clock=clock).open() as session:
        await session.declare(["q"])
        await session.limit([Limit("q", "a", count=5, per=10.0)])
        for number in range(30):
            await put(session, f"m{number}", gate=f"a:{number}", unique=Unique(f"k{number}", for_=10.0))
            await end(session, await take(session), Done(None, 0.0))
        assert (await rows(session, "starts"), await rows(session, "holds")) == (30, 30)
        clock.now += 11.0
        await put(session, "m", gate="a:x", unique=Unique("k", for_=10.0))
        await take(session)
        assert (await rows(session, "starts"), await rows(session, "holds")) == (13, 15)
        await session.reap()
        assert (await rows(session, "starts"), await rows(session, "holds")) == (1, 1)


async def test_starts_of_one_moment_are_one_row(path):
    clock = Clock()
    async with SQLiteBroker(path, clock=clock).open() as session:
        await session.declare(["q"])
        await session.limit([Limit("q", count=50, per=10.0)])
        await put(session, *(f"m{number}" for number in range(60)))
        assert [len(await take(session, 20)) for _ in range(4)] == [20, 20, 10, 0]
        assert await rows(session, "starts") == 1


async def test_nothing_of_a_deleted_queue_is_left(session):
    await session.limit([Limit("q", "a", concurrency=1), Limit("q", max_size=5)])
    await put(session, "m", unique=Unique("k", for_=600.0))
    await session.fire([Firing("q", "nightly", START)])
    await session.delete("q")
    await session.declare(["q"])
    assert (await rows(session, "limits"), await rows(session, "marks")) == (0, 0)
    assert await outcomes(session, *"abcdef") == [ACCEPTED] * 6
    assert await outcomes(session, "g", unique=Unique("k")) == [ACCEPTED]


# ------------------------------------------------------------------------------------------------ who waits, and guests


async def test_room_that_another_process_makes_is_noticed(session, path):
    code = (
        PRELUDE
        + """
async def main():
    async with SQLiteBroker(path).open() as session:
        held = await take(session, 1)
        print(held[0].id, flush=True); sys.stdin.readline()
        await end(session, held)
trio.run(main)
"""
    )
    await session.limit([Limit("q", "a", concurrency=1)])
    await put(session, "1", "2", gate="a")
    with python(code, path) as other:
        assert await trio.to_thread.run_sync(other.stdout.readline) == "1\n"
        assert await take(session) == []
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def work():
                with trio.fail_after(20):
                    assert [each.id for each in await take(session, wait=60)] == ["2"]

            await trio.testing.wait_all_tasks_blocked(0.02)
            other.stdin.write("\n")
            other.stdin.flush()


@pytest.mark.parametrize(
    "verdict", [Failed(Failure("ValueError"), 60.0), Failed(Failure("ValueError")), Returned(60.0)]
)
async def test_however_a_lease_ends_it_makes_room(session, verdict):
    await session.limit([Limit("q", concurrency=1)])
    await put(session, "1", "2")
    held = await take(session)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def work():
            with trio.fail_after(20):
                assert [each.id for each in await take(session, wait=60)] == ["2"]

        await trio.testing.wait_all_tasks_blocked(0.02)
        assert await end(session, held, verdict) == [Reply.APPLIED]


async def test_guests_keep_the_limits(session, path):
    await session.limit([Limit("q", max_size=2), Limit("q", "a", concurrency=1)])
    theirs = sqlite3.connect(path, timeout=5)
    replies = session.publish_in(
        theirs, [message("1", gate="a", unique=Unique("k", for_=600.0)), message("2", gate="a")]
    )
    assert [each.outcome for each in replies] == [ACCEPTED] * 2
    assert [each.outcome for each in session.publish_in(theirs, [message("3")])] == [FULL]
    theirs.commit()
    (held,) = await take(session)
    assert (held.id, held.gate) == ("1", "a")
    assert session.settle_in(theirs, Settlement(held.ref, Done(None, 0.0))) is Reply.APPLIED
    (existing,) = session.publish_in(theirs, [message("3", unique=Unique("k"))])
    assert (existing.outcome, existing.id) == (Publishing.EXISTING, "1")
    assert [each.outcome for each in session.publish_in(theirs, [message("3")])] == [ACCEPTED]
    theirs.rollback()
    assert await counted(session) == [(2, 2)]
    assert await take(session) == []
    session.settle_in(theirs, Settlement(held.ref, Done(None, 0.0)))
    theirs.commit()
    theirs.close()
    assert [each.id for each in await take(session)] == ["2"]
