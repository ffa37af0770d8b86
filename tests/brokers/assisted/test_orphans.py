"""What a dead job nursery has left waiting has ended for whoever looks at it, and for whoever wants its place."""

from collections import Counter
from contextlib import asynccontextmanager

import pytest
import trio

import trepid
from tests.brokers.assisted.limited import LimitedBroker
from tests.runtime.offspring import Log, ended, live, put
from tests.runtime.stage import working
from trepid.brokers.assisted.lent import LentRecords
from trepid.brokers.assisted.register import holder_key
from trepid.brokers.memory import MemoryBroker
from trepid.ports.records import Claim, Drop, Read, Write
from trepid.rules import scopes

ORPHANED = (trepid.State.CANCELLED, "its job nursery is gone", 0)
READY = (trepid.State.READY, None, 0)


@asynccontextmanager
async def connected(second):
    async with trepid.open_connection(LimitedBroker(), results=second) as connection:
        await connection.declare("default")
        yield connection


@pytest.fixture
async def connection():
    async with connected(MemoryBroker()) as connection:
        yield connection


@pytest.fixture
def looks(monkeypatch):
    """How often it is looked for the sign of each nursery."""
    looks, real = Counter(), LentRecords.carry_out

    async def carry_out(self, steps):
        looks.update(step.key for step in steps)
        return await real(self, steps)

    monkeypatch.setattr(LentRecords, "carry_out", carry_out)
    return looks


@pytest.mark.parametrize("delay", [0, 3000])
async def test_no_worker_is_needed(connection, autojump_clock, delay):
    log = Log()
    await live(connection, "s", 30)
    [child] = await put(connection, log.actor.job().options(delay=delay), scope="s")
    await trio.sleep(29)
    assert (await ended(child))[0] is (trepid.State.SCHEDULED if delay else trepid.State.READY)
    with pytest.raises(trepid.JobCancelledError, match="its job nursery is gone"):
        await child.result()
    assert 30 <= trio.current_time() < 30.5
    assert await ended(child) == ORPHANED
    # Its ticket is still there, and is thrown away.
    async with working(trepid.Worker(log.actor), connection) as running:
        await trio.sleep(4000)
        assert running.statistics().report == trepid.Report()
    assert log.seen == []
    assert (await connection.stats()).live == 0


async def test_who_looks_sees_it_and_so_do_others(autojump_clock):
    main, second, log = LimitedBroker(), MemoryBroker(), Log()
    async with trepid.open_connection(main, results=second) as one, trepid.open_connection(main, results=second) as two:
        await one.declare("default")
        [child] = await put(one, log.actor.job(), scope="gone")
        assert await ended(two.handle(child.id)) == ORPHANED
        assert await ended(child) == ORPHANED
        assert await child.cancel() is trepid.CancelResult.FINISHED


async def test_its_unique_key_is_free(connection, autojump_clock):
    log = Log()
    unique = trepid.Unique("k", on_conflict="raise")
    await live(connection, "s", 30)
    [child] = await put(connection, log.actor.job().options(unique=unique), scope="s")
    with pytest.raises(trepid.UniqueConflictError):
        await connection.enqueue(log.actor.job().options(unique=unique))
    await trio.sleep(31)
    following = await connection.enqueue(log.actor.job().options(unique=unique))
    assert not following.existing
    assert await ended(child) == ORPHANED
    assert await ended(following) == READY
    [gone] = await put(connection, log.actor.job().options(unique=trepid.Unique("other")), scope="gone")
    assert await ended(gone) == ORPHANED
    assert await connection.session._register.carry_out([Read(holder_key(("default", "other")))]) == [None]
    with pytest.raises(trepid.UniqueConflictError):
        await connection.enqueue(log.actor.job().options(unique=unique))


async def test_its_id_is_free(connection, autojump_clock):
    log = Log()
    await live(connection, "s", 30)
    await put(connection, log.actor.job().options(id="mine"), scope="s")
    assert (await connection.enqueue(log.actor.job(5).options(id="mine"))).existing
    await trio.sleep(31)
    mine = await connection.enqueue(log.actor.job(5).options(id="mine"))
    assert not mine.existing
    async with working(trepid.Worker(log.actor), connection):
        assert await mine.result() == "done"
    assert len(log.seen) == 1


async def test_a_nursery_that_lives_is_looked_for_once_in_the_time_of_its_sign(connection, autojump_clock, looks):
    log = Log()
    await live(connection, "s", 30)
    children = await put(connection, *[log.actor.job()] * 20, scope="s")
    looks.clear()
    for _ in range(290):
        assert {(await child.status()).state for child in children} == {trepid.State.READY}
        await trio.sleep(0.1)
    assert looks == {scopes.key("s"): 1}
    await live(connection, "s", 30)
    looks.clear()
    await trio.sleep(2)
    assert await ended(children[0]) == READY
    await trio.sleep(30)
    assert await ended(children[0]) == ORPHANED
    # The others, too, and nobody has to believe anything any more.
    assert [await ended(child) for child in children] == [ORPHANED] * 20


async def test_a_sign_that_says_nothing_is_a_sign(connection, autojump_clock, looks):
    log = Log()
    await connection.session.records.carry_out([Claim(scopes.key("s"), b"alive", 3.5)])
    [child] = await put(connection, log.actor.job(), scope="s")
    for _ in range(30):
        assert await ended(child) == READY
        await trio.sleep(0.1)
    assert 3 <= looks[scopes.key("s")] <= 4
    await trio.sleep(1.1)
    assert await ended(child) == ORPHANED


async def test_a_sign_by_a_clock_that_is_fast_is_believed_in_for_no_longer(connection, autojump_clock):
    """RabbitMQ's time is that of each program's own machine."""
    log = Log()
    sign = scopes.sign(await connection.session.now() + 3600)
    await connection.session.records.carry_out([Write(scopes.key("s"), sign, scopes.LEASE)])
    [child] = await put(connection, log.actor.job(), scope="s")
    assert await ended(child) == READY
    await trio.sleep(scopes.LEASE + 1)
    assert await ended(child) == ORPHANED


async def test_what_runs_is_the_business_of_its_worker(connection, autojump_clock):
    log = Log()
    await live(connection, "s", 3000)
    [child] = await put(connection, log.actor.job(1000), scope="s")
    other = await connection.enqueue(log.actor.job(1000))
    async with working(trepid.Worker(log.actor), connection):
        await trio.sleep(10)
        await connection.session.records.carry_out([Drop(scopes.key("s"))])
        assert await ended(child) == await ended(other) == (trepid.State.LEASED, None, 0)
        # The worker looks for the nursery a minute after it has seen it.
        await child.wait()
        assert await ended(child) == ORPHANED
        assert log.ended == [pytest.approx(60, abs=1)]


async def test_many_nurseries_are_forgotten_again(connection, autojump_clock):
    log = Log()
    kin = connection.session._register._kin
    for number in range(1500):
        await live(connection, f"s{number}", 30 if number < 1100 else 300)
        [child] = await put(connection, log.actor.job(), scope=f"s{number}")
        assert await ended(child) == READY
        if number == 1100:
            await trio.sleep(31)
    assert len(kin._believed) < 500


async def test_a_nursery_that_dies_between_two_looks_is_not_believed_in_for_ever(connection, autojump_clock):
    log = Log()
    with trio.fail_after(100):
        async with working(trepid.Worker(log.actor, tasks_limit=1), connection):
            await connection.enqueue(log.actor.job(3600))
            while not log.seen:
                await trio.sleep(0.1)
            await live(connection, "s", 30)
            children = await put(connection, *[log.actor.job()] * 5, scope="s")
            await trio.sleep(20)
            await live(connection, "s", 30)
            for child in children:
                await child.wait()
            assert 50 <= trio.current_time() < 51
    assert [await ended(child) for child in children] == [ORPHANED] * 5
