"""Leases whose grant was never heard of are given back, uncounted, as soon as somebody can be asked about them."""

import math

import pytest
import trio
import trio.testing

import trepid
from tests.runtime.stage import TroubledBroker, idle, working
from trepid.brokers.memory import MemoryBroker
from trepid.ports.events import WorkerTroubled
from trepid.testing.faults import Fault, Faults, FaultyBroker, reply_lost, request_lost


async def sleeper(seconds: float) -> str:
    await trio.sleep(seconds)
    return "slept"


SLEEPER = trepid.Actor(sleeper)


@pytest.fixture
def faults():
    return Faults()


@pytest.fixture
async def connection(faults):
    async with trepid.open_connection(FaultyBroker(MemoryBroker(), faults)) as connection:
        await connection.declare("default")
        yield connection


async def test_after_a_lost_reply_its_messages_come_back_at_once(connection, faults, autojump_clock):
    handles = await connection.enqueue_many([SLEEPER.job(1)] * 3)
    faults.next("lease", reply_lost())
    async with working(trepid.Worker(SLEEPER), connection):
        for handle in handles:
            await handle.wait()
        assert trio.current_time() < 1 + 0.2, "not only when their leases end"
    for handle in handles:
        view = await handle.status()
        assert (view.attempts, view.crashes, view.releases) == (1, 0, 1)


async def test_what_is_known_stays(connection, faults, autojump_clock):
    known = await connection.enqueue(SLEEPER.job(60))
    async with working(trepid.Worker(SLEEPER), connection):
        await idle()
        faults.next("lease", reply_lost())
        await connection.enqueue(SLEEPER.job(0))  # the call under way takes it; the next one fails
        await idle()
        lost = await connection.enqueue(SLEEPER.job(0))
        await lost.wait()
        await known.wait()
    assert ((await known.status()).releases, (await known.status()).crashes) == (0, 0)
    assert ((await lost.status()).releases, (await lost.status()).crashes) == (1, 0)
    assert trio.current_time() == 60


async def test_it_is_asked_again_if_asking_fails(connection, faults, autojump_clock):
    seen = []
    handle = await connection.enqueue(SLEEPER.job(1))
    faults.next("lease", reply_lost())
    faults.next(("lease", "held"), request_lost(), times=4)
    async with working(trepid.Worker(SLEEPER, observers=[seen.append]), connection):
        await handle.wait()
        assert trio.current_time() < 5
    assert (await handle.status()).crashes == 0
    assert "look for lost leases" in {event.operation for event in seen if isinstance(event, WorkerTroubled)}


async def test_strangers_count_towards_no_limit(connection, faults, autojump_clock):
    handles = await connection.enqueue_many([SLEEPER.job(1)] * 3)
    faults.next("lease", reply_lost())
    report = await trepid.Worker(SLEEPER, messages_limit=2).run(connection)
    assert report == trepid.Report(succeeded=2)
    assert [(await handle.status()).state for handle in handles].count(trepid.State.READY) == 1


@pytest.mark.parametrize("how", ["stop", "cancel"])
async def test_a_call_that_was_cancelled_on_its_way_back_leaves_nothing_leased(connection, faults, autojump_clock, how):
    handle = await connection.enqueue(SLEEPER.job(1))
    faults.next("lease", Fault(reply_delay=10.0))
    async with trio.open_nursery() as nursery:
        running = await nursery.start(trepid.Worker(SLEEPER).run, connection)
        await trio.sleep(1)
        assert (await handle.status()).state is trepid.State.LEASED
        if how == "stop":
            running.stop()
        else:
            nursery.cancel_scope.cancel()
    assert trio.current_time() == 1
    view = await handle.status()
    assert (view.state, view.releases, view.attempts) == (trepid.State.READY, 1, 0)


async def test_the_end_is_bounded_if_nobody_can_be_asked(connection, faults, autojump_clock):
    async with working(trepid.Worker(SLEEPER), connection) as running:
        await idle()
        faults.next((), request_lost(), times=math.inf)
        running.stop()
        await running.wait_stopped()
    assert trio.current_time() == 5


async def test_an_engine_that_cannot_say_is_not_asked_twice(autojump_clock):
    broker = TroubledBroker()
    async with trepid.open_connection(broker) as connection:
        await connection.declare("default")
        broker.trouble.fail |= {"lease": trepid.BrokerLostError, "held": trepid.UnsupportedError("owners", "this")}
        async with working(trepid.Worker(SLEEPER), connection) as running:
            await idle()
            broker.trouble.fail.pop("lease")
            handle = await connection.enqueue(SLEEPER.job(1))
            await handle.wait()
            running.stop()
        assert broker.trouble.calls["held"] == 1


async def test_a_question_that_gets_no_answer_holds_up_no_message_for_long(autojump_clock):
    broker = TroubledBroker()
    async with trepid.open_connection(broker) as connection:
        await connection.declare("default")
        broker.trouble.fail["lease"] = trepid.BrokerLostError
        broker.trouble.hang.add("held")
        async with working(trepid.Worker(SLEEPER, lease=30), connection):
            await idle()
            broker.trouble.fail.clear()
            handle = await connection.enqueue(SLEEPER.job(1))
            with trio.fail_after(12):
                await handle.wait()
            broker.trouble.hang.clear()
    assert trio.current_time() > 10, "it was asked"


async def test_without_trouble_nobody_asks(autojump_clock):
    broker = TroubledBroker()
    async with trepid.open_connection(broker) as connection:
        await connection.declare("default")
        for stop in (True, False):
            with trio.move_on_after(10):
                async with working(trepid.Worker(SLEEPER), connection, stop=stop):
                    await (await connection.enqueue(SLEEPER.job(1))).wait()
        assert broker.trouble.calls["held"] == 0


async def test_what_was_given_up_is_no_stranger_even_if_a_lost_answer_has_prolonged_it(autojump_clock):
    faults = Faults()
    async with trepid.open_connection(FaultyBroker(MemoryBroker(), faults)) as connection:
        await connection.declare("default")
        handle = await connection.enqueue(SLEEPER.job(100))
        async with working(trepid.Worker(SLEEPER, lease=9), connection) as running:
            await idle()
            # All renewals are applied, and none is confirmed: the job stops at 8.
            faults.next("extend", reply_lost(), times=math.inf)
            await trio.sleep(9.5)
            assert running.statistics().report == trepid.Report(lost=1)
            assert (await handle.status()).state is trepid.State.LEASED
            faults.next("lease", reply_lost())
            await connection.enqueue(SLEEPER.job(0))  # the call under way takes it; the next one fails
            await idle()
            lost = await connection.enqueue(SLEEPER.job(0))
            await lost.wait()
            assert (await lost.status()).releases == 1, "strangers were looked for"
            view = await handle.status()
            assert (view.state, view.releases) == (trepid.State.LEASED, 0), "its job had started"
