"""Why an attempt ended: what stopped it is recorded, and what it returned or raised is believed."""

import msgspec
import pytest
import trio
import trio.testing

import trepid
from tests.runtime.stage import idle, working

WORKER = {"graceful_shutdown_time": 0}


async def forever():
    await trio.sleep_forever()


async def perform(connection, fn, *, worker=None, **settings):
    """Run one attempt of a function and return its message's view."""
    actor = trepid.Actor(fn, **{"timeout": 10, **settings})
    handle = await connection.enqueue(actor.job())
    await trepid.Worker(actor, messages_limit=1, **(worker or {})).run(connection)
    return await handle.status()


async def test_a_timeout_is_a_failure(connection, autojump_clock):
    view = await perform(connection, forever)
    assert (view.state, view.attempts) == (trepid.State.DEAD, 1)
    assert (view.error.type, view.error.message) == ("TimeoutError", "still running after 10 s")
    assert trio.current_time() == 10


async def test_a_timeout_obeys_retries(connection, autojump_clock):
    view = await perform(connection, forever, retries=1)
    assert (view.state, view.attempts) == (trepid.State.SCHEDULED, 1)


async def test_returning_in_the_moment_of_the_timeout(connection, autojump_clock):
    async def job():
        await trio.sleep(10)
        return "in time"

    views = [await perform(connection, job) for _ in range(20)]
    for view in views:
        # Both are due at the same moment; whichever the clock tells first, the story is one of these two.
        assert view.state in (trepid.State.DONE, trepid.State.DEAD)
        assert (view.error is None) == (view.state is trepid.State.DONE)
        assert view.attempts == 1


async def test_returning_after_the_timeout_without_a_checkpoint_is_done(connection, autojump_clock):
    async def job():
        with trio.CancelScope(shield=True):
            await trio.sleep(11)
        return "late"

    view = await perform(connection, job)
    assert (view.state, view.attempts, view.error) == (trepid.State.DONE, 1, None)


async def test_cleaning_up_takes_as_long_as_it_is_shielded(connection, autojump_clock):
    async def job():
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(5)

    view = await perform(connection, job)
    assert view.error.type == "TimeoutError"
    assert trio.current_time() == 15


async def test_an_error_while_cleaning_up_after_a_timeout_is_the_failure(connection, autojump_clock):
    async def job():
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("cleaning up went wrong")

    view = await perform(connection, job)
    assert (view.state, view.error.type, view.attempts) == (trepid.State.DEAD, "ValueError", 1)


async def test_swallowing_the_timeout_and_returning_is_done(connection, autojump_clock):
    async def job():
        try:
            await trio.sleep_forever()
        except trio.Cancelled:  # noqa: ASYNC103 - on purpose
            return "whatever"  # noqa: ASYNC104 - on purpose

    assert (await perform(connection, job)).state is trepid.State.DONE


async def test_a_limit_of_the_jobs_own_is_an_ordinary_failure(connection, autojump_clock):
    async def job():
        with trio.fail_after(3):
            await trio.sleep_forever()

    view = await perform(connection, job)
    assert (view.error.type, trio.current_time()) == ("trio.TooSlowError", 3)


async def test_a_limit_of_the_jobs_own_may_pass_unnoticed(connection, autojump_clock):
    async def job():
        with trio.move_on_after(3):
            await trio.sleep_forever()
        return "moved on"

    assert (await perform(connection, job)).state is trepid.State.DONE


async def test_a_group_from_a_nursery_of_the_job_is_its_failure(connection, autojump_clock):
    async def fail(kind):  # noqa: ASYNC124 - at once
        raise kind("one of several")

    async def job():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, ValueError)
            nursery.start_soon(fail, OSError)
            nursery.start_soon(trio.sleep_forever)

    view = await perform(connection, job)
    assert view.error.type == "ExceptionGroup"
    assert "ValueError: one of several" in view.error.traceback


async def test_a_group_raised_because_of_the_timeout_is_the_failure(connection, autojump_clock):
    async def complain():
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("interrupted")

    async def job():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(complain)
            nursery.start_soon(trio.sleep_forever)

    view = await perform(connection, job)
    assert (view.state, view.error.type) == (trepid.State.DEAD, "ExceptionGroup")


async def test_children_of_a_timed_out_job_end_with_it(connection, autojump_clock):
    ended = []

    async def child():
        try:
            await trio.sleep_forever()
        finally:
            ended.append(trio.current_time())

    async def job():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            nursery.start_soon(child)

    view = await perform(connection, job)
    assert (view.error.type, ended) == ("TimeoutError", [10, 10])


# ---------------------------------------------------------------------------------------------------- shutdown


@pytest.mark.parametrize("fails", [False, True])
async def test_a_job_that_is_stopped_is_released_even_if_it_fails_over_that(connection, autojump_clock, fails):
    async def job():
        try:
            await trio.sleep_forever()
        finally:
            if fails:
                raise ValueError("I was not done")

    actor = trepid.Actor(job)
    handle = await connection.enqueue(actor.job())
    async with working(trepid.Worker(actor, **WORKER), connection) as running:
        await idle()
        running.stop()
    view = await handle.status()
    assert (view.state, view.attempts, view.releases, view.errors) == (trepid.State.READY, 0, 1, ())


async def test_a_job_that_finishes_although_it_is_stopped_is_done(connection, autojump_clock):
    async def job():
        try:
            await trio.sleep_forever()
        except trio.Cancelled:  # noqa: ASYNC103 - on purpose
            return "a cursor"  # noqa: ASYNC104 - on purpose

    actor = trepid.Actor(job)
    handle = await connection.enqueue(actor.job())
    async with working(trepid.Worker(actor, **WORKER), connection) as running:
        await idle()
        running.stop()
    assert await handle.result() == "a cursor"


# ------------------------------------------------------------------------------------------------ user cancels


async def test_a_cancel_reaches_a_running_job_at_once(connection, autojump_clock):
    ended = []

    async def job():
        try:
            await trio.sleep_forever()
        finally:
            ended.append(trio.current_time())

    actor = trepid.Actor(job)
    handle = await connection.enqueue(actor.job())
    async with working(trepid.Worker(actor), connection) as running:
        await trio.sleep(3.5)
        assert await handle.cancel("the customer left") is trepid.CancelResult.REQUESTED
        with pytest.raises(trepid.JobCancelledError) as caught:
            await handle.result()
        assert ended == [3.5] == [trio.current_time()]
        assert running.statistics().report == trepid.Report(cancelled=1)
    assert (caught.value.id, caught.value.message) == (handle.id, "the customer left")
    view = await handle.status()
    assert (view.state, view.reason, view.attempts) == (trepid.State.CANCELLED, "the customer left", 0)
    assert await handle.cancel("again") is trepid.CancelResult.FINISHED


async def test_a_cancel_of_a_queued_job_withdraws_it(connection, autojump_clock):
    ran = []

    async def job():
        await trio.lowlevel.checkpoint()
        ran.append(1)

    actor = trepid.Actor(job)
    handle = await connection.enqueue(actor.job())
    assert await handle.cancel("no") is trepid.CancelResult.WITHDRAWN
    async with working(trepid.Worker(actor), connection):
        await idle()
    assert not ran
    with pytest.raises(trepid.JobCancelledError, match="was cancelled: no"):
        await handle.result()


async def test_done_wins_over_a_cancel(connection, autojump_clock):
    async def job():
        try:
            await trio.sleep_forever()
        except trio.Cancelled:  # noqa: ASYNC103 - on purpose
            return "done anyway"  # noqa: ASYNC104 - on purpose

    actor = trepid.Actor(job)
    handle = await connection.enqueue(actor.job())
    async with working(trepid.Worker(actor), connection):
        await idle()
        await handle.cancel()
        assert await handle.result() == "done anyway"


async def test_what_a_job_raises_while_it_is_cancelled_is_kept(connection, autojump_clock):
    async def job():
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("half done")

    actor = trepid.Actor(job, retries=5)
    handle = await connection.enqueue(actor.job())
    async with working(trepid.Worker(actor), connection):
        await idle()
        await handle.cancel()
        await handle.wait()
    view = await handle.status()
    assert (view.state, view.error.type, view.attempts) == (trepid.State.CANCELLED, "ValueError", 0)


@pytest.mark.parametrize("hurries", [False, True])
async def test_a_cancel_while_a_timeout_is_cleaned_up_counts_as_cancelled(connection, autojump_clock, hurries):
    async def job():
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(5)

    actor = trepid.Actor(job, timeout=10, retries=5)
    handle = await connection.enqueue(actor.job())
    async with working(trepid.Worker(actor), connection) as running:
        await trio.sleep(12)
        await handle.cancel("meanwhile")
        await trio.sleep(1)
        if hurries:
            running.stop(grace=0)
        await handle.wait()
        assert trio.current_time() == 15
        await idle()
        assert running.statistics().report == trepid.Report(cancelled=1)
    view = await handle.status()
    assert (view.state, view.error.type) == (trepid.State.CANCELLED, "TimeoutError")


async def test_a_cancel_of_a_job_that_is_being_released_cancels_it(connection, autojump_clock):
    async def job():
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(5)

    actor = trepid.Actor(job)
    handle = await connection.enqueue(actor.job())
    async with working(trepid.Worker(actor), connection) as running:
        await idle()
        running.stop(grace=0)
        await trio.sleep(1)
        await handle.cancel("meanwhile")
        report = await running.wait_stopped()
    assert report == trepid.Report(cancelled=1)
    assert (await handle.status()).state is trepid.State.CANCELLED


async def test_many_cancels_at_once(connection, autojump_clock):
    actor = trepid.Actor(forever)
    handles = await connection.enqueue_many([actor.job()] * 300)
    async with working(trepid.Worker(actor), connection) as running:
        await trio.sleep(1)
        async with trio.open_nursery() as nursery:
            for handle in handles:
                nursery.start_soon(handle.cancel)
        for handle in handles:
            await handle.wait()
        assert trio.current_time() == 1
        assert running.statistics().report == trepid.Report(cancelled=300)


async def test_a_cancel_that_overtakes_the_start_is_heeded(connection, autojump_clock):
    # Whoever cancels in the very step in which the worker takes the message: the function need not have begun.
    began = []

    async def job():
        began.append(1)
        await trio.sleep_forever()

    actor = trepid.Actor(job)
    for _ in range(50):
        async with working(trepid.Worker(actor), connection):
            handle = await connection.enqueue(actor.job())
            await handle.cancel()
            await handle.wait()
            assert (await handle.status()).state is trepid.State.CANCELLED
    assert trio.current_time() < 1


# ------------------------------------------------------------------------------------------------------- results


class Odd:
    pass


@pytest.mark.parametrize("value", [Odd(), {1, object()}, float("nan"), "\ud800", b"x" * 2**20])
async def test_a_result_that_cannot_be_stored_leaves_the_job_done(connection, autojump_clock, value):
    async def job():
        await trio.lowlevel.checkpoint()
        return value

    actor = trepid.Actor(job)
    handle = await connection.enqueue(actor.job())
    assert (await trepid.Worker(actor, messages_limit=1).run(connection)).succeeded == 1
    with pytest.raises(trepid.ResultError):
        await handle.result()
    assert (await handle.status()).attempts == 1


async def test_a_result_whose_own_code_fails_leaves_the_job_done(connection, autojump_clock):
    class Half(msgspec.Struct):
        missing: int

    async def job() -> object:
        await trio.lowlevel.checkpoint()
        half = Half(1)
        del half.missing
        return half

    actor = trepid.Actor(job)
    handle = await connection.enqueue(actor.job())
    assert (await trepid.Worker(actor, messages_limit=1).run(connection)).succeeded == 1
    with pytest.raises(trepid.ResultError):
        await handle.result()


# -------------------------------------------------------------------------------------------------------- verbs


async def test_verbs(connection, autojump_clock):
    async def job(verb: str) -> str:
        await trio.sleep(1)
        if verb == "retry":
            raise trepid.Retry(delay=7)
        if verb == "snooze":
            raise trepid.Snooze(30)
        raise trepid.Bury("no hope")

    actor = trepid.Actor(job, retries=1)
    retried, snoozed, buried = [await connection.enqueue(actor.job(v)) for v in ("retry", "snooze", "bury")]
    now = await connection.session.now()
    async with working(trepid.Worker(actor), connection):
        await trio.sleep(2)
        view = await retried.status()
        assert (view.state, view.attempts, view.due) == (trepid.State.SCHEDULED, 1, now + 8)
        view = await snoozed.status()
        assert (view.state, view.attempts, view.releases, view.due) == (trepid.State.SCHEDULED, 0, 1, now + 31)
        view = await buried.status()
        assert (view.state, view.attempts, view.reason) == (trepid.State.DEAD, 1, "buried")
        await retried.wait()
        assert trio.current_time() == 9
    with pytest.raises(trepid.JobFailedError, match="Bury: no hope"):
        await buried.result()
    with pytest.raises(trepid.JobFailedError, match="Retry"):
        await retried.result()


@pytest.mark.parametrize(
    ("verbs", "state"),
    [
        ((trepid.Snooze(1), trepid.Retry(1)), "retried"),
        ((trepid.Retry(1), trepid.Bury(), trepid.Snooze(1)), "dead"),
        ((trepid.Snooze(1), trepid.Snooze(2)), "released"),
        ((trepid.Snooze(1), ValueError()), "retried"),
    ],
)
async def test_a_group_of_verbs_acts_as_its_strongest(connection, autojump_clock, verbs, state):
    async def job():
        async with trio.open_nursery() as nursery:
            for verb in verbs:
                nursery.start_soon(raising, verb)

    async def raising(error):  # noqa: ASYNC124 - at once
        raise error

    actor = trepid.Actor(job, retries=3)
    await connection.enqueue(actor.job())
    async with working(trepid.Worker(actor), connection) as running:
        await idle()
        assert running.statistics().report == trepid.Report(**{state: 1})
