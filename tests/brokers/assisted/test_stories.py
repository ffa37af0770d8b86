"""Programs and workers on two engines: they notice nothing of it."""

from contextlib import asynccontextmanager

import pytest
import trio

import trepid
from tests.brokers.assisted.limited import LimitedBroker
from tests.runtime.stage import idle, working
from trepid.brokers.assisted import AssistedBroker
from trepid.brokers.memory import MemoryBroker
from trepid.ports.messages import Publication, Settlement
from trepid.rules.verdicts import Done
from trepid.testing import Faults, FaultyBroker, reply_lost, request_lost, slow
from trepid.testing.conformance.cancellation import cancelled_at


async def sleeper(seconds: float, answer: str = "slept") -> str:
    await trio.sleep(seconds)
    return answer


SLEEPER = trepid.Actor(sleeper)


@asynccontextmanager
async def connected(main=None, second=None):
    async with trepid.open_connection(main or LimitedBroker(), results=second or MemoryBroker()) as connection:
        await connection.declare("default")
        yield connection


async def test_a_job_has_its_result(autojump_clock):
    async with connected() as connection, working(trepid.Worker(SLEEPER), connection):
        handle = await connection.enqueue(SLEEPER.job(5, "awake"))
        assert (await handle.status()).state in (trepid.State.READY, trepid.State.LEASED)
        assert await handle.result() == "awake"
        assert 5 <= trio.current_time() < 5.1
        view = await handle.status()
        assert (view.state, view.actor, view.attempts) == (trepid.State.DONE, "sleeper", 1)


async def test_a_result_is_seen_by_another_program(autojump_clock):
    main, second = LimitedBroker(), MemoryBroker()
    async with connected(main, second) as one, connected(main, second) as two:
        handle = await one.enqueue(SLEEPER.job(5))
        async with working(trepid.Worker(SLEEPER), two):
            assert await handle.result() == "slept"
            assert trio.current_time() < 5.5, "it looks four times a second"


async def test_a_running_job_is_cancelled_by_another_program(autojump_clock):
    main, second = LimitedBroker(), MemoryBroker()
    async with connected(main, second) as one, connected(main, second) as two:
        handle = await one.enqueue(SLEEPER.job(1000))
        async with working(trepid.Worker(SLEEPER), two) as running:
            await trio.sleep(10)
            assert await handle.cancel("enough") is trepid.CancelResult.REQUESTED
            with pytest.raises(trepid.JobCancelledError, match="enough"):
                await handle.result()
            assert trio.current_time() < 11
            await idle()  # the end is known before its worker has the answer
            assert running.statistics().report.cancelled == 1


async def test_a_waiting_job_is_cancelled(autojump_clock):
    async with connected() as connection:
        handle = await connection.enqueue(SLEEPER.job(1))
        assert await handle.cancel() is trepid.CancelResult.WITHDRAWN
        async with working(trepid.Worker(SLEEPER), connection) as running:
            await trio.sleep(10)
            assert running.statistics().report == trepid.Report()
        with pytest.raises(trepid.JobCancelledError):
            await handle.result()


async def test_retries_keep_the_last_error(autojump_clock):
    async def fail() -> None:
        raise ValueError("oh no")

    actor = trepid.Actor(fail, retries=2)
    async with connected() as connection, working(trepid.Worker(actor), connection) as running:
        handle = await connection.enqueue(actor.job())
        with pytest.raises(trepid.JobFailedError, match="ValueError: oh no"):
            await handle.result()
        await idle()
        report = running.statistics().report
        assert (report.retried, report.dead) == (2, 1)
        view = await handle.status()
        assert (view.state, view.attempts, view.error.attempt) == (trepid.State.DEAD, 3, 3)
        assert await connection.requeue("default", [handle.id]) == 1
        await trio.sleep(100)
        assert running.statistics().report.dead == 2, "a requeued message is alive again, and dies again"


async def test_one_live_job_per_key(autojump_clock):
    async with connected() as connection:
        unique = trepid.Unique("nightly")
        first = await connection.enqueue(SLEEPER.job(1).options(unique=unique))
        second = await connection.enqueue(SLEEPER.job(1).options(unique=unique))
        assert (second.id, second.existing) == (first.id, True)
        with pytest.raises(trepid.UniqueConflictError):
            await connection.enqueue(SLEEPER.job(1).options(unique=trepid.Unique("nightly", "raise")))
        async with working(trepid.Worker(SLEEPER), connection):
            await first.wait()
            assert not (await connection.enqueue(SLEEPER.job(1).options(unique=unique))).existing


async def test_a_job_that_outlives_its_lease_many_times(autojump_clock):
    async with connected() as connection, working(trepid.Worker(SLEEPER, lease=3), connection) as running:
        handle = await connection.enqueue(SLEEPER.job(500).options(unique=trepid.Unique("k")))
        await trio.sleep(400)
        assert (await connection.enqueue(SLEEPER.job(0).options(unique=trepid.Unique("k")))).id == handle.id
        assert await handle.result() == "slept"
        await idle()
        assert running.statistics().report == trepid.Report(succeeded=1)


@pytest.mark.parametrize("where", ["main", "second"])
async def test_an_outage_of_either_engine_loses_nothing(autojump_clock, where):
    faults = Faults()
    faulty = [FaultyBroker(LimitedBroker(), faults), MemoryBroker()]
    if where == "second":
        faulty = [LimitedBroker(), FaultyBroker(MemoryBroker(), faults)]
    async with connected(*faulty) as connection, working(trepid.Worker(SLEEPER, lease=10), connection) as running:
        handles = [await connection.enqueue(SLEEPER.job(number)) for number in range(30)]
        await trio.sleep(4.5)
        faults.away(6)
        assert not running.statistics().ready
        await trio.sleep(10)
        assert running.statistics().ready
        for handle in handles:
            assert await handle.result() == "slept"
        more = await connection.enqueue(SLEEPER.job(0))
        assert await more.result() == "slept"


@pytest.mark.parametrize("fault", [request_lost(), reply_lost()])
async def test_records_that_are_lost_now_and_then_do_no_harm(autojump_clock, fault):
    calls = 0

    def plan(operation):
        nonlocal calls
        calls += operation == "records"
        return fault if operation == "records" and calls % 7 == 3 else None

    ran = []

    async def note(number: int) -> int:
        ran.append(number)
        return number

    actor = trepid.Actor(note)
    second = FaultyBroker(MemoryBroker(), plan)
    async with connected(LimitedBroker(), second) as connection, working(trepid.Worker(actor), connection):
        handles = [await connection.enqueue(actor.job(number)) for number in range(40)]
        for number, handle in enumerate(handles):
            assert await handle.result() == number
    assert sorted(ran) == list(range(40)), "each ran once"


@pytest.mark.parametrize("operation", ["publish", "lease", "settle", "cancel"])
async def test_cancelled_at_any_moment_operations_can_be_repeated(autojump_clock, operation):
    item = Publication("q", "m", ("p", 1), b"{}", unique=trepid.Unique("k"))
    for moment in range(80):
        async with AssistedBroker(LimitedBroker(), MemoryBroker()).open() as session:
            await session.declare(["q"])
            if operation != "publish":
                await session.publish([item])
            deliveries = await session.lease(["q"], 1, 30, owner="o") if operation == "settle" else []
            done = [Settlement(each.ref, Done(b"1", 60)) for each in deliveries]
            calls = {
                "publish": lambda: session.publish([item]),
                "lease": lambda: session.lease(["q"], 1, 30, owner="o"),
                "settle": lambda: session.settle(done),  # noqa: B023
                "cancel": lambda: session.cancel("q", ["m"], "no"),
            }
            cancelled, reached = await cancelled_at(moment, calls[operation])
            if cancelled and operation == "lease":
                assert await session.held("o") == [], "what was granted was given back"
            if cancelled:
                await calls[operation]()
            if operation == "publish":
                assert [each.id for each in await session.lease(["q"], 5, 30, owner="o")] == ["m"]
            if operation in ("publish", "lease"):
                [ref] = await session.held("o") if operation == "publish" else [(await session.held("o"))[0]]
                [reply] = await session.settle([Settlement(ref, Done(b"1", 60))])
                assert reply == "applied"
            ending = await session.result("q", "m")
            assert ending.state is (trepid.State.CANCELLED if operation == "cancel" else trepid.State.DONE)
            assert await session.lease(["q"], 5, 30, owner="o") == []
        if not reached:
            break
    else:
        pytest.fail("it never comes to its end")
    assert moment > 3


async def test_messages_published_past_the_second_engine_are_run(autojump_clock):
    main = LimitedBroker()
    async with trepid.open_connection(main) as alone:
        await alone.declare("default")
        await alone.enqueue(SLEEPER.job(1).options(id="past"))
    async with connected(main) as connection, working(trepid.Worker(SLEEPER), connection) as running:
        await trio.sleep(5)
        assert running.statistics().report.succeeded == 1
        with pytest.raises(trepid.JobGoneError):
            await connection.handle("past").result()


async def test_an_extension_counts_from_before_a_slow_second_engine_was_asked(autojump_clock):
    second = FaultyBroker(MemoryBroker(), lambda operation: slow(2) if operation == "records" else None)
    async with AssistedBroker(LimitedBroker(), second).open() as session:
        await session.declare(["q"])
        await session.publish([Publication("q", "m", ("p", 1), b"{}")])
        [delivery] = await session.lease(["q"], 1, 60, owner="o")
        asked = trio.current_time()
        [extension] = await session.extend([delivery.ref], 600)
        assert asked + 60 < extension.deadline <= asked + 600


async def test_an_idle_worker_does_not_poll(autojump_clock):
    asked = []
    second = FaultyBroker(MemoryBroker(), asked.append)
    async with connected(LimitedBroker(), second) as connection, working(trepid.Worker(SLEEPER), connection):
        await idle()
        asked.clear()
        await trio.sleep(24 * 3600)
    assert len(asked) < 100


async def test_a_second_engine_that_cannot_help_is_refused(autojump_clock):
    with pytest.raises(trepid.UnsupportedError, match="limited does not support keeping results"):
        async with trepid.open_connection(LimitedBroker(), results=LimitedBroker()):
            pytest.fail("it opened")


async def test_the_bodys_exception_stays_bare(autojump_clock):
    with pytest.raises(ZeroDivisionError):
        async with connected():
            raise ZeroDivisionError


async def test_what_the_second_engine_keeps_is_gone_in_time(autojump_clock):
    second = MemoryBroker()
    async with connected(LimitedBroker(), second) as connection:
        async with working(trepid.Worker(SLEEPER), connection):
            for number in range(20):
                job = SLEEPER.job(0).options(unique=trepid.Unique(f"k{number}"), result_ttl=10)
                await (await connection.enqueue(job)).wait()
        assert len(second.records) == 20
        await trio.sleep(700)
        await connection.queues()
        await connection.session._second.records.carry_out([])
        assert len(second.records) == 0


async def test_the_ends_of_many_are_looked_for_many_at_a_time(autojump_clock):
    asked = []
    second = FaultyBroker(MemoryBroker(), asked.append)
    async with connected(LimitedBroker(), second) as connection:
        async with working(trepid.Worker(SLEEPER), connection), trepid.open_job_nursery(connection) as jobs:
            handles = [jobs.start_soon(SLEEPER.job(10 + n % 5)) for n in range(200)]
            await idle()
            asked.clear()
        assert trio.current_time() < 14.5
        assert jobs.statistics().done == 200
        assert asked.count("records") < 1000
        assert [await handle.result() for handle in handles] == ["slept"] * 200
