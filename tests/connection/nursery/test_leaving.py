"""Leaving a job nursery early: by cancellation, by its deadline, and with a broker or a job that does not answer."""

import math
from contextlib import nullcontext

import pytest
import trio
import trio.testing

import trepid
from tests.connection.nursery.cast import WORK, Log, counts
from tests.runtime.stage import TroubledBroker, idle, working
from trepid.brokers.memory.session import MemorySession
from trepid.ports.records import Read
from trepid.rules import scopes
from trepid.values.envelope import unseal


async def test_cancelling_the_block_leaves_nothing(connection, autojump_clock):
    log = Log()
    async with working(trepid.Worker(log.actor, tasks_limit=10), connection):
        with trio.move_on_after(5):
            async with trepid.open_job_nursery(connection) as jobs:
                for n in range(100):
                    jobs.start_soon(log.actor.job(n))
                jobs.start_soon(log.actor.job(100).options(delay=600))
                await trio.sleep_forever()
        assert trio.current_time() == pytest.approx(5)
        assert await counts(connection) == {"cancelled": 101}
    assert len(log.ended) == 10
    assert jobs.statistics() == trepid.JobNurseryStatistics(0, 0, done=0, failed=0, cancelled=101)


async def test_its_own_cancel_scope_ends_the_block_without_an_error(connection, autojump_clock):
    log = Log()
    async with working(trepid.Worker(log.actor), connection):
        async with trepid.open_job_nursery(connection) as jobs:
            jobs.start_soon(log.actor.job(1))
            await trio.sleep(5)
            jobs.cancel_scope.cancel()
        assert (trio.current_time(), log.ended) == (5, {1: 5})


async def test_a_job_that_shields_itself_is_waited_for(connection, autojump_clock):
    async def tidy() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(4)

    actor = trepid.Actor(tidy)
    async with working(trepid.Worker(actor), connection):
        with trio.move_on_after(5):
            async with trepid.open_job_nursery(connection) as jobs:
                jobs.start_soon(actor.job())
        assert trio.current_time() == 9
        assert await counts(connection) == {"cancelled": 1}


@pytest.mark.parametrize("outer", [False, True])
async def test_what_nobody_confirms_within_ten_seconds_is_listed(connection, autojump_clock, outer):
    async def deaf() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(60)

    actor = trepid.Actor(deaf)
    async with working(trepid.Worker(actor), connection):
        with pytest.raises(ExceptionGroup) as caught, trio.CancelScope() as scope:
            async with trepid.open_job_nursery(connection) as jobs:
                handles = [jobs.start_soon(actor.job()) for _ in range(12)]
                await trio.sleep(5)
                (scope if outer else jobs.cancel_scope).cancel()
                await trio.sleep_forever()
        assert trio.current_time() == 15
    [error] = caught.value.exceptions
    assert isinstance(error, trepid.JobNurseryTimeoutError)
    assert isinstance(error, TimeoutError)
    assert sorted(error.ids) == sorted(handle.id for handle in handles)
    assert str(error).startswith("the end of 12 job(s) was not confirmed: ")
    assert str(error).endswith(" and 2 more")


async def test_a_broker_that_hangs_is_waited_for_ten_seconds_and_a_little(autojump_clock):
    broker = TroubledBroker()
    async with trepid.open_connection(broker) as connection:
        await connection.declare("default")
        with pytest.RaisesGroup(trepid.JobNurseryTimeoutError), trio.move_on_after(5):
            async with trepid.open_job_nursery(connection) as jobs:
                jobs.start_soon(WORK.job(1))
                await idle()
                broker.trouble.hang |= {"cancel", "endings"}
        assert trio.current_time() <= 16


async def test_a_broker_that_is_lost_is_asked_again(autojump_clock):
    broker = TroubledBroker()
    async with trepid.open_connection(broker) as connection, trio.open_nursery() as nursery:
        await connection.declare("default")

        async def repair():
            await trio.sleep(8)
            broker.trouble.fail.clear()

        nursery.start_soon(repair)
        with trio.move_on_after(5):
            async with trepid.open_job_nursery(connection) as jobs:
                jobs.start_soon(WORK.job(1))
                await idle()
                broker.trouble.fail |= dict.fromkeys(("cancel", "endings"), trepid.BrokerLostError)
        assert 8 <= trio.current_time() <= 9.1
        assert await counts(connection) == {"cancelled": 1}


@pytest.mark.parametrize("wait_for_broker", [True, False])
async def test_any_other_error_of_the_broker_ends_the_nursery_and_its_tasks(autojump_clock, wait_for_broker):
    broker = TroubledBroker()
    async with trepid.open_connection(broker, wait_for_broker=wait_for_broker) as connection:
        await connection.declare("default")
        with pytest.RaisesGroup(ZeroDivisionError, trepid.JobNurseryTimeoutError, flatten_subgroups=True):
            async with trepid.open_job_nursery(connection) as jobs:
                jobs.start_soon(WORK.job(1))
                await idle()
                broker.trouble.fail["cancel"] = ZeroDivisionError
                jobs.cancel_scope.cancel()
        assert trio.current_time() == 0


async def test_a_publish_under_way_is_waited_for_and_then_withdrawn(autojump_clock):
    broker = TroubledBroker()
    async with trepid.open_connection(broker) as connection:
        await connection.declare("default")
        broker.trouble.late["publish"] = 3
        async with working(trepid.Worker(WORK, queues=["elsewhere"]), connection):
            with trio.move_on_after(1):
                async with trepid.open_job_nursery(connection) as jobs:
                    on_its_way = jobs.start_soon(WORK.job(1))
                    await trio.sleep(0.5)
                    unpublished = jobs.start_soon(WORK.job(2))
        assert trio.current_time() == 3
        assert await counts(connection) == {"cancelled": 1}
        for handle in (on_its_way, unpublished):
            with pytest.raises(trepid.JobCancelledError, match="its job nursery was cancelled"):
                await handle.result()
        assert await unpublished.cancel() is trepid.CancelResult.FINISHED


async def test_a_publish_that_hangs_is_assumed_to_have_happened(autojump_clock):
    broker = TroubledBroker()
    async with trepid.open_connection(broker) as connection:
        await connection.declare("default")
        broker.trouble.hang.add("publish")
        with trio.move_on_after(1):
            async with trepid.open_job_nursery(connection) as jobs:
                handle = jobs.start_soon(WORK.job(1))
        assert trio.current_time() == 6
        assert broker.trouble.calls["cancel"] == 1
        with pytest.raises(trepid.JobGoneError):
            await handle.status()


@pytest.mark.parametrize("named", [False, True])
async def test_an_id_of_the_users_is_not_cancelled_while_nobody_knows_whose_it_is(autojump_clock, named):
    broker = TroubledBroker()
    async with trepid.open_connection(broker) as connection:
        await connection.declare("default")
        other = await connection.enqueue(WORK.job(1).options(id="nightly"))
        broker.trouble.hang.add("publish")
        with trio.move_on_after(1):
            async with trepid.open_job_nursery(connection) as jobs:
                jobs.start_soon(WORK.job(1).options(id="nightly") if named else WORK.job(1))
        assert trio.current_time() == 6
        assert broker.trouble.calls["cancel"] == (0 if named else 1)
        assert (await other.status()).state is trepid.State.READY


@pytest.mark.parametrize("full", [False, True])
async def test_what_waits_behind_a_late_publish_or_is_put_back_after_it_is_told(
    connection, autojump_clock, monkeypatch, full
):
    await connection.declare(trepid.Queue("default", max_size=1))
    if full:
        await connection.enqueue(WORK.job(0))
    publish = MemorySession.publish

    async def stubborn(self, batch):
        with trio.CancelScope(shield=True):
            await trio.sleep(3 if full else 20)
        return await publish(self, batch)

    monkeypatch.setattr(MemorySession, "publish", stubborn)
    with nullcontext() if full else pytest.RaisesGroup(trepid.JobNurseryTimeoutError), trio.move_on_after(1):
        async with trepid.open_job_nursery(connection) as jobs:
            on_its_way = jobs.start_soon(WORK.job(1))
            await trio.sleep(0.5)
            waiting = jobs.start_soon(WORK.job(2))
            await trio.sleep_forever()
    with trio.fail_after(1), pytest.raises(trepid.JobCancelledError, match="its job nursery was cancelled"):
        await waiting.result()
    if full:
        with trio.fail_after(1), pytest.raises(trepid.JobCancelledError, match="its job nursery was cancelled"):
            await on_its_way.result()
    assert jobs.statistics().unpublished == 0


async def test_a_publish_that_outlasts_the_confirmation_is_listed(autojump_clock):
    broker = TroubledBroker()
    async with trepid.open_connection(broker) as connection:
        await connection.declare("default")
        with pytest.raises(ExceptionGroup) as caught:
            async with trepid.open_job_nursery(connection) as jobs:
                there = jobs.start_soon(WORK.job(1))
                await there.status()
                broker.trouble.late["publish"] = 20
                broker.trouble.hang |= {"cancel", "endings"}
                handles = [jobs.start_soon(WORK.job(n).options(id=id)) for n, id in enumerate([None, "mine", "mine"])]
                await trio.sleep(1)
                jobs.cancel_scope.cancel()
        assert trio.current_time() == 20, "the engine shields it"
    [error] = caught.value.exceptions
    assert isinstance(error, trepid.JobNurseryTimeoutError)
    assert error.ids == (there.id, handles[0].id, "mine")


@pytest.mark.parametrize("left_by", ["an outer scope", "its own scope", "the body", "another job", "a deadline"])
async def test_however_the_block_is_left_a_publish_that_hangs_is_waited_for_five_seconds(autojump_clock, left_by):
    broker = TroubledBroker()
    group = {"the body": KeyError, "another job": trepid.JobFailedError}.get(left_by)
    async with trepid.open_connection(broker) as connection, working(trepid.Worker(WORK), connection):
        with nullcontext() if group is None else pytest.RaisesGroup(group), trio.CancelScope() as scope:
            if left_by == "a deadline":
                scope.deadline = 10
            async with trepid.open_job_nursery(connection) as jobs:
                if left_by == "another job":
                    await jobs.start_soon(WORK.job(-1, 10)).status()
                broker.trouble.hang.add("publish")
                handle = jobs.start_soon(WORK.job(1))
                await idle()
                if left_by == "an outer scope":
                    scope.cancel()
                elif left_by == "its own scope":
                    jobs.cancel_scope.cancel()
                elif left_by == "the body":
                    raise KeyError
        assert trio.current_time() == (15 if left_by in ("another job", "a deadline") else 5)
        with pytest.raises(trepid.JobGoneError):
            await handle.status()


async def test_an_interrupt_that_disturbs_the_overseer_leaves_no_publish_without_an_end(autojump_clock, monkeypatch):
    def interrupted(self) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trepid.JobNursery, "closing", interrupted)
    broker = TroubledBroker()
    async with trepid.open_connection(broker) as connection:
        await connection.declare("default")
        broker.trouble.hang.add("publish")
        with trio.fail_after(60), pytest.RaisesGroup(trepid.JobNurseryTimeoutError, KeyboardInterrupt):
            async with trepid.open_job_nursery(connection) as jobs:
                jobs.start_soon(WORK.job(1))
                await idle()
                jobs.cancel_scope.cancel()
        assert trio.current_time() == 0


async def test_cancelled_at_every_moment_nothing_is_left(connection, autojump_clock):
    """Whatever is under way when the cancellation comes: after the block nothing waits and nothing runs."""
    log = Log()
    async with working(trepid.Worker(log.actor, tasks_limit=3), connection):
        for moments in range(40):
            with trio.CancelScope() as scope:
                async with trepid.open_job_nursery(connection) as jobs:
                    for n in range(6):
                        jobs.start_soon(log.actor.job(n))
                    for _ in range(moments):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            found = await counts(connection)
            assert set(found) <= {"cancelled"}, moments
            assert jobs.statistics().cancelled == 6
    assert trio.current_time() == 0


async def test_no_task_and_no_record_outlives_the_block(connection, autojump_clock):
    async def tasks():
        await idle()
        return {task.name for task in tree(trio.lowlevel.current_root_task())}

    def tree(task):
        yield task
        for nursery in task.child_nurseries:
            for child in nursery.child_tasks:
                yield from tree(child)

    before = await tasks()
    for n in (1, -1):
        async with working(trepid.Worker(WORK), connection):
            with pytest.RaisesGroup(trepid.JobFailedError) if n < 0 else nullcontext():
                async with trepid.open_job_nursery(connection) as jobs:
                    scope = unseal((await jobs.start_soon(WORK.job(n)).status()).payload).scope
                    record = Read(scopes.key(scope))
                    assert await connection.session.records.carry_out([record]) != [None]
            assert await connection.session.records.carry_out([record]) == [None]
    assert await tasks() == before


async def test_the_sign_of_life_is_renewed_also_while_the_block_is_being_left(connection, autojump_clock):
    async def tidy() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(8)

    actor = trepid.Actor(tidy)
    async with working(trepid.Worker(actor), connection):
        with trio.move_on_after(100):
            async with trepid.open_job_nursery(connection, lease=3) as jobs:
                handle = jobs.start_soon(actor.job())
                record = Read(scopes.key(unseal((await handle.status()).payload).scope))
                for _ in range(20):
                    await trio.sleep(5)
                    assert await connection.session.records.carry_out([record]) != [None]
        view = await handle.status()
        assert (view.reason, trio.current_time()) == ("its job nursery was cancelled", 108)


# --------------------------------------------------------------------------------------------------------- deadlines


async def test_a_job_sees_the_callers_deadline(connection, autojump_clock):
    log = Log()
    async with working(trepid.Worker(log.actor, tasks_limit=1), connection):
        with trio.fail_after(600):
            async with trepid.open_job_nursery(connection) as jobs:
                jobs.start_soon(log.actor.job(1, 100))
                jobs.start_soon(log.actor.job(2, 1))
    assert log.deadlines == {1: pytest.approx(600), 2: pytest.approx(600)}
    assert log.began == {1: 0, 2: 100}


async def test_the_deadline_is_the_nurserys_and_not_that_of_whoever_starts_the_job(connection, autojump_clock):
    log = Log()
    async with working(trepid.Worker(log.actor), connection), trepid.open_job_nursery(connection) as jobs:
        with trio.fail_after(5):  # noqa: ASYNC100 - it must not matter
            jobs.start_soon(log.actor.job(1, 50))
        await trio.sleep(1)
        jobs.cancel_scope.deadline = trio.current_time() + 100
        jobs.start_soon(log.actor.job(2, 50))
    assert log.deadlines == {1: 86_400, 2: pytest.approx(101)}


async def test_without_a_deadline_there_is_none_but_the_timeout(connection, autojump_clock):
    log = Log(timeout=500)
    async with working(trepid.Worker(log.actor), connection), trepid.open_job_nursery(connection) as jobs:
        jobs.start_soon(log.actor.job(1, 1))
    assert log.deadlines == {1: 500}


@pytest.mark.parametrize("fails", [False, True])
async def test_when_the_deadline_passes_the_scope_decides_and_not_the_job(connection, autojump_clock, fails):
    # Workers stop jobs at the deadline as well, and may be first: that is no failure of a job.
    log = Log()
    async with working(trepid.Worker(log.actor, tasks_limit=2), connection) as running:
        raised = pytest.raises(trio.TooSlowError) if fails else nullcontext()
        with raised, trio.fail_after(60) if fails else trio.move_on_after(60):
            async with trepid.open_job_nursery(connection) as jobs:
                for n in range(5):
                    jobs.start_soon(log.actor.job(n))
        assert trio.current_time() == pytest.approx(60)
        assert await counts(connection) == {"cancelled": 5}
        await idle()
        assert running.statistics().running == ()


async def test_a_worker_that_is_early_by_its_clock_is_no_failure(autojump_clock):
    broker = TroubledBroker()
    async with trepid.open_connection(broker) as connection:
        await connection.declare("default")
        broker.trouble.late["now"] = 2  # the reading is two seconds old, and the error is on the safe side
        log = Log()
        async with working(trepid.Worker(log.actor), connection):
            with trio.move_on_after(60):
                async with trepid.open_job_nursery(connection, lease=600) as jobs:
                    broker.trouble.late.clear()
                    handle = jobs.start_soon(log.actor.job(1))
                    await trio.sleep_until(59)
                    early = trepid.JobNurseryStatistics(0, 0, done=0, failed=0, cancelled=1)
                    assert jobs.statistics() == early, "no failure: it is the scope's turn"
            assert (trio.current_time(), log.ended) == (60, {1: pytest.approx(58)})
            assert (await handle.status()).reason == "deadline"
        assert jobs.statistics() == early


async def test_a_worker_that_is_far_too_early_is_a_failure(autojump_clock):
    """No matter of clocks any more: whoever set the deadline is not about to be told."""
    broker = TroubledBroker()
    async with trepid.open_connection(broker) as connection:
        await connection.declare("default")
        broker.trouble.late["now"] = 10
        log = Log()
        async with working(trepid.Worker(log.actor), connection):
            with pytest.RaisesGroup(pytest.RaisesExc(trepid.JobCancelledError, match="deadline")), trio.fail_after(60):
                async with trepid.open_job_nursery(connection, lease=600) as jobs:
                    broker.trouble.late.clear()
                    jobs.start_soon(log.actor.job(1))
            assert trio.current_time() == pytest.approx(50)


async def test_a_deadline_that_was_moved_on_leaves_what_was_published_with_its_own(connection, autojump_clock):
    log = Log()
    async with working(trepid.Worker(log.actor), connection):
        with pytest.RaisesGroup(pytest.RaisesExc(trepid.JobCancelledError, match="deadline")):
            with trio.move_on_after(60) as scope:
                async with trepid.open_job_nursery(connection) as jobs:
                    jobs.start_soon(log.actor.job(1))
                    await trio.sleep(5)
                    scope.deadline = math.inf
        assert trio.current_time() == pytest.approx(60)
    assert jobs.statistics() == trepid.JobNurseryStatistics(0, 0, done=0, failed=1, cancelled=0)
