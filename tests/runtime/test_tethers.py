"""Tethers: a job that carries a deadline and a job nursery keeps to both, whoever published it."""

import pytest
import trio
import trio.testing

import trepid
from tests.runtime.offspring import Log, ended, live, put
from tests.runtime.stage import TroubledBroker, idle, working
from trepid.ports.events import WorkerTroubled
from trepid.ports.records import Drop, Read, Write
from trepid.rules import scopes
from trepid.testing import Faults, FaultyBroker


@pytest.fixture
async def connection():
    async with trepid.open_connection(FaultyBroker(trepid.MemoryBroker(), Faults())) as connection:
        await connection.declare("default")
        yield connection


class Looks(list):
    """When it was looked at which nurseries; the next looks fail if *failing* says so."""

    failing = 0


@pytest.fixture
def looks(connection, monkeypatch):
    looks, real = Looks(), type(connection.session).carry

    async def carry(self, operation, call):
        steps = call.args[0] if operation == "records" else None
        if isinstance(steps, list) and steps and isinstance(steps[0], Read) and steps[0].key.startswith("scope:"):
            looks.append((trio.current_time(), len(steps)))
            if looks.failing:
                looks.failing -= 1
                raise trepid.BrokerLostError
        return await real(self, operation, call)

    monkeypatch.setattr(type(connection.session), "carry", carry)
    return looks


# -------------------------------------------------------------------------------------------------------- deadlines


async def test_a_running_job_is_stopped_at_its_deadline_and_is_not_tried_again(connection, autojump_clock):
    log = Log(retries=5)
    [handle] = await put(connection, log.actor.job(), within=60)
    async with working(trepid.Worker(log.actor), connection) as running:
        await handle.wait()
        assert running.statistics().report == trepid.Report(cancelled=1)
    [(started, deadline)] = log.seen
    assert (started, deadline, log.ended) == (0, pytest.approx(60), [deadline])
    assert await ended(handle) == (trepid.State.CANCELLED, "deadline", 0)
    with pytest.raises(trepid.JobCancelledError, match="deadline"):
        await handle.result()


async def test_the_deadline_counts_from_the_publish_and_not_from_the_start(connection, autojump_clock):
    log = Log()
    [handle] = await put(connection, log.actor.job(), within=60)
    await trio.sleep(45)
    async with working(trepid.Worker(log.actor), connection):
        await handle.wait()
    assert log.seen == [(45, pytest.approx(60))]
    assert trio.current_time() == pytest.approx(60)


async def test_an_answer_that_comes_late_makes_no_deadline_later(autojump_clock):
    """It counts from when the lease was granted, and not from when its worker heard of that."""
    broker, log = TroubledBroker(), Log()
    async with trepid.open_connection(broker) as connection:
        await connection.declare("default")
        await put(connection, log.actor.job(), within=60)
        broker.trouble.late["lease"] = 5
        async with working(trepid.Worker(log.actor), connection):
            await trio.sleep(70)
    assert log.seen == [(5, pytest.approx(60))]
    assert log.ended == [pytest.approx(60)]


async def test_a_job_past_its_deadline_is_not_started(connection, autojump_clock):
    log = Log()
    [handle] = await put(connection, log.actor.job(), within=60)
    await trio.sleep(60)
    async with working(trepid.Worker(log.actor), connection):
        await handle.wait()
    assert log.seen == []
    assert await ended(handle) == (trepid.State.CANCELLED, "deadline", 0)


async def test_a_retry_past_the_deadline_is_not_started(connection, autojump_clock):
    async def fail():
        await trio.lowlevel.checkpoint()
        raise ValueError

    actor = trepid.Actor(fail, retries=5, retry_policy=lambda _: 40)
    [handle] = await put(connection, actor.job(), within=60)
    async with working(trepid.Worker(actor), connection):
        await handle.wait()
    assert await ended(handle) == (trepid.State.CANCELLED, "deadline", 2)
    assert trio.current_time() == 80


async def test_an_earlier_timeout_is_a_failure(connection, autojump_clock):
    log = Log(timeout=10)
    [handle] = await put(connection, log.actor.job(), within=60)
    async with working(trepid.Worker(log.actor), connection):
        await handle.wait()
    assert log.seen == [(0, 10)]
    assert await ended(handle) == (trepid.State.DEAD, "failed", 1)


async def test_what_returns_in_spite_of_its_deadline_is_done(connection, autojump_clock):
    async def deaf() -> str:
        with trio.CancelScope(shield=True):
            await trio.sleep(70)
        return "late"

    actor = trepid.Actor(deaf)
    [handle] = await put(connection, actor.job(), within=60)
    async with working(trepid.Worker(actor), connection):
        assert await handle.result() == "late"


async def test_what_a_job_raises_at_its_deadline_is_kept(connection, autojump_clock):
    async def messy():
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("half done")

    actor = trepid.Actor(messy)
    [handle] = await put(connection, actor.job(), within=60)
    async with working(trepid.Worker(actor), connection):
        await handle.wait()
    view = await handle.status()
    assert (view.state, view.reason, view.error.type) == (trepid.State.CANCELLED, "deadline", "ValueError")


# ---------------------------------------------------------------------------------------------------- signs of life


async def test_a_job_whose_nursery_is_gone_is_not_started(connection, autojump_clock):
    log = Log()
    [handle] = await put(connection, log.actor.job(), scope="gone")
    async with working(trepid.Worker(log.actor), connection):
        await handle.wait()
    assert log.seen == []
    assert await ended(handle) == (trepid.State.CANCELLED, "its job nursery is gone", 0)


async def test_a_running_job_is_stopped_when_its_nursery_falls_silent(connection, autojump_clock):
    log = Log()
    await live(connection, "s", 30)
    [handle] = await put(connection, log.actor.job(), scope="s")
    async with working(trepid.Worker(log.actor), connection):
        await handle.wait()
    assert 30 <= log.ended[0] <= 30.3
    assert await ended(handle) == (trepid.State.CANCELLED, "its job nursery is gone", 0)


async def test_a_nursery_that_goes_on_living_is_looked_at_once_per_sign(connection, autojump_clock, looks):
    log = Log()

    async def keep():
        while True:
            await live(connection, "s", 30)
            await trio.sleep(10)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep)
        await idle()
        [handle] = await put(connection, log.actor.job(), scope="s")
        async with working(trepid.Worker(log.actor), connection):
            assert await handle.result() == "done"
        nursery.cancel_scope.cancel()
    assert 20 <= len(looks) <= 35, "in ten minutes"


async def test_a_thousand_jobs_of_one_nursery_cost_one_look(connection, autojump_clock, looks):
    log = Log()
    await live(connection, "s", 30)
    handles = await put(connection, *[log.actor.job(1)] * 1000, scope="s")
    async with working(trepid.Worker(log.actor, tasks_limit=300), connection):
        for handle in handles:
            await handle.wait()
    assert len(log.seen) == 1000
    assert 1 <= len(looks) <= 3, "in four seconds"


async def test_jobs_of_many_nurseries_are_looked_at_together(connection, autojump_clock, looks):
    log = Log()
    for n in range(0, 700, 2):
        await live(connection, f"s{n}", 30)
    handles = []
    for n in range(700):
        handles += await put(connection, log.actor.job(1), scope=f"s{n}")
    async with working(trepid.Worker(log.actor), connection) as running:
        for handle in handles:
            await handle.wait()
        assert running.statistics().report == trepid.Report(succeeded=350, cancelled=350)
    assert sum(count for _, count in looks) == 700
    assert len(looks) <= 3, "up to five hundred at once"


async def test_a_nursery_that_ended_well_leaves_no_stragglers(connection, autojump_clock):
    log = Log()
    await live(connection, "s", 30)
    handles = await put(connection, *[log.actor.job(1)] * 5, scope="s")
    async with working(trepid.Worker(log.actor, tasks_limit=1), connection):
        await handles[0].wait()
        await connection.session.records.carry_out([Drop(scopes.key("s"))])
        for handle in handles:
            await handle.wait()
    assert len(log.seen) <= 3, "what was seen serves for two seconds"
    assert await ended(handles[-1]) == (trepid.State.CANCELLED, "its job nursery is gone", 0)


async def test_a_dead_letter_of_a_nursery_that_is_over_is_not_run_again(connection, autojump_clock):
    async def fail() -> None:
        raise ValueError

    actor = trepid.Actor(fail)
    await live(connection, "s", 30)
    [handle] = await put(connection, actor.job(), scope="s")
    async with working(trepid.Worker(actor), connection):
        await handle.wait()
        await trio.sleep(30)
        assert await connection.requeue("default") == 1
        await handle.wait()
    assert (await ended(handle))[:2] == (trepid.State.CANCELLED, "its job nursery is gone")


async def test_an_old_sign_of_life_cannot_be_mistaken(connection, autojump_clock):
    # What is under the key may be of a later version.
    log = Log()
    await connection.session.records.carry_out([Write(scopes.key("s"), b"?", 100)])
    [handle] = await put(connection, log.actor.job(500), scope="s")
    async with working(trepid.Worker(log.actor), connection):
        await handle.wait()
    assert 100 <= log.ended[0] <= 160


async def test_with_the_records_in_trouble_jobs_are_given_back_uncounted(connection, looks, autojump_clock):
    log, told = Log(), []
    await live(connection, "s", 300)
    [handle] = await put(connection, log.actor.job(1), scope="s")
    looks.failing = 3
    async with working(trepid.Worker(log.actor, observers=[told.append]), connection):
        assert await handle.result() == "done"
    view = await handle.status()
    assert (view.attempts, view.releases, view.crashes) == (1, 3, 0)
    assert [event.operation for event in told if isinstance(event, WorkerTroubled)] == ["look for job nurseries"] * 3


async def test_what_was_seen_long_ago_starts_no_job_while_the_records_are_in_trouble(connection, looks, autojump_clock):
    log = Log()
    await live(connection, "s", 300)
    await put(connection, log.actor.job(100), scope="s")
    async with working(trepid.Worker(log.actor), connection):
        await trio.sleep(10)
        looks.failing = 1
        [late] = await put(connection, log.actor.job(1), scope="s")
        assert await late.result() == "done"
    assert (await late.status()).releases == 1


async def test_trouble_with_the_records_stops_no_running_job(connection, looks, autojump_clock):
    log = Log()
    await live(connection, "s", 30)
    [handle] = await put(connection, log.actor.job(100), scope="s")
    async with working(trepid.Worker(log.actor), connection):
        await trio.sleep(20)
        await live(connection, "s", 30)
        looks.failing = 8
        await handle.wait()
    assert 50 <= log.ended[0] <= 50.6


async def test_a_worker_that_stops_does_not_wait_for_a_look(connection, autojump_clock):
    log = Log()
    [handle] = await put(connection, log.actor.job().options(ttl=10), scope="s")
    real = connection.session.carry

    async def carry(operation, call):
        if operation == "records":
            await trio.sleep_forever()
        return await real(operation, call)

    connection.session.carry = carry
    with trio.move_on_after(1):
        await trepid.Worker(log.actor).run(connection)
    assert trio.current_time() == 1
    view = await handle.status()
    assert (view.state, view.releases, view.crashes) == (trepid.State.READY, 1, 0)
    await trio.sleep(10)
    assert (await handle.status()).reason == "expired", "it had not started"
