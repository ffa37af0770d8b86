"""Sync functions in threads: bounded, told of cancellations, never left behind.  Real time, in small doses."""

import threading
from functools import partial

import pytest
import trio

import trepid
from tests.runtime.stage import states, working
from trepid.runtime import calls

PATIENCE = 10.0
"""No wait for a thread takes longer; it is a limit, not a pause."""


@pytest.fixture
def limiters(monkeypatch):
    """The limiters of the worker runs of this test, to see that no place leaks."""
    made, real = [], trio.CapacityLimiter

    def make(limit):
        made.append(real(limit))
        return made[-1]

    monkeypatch.setattr(trio, "CapacityLimiter", make)
    return made


async def until(condition):
    """Wait for something that a thread does."""
    with trio.fail_after(PATIENCE):  # noqa: ASYNC912 - it may be so already
        while True:
            if condition():
                return
            await trio.sleep(0.005)


class Gate:
    """A function that blocks its thread until it is let go, or finds itself cancelled."""

    def __init__(self, *, polite=False):
        self.open, self.polite = threading.Event(), polite
        self.inside = self.most = self.cancelled = self.ended = 0
        self.lock = threading.Lock()

    def __call__(self) -> str:
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        try:
            while not self.open.wait(0.005):
                if self.polite:
                    trio.from_thread.check_cancelled()
            return "through"
        except trio.Cancelled:
            self.cancelled += 1
            raise
        finally:
            with self.lock:
                self.inside -= 1
                self.ended += 1

    def actor(self, **settings):
        return trepid.Actor(self, name="gate", **settings)


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.open.set()


@pytest.fixture
def polite():
    gate = Gate(polite=True)
    yield gate
    gate.open.set()


async def test_a_function_runs_in_a_thread_of_its_own(connection, limiters):
    def job(n: int) -> str:
        return f"{n} in {threading.current_thread().name}"

    actor = trepid.Actor(job)
    handle = await connection.enqueue(actor.job(3))
    await trepid.Worker(actor, messages_limit=1).run(connection)
    result = await handle.result()
    assert result.startswith("3 in ")
    assert "MainThread" not in result
    assert "job" in result
    assert limiters[0].borrowed_tokens == 0


async def test_no_more_threads_than_the_limit_and_none_of_the_applications(connection, gate, limiters):
    actor = gate.actor()
    await connection.enqueue_many([actor.job()] * 8)
    application = trio.to_thread.current_default_thread_limiter()
    async with working(trepid.Worker(actor, threads_limit=3, messages_limit=8), connection, stop=False) as running:
        await until(lambda: gate.inside == 3)
        assert application.borrowed_tokens == 0
        assert len(running.statistics().running) == 3, "who waits for a thread is not running"
        gate.open.set()
        report = await running.wait_stopped()
    assert (gate.most, report.succeeded, limiters[0].borrowed_tokens) == (3, 8, 0)


async def test_a_message_that_finds_no_thread_is_released_uncounted(connection, gate, limiters, monkeypatch):
    monkeypatch.setattr(calls, "NO_ROOM", 0.05)
    actor = gate.actor()
    first = await connection.enqueue(actor.job())
    worker = trepid.Worker(actor, threads_limit=1, graceful_shutdown_time=0)
    async with working(worker, connection) as running:
        await until(lambda: gate.inside == 1)
        second = await connection.enqueue(actor.job().options(ttl=3600))
        await until(lambda: running.statistics().report.released >= 2)
        view = await second.status()
        assert (view.attempts, view.crashes) == (0, 0)
        assert view.releases >= 2
        gate.open.set()
        await second.wait()
    assert (await first.status()).attempts == (await second.status()).attempts == 1
    assert limiters[0].borrowed_tokens == 0


async def test_the_timeout_starts_when_the_function_starts(connection, gate):
    actor = gate.actor(timeout=0.1)
    await connection.enqueue_many([actor.job()] * 2)

    def open_late():
        gate.open.wait(0.25)
        gate.open.set()

    async with working(trepid.Worker(actor, threads_limit=1, messages_limit=2), connection, stop=False) as running:
        await trio.to_thread.run_sync(open_late)
        report = await running.wait_stopped()
    assert report.succeeded == 2, "the second had waited for longer than its timeout"


@pytest.mark.parametrize("how", ["timeout", "cancel", "shutdown", "hard"])
async def test_a_thread_that_asks_learns_of_its_cancellation(connection, polite, limiters, how):
    actor = polite.actor(timeout=0.1 if how == "timeout" else 60)
    handle = await connection.enqueue(actor.job())
    scope = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        with scope:
            async with working(trepid.Worker(actor), connection, stop=False) as running:
                await until(lambda: polite.inside == 1)
                if how == "cancel":
                    await handle.cancel("enough")
                elif how == "shutdown":
                    running.stop(grace=0)
                elif how == "hard":
                    scope.cancel()
                with trio.fail_after(PATIENCE):
                    await until(lambda: polite.ended == 1)
                    await until(lambda: not running.statistics().running)
                running.stop()
        nursery.cancel_scope.cancel()
    assert polite.cancelled == 1
    state = {
        "timeout": trepid.State.DEAD,
        "cancel": trepid.State.CANCELLED,
        "shutdown": trepid.State.READY,
        "hard": trepid.State.READY,
    }
    view = await handle.status()
    assert view.state is state[how]
    assert view.attempts == (how == "timeout")
    assert limiters[0].borrowed_tokens == 0


async def test_a_deaf_thread_is_waited_for_and_keeps_its_slot_and_its_lease(connection, gate, limiters):
    actor = gate.actor(timeout=0.05)
    handle = await connection.enqueue(actor.job())
    async with working(trepid.Worker(actor, tasks_limit=1, lease=1, messages_limit=1), connection) as running:
        await until(lambda: gate.inside == 1)
        await trio.sleep(1.3)
        assert running.statistics().free == 0
        assert limiters[0].borrowed_tokens == 1
        assert (await handle.status()).state is trepid.State.LEASED
        gate.open.set()
        await running.wait_stopped()
    # It returned a value, so it is done, however late.
    assert await handle.result() == "through"
    assert (await handle.status()).crashes == 0


async def test_the_end_of_the_worker_waits_for_its_threads(connection, gate):
    actor = gate.actor()
    handle = await connection.enqueue(actor.job())
    opener = partial(gate.open.wait, 0.2)
    async with working(trepid.Worker(actor), connection) as running:
        await until(lambda: gate.inside == 1)
        running.stop(grace=0)
        await trio.to_thread.run_sync(opener)
        assert (await handle.status()).owner is not None
        gate.open.set()
    assert gate.ended == 1
    assert (await handle.status()).state is trepid.State.DONE


async def test_an_abandoned_thread_frees_the_slot_at_once_and_its_place_when_it_ends(connection, gate, limiters):
    actor = gate.actor(timeout=0.05, abandon_on_cancel=True)
    handle = await connection.enqueue(actor.job())
    async with working(trepid.Worker(actor, threads_limit=2), connection) as running:
        await handle.wait()
        view = await handle.status()
        assert (view.state, view.error.type) == (trepid.State.DEAD, "TimeoutError")
        assert running.statistics().free == 1000
        assert gate.inside == 1
        assert limiters[0].borrowed_tokens == 1, "the thread is still there, so it still counts"
        gate.open.set()
        await until(lambda: limiters[0].borrowed_tokens == 0)


async def test_an_abandoned_thread_does_not_delay_the_end(connection, gate):
    actor = gate.actor(abandon_on_cancel=True)
    await connection.enqueue(actor.job())
    async with working(trepid.Worker(actor), connection) as running:
        await until(lambda: gate.inside == 1)
        running.stop(grace=0)
        with trio.fail_after(PATIENCE):
            await running.wait_stopped()
    assert gate.inside == 1


async def test_a_message_that_waits_for_a_thread_does_not_start_after_a_stop(connection, gate, limiters):
    actor = gate.actor()
    first, second = await connection.enqueue_many([actor.job()] * 2)
    async with working(trepid.Worker(actor, threads_limit=1), connection) as running:
        await until(lambda: gate.inside == 1 and limiters[0].statistics().tasks_waiting == 1)
        running.stop()
        gate.open.set()
        report = await running.wait_stopped()
    assert (gate.ended, report.succeeded, report.released) == (1, 1, 1)
    assert sorted((await states(connection)).values()) == [trepid.State.DONE, trepid.State.READY]
    assert first.id != second.id
    assert limiters[0].borrowed_tokens == 0


async def test_a_message_that_is_cancelled_while_it_waits_for_a_thread_never_starts(connection, gate, limiters):
    actor = gate.actor()
    await connection.enqueue(actor.job())
    async with working(trepid.Worker(actor, threads_limit=1), connection):
        await until(lambda: gate.inside == 1)
        second = await connection.enqueue(actor.job())
        await until(lambda: limiters[0].statistics().tasks_waiting == 1)
        assert await second.cancel() is trepid.CancelResult.REQUESTED
        gate.open.set()
        await second.wait()
        assert (await second.status()).state is trepid.State.CANCELLED
    assert gate.ended == 1
    assert limiters[0].borrowed_tokens == 0


async def test_hard_cancellation_while_messages_wait_for_threads(connection, gate, limiters):
    actor = gate.actor(abandon_on_cancel=True)
    await connection.enqueue_many([actor.job()] * 5)
    with trio.CancelScope() as scope:
        async with working(trepid.Worker(actor, threads_limit=2), connection, stop=False):
            await until(lambda: gate.inside == 2 and limiters[0].statistics().tasks_waiting == 3)
            scope.cancel()
    assert set((await states(connection)).values()) == {trepid.State.READY}
    assert limiters[0].borrowed_tokens == 2
    assert limiters[0].statistics().tasks_waiting == 0
    gate.open.set()
    await until(lambda: limiters[0].borrowed_tokens == 0)


async def test_middleware_may_call_a_thread_twice(connection, limiters):
    tries = []

    async def again(ctx, call):
        try:
            return await call()
        except ValueError:
            return await call()

    def job() -> int:
        tries.append(1)
        if len(tries) == 1:
            raise ValueError
        return len(tries)

    actor = trepid.Actor(job)
    handle = await connection.enqueue(actor.job())
    await trepid.Worker(actor, middleware=[again], messages_limit=1).run(connection)
    assert await handle.result() == 2
    assert limiters[0].borrowed_tokens == 0


async def test_middleware_may_leave_a_thread_out(connection, limiters):
    async def without(ctx, call):
        await trio.lowlevel.checkpoint()
        return "without"

    def job() -> str:
        raise AssertionError

    actor = trepid.Actor(job)
    handle = await connection.enqueue(actor.job())
    await trepid.Worker(actor, middleware=[without], messages_limit=1).run(connection)
    assert await handle.result() == "without"
    assert limiters[0].borrowed_tokens == 0


async def test_a_failing_thread_gives_its_place_back(connection, limiters):
    def job():
        raise OSError("disk")

    actor = trepid.Actor(job)
    await connection.enqueue_many([actor.job()] * 5)
    report = await trepid.Worker(actor, threads_limit=1, messages_limit=5).run(connection)
    assert report.dead == 5
    assert limiters[0].borrowed_tokens == 0


async def test_an_async_result_of_a_sync_function_is_a_failure_that_explains(connection):
    async def inner():
        await trio.lowlevel.checkpoint()

    def job():
        return inner()

    actor = trepid.Actor(job)
    handle = await connection.enqueue(actor.job())
    await trepid.Worker(actor, messages_limit=1).run(connection)
    view = await handle.status()
    assert view.error.type == "TypeError"
    assert "asynchronous" in view.error.message


async def test_many_short_functions(connection, limiters):
    def job(n: int) -> int:
        return n * n

    actor = trepid.Actor(job)
    handles = await connection.enqueue_many([actor.job(n) for n in range(100)])
    await trepid.Worker(actor, threads_limit=4, messages_limit=100).run(connection)
    assert [await handle.result() for handle in handles] == [n * n for n in range(100)]
    assert limiters[0].borrowed_tokens == 0
