"""The desk: what a user's test holds."""

import signal
import time
from datetime import UTC, timedelta
from math import inf

import pytest
import trio

import trepid
from trepid.testing import InjectedError, inline, open_test_connection, reply_lost, request_lost

RETRY = trepid.ExponentialBackoff(min_backoff=1, max_backoff=60, multiplier=1)


async def greet(name: str, *, mark: str = "!") -> str:
    await trio.sleep(2)
    return f"Hello, {name}{mark}"


GREET = trepid.Actor(greet, retries=5, retry_policy=RETRY)


def doubled(n: int) -> int:
    return 2 * n


async def test_a_job_runs_to_its_end_and_says_how(autojump_clock):
    async with open_test_connection(GREET) as desk:
        ran = await desk.run(GREET.job("Trio"))
        assert ran.result == "Hello, Trio!"
        assert ran.result == "Hello, Trio!"  # as often as one likes
        assert ran.outcomes == ("succeeded",)
        assert ran.elapsed == 2
        assert ran.exception is None
        assert desk.recorder.succeeded(GREET) == (ran.id,)


async def test_nothing_runs_unasked(autojump_clock):
    async with open_test_connection(GREET) as desk:
        handle = await desk.enqueue(GREET.job("Trio"))
        await trio.sleep(3600)
        assert (await handle.status()).state is trepid.State.READY


async def test_the_desk_is_a_connection_for_the_code_under_test(autojump_clock):
    async def sign_up(connection: trepid.Connection, name: str) -> None:
        await connection.enqueue(GREET.job(name))

    async with open_test_connection(GREET) as desk:
        await sign_up(desk, "Ann")
        await sign_up(desk, "Bob")
        assert isinstance(desk, trepid.Connection)
        assert (await desk.stats()).ready == 2
        report = await desk.run_until_idle()
        assert (report.succeeded, report.processed) == (2, 2)


async def test_failures_can_be_injected(autojump_clock):
    async with open_test_connection(GREET) as desk:
        desk.fail_next(GREET, times=2, error=OSError("smtp"))
        ran = await desk.run(GREET.job("Trio"))
        assert ran.outcomes == ("retried", "retried", "succeeded")
        assert ran.errors == ("OSError: smtp", "OSError: smtp")
        assert ran.delays == (2, 4)
        assert ran.elapsed == 8
        assert ran.result == "Hello, Trio!"


async def test_a_failed_job_raises_only_when_its_result_is_asked_for(autojump_clock):
    async with open_test_connection(GREET.options(retries=0)) as desk:
        desk.fail_next("greet")
        ran = await desk.run(GREET.job("Trio").options(retries=0))
        assert ran.outcomes == ("dead",)
        assert "injected by a test" in ran.errors[0]
        with pytest.raises(trepid.JobFailedError, match="InjectedError"):
            _ = ran.result
        assert isinstance(ran.exception, trepid.JobFailedError)


async def test_verbs_and_makers_of_errors_can_be_injected_in_order(autojump_clock):
    async with open_test_connection(GREET) as desk:
        desk.fail_next(GREET, error=trepid.Snooze(100))
        desk.fail_next(GREET, error=InjectedError)
        ran = await desk.run(GREET.job("Trio"))
        assert ran.outcomes == ("released", "retried", "succeeded")
        assert ran.delays == (100, 2)
        assert ran.elapsed == 104


async def test_an_injected_failure_passes_the_middleware(autojump_clock):
    seen = []

    async def watch(ctx, call):
        try:
            return await call()
        except InjectedError as exc:
            seen.append((ctx.attempt, str(exc)))
            raise

    worker = trepid.Worker(trepid.Router(GREET).wrapped(watch), middleware=[watch])
    async with open_test_connection(worker) as desk:
        desk.fail_next(GREET)
        await desk.run(GREET.job("Trio"))
    assert seen == [(1, "injected by a test")] * 2


@pytest.mark.parametrize("times", [0, -1, 0.5])
async def test_nothing_happens_less_than_once(autojump_clock, times):
    async with open_test_connection(GREET) as desk:
        with pytest.raises(ValueError, match="times"):
            desk.fail_next(GREET, times)
        with pytest.raises(trepid.UnknownActorError):
            desk.crash_next("nobody")


async def test_a_crash_lets_the_lease_expire(autojump_clock):
    async with open_test_connection(trepid.Worker(GREET, lease=10)) as desk:
        desk.crash_next(GREET)
        ran = await desk.run(GREET.job("Trio"))
        assert ran.outcomes == (None, "succeeded")  # the dead tell no tales
        # The lease of 10 s runs out; a second later the message comes back; the job takes 2 s.
        assert ran.elapsed == pytest.approx(13, abs=1e-3)
        view = await desk.handle(ran.id).status()
        assert (view.crashes, view.attempts, view.errors) == (1, 1, ())


async def test_a_job_over_which_workers_keep_dying_is_poison(autojump_clock):
    actor = GREET.options(max_crashes=3)
    async with open_test_connection(actor) as desk:
        desk.crash_next(actor, inf)
        ran = await desk.run(actor.job("Trio"))
        view = await desk.handle(ran.id).status()
        assert (view.state, view.reason, view.crashes) == (trepid.State.DEAD, "poison", 3)
        assert ran.outcomes == (None, None, None)


async def test_what_else_the_worker_ran_comes_back_after_a_crash(autojump_clock):
    async def slow() -> str:
        await trio.sleep(60)
        return "slow"

    quick, other = trepid.Actor(doubled), trepid.Actor(slow)
    async with open_test_connection(quick, other) as desk:
        handle = await desk.enqueue(other.job())
        desk.crash_next(quick)
        await desk.enqueue(
            quick.job(1),
        )
        await desk.run_until_idle(scheduled_within=inf)
        assert await handle.result() == "slow"
        assert (await handle.status()).crashes == 1


# ------------------------------------------------------------------------------------------------- until idle


async def test_until_idle_leaves_what_is_scheduled(autojump_clock):
    async with open_test_connection(GREET) as desk:
        late = await desk.enqueue(GREET.job("late").options(delay=timedelta(hours=1)))
        soon = await desk.enqueue(GREET.job("soon"))
        start = trio.current_time()
        report = await desk.run_until_idle()
        assert (report.succeeded, trio.current_time() - start) == (1, 2)
        assert (await soon.status()).state is trepid.State.DONE
        assert (await late.status()).state is trepid.State.SCHEDULED


async def test_until_idle_waits_for_what_is_scheduled_soon_enough(autojump_clock):
    async with open_test_connection(GREET) as desk:
        for hours in (1, 2, 3):
            await desk.enqueue(GREET.job("late").options(delay=timedelta(hours=hours), id=str(hours)))
        report = await desk.run_until_idle(scheduled_within=timedelta(hours=2))
        assert report.succeeded == 2
        assert trio.current_time() == pytest.approx(7202, abs=1e-3)
        report = await desk.run_until_idle(scheduled_within=inf)
        assert report.succeeded == 1


async def test_until_idle_takes_no_time_where_there_is_nothing_to_do(autojump_clock):
    async with open_test_connection(GREET) as desk:
        assert await desk.run_until_idle(scheduled_within=inf) == trepid.Report()
        assert trio.current_time() == 0


async def test_until_idle_leaves_paused_queues(autojump_clock):
    async with open_test_connection(GREET) as desk:
        await desk.enqueue(GREET.job("Trio"))
        await desk.enqueue(GREET.job("Trio").options(delay=1))
        await desk.pause("default")
        assert await desk.run_until_idle(scheduled_within=inf) == trepid.Report()
        await desk.resume("default")
        assert (await desk.run_until_idle(scheduled_within=inf)).succeeded == 2


async def test_until_idle_runs_what_jobs_enqueue(autojump_clock):
    async def parent(ctx: trepid.Context, depth: int) -> None:
        if depth:
            await ctx.connection.enqueue(actor.job(depth - 1))

    actor = trepid.Actor(parent)
    async with open_test_connection(actor) as desk:
        await desk.enqueue(actor.job(4))
        assert (await desk.run_until_idle()).succeeded == 5


async def test_a_job_that_keeps_nothing_of_itself_has_a_history(autojump_clock):
    async with open_test_connection(GREET) as desk:
        ran = await desk.run(GREET.job("Trio").options(result_ttl=0))
        assert ran.outcome == "succeeded"
        assert isinstance(ran.exception, trepid.JobGoneError)


async def test_a_job_that_would_never_run_is_refused(autojump_clock):
    async with open_test_connection(GREET) as desk:
        with pytest.raises(ValueError, match="looks at default"):
            await desk.run(GREET.job("Trio").options(queue="elsewhere"))
        await desk.pause("default")
        with pytest.raises(ValueError, match="paused"):
            await desk.run(GREET.job("Trio"))
        assert (await desk.stats()).live == 0


async def test_limits_and_signals_of_the_worker_are_left_out(autojump_clock):
    before = signal.getsignal(signal.SIGTERM)
    worker = trepid.Worker(GREET, messages_limit=1, handle_signals=[signal.SIGTERM], queues=["default", "more"])
    async with open_test_connection(worker) as desk:
        await desk.enqueue_many([GREET.job("a"), GREET.job("b").options(queue="more")])
        assert (await desk.run_until_idle()).succeeded == 2
        assert signal.getsignal(signal.SIGTERM) is before


async def test_resources_and_observers_of_the_worker_are_kept(autojump_clock):
    from contextlib import asynccontextmanager

    log = []

    @asynccontextmanager
    async def resources():
        log.append("opened")
        yield "pool"
        log.append("closed")

    async def use(ctx: trepid.Context[str]) -> str:
        return ctx.resources

    actor = trepid.Actor(use)
    worker = trepid.Worker(actor, resources=resources, observers=[lambda event: log.append(type(event).__name__)])
    async with open_test_connection(worker) as desk:
        assert (await desk.run(actor.job())).result == "pool"
    assert log == ["opened", "WorkerStarted", "JobStarted", "JobEnded", "WorkerStopping", "closed", "WorkerStopped"]


async def test_two_jobs_at_once(autojump_clock):
    ran = {}
    async with open_test_connection(GREET) as desk:

        async def run(name):
            ran[name] = await desk.run(GREET.job(name))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, "a")
            nursery.start_soon(run, "b")
    assert {name: each.result for name, each in ran.items()} == {"a": "Hello, a!", "b": "Hello, b!"}
    assert all(each.outcomes == ("succeeded",) for each in ran.values())


async def test_a_base_exception_ends_the_worker_and_comes_out(autojump_clock):
    async def leave() -> None:
        raise SystemExit(3)

    actor = trepid.Actor(leave)
    async with open_test_connection(actor) as desk:
        with pytest.raises(BaseExceptionGroup) as caught:
            await desk.run(actor.job())
        assert caught.value.subgroup(SystemExit) is not None


async def test_the_exception_of_the_body_stays_bare(autojump_clock):
    with pytest.raises(KeyError):
        async with open_test_connection(GREET) as desk:
            await desk.run(GREET.job("Trio"))
            raise KeyError


# ---------------------------------------------------------------------------------------------------- outages


async def test_the_broker_can_fail_the_code_under_test(autojump_clock):
    async with open_test_connection(GREET) as desk:
        desk.faults.next("publish", request_lost())
        with pytest.raises(trepid.BrokerLostError):
            await desk.enqueue(GREET.job("Trio"))
        assert (await desk.stats()).live == 0
        desk.faults.next("publish", reply_lost())
        with pytest.raises(trepid.BrokerLostError):
            await desk.enqueue(GREET.job("Trio"))
        assert (await desk.stats()).live == 1


async def test_a_worker_outlasts_an_outage(autojump_clock):
    async with open_test_connection(GREET) as desk:
        desk.faults.next(("settle", "extend"), request_lost(), times=3)
        ran = await desk.run(GREET.job("Trio"))
        assert ran.outcomes == ("succeeded",)
        handle = await desk.enqueue(GREET.job("Trio"))
        with desk.faults.outage():
            with trio.move_on_after(100):
                await desk.run_until_idle()
        assert (await handle.status()).state is trepid.State.READY
        assert (await desk.run_until_idle()).succeeded == 1


# ------------------------------------------------------------------------------------------------ sync actors


async def test_sync_actors_are_called_in_the_trio_thread(autojump_clock):
    import threading

    def where(ctx: trepid.Context, n: int) -> list[int]:
        trio.from_thread.check_cancelled()
        with pytest.raises(RuntimeError, match="no Trio nursery"):
            _ = ctx.nursery
        assert ctx.job.name == "where"
        assert ctx.connection is not None
        assert ctx.resources is None
        assert not ctx.stopping
        return [ctx.attempt, n, int(threading.current_thread() is threading.main_thread())]

    thread = trepid.Actor(where)
    process = trepid.Actor(doubled, run_in="process")
    async with open_test_connection(thread, process) as desk:
        assert (await desk.run(thread.job(5))).result == [1, 5, 1]
        assert (await desk.run(process.job(21))).result == 42
        assert trio.current_time() == 0
        with pytest.raises(RuntimeError):
            trio.from_thread.check_cancelled()


async def test_a_sync_actor_in_line_cannot_be_interrupted(autojump_clock):
    def jump() -> str:
        autojump_clock.jump(20)
        return "late"

    actor = trepid.Actor(jump, timeout=10)
    async with open_test_connection(trepid.Worker(actor, lease=100)) as desk:
        ran = await desk.run(actor.job())
        assert ran.result == "late"


async def test_any_worker_can_be_taken_in_line(autojump_clock):
    async def around(ctx, call):
        return [await call()]

    actor = trepid.Actor(doubled)
    worker = inline(trepid.Worker(trepid.Router(actor).wrapped(around)))
    async with open_test_connection() as desk, trio.open_nursery() as nursery:
        await desk.declare("default")
        running = await nursery.start(worker.run, desk)
        handle = await desk.enqueue(actor.job(4))
        assert await desk.handle(handle.id).result() == [8]
        running.stop()
    assert inline(trepid.Router(actor))["doubled"].fn is not doubled
    assert inline(trepid.Router(GREET))["greet"] is GREET


async def test_asyncio_actors_need_their_loop(autojump_clock, monkeypatch):
    actor = trepid.Actor(greet, run_in="asyncio")
    monkeypatch.setattr("trepid.testing.inlining.find_spec", lambda name: None)
    with pytest.raises(trepid.UnsupportedError, match="run_in='asyncio'"):
        async with open_test_connection(actor):
            pass


async def test_in_real_time_a_desk_works_as_well():
    started = time.monotonic()
    actor = trepid.Actor(doubled)
    async with open_test_connection(actor) as desk:
        assert (await desk.run(actor.job(2))).result == 4
    assert time.monotonic() - started < 5


async def test_a_test_may_choose_its_date(autojump_clock):
    from datetime import datetime

    new_year = datetime(2030, 1, 1, tzinfo=UTC)
    broker = trepid.MemoryBroker(wall_clock=lambda: new_year.timestamp() - 60)
    async with open_test_connection(GREET, broker=broker) as desk:
        ran = await desk.run(GREET.job("2030").options(deferred_until=new_year))
        assert (ran.started, ran.result) == (60, "Hello, 2030!")


async def test_nothing_starts_in_a_dead_worker(autojump_clock):
    starts = []

    async def note(n: int) -> None:
        starts.append((trio.current_time(), n))

    actor = trepid.Actor(note)
    async with open_test_connection(trepid.Worker(actor, lease=10)) as desk:
        for n in range(20):
            await desk.enqueue(actor.job(n))
        desk.crash_next(actor)
        assert (await desk.run_until_idle(scheduled_within=inf)).succeeded == 20
        assert sorted(n for _, n in starts) == list(range(20))
        assert {at for at, _ in starts} <= {0, 11}
