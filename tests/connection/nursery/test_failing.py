"""What fails a job nursery, what that does to the others, and what is raised."""

from itertools import pairwise

import pytest
import trio
import trio.testing

import trepid
from tests.connection.nursery.cast import WORK, Log, counts, failures
from tests.runtime.stage import TroubledBroker, idle, working
from trepid.connection.nursery.claims import Claims
from trepid.testing import Faults, FaultyBroker, refused, reply_lost


async def test_the_first_failure_cancels_the_siblings_and_the_body(connection, autojump_clock):
    log, body = Log(), []
    async with working(trepid.Worker(log.actor, tasks_limit=3), connection):
        with pytest.raises(ExceptionGroup) as caught:
            async with trepid.open_job_nursery(connection) as jobs:
                failed = jobs.start_soon(log.actor.job(-1, 5))
                running = [jobs.start_soon(log.actor.job(n)) for n in (1, 2)]
                queued = [jobs.start_soon(log.actor.job(n)) for n in (3, 4)]
                delayed = jobs.start_soon(log.actor.job(5).options(delay=60))
                try:
                    await trio.sleep_forever()
                finally:
                    body.append(trio.current_time())
        assert trio.current_time() == 5
        assert failures(caught.value) == [failed.id]
        assert (caught.value.exceptions[0].type, caught.value.exceptions[0].message) == ("ValueError", "-1 is negative")
        for handle in (*running, *queued, delayed):
            view = await handle.status()
            assert (view.state, view.reason) == (trepid.State.CANCELLED, "its job nursery was cancelled")
    assert set(log.began) <= {-1, 1, 2, 3}, "its slot may be given to one more, in the same moment"
    assert set(log.ended.values()) == {5}
    assert body == [5]
    assert jobs.statistics() == trepid.JobNurseryStatistics(0, 0, done=0, failed=1, cancelled=5)


async def test_except_star(connection, autojump_clock):
    caught = []
    async with working(trepid.Worker(WORK), connection):
        try:
            async with trepid.open_job_nursery(connection) as jobs:
                jobs.start_soon(WORK.job(-1))
        except* trepid.JobFailedError as group:
            caught += group.exceptions
    assert [error.type for error in caught] == ["ValueError"]


async def test_a_thousand_children_with_one_failure(connection, autojump_clock):
    log = Log()
    async with working(trepid.Worker(log.actor, tasks_limit=100), connection):
        with pytest.raises(ExceptionGroup) as caught:
            async with trepid.open_job_nursery(connection) as jobs:
                handles = [jobs.start_soon(log.actor.job(n, 10)) for n in range(1, 500)]
                handles.append(jobs.start_soon(log.actor.job(-1, 5).options(priority=trepid.Priority.HIGH)))
                handles += [jobs.start_soon(log.actor.job(n, 10)) for n in range(500, 1000)]
        assert failures(caught.value) == [handles[499].id]
        assert trio.current_time() == 5
        assert await counts(connection) == {"dead": 1, "cancelled": 999}
    assert jobs.statistics() == trepid.JobNurseryStatistics(0, 0, done=0, failed=1, cancelled=999)
    assert len(log.began) <= 101


async def test_each_failed_job_stands_once_in_the_group(connection, autojump_clock):
    # They fail at the same time, and some while they are being cancelled.
    async def stubborn(n: int) -> None:
        try:
            await trio.sleep(5 if n < 3 else 3600)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            raise ValueError(n)

    actor = trepid.Actor(stubborn, retries=0)
    async with working(trepid.Worker(actor), connection):
        with pytest.raises(ExceptionGroup) as caught:
            async with trepid.open_job_nursery(connection) as jobs:
                handles = [jobs.start_soon(actor.job(n)) for n in range(5)]
        assert sorted(failures(caught.value)) == sorted(handle.id for handle in handles[:3])
        # What raises while it is cancelled was cancelled.
        assert await counts(connection) == {"dead": 3, "cancelled": 2}
    assert jobs.statistics() == trepid.JobNurseryStatistics(0, 0, done=0, failed=3, cancelled=2)


async def test_retries_are_waited_through_and_only_the_last_failure_counts(connection, autojump_clock):
    async with working(trepid.Worker(WORK), connection):
        with pytest.RaisesGroup(trepid.JobFailedError):
            async with trepid.open_job_nursery(connection) as jobs:
                jobs.start_soon(WORK.options(retries=2).job(-1))
        assert trio.current_time() == 1 + 10 + 1 + 20 + 1


async def test_what_the_body_raises_cancels_the_jobs_and_joins_the_group(connection, autojump_clock):
    log = Log()
    async with working(trepid.Worker(log.actor), connection):
        with pytest.RaisesGroup(pytest.RaisesExc(KeyError, match="body")):
            async with trepid.open_job_nursery(connection) as jobs:
                jobs.start_soon(log.actor.job(1))
                jobs.start_soon(log.actor.job(2))
                await trio.sleep(5)
                raise KeyError("body")
        assert (trio.current_time(), log.ended) == (5, {1: 5, 2: 5})
        assert await counts(connection) == {"cancelled": 2}


async def test_a_failure_in_the_cleaning_up_of_the_body_joins_the_group(connection, autojump_clock):
    async with working(trepid.Worker(WORK), connection):
        with pytest.RaisesGroup(trepid.JobFailedError, KeyError):
            async with trepid.open_job_nursery(connection) as jobs:
                jobs.start_soon(WORK.job(-1))
                try:
                    await trio.sleep_forever()
                finally:
                    raise KeyError


async def test_the_siblings_are_cancelled_although_the_body_takes_its_time(connection, autojump_clock):
    log = Log()
    async with working(trepid.Worker(log.actor), connection):
        with pytest.RaisesGroup(trepid.JobFailedError):
            async with trepid.open_job_nursery(connection) as jobs:
                jobs.start_soon(log.actor.job(1))
                jobs.start_soon(log.actor.job(-1, 5))
                with trio.CancelScope(shield=True):
                    await trio.sleep(60)
                late = jobs.start_soon(log.actor.job(2))
        assert (log.ended[1], trio.current_time()) == (5, 60)
        with pytest.raises(trepid.JobCancelledError, match="its job nursery was cancelled"):
            await late.result()
    assert 2 not in log.began


# -------------------------------------------------------------------------------------------------------- cancelling


async def test_a_child_that_its_own_handle_cancels_is_no_failure(connection, autojump_clock):
    log = Log()
    async with working(trepid.Worker(log.actor, tasks_limit=2), connection):
        async with trepid.open_job_nursery(connection) as jobs:
            handles = [jobs.start_soon(log.actor.job(n, 30)) for n in range(4)]
            await trio.sleep(5)
            assert await handles[1].cancel("enough") is trepid.CancelResult.REQUESTED
            assert await handles[3].cancel("enough") is trepid.CancelResult.WITHDRAWN
            assert await handles[3].cancel("again") is trepid.CancelResult.FINISHED
        assert log.ended == {0: 30, 1: 5, 2: 35}
    assert jobs.statistics() == trepid.JobNurseryStatistics(0, 0, done=2, failed=0, cancelled=2)


async def test_a_child_is_cancelled_before_it_is_published(connection, autojump_clock):
    async with working(trepid.Worker(WORK), connection), trepid.open_job_nursery(connection) as jobs:
        handle = jobs.start_soon(WORK.job(1))
        with trio.testing.assert_checkpoints():
            assert await handle.cancel("never mind") is trepid.CancelResult.WITHDRAWN
        assert await handle.cancel() is trepid.CancelResult.FINISHED
        with pytest.raises(trepid.JobCancelledError, match="never mind"):
            await handle.result()
        with pytest.raises(trepid.JobGoneError):
            await handle.status()
        await handle.wait()
    assert await counts(connection) == {}
    assert jobs.statistics() == trepid.JobNurseryStatistics(0, 0, done=0, failed=0, cancelled=1)


async def test_a_child_is_cancelled_while_it_is_being_published(autojump_clock):
    broker = TroubledBroker()
    async with trepid.open_connection(broker) as connection:
        await connection.declare("default")
        broker.trouble.late["publish"] = 5
        async with trepid.open_job_nursery(connection) as jobs:
            handle = jobs.start_soon(WORK.job(1))
            await trio.sleep(1)
            assert await handle.cancel() is trepid.CancelResult.WITHDRAWN
            assert trio.current_time() == 5
        assert await counts(connection) == {"cancelled": 1}


async def test_a_child_that_somebody_else_cancels_is_a_failure(connection, autojump_clock):
    async with working(trepid.Worker(WORK), connection):
        with pytest.raises(ExceptionGroup) as caught:
            async with trepid.open_job_nursery(connection) as jobs:
                handle = jobs.start_soon(WORK.job(1, 60))
                jobs.start_soon(WORK.job(2, 60))
                await trio.sleep(5)
                await connection.handle(handle.id).cancel("the operator")
    [error] = caught.value.exceptions
    assert isinstance(error, trepid.JobCancelledError)
    assert (error.id, error.message, trio.current_time()) == (handle.id, "the operator", 5)


def rebuild(n: int, id: str | None = None) -> trepid.Job[int]:
    return WORK.job(n).options(unique=trepid.Unique("rebuild", "replace"), delay=5, id=id)


@pytest.mark.parametrize("pause", [0, 1], ids=["in one batch", "one after the other"])
async def test_a_child_that_another_one_replaces_is_no_failure(connection, autojump_clock, pause):
    async with working(trepid.Worker(WORK), connection):
        async with trepid.open_job_nursery(connection) as jobs:
            handles = []
            for n in range(4):
                handles.append(jobs.start_soon(rebuild(n, "mine" if n == 2 else None)))
                await trio.sleep(pause)
        assert trio.current_time() == 3 * pause + 6
        assert await handles[3].result() == 6
        for handle, by in pairwise(handles):
            with pytest.raises(trepid.JobCancelledError, match=f"replaced by {by.id}"):
                await handle.result()
    assert jobs.statistics() == trepid.JobNurseryStatistics(0, 0, done=1, failed=0, cancelled=3)


async def test_a_message_of_somebody_else_that_a_child_replaces_is_no_failure(connection, autojump_clock):
    async with working(trepid.Worker(WORK), connection):
        await connection.enqueue(rebuild(1))
        async with trepid.open_job_nursery(connection) as jobs:
            found = jobs.start_soon(rebuild(2).options(unique=trepid.Unique("rebuild")))
            await found.status()
            jobs.start_soon(rebuild(3))
        assert found.existing
    assert jobs.statistics() == trepid.JobNurseryStatistics(0, 0, done=1, failed=0, cancelled=1)


async def test_a_child_that_somebody_else_replaces_is_a_failure(connection, autojump_clock):
    async with working(trepid.Worker(WORK), connection):
        with pytest.raises(ExceptionGroup) as caught:
            async with trepid.open_job_nursery(connection) as jobs:
                handle = jobs.start_soon(rebuild(1))
                await handle.status()
                other = await connection.enqueue(rebuild(2))
        [error] = caught.value.exceptions
        assert isinstance(error, trepid.JobCancelledError)
        assert (error.id, error.message) == (handle.id, f"replaced by {other.id}")
        assert await other.result() == 4


async def test_who_finds_a_running_job_and_who_comes_after_it_replace_each_other_in_turn(connection, autojump_clock):
    async with working(trepid.Worker(WORK), connection):
        async with trepid.open_job_nursery(connection) as jobs:
            first = jobs.start_soon(rebuild(1))
            await trio.sleep(5.5)
            found = jobs.start_soon(rebuild(2))
            await first.wait()
            for n in range(3, 6):
                last = jobs.start_soon(rebuild(n))
                await trio.sleep(1)
        assert (found.existing, await found.result(), await last.result()) == (True, 2, 10)
    assert jobs.statistics() == trepid.JobNurseryStatistics(0, 0, done=3, failed=0, cancelled=2)


def test_claims_are_forgotten_with_their_children():
    claims = Claims()
    held = [claims.enter("queue", "key", id) for id in "abc"]
    other = claims.enter("elsewhere", "key", "d")
    assert not claims.gave_way(held[0], "replaced by d")
    for claim in (held[1], held[0]):
        assert claims.gave_way(claim, "replaced by b")
        claims.leave(claim)
    assert claims.gave_way(held[2], "replaced by c")
    assert not claims.gave_way(held[2], "replaced by b"), "whoever it can have replaced has left"
    for claim in (held[2], other):
        claims.leave(claim)
    assert claims == Claims()


async def test_a_cancelled_child_that_fails_for_good_first_is_a_failure(connection, autojump_clock):
    async with working(trepid.Worker(WORK), connection):
        with pytest.RaisesGroup(trepid.JobFailedError):
            async with trepid.open_job_nursery(connection) as jobs:
                handle = jobs.start_soon(WORK.job(-1, 0))
                await handle.wait()
                await handle.cancel()


async def test_a_child_that_is_gone_is_a_failure_since_nobody_knows(connection, autojump_clock):
    with pytest.raises(ExceptionGroup) as caught:
        async with trepid.open_job_nursery(connection) as jobs:
            handle = jobs.start_soon(WORK.job(1).options(delay=60))
            await handle.status()
            await connection.flush("default")
    [error] = caught.value.exceptions
    assert isinstance(error, trepid.JobGoneError)
    assert error.id == handle.id


# -------------------------------------------------------------------------------------------------------- publishing


async def test_a_queue_that_nobody_declared_fails_the_block(connection, autojump_clock):
    log = Log()
    async with working(trepid.Worker(log.actor), connection):
        with pytest.RaisesGroup(trepid.UnknownQueueError):
            async with trepid.open_job_nursery(connection) as jobs:
                fine = jobs.start_soon(log.actor.job(1))
                await trio.sleep(5)
                bad = jobs.start_soon(WORK.job(1).options(queue="nowhere"))
                await trio.sleep_forever()
        with pytest.raises(trepid.JobCancelledError):
            await fine.result()
        with pytest.raises(trepid.JobCancelledError, match=r"not published: .*nowhere"):
            await bad.result()
    assert log.ended == {1: 5}


async def test_a_conflict_of_unique_keys_fails_the_block(connection, autojump_clock):
    await connection.enqueue(WORK.job(1).options(unique=trepid.Unique("key")))
    with pytest.RaisesGroup(trepid.UniqueConflictError):
        async with trepid.open_job_nursery(connection) as jobs:
            jobs.start_soon(WORK.job(2).options(unique=trepid.Unique("key", "raise")))
    assert await counts(connection) == {"ready": 1}


async def test_a_refused_batch_cancels_nothing_that_was_there_before(connection, autojump_clock):
    other = await connection.enqueue(WORK.job(1).options(id="nightly"))
    with pytest.RaisesGroup(trepid.UnknownQueueError):
        async with trepid.open_job_nursery(connection) as jobs:
            handle = jobs.start_soon(WORK.job(2).options(id="nightly"))
            jobs.start_soon(WORK.job(3).options(queue="nowhere"))
    assert (await other.status()).state is trepid.State.READY
    assert await handle.cancel() is trepid.CancelResult.FINISHED
    assert jobs.statistics() == trepid.JobNurseryStatistics(0, 0, done=0, failed=0, cancelled=2)


@pytest.mark.parametrize("applied", [False, True])
async def test_whatever_became_of_a_publish_that_failed_nothing_is_left(autojump_clock, applied):
    faults = Faults()
    broker = FaultyBroker(trepid.MemoryBroker(), faults)
    async with trepid.open_connection(broker, wait_for_broker=False) as connection:
        await connection.declare("default")
        fault = reply_lost() if applied else refused(trepid.BrokerFullError)
        faults.next("publish", fault)
        with pytest.RaisesGroup(trepid.BrokerLostError if applied else trepid.BrokerFullError):
            async with trepid.open_job_nursery(connection) as jobs:
                for n in range(5):
                    jobs.start_soon(WORK.job(n))
                await trio.sleep_forever()
        assert await counts(connection) == ({"cancelled": 5} if applied else {})


async def test_a_broker_that_is_away_is_waited_for(autojump_clock):
    faults = Faults()
    async with trepid.open_connection(FaultyBroker(trepid.MemoryBroker(), faults)) as connection:
        await connection.declare("default")
        async with working(trepid.Worker(WORK), connection):
            async with trepid.open_job_nursery(connection) as jobs:
                for n in range(5):
                    jobs.start_soon(WORK.job(n, 20))
                await idle()
                faults.away(15)
                for n in range(5):
                    jobs.start_soon(WORK.job(n))
            assert jobs.statistics().done == 10


async def test_jobs_wait_for_room_in_a_full_queue(connection, autojump_clock):
    await connection.declare(trepid.Queue("narrow", max_size=7))
    actor = trepid.Actor(WORK.fn, name="narrow", queue="narrow")
    async with working(trepid.Worker(actor, tasks_limit=5), connection):
        async with trepid.open_job_nursery(connection) as jobs:
            handles = [jobs.start_soon(actor.job(n)) for n in range(100)]
            await idle()
            assert jobs.statistics().live == 7, "a batch is made smaller until it fits"
        assert [await handle.result() for handle in handles] == list(range(0, 200, 2))


async def test_what_a_full_queue_refuses_keeps_its_order(connection, autojump_clock):
    await connection.declare(trepid.Queue("narrow", max_size=3))
    log = Log(queue="narrow")
    worker = trepid.Worker(log.actor, tasks_limit=1)
    async with working(worker, connection), trepid.open_job_nursery(connection) as jobs:
        for n in range(20):
            jobs.start_soon(log.actor.job(n, 1))
    assert list(log.began) == list(range(20))


async def test_a_child_that_is_cancelled_while_a_full_queue_refuses_it_is_withdrawn(autojump_clock):
    broker = TroubledBroker()
    async with trepid.open_connection(broker) as connection:
        await connection.declare(trepid.Queue("default", max_size=1))
        await connection.enqueue(WORK.job(0))
        async with trepid.open_job_nursery(connection) as jobs:
            broker.trouble.late["publish"] = 1
            handle = jobs.start_soon(WORK.job(1))
            await idle()
            assert await handle.cancel("never mind") is trepid.CancelResult.WITHDRAWN
            assert trio.current_time() == 1
            assert await handle.cancel() is trepid.CancelResult.FINISHED
            with pytest.raises(trepid.JobCancelledError, match="never mind"):
                await handle.result()
        assert await counts(connection) == {"ready": 1}
