"""Stopping: intake ends, what has not started goes back at once, what runs gets its time."""

import pytest
import trio
import trio.testing

import trepid
from tests.runtime.stage import TroubledBroker, idle, states, working
from trepid.ports.messages import Settlement
from trepid.rules.verdicts import Returned


async def sleeper(seconds: float) -> None:
    await trio.sleep(seconds)


SLEEPER = trepid.Actor(sleeper)


async def test_what_runs_may_end_and_nothing_new_begins(connection, autojump_clock):
    first = await connection.enqueue(SLEEPER.job(10))
    async with working(trepid.Worker(SLEEPER), connection) as running:
        await trio.sleep(1)
        running.stop()
        second = await connection.enqueue(SLEEPER.job(1))
        report = await running.wait_stopped()
        assert trio.current_time() == 10
    assert report == trepid.Report(succeeded=1)
    assert await states(connection) == {first.id: trepid.State.DONE, second.id: trepid.State.READY}


async def test_what_outlasts_the_grace_is_released_uncounted(connection, autojump_clock):
    long = await connection.enqueue(SLEEPER.job(100))
    short = await connection.enqueue(SLEEPER.job(24))
    async with working(trepid.Worker(SLEEPER), connection) as running:
        await idle()
        running.stop()
        report = await running.wait_stopped()
        assert trio.current_time() == 25
    assert (report.succeeded, report.released, report.processed) == (1, 1, 1)
    view = await long.status()
    assert (view.state, view.attempts, view.releases, view.error) == (trepid.State.READY, 0, 1, None)
    assert (await short.status()).state is trepid.State.DONE


@pytest.mark.parametrize(
    ("graces", "ends"),
    [((None,), 25), ((0,), 1), ((10, None), 11), ((None, 3), 4), ((3, 10, 20), 4), ((7, 7, 7), 8), ((5, 0), 1)],
)
async def test_the_shortest_grace_wins(connection, autojump_clock, graces, ends):
    await connection.enqueue(SLEEPER.job(100))
    async with working(trepid.Worker(SLEEPER), connection) as running:
        await trio.sleep(1)
        with trio.testing.assert_no_checkpoints():
            for grace in graces:
                running.stop() if grace is None else running.stop(grace=grace)
        await running.wait_stopped()
    assert trio.current_time() == (ends if graces != (None,) else 26)


async def test_a_later_stop_can_only_hurry(connection, autojump_clock):
    await connection.enqueue(SLEEPER.job(100))
    async with working(trepid.Worker(SLEEPER), connection) as running:
        await idle()
        running.stop(grace=20)
        await trio.sleep(2)
        running.stop(grace=5)
        await trio.sleep(1)
        running.stop(grace=50)
        await running.wait_stopped()
    assert trio.current_time() == 7


async def test_stopping_an_idle_worker_ends_it_at_once(connection, autojump_clock):
    async with working(trepid.Worker(SLEEPER), connection) as running:
        await trio.sleep(100)
        running.stop()
        assert await running.wait_stopped() == trepid.Report()
        assert trio.current_time() == 100
        running.stop()
        running.stop(grace=0)
        assert running.statistics().stopping


async def test_the_last_verdict_is_sent_whatever_the_order_of_tasks(autojump_clock):
    # The job's task, the settler and the worker itself wake in the same step, in a random order.
    for _ in range(200):
        async with trepid.open_connection("memory:") as connection:
            await connection.declare("default")
            handle = await connection.enqueue(SLEEPER.job(1))
            async with working(trepid.Worker(SLEEPER), connection) as running:
                await idle()
                running.stop()
            assert (await handle.status()).state is trepid.State.DONE
            assert (await running.wait_stopped()).succeeded == 1


async def test_stop_in_the_moment_of_a_lease_releases_it_unstarted(autojump_clock):
    broker = TroubledBroker()
    async with trepid.open_connection(broker) as connection:
        await connection.declare("default")
        broker.trouble.late["lease"] = 2.0
        handle = await connection.enqueue(SLEEPER.job(1))
        async with working(trepid.Worker(SLEEPER), connection) as running:
            await trio.sleep(1)
            running.stop()
            report = await running.wait_stopped()
            assert trio.current_time() == 2.0
        assert (report.released, report.processed) == (1, 0)
        view = await handle.status()
        assert (view.state, view.attempts, view.releases) == (trepid.State.READY, 0, 1)


@pytest.mark.parametrize("job", [SLEEPER.job(1), trepid.Job("nobody_knows_it")], ids=["known", "unknown"])
async def test_an_unstarted_message_keeps_its_ttl_and_its_place(autojump_clock, job):
    broker = TroubledBroker()
    async with trepid.open_connection(broker) as connection:
        await connection.declare("default")
        first = await connection.enqueue(job.options(ttl=10))
        broker.trouble.late["lease"] = 2.0
        async with working(trepid.Worker(SLEEPER), connection) as running:
            await trio.sleep(1)
            running.stop()
        second = await connection.enqueue(SLEEPER.job(1))
        broker.trouble.late.clear()
        ready = await connection.session.lease(["default"], 2, 30, owner="another")
        assert [delivery.id for delivery in ready] == [first.id, second.id]
        await connection.session.settle([Settlement(each.ref, Returned(started=False)) for each in ready])
        await trio.sleep(9)
        view = await first.status()
    assert (view.state, view.reason) == (trepid.State.DEAD, "expired")


async def test_shields_are_waited_for_after_the_grace(connection, autojump_clock):
    async def stubborn():
        with trio.CancelScope(shield=True):
            await trio.sleep(60)
        await trio.sleep(1)

    handle = await connection.enqueue(trepid.Actor(stubborn).job())
    async with working(trepid.Worker(trepid.Actor(stubborn)), connection) as running:
        await trio.sleep(1)
        running.stop()
        report = await running.wait_stopped()
        assert trio.current_time() == 60
    assert report.released == 1
    assert (await handle.status()).state is trepid.State.READY


async def test_leases_hold_while_the_worker_stops(connection, autojump_clock):
    worker = trepid.Worker(SLEEPER, lease=3, graceful_shutdown_time=600)
    handle = await connection.enqueue(SLEEPER.job(100))
    async with working(worker, connection) as running:
        await trio.sleep(1)
        running.stop()
    view = await handle.status()
    assert (view.state, view.crashes, trio.current_time()) == (trepid.State.DONE, 0, 100)


async def test_a_job_may_stop_its_worker(connection, autojump_clock):
    async def last(ctx: trepid.Context):
        await trio.lowlevel.checkpoint()
        assert not ctx.stopping
        runs[0].stop()
        assert ctx.stopping
        await trio.sleep(1)

    runs = []
    handle = await connection.enqueue(trepid.Actor(last).job())
    async with working(trepid.Worker(trepid.Actor(last)), connection, stop=False) as running:
        runs.append(running)
    assert (await handle.status()).state is trepid.State.DONE


async def test_wait_stopped_can_be_cancelled_and_asked_by_many(connection, autojump_clock):
    reports = []

    async def ask(running):
        reports.append(await running.wait_stopped())

    async with working(trepid.Worker(SLEEPER), connection) as running:
        with trio.move_on_after(1) as scope:
            await running.wait_stopped()
        assert scope.cancelled_caught
        assert not running.statistics().stopping
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask, running)
            running.stop()
    assert reports == [trepid.Report()] * 3


async def test_a_grace_that_is_none_is_refused(connection, autojump_clock):
    async with working(trepid.Worker(SLEEPER), connection) as running:
        with pytest.raises(ValueError):
            running.stop(grace=-1)
        assert not running.statistics().stopping


def test_the_default_grace_is_25_seconds():
    assert trepid.Worker().graceful_shutdown_time == 25.0


@pytest.mark.parametrize(
    ("grace", "fails", "waited"),
    [
        (0.5, ("settle",), 0.5 + 5),
        (10, ("settle",), 10 + 5),
        # Renewed last at 10, its lease ends at 40; nothing else bounds a worker that may take any time to stop.
        (600, ("settle",), 40 + 5),
        # The lease ends at 30 and is surely not ours any more, which is found out with the next attempt.
        (600, ("settle", "extend"), 30 + 5),
    ],
)
async def test_a_soft_stop_waits_for_the_last_verdicts(autojump_clock, caplog, grace, fails, waited):
    broker = TroubledBroker()
    async with trepid.open_connection(broker) as connection:
        await connection.declare("default")
        await connection.enqueue(SLEEPER.job(15 if grace == 600 and len(fails) == 1 else 0.1))
        async with working(trepid.Worker(SLEEPER), connection) as running:
            await idle()
            broker.trouble.fail |= dict.fromkeys(fails, trepid.BrokerLostError)
            running.stop(grace=grace)
            report = await running.wait_stopped()
        assert trio.current_time() <= waited
        assert trio.current_time() > waited - 5 - 1e-6
    assert report == trepid.Report(lost=1)
    assert ("1 verdict(s) could not be sent" in caplog.text) == (len(fails) == 1)


async def test_a_late_verdict_of_a_soft_stop_arrives(autojump_clock):
    broker = TroubledBroker()
    async with trepid.open_connection(broker) as connection:
        await connection.declare("default")
        handle = await connection.enqueue(SLEEPER.job(1))
        async with working(trepid.Worker(SLEEPER), connection) as running:
            await idle()
            broker.trouble.fail["settle"] = trepid.BrokerLostError
            running.stop()
            await trio.sleep(20)
            broker.trouble.fail.clear()
            assert (await running.wait_stopped()).succeeded == 1
        assert trio.current_time() < 26
        assert (await handle.status()).state is trepid.State.DONE


async def test_the_second_stop_cuts_the_wait_for_verdicts_to_five_seconds(autojump_clock):
    broker = TroubledBroker()
    async with trepid.open_connection(broker) as connection:
        await connection.declare("default")
        await connection.enqueue(SLEEPER.job(1))
        async with working(trepid.Worker(SLEEPER), connection) as running:
            await idle()
            broker.trouble.fail["settle"] = trepid.BrokerLostError
            running.stop()
            await trio.sleep(4)
            running.stop(grace=0)
            await running.wait_stopped()
        assert trio.current_time() == 4 + 5
