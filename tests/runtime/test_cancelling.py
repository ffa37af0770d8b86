"""The scope round a worker is cancelled: at any moment, and it ends in time, and every message is back."""

import gc

import pytest
import trio
import trio.testing

import trepid
from tests.runtime.stage import TroubledBroker, idle, states

ENDS_WITHIN = 5.0


class Jobs:
    """Jobs with all kinds of manners, and a log of what they did."""

    def __init__(self):
        self.finished = []
        self.alive = 0

    def router(self):
        async def polite(n: int):
            with self.living():
                await trio.sleep(1)
                self.finished.append(n)

        async def shielding(n: int):
            with self.living():
                with trio.CancelScope(shield=True):
                    await trio.sleep(0.7)
                await trio.sleep(0.7)
                self.finished.append(n)

        async def swallowing(n: int):
            with self.living():
                try:
                    await trio.sleep(1)
                except trio.Cancelled:  # noqa: ASYNC103 - a sinner, on purpose
                    await trio.lowlevel.cancel_shielded_checkpoint()
                self.finished.append(n)

        async def parental(ctx: trepid.Context, n: int):
            with self.living():
                ctx.nursery.start_soon(self.child, 0.4)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.child)
                    nursery.start_soon(self.child)
                self.finished.append(n)

        async def complaining(n: int):
            with self.living():
                try:
                    await trio.sleep(1)
                except trio.Cancelled:
                    raise ValueError("do not interrupt me") from None  # noqa: ASYNC104 - another
                self.finished.append(n)

        async def quick(n: int):
            await trio.lowlevel.checkpoint()
            self.finished.append(n)

        actors = (polite, shielding, swallowing, parental, complaining, quick)
        return trepid.Router(*(trepid.Actor(fn, timeout=60, retries=3) for fn in actors))

    def living(self):
        return Living(self)

    async def child(self, seconds=0.5):
        with self.living():
            await trio.sleep(seconds)


class Living:
    def __init__(self, jobs):
        self.jobs = jobs

    def __enter__(self):
        self.jobs.alive += 1

    def __exit__(self, *exc):
        self.jobs.alive -= 1


class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope before the n-th step that the scheduler takes; counts the steps."""

    def __init__(self, at):
        self.at, self.steps, self.scope = at, 0, None

    def before_task_step(self, task):
        if self.scope is None:
            return
        self.steps += 1
        if self.steps == self.at:
            self.scope.cancel()


async def one_run(at_step=None, at_time=None):
    """Run a busy worker and cancel it; return how many steps it took, or None if it was done before."""
    jobs = Jobs()
    instrument = CancelAtStep(at_step)
    before = len(trio.lowlevel.current_root_task().child_nurseries[0].child_tasks)
    async with trepid.open_connection("memory:") as connection:
        await connection.declare("default")
        router = jobs.router()
        handles = await connection.enqueue_many(
            [trepid.Job(name, kwargs={"n": n}) for n, name in enumerate([*router, *router])]
        )
        worker = trepid.Worker(router, tasks_limit=7, messages_limit=len(handles))
        trio.lowlevel.add_instrument(instrument)
        cancelled_at = None
        try:
            with trio.CancelScope() as scope:  # noqa: ASYNC912 - the deadline is further in
                if at_time is not None:
                    scope.deadline = trio.current_time() + at_time
                instrument.scope = scope
                with trio.fail_after(100):  # noqa: ASYNC912 - nothing to wait for is fine
                    await worker.run(connection)
            cancelled_at = trio.current_time()
        finally:
            instrument.scope = None
            trio.lowlevel.remove_instrument(instrument)
        assert jobs.alive == 0, "no task of a job outlives the worker"
        assert len(trio.lowlevel.current_root_task().child_nurseries[0].child_tasks) == before
        stats = await connection.stats()
        assert stats.leased == 0
        assert stats.dead == stats.cancelled == stats.scheduled == 0, "cancelling a worker is nobody's failure"
        assert stats.ready + stats.done == len(handles)
        views = [await handle.status() for handle in handles]
        for view in views:
            assert view.attempts == (view.state is trepid.State.DONE)
            assert view.crashes == 0
            assert not view.errors
        # Whatever has ended stays ended; the others run once more, and then each has been finished exactly once.
        done = {n for n, view in enumerate(views) if view.state is trepid.State.DONE}
        assert done <= set(jobs.finished)
        finished_late = set(jobs.finished) - done
        with trio.fail_after(100):  # noqa: ASYNC912 - nothing to wait for is fine
            if stats.ready:
                assert (await worker.options(messages_limit=stats.ready).run(connection)).succeeded == stats.ready
        assert not finished_late, "what returned was recorded as done"
        assert sorted(jobs.finished) == list(range(len(handles)))
        return instrument.steps, cancelled_at, scope.cancelled_caught


def in_virtual_time(function, *args):
    return trio.run(function, *args, clock=trio.testing.MockClock(autojump_threshold=0))


def test_cancelled_at_every_step_it_loses_nothing():
    steps, _, _ = in_virtual_time(one_run)
    caught = 0
    # The order of tasks within a step of time is random, so each moment gets several chances.
    for step in [*range(1, steps + 1)] * 3:
        caught += in_virtual_time(one_run, step)[2]
    assert caught > 3 * steps * 0.8
    gc.collect()


@pytest.mark.parametrize("moment", [0.0, 0.25, 0.5, 0.7, 0.75, 1.0, 1.4, 1.7, 2.0, 2.4])
def test_cancelled_at_any_time_it_ends_at_once_but_for_shields(moment):
    async def timed():
        started = trio.current_time()
        _, ended, _ = await one_run(None, moment)
        return ended - started

    took = in_virtual_time(timed)
    assert took <= moment + 0.7


async def test_a_hanging_broker_delays_the_end_by_five_seconds(autojump_clock):
    broker = TroubledBroker()
    started = trio.Event()

    async def job():
        started.set()
        await trio.sleep_forever()

    async with trepid.open_connection(broker) as connection:
        await connection.declare("default")
        await connection.enqueue(trepid.Job("job"))
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(trepid.Worker(trepid.Actor(job)).run, connection)
                await started.wait()
                broker.trouble.hang |= {"settle", "extend", "lease", "asked"}
                before = trio.current_time()
                scope.cancel()
        assert trio.current_time() - before == ENDS_WITHIN
        broker.trouble.hang.clear()
        assert await states(connection) == {(await only(connection)).id: trepid.State.LEASED}


async def only(connection):
    [view] = [view async for view in connection.messages("default", trepid.State.LEASED)]
    return view


async def test_a_job_that_fails_because_of_the_cancellation_is_released(connection, autojump_clock):
    async def job():
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("cleaning up went wrong")

    handle = await connection.enqueue(trepid.Actor(job, retries=0).job())
    with trio.move_on_after(1):
        await trepid.Worker(trepid.Actor(job)).run(connection)
    view = await handle.status()
    assert (view.state, view.attempts, view.releases) == (trepid.State.READY, 0, 1)


async def test_a_job_that_fails_before_the_cancellation_has_failed(connection, autojump_clock):
    async def job():
        with trio.CancelScope(shield=True):
            await trio.sleep(1)
        raise ValueError("of my own")

    handle = await connection.enqueue(trepid.Actor(job).job())
    with trio.move_on_after(2):
        await trepid.Worker(trepid.Actor(job)).run(connection)
    assert (await handle.status()).state is trepid.State.DEAD


async def test_what_was_leased_in_the_moment_of_the_cancellation_never_starts(autojump_clock):
    broker = TroubledBroker()
    broker.trouble.late["lease"] = 3.0
    ran = []

    async def job():
        ran.append(1)  # a function that is called in a cancelled scope runs up to its first checkpoint
        await trio.lowlevel.checkpoint()

    async with trepid.open_connection(broker) as connection:
        await connection.declare("default")
        handle = await connection.enqueue(trepid.Job("job"))
        with trio.move_on_after(1):
            await trepid.Worker(trepid.Actor(job)).run(connection)
        assert trio.current_time() == 3.0
        view = await handle.status()
    assert not ran
    assert (view.state, view.releases) == (trepid.State.READY, 1)


async def test_jobs_see_that_the_worker_is_stopping(connection, autojump_clock):
    seen = []

    async def job(ctx: trepid.Context):
        seen.append(ctx.stopping)
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            seen.append(ctx.stopping)

    await connection.enqueue(trepid.Actor(job).job())
    with trio.move_on_after(1):
        await trepid.Worker(trepid.Actor(job)).run(connection)
    assert seen == [False, True]


async def test_cancelled_before_it_has_started(connection, autojump_clock):
    with trio.CancelScope() as scope:
        scope.cancel()
        async with trio.open_nursery() as nursery:  # noqa: ASYNC112 - `start` is the point
            await nursery.start(trepid.Worker().run, connection)
    await idle()
    assert scope.cancelled_caught
