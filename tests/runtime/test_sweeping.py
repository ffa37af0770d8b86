"""Sweeps: workers end what dead job nurseries have left waiting in their queues, also where none comes to it."""

import itertools
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

import trepid
from tests.brokers.places import place_of
from tests.runtime.offspring import Log, ended, live, put
from tests.runtime.stage import TroubledBroker, idle, working
from trepid.ports.events import WorkerTroubled
from trepid.ports.records import Drop, Read, Write
from trepid.rules import scopes, sweeps

ORPHANED = (trepid.State.CANCELLED, "its job nursery is gone", 0)
LONGEST = sweeps.period(1.0, 0.0)
"""Seconds within which a worker has surely swept once more."""


@pytest.fixture
def trouble():
    return TroubledBroker()


@pytest.fixture
async def connection(trouble, monkeypatch):
    """As if the broker were one that processes share."""
    async with trepid.open_connection(trouble) as connection:
        able = attrs.evolve(connection.capabilities, virtual_time=False)
        monkeypatch.setattr(type(connection.session), "capabilities", property(lambda _: able))
        await connection.declare("default")
        yield connection


def looks(trouble, queue="default"):
    """When it was looked where, and behind which message."""
    log = [(when, args, kwargs) for when, name, args, kwargs in trouble.trouble.log if name == "peek"]
    return [(when, args[1], kwargs["after"]) for when, args, kwargs in log if args[0] == queue]


@asynccontextmanager
async def full(connection, *, seconds=3600, **settings):
    """Run a worker whose only place is taken; give what it does, and what it tells."""
    log, told = Log(), []
    await connection.enqueue(log.actor.job(seconds))
    worker = trepid.Worker(log.actor, tasks_limit=1, observers=[told.append], **settings)
    async with working(worker, connection):
        while not log.seen:
            await trio.sleep(0.05)
        yield log, told


def troubles(told):
    return [event.operation for event in told if isinstance(event, WorkerTroubled)]


async def test_a_full_worker_ends_what_a_dead_nursery_left_waiting(connection, autojump_clock):
    async with full(connection) as (log, told):
        await live(connection, "s", 30)
        children = await put(connection, log.actor.job(), log.actor.job(), scope="s")
        children += await put(connection, log.actor.job().options(delay=3000), scope="s")
        for child in children:
            await child.wait()
            assert await ended(child) == ORPHANED
        assert 30 <= trio.current_time() <= 30 + 2 * LONGEST
        assert len(log.seen) == 1
        assert troubles(told) == []


async def test_who_lives_is_left_alone_and_so_is_what_belongs_to_nobody(connection, autojump_clock):
    async with full(connection) as (log, _):
        await live(connection, "lives", 3000)
        others = await put(connection, log.actor.job(), scope="lives")
        others.append(await connection.enqueue(log.actor.job()))
        [orphan] = await put(connection, log.actor.job(), scope="gone")
        await orphan.wait()
        await trio.sleep(5 * LONGEST)
        assert [(await other.status()).state for other in others] == [trepid.State.READY] * 2


async def test_a_nursery_is_looked_up_once_in_a_sweep(connection, autojump_clock, monkeypatch):
    reads, real = [], type(connection.session.records).carry_out

    async def carry_out(self, steps):
        reads.extend(step.key for step in steps if not step.key.startswith("sw"))
        return await real(self, steps)

    async with full(connection) as (log, _):
        await live(connection, "lives", 3000)
        await put(connection, *[log.actor.job()] * 500, scope="lives")
        orphans = await put(connection, *[log.actor.job()] * 400, scope="gone")
        monkeypatch.setattr(type(connection.session.records), "carry_out", carry_out)
        for orphan in orphans:
            await orphan.wait()
        assert reads == [scopes.key("lives"), scopes.key("gone")]


async def test_a_long_queue_is_seen_in_several_sweeps(connection, trouble, autojump_clock):
    async with full(connection) as (log, _):
        for _ in range(sweeps.AT_ONCE * (sweeps.PAGES + 1)):
            await connection.enqueue(log.actor.job())
        [orphan] = await put(connection, log.actor.job(), scope="gone")
        await orphan.wait()
        assert LONGEST < trio.current_time() <= 3 * LONGEST
        behind = [after for _, state, after in looks(trouble) if state is trepid.State.READY]
        assert behind[0] is None
        assert behind[1:] == sorted(set(behind[1:])), "each page once"
        assert len(behind) == sweeps.PAGES + 2


async def test_with_a_free_place_what_is_not_due_yet_is_looked_at(connection, trouble, autojump_clock):
    log = Log()
    await live(connection, "lives", 3000)
    others = await put(connection, log.actor.job().options(delay=3000), scope="lives")
    others.append(await connection.enqueue(log.actor.job().options(delay=3000)))
    async with working(trepid.Worker(log.actor), connection):
        [child] = await put(connection, log.actor.job().options(delay=3000), scope="gone")
        await child.wait()
        assert trio.current_time() <= LONGEST
        assert await ended(child) == ORPHANED
        await trio.sleep(5 * LONGEST)
        assert [(await other.status()).state for other in others] == [trepid.State.SCHEDULED] * 2
        assert trepid.State.READY in {state for _, state, _ in looks(trouble)}, "nothing was taken, so there, too"


async def test_where_a_limit_lets_nothing_pass_what_waits_for_it_is_looked_at(connection, autojump_clock):
    log = Log(concurrency=1)
    async with working(trepid.Worker(log.actor), connection):
        await connection.enqueue(log.actor.job(3000))
        await trio.sleep(1)
        await live(connection, "s", 50)
        children = await put(connection, *[log.actor.job()] * 5, scope="s")
        for child in children:
            await child.wait()
            assert await ended(child) == ORPHANED
        assert trio.current_time() <= 50 + 2 * LONGEST
    assert len(log.seen) == 1


async def test_a_retry_of_a_dead_nursery_is_not_waited_for(connection, autojump_clock):
    async def fail() -> None:
        raise ValueError("once more")

    actor = trepid.Actor(fail, retries=3, retry_policy=lambda _: 3000)
    await live(connection, "s", 10)
    async with working(trepid.Worker(actor), connection):
        [child] = await put(connection, actor.job(), scope="s")
        await child.wait()
        assert trio.current_time() <= 10 + LONGEST
        assert (await ended(child))[:2] == ORPHANED[:2]


async def test_one_worker_sweeps_for_all(connection, trouble, autojump_clock):
    """They take turns, and the next one goes on where the last one was."""
    pages, log = sweeps.PAGES * 6 + 1, Log()
    for _ in range(sweeps.AT_ONCE * pages):
        await connection.enqueue(log.actor.job().options(delay=3000))
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            await nursery.start(trepid.Worker(log.actor).run, connection)
        await trio.sleep(12 * LONGEST)
        nursery.cancel_scope.cancel()
    found = [look for look in looks(trouble) if look[1] is trepid.State.SCHEDULED]
    moments = sorted({when for when, _, _ in found})
    assert all(sweeps.period(0.0, 0.0) <= later - earlier <= LONGEST for earlier, later in itertools.pairwise(moments))
    behind = [after or 0 for _, _, after in found]
    assert behind[:pages] == sorted(set(behind[:pages])), "each page once"
    assert behind[pages] == 0, "and from the beginning again"


async def test_where_nothing_waits_nothing_is_written(connection, trouble, autojump_clock, monkeypatch):
    steps, real = [], type(connection.session.records).carry_out

    async def carry_out(self, some):
        steps.extend(some)
        return await real(self, some)

    monkeypatch.setattr(type(connection.session.records), "carry_out", carry_out)
    async with working(trepid.Worker(Log().actor), connection):
        await trio.sleep(5 * LONGEST)
    assert trouble.trouble.calls["peek"] >= 5
    assert {type(step) for step in steps} == {Read}


async def test_what_was_left_behind_is_seen_in_the_next_round(connection, trouble, autojump_clock):
    """Also where nothing is left in front."""
    async with full(connection) as (log, _):
        await live(connection, "s", 80)
        [child] = await put(connection, log.actor.job(), scope="s")
        others = [await connection.enqueue(log.actor.job()) for _ in range(sweeps.AT_ONCE * (sweeps.PAGES + 1))]
        while not any(after for _, _, after in looks(trouble)):
            await trio.sleep(1)
        for other in others:
            await other.cancel()
        assert (await child.status()).state is trepid.State.READY
        await child.wait()
        assert trio.current_time() <= 80 + 3 * LONGEST


async def test_who_takes_messages_looks_at_what_is_not_due_yet_only(connection, trouble, autojump_clock):
    log = Log()
    await connection.declare("other")
    for _ in range(20):
        await connection.enqueue(log.actor.job(20))
    async with working(trepid.Worker(log.actor, queues=["default", "other"], tasks_limit=1), connection):
        await trio.sleep(390)
        assert len(log.seen) == 20
        assert {state for _, state, _ in looks(trouble)} == {trepid.State.SCHEDULED}
        assert {state for _, state, _ in looks(trouble, "other")} == {trepid.State.READY, trepid.State.SCHEDULED}


async def test_it_sweeps_once_in_a_period(connection, trouble, autojump_clock):
    async with full(connection):
        await trio.sleep(3000)
        moments = sorted(set(trouble.trouble.times("peek")))
        gaps = [later - earlier for earlier, later in zip([0, *moments], moments, strict=False)]
        assert all(sweeps.period(0.0, 0.0) <= gap <= LONGEST for gap in gaps)
        assert len(set(gaps)) > 10, "not all workers at once"


async def test_a_slow_broker_is_swept_seldom(connection, trouble, autojump_clock):
    trouble.trouble.late["peek"] = 1
    async with full(connection):
        await trio.sleep(3600)
        moments = [when for when, state, _ in looks(trouble) if state is trepid.State.READY]
        assert len(moments) > 10
        assert all(160 <= later - earlier <= 245 for earlier, later in itertools.pairwise(moments)), "two looks, 2 s"


async def test_who_stops_sweeps_no_more(connection, trouble, autojump_clock):
    async with full(connection, seconds=600, messages_limit=1, graceful_shutdown_time=900) as (log, _):
        await trio.sleep(100)
        before = trouble.trouble.calls["peek"]
        assert before > 0
        # Leaving the block stops the worker; its job goes on for 500 seconds.
    assert log.ended == [600]
    assert trouble.trouble.calls["peek"] == before


async def test_a_worker_is_cancelled_in_the_midst_of_a_sweep(connection, trouble, autojump_clock):
    trouble.trouble.hang.add("peek")
    with trio.move_on_after(LONGEST + 5) as scope:
        async with full(connection):
            while not trouble.trouble.calls["peek"]:
                await trio.sleep(1)
            scope.cancel()
    assert trio.current_time() <= LONGEST + 2


async def test_a_broker_in_trouble_is_told_of_and_asked_again(connection, trouble, autojump_clock):
    async with full(connection) as (log, told):
        children = await put(connection, log.actor.job(), scope="gone")
        children += await put(connection, log.actor.job().options(delay=3000), scope="gone")
        trouble.trouble.fail["peek"] = trepid.BrokerLostError
        await trio.sleep(LONGEST)
        assert troubles(told) == ["look for jobs of dead job nurseries"]
        trouble.trouble.fail.clear()
        trouble.trouble.hang.add("cancel")
        await trio.sleep(LONGEST + 11)
        assert troubles(told) == ["look for jobs of dead job nurseries"] * 2
        trouble.trouble.hang.clear()
        for child in children:
            await child.wait()
            assert await ended(child) == ORPHANED


@pytest.mark.parametrize("what", ["the first call", "the last one"])
async def test_records_in_trouble_are_told_of_and_asked_again(connection, trouble, autojump_clock, monkeypatch, what):
    real, bad = type(connection.session.records).carry_out, Read if what == "the first call" else Write

    async def carry_out(self, steps):
        if trio.current_time() < LONGEST and any(isinstance(s, bad) and s.key.startswith("sweep") for s in steps):
            await trio.lowlevel.checkpoint()
            raise trepid.BrokerLostError
        return await real(self, steps)

    monkeypatch.setattr(type(connection.session.records), "carry_out", carry_out)
    async with full(connection) as (log, told):
        await live(connection, "s", 30 + LONGEST)
        [child] = await put(connection, log.actor.job(), scope="s")
        await child.wait()
        assert troubles(told) == ["look for jobs of dead job nurseries"]


async def test_trouble_with_one_place_hides_no_other(connection, autojump_clock, monkeypatch):
    real = type(connection.session).peek

    async def peek(self, queue, state, **rest):
        if state is trepid.State.READY:
            await trio.sleep_forever()
        return await real(self, queue, state, **rest)

    monkeypatch.setattr(type(connection.session), "peek", peek)
    async with full(connection) as (log, _):
        [child] = await put(connection, log.actor.job().options(delay=3000), scope="gone")
        await child.wait()
        assert trio.current_time() <= LONGEST + 10 + sweeps.period(1.0, 10.0) + 1


async def test_a_queue_that_is_gone_has_nothing_to_look_at(connection, autojump_clock):
    async with full(connection, queues=["away", "default"], auto_declare=False) as (log, told):
        [child] = await put(connection, log.actor.job(), scope="gone")
        await child.wait()
        assert troubles(told) == []


@pytest.mark.parametrize(
    "lack",
    [{"peek": False}, {"cancel_waiting": False}, {"records": False}, {"results": "before"}, {"virtual_time": True}],
)
async def test_where_messages_cannot_be_looked_at_and_ended_nothing_is_tried(
    connection, trouble, autojump_clock, monkeypatch, lack
):
    poor = attrs.evolve(connection.capabilities, **lack)
    monkeypatch.setattr(type(connection.session), "capabilities", property(lambda _: poor))
    async with full(connection):
        await trio.sleep(5 * LONGEST)
        assert trouble.trouble.calls["peek"] == 0


async def test_a_child_that_starts_while_it_is_looked_at_is_stopped(connection, trouble, autojump_clock):
    trouble.trouble.late["peek"] = 5
    other = Log()
    async with full(connection) as (log, _):
        await live(connection, "s", 3000)
        [child] = await put(connection, log.actor.job(), scope="s")
        while not trouble.trouble.calls["peek"]:
            await trio.sleep(0.1)
        async with working(trepid.Worker(other.actor), connection):
            await idle()
            [(began, _)] = other.seen
            await connection.session.records.carry_out([Drop(scopes.key("s"))])
            await child.wait()
        # Its own worker would have looked at the nursery a minute later.
        assert other.ended == [pytest.approx(began + 5, abs=0.2)]
        assert await ended(child) == ORPHANED


@pytest.mark.parametrize("engine", ["sqlite", "redis", "postgres"])
async def test_on_engines_that_processes_share(engine, request, tmp_path, monkeypatch):
    monkeypatch.setattr(scopes, "LEASE", 1.0)
    url, _ = place_of(engine, request, tmp_path)
    async with trepid.open_connection(url) as near, trepid.open_connection(url) as far:
        await near.declare("default")
        with trio.fail_after(30):
            async with full(far, seconds=60, graceful_shutdown_time=0) as (log, told):
                await live(near, "lives", 60)
                [living] = await put(near, log.actor.job(), scope="lives")
                children = await put(near, *[log.actor.job()] * 300, scope="gone")
                children += await put(near, log.actor.job().options(delay=3000), scope="gone")
                for child in children:
                    await child.wait()
                    assert await ended(child) == ORPHANED
                assert (await living.status()).state is trepid.State.READY
                assert troubles(told) == []


@pytest.mark.parametrize("engine", ["sqlite", "redis", "postgres"])
async def test_a_worker_with_a_free_place_on_those_engines(engine, request, tmp_path, monkeypatch):
    monkeypatch.setattr(scopes, "LEASE", 1.0)
    url, _ = place_of(engine, request, tmp_path)
    log = Log()
    async with trepid.open_connection(url) as near, trepid.open_connection(url) as far:
        await near.declare("default")
        with trio.fail_after(30):
            async with working(trepid.Worker(log.actor), far):
                await live(near, "lives", 60)
                later = log.actor.job().options(delay=3000)
                [living] = await put(near, later, scope="lives")
                for child in await put(near, *[later] * 300, scope="gone"):
                    await child.wait()
                    assert await ended(child) == ORPHANED
                assert (await living.status()).state is trepid.State.SCHEDULED
    assert log.seen == []
