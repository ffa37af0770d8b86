"""A broker in trouble: verdicts are sent again, intake recovers, and no job outlives its lease."""

import itertools
import math
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing

import trepid
from tests.runtime.stage import TroubledBroker, TroubledSession, idle, working
from trepid.brokers.memory import MemoryBroker
from trepid.ports.broker import Broker
from trepid.ports.events import JobEnded, WorkerTroubled
from trepid.rules.life import Reply
from trepid.runtime.settling import pause_after
from trepid.testing import Faults, FaultyBroker, request_lost

TROUBLES = [trepid.BrokerLostError, trepid.BrokerBusyError, trepid.BrokerFullError]


async def sleeper(seconds: float) -> str:
    await trio.sleep(seconds)
    return "slept"


SLEEPER = trepid.Actor(sleeper)


@pytest.fixture
def broker():
    return TroubledBroker()


@pytest.fixture
async def connection(broker):
    async with trepid.open_connection(broker) as connection:
        await connection.declare("default")
        yield connection


class OneIsAway(Broker):
    """Queues are on different servers, and one of them answers no more: nor does a call that is also about it."""

    def __init__(self):
        self.memory, self.away = MemoryBroker(), False

    def __str__(self):
        return "apart:"

    async def ask(self, name, operation, args, kwargs):
        queues = {
            "settle": lambda: [each.ref.queue for each in args[0]],
            "extend": lambda: [ref.queue for ref in args[0]],
        }
        asked = queues.get(name, list)()
        if self.away and ("away" in asked or name in ("lease", "held", "asked")):
            await trio.sleep(1)
            raise trepid.BrokerLostError("away")
        return await operation(*args, **kwargs)

    @asynccontextmanager
    async def open(self):
        async with self.memory.open() as session:
            yield ApartSession(session, self.ask)


class ApartSession(TroubledSession):
    @property
    def capabilities(self):
        return attrs.evolve(self.inner.capabilities, atomic_batches=False, certain_cancellation=False)


async def test_jobs_of_other_queues_outlive_a_server_that_is_away(autojump_clock):
    """Their leases are renewed, and their ends are settled, beside those that have to wait."""
    broker = OneIsAway()
    there = trepid.Actor(sleeper, name="there", queue="there")
    away = trepid.Actor(sleeper, name="away", queue="away")
    worker = trepid.Worker(away, there, lease=6)
    async with trepid.open_connection(broker) as connection, working(worker, connection):
        lost = [await connection.enqueue(away.job(seconds)) for seconds in (2, 100)]
        kept = [await connection.enqueue(there.job(seconds)) for seconds in (2, 20)]
        await trio.sleep(1)
        broker.away = True
        await trio.sleep(29)
        views = [await handle.status() for handle in kept]
        assert [(view.state, view.attempts, view.crashes) for view in views] == [(trepid.State.DONE, 1, 0)] * 2
        broker.away = False
        await lost[0].wait()
        await lost[1].cancel("enough")


# ------------------------------------------------------------------------------------------------ settlement


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_a_verdict_is_sent_until_it_arrives(broker, connection, autojump_clock, trouble):
    handle = await connection.enqueue(SLEEPER.job(1))
    broker.trouble.fail["settle"] = trouble
    async with working(trepid.Worker(SLEEPER, messages_limit=1), connection, stop=False) as running:
        await trio.sleep(60)
        assert running.statistics().unsettled == 1, "each verdict is counted once"
        assert running.statistics().report == trepid.Report()
        broker.trouble.fail.clear()
        assert (await running.wait_stopped()).succeeded == 1
    assert await handle.result() == "slept"
    assert (await handle.status()).crashes == 0, "renewals went on meanwhile"
    assert broker.trouble.calls["settle"] < 70, "it backs off"


async def test_a_broker_that_hangs_over_verdicts_is_asked_again(broker, connection, autojump_clock):
    handle = await connection.enqueue(SLEEPER.job(1))
    meanwhile = await connection.enqueue(SLEEPER.job(5))
    broker.trouble.hang.add("settle")
    seen = []
    worker = trepid.Worker(SLEEPER, messages_limit=2, observers=[seen.append])
    with trio.fail_after(60):
        async with working(worker, connection, stop=False):
            await trio.sleep(15)
            assert any(isinstance(event, WorkerTroubled) and event.operation == "settle" for event in seen)
            broker.trouble.hang.clear()
    assert await handle.result() == "slept"
    assert await meanwhile.result() == "slept", "what gathers while nobody answers is sent as well"


async def test_a_verdict_whose_lease_has_ended_is_lost(broker, connection, autojump_clock):
    seen = []
    # One at a time: no request for more is under way when the trouble begins.
    worker = trepid.Worker(SLEEPER, lease=9, tasks_limit=1, observers=[seen.append])
    handle = await connection.enqueue(SLEEPER.job(1))
    async with working(worker, connection) as running:
        await idle()
        broker.trouble.fail |= dict.fromkeys(("settle", "extend", "lease"), trepid.BrokerLostError)
        await trio.sleep(20)
        assert running.statistics().report == trepid.Report(lost=1)
        assert running.statistics().unsettled == 0
    [ended] = [event for event in seen if isinstance(event, JobEnded)]
    assert (ended.outcome, ended.reply, ended.reason) == ("lost", Reply.EXPIRED, "lease lost")
    view = await handle.status()
    assert (view.attempts, view.crashes) == (0, 1), "the broker saw a crash, and gives it to somebody else"


async def test_a_repeated_verdict_counts_once(broker, connection, autojump_clock):
    handle = await connection.enqueue(SLEEPER.job(1))
    real = type(connection.session).settle
    told = []

    async def settle(self, batch, **kwargs):
        replies = await real(self, batch, **kwargs)
        told.append(replies)
        if len(told) == 1:
            raise trepid.BrokerLostError
        return replies

    broken = type("Deaf", (type(connection.session),), {"settle": settle})
    connection.session.__class__ = broken
    report = await trepid.Worker(SLEEPER, messages_limit=1).run(connection)
    assert told == [[Reply.APPLIED], [Reply.REPEATED]]
    assert report == trepid.Report(succeeded=1)
    assert (await handle.status()).attempts == 1


async def test_unsettled_verdicts_do_not_pile_up(broker, connection, autojump_clock):
    # Leasing works, settling does not (a full disk, say): what runs now would be done in vain.
    await connection.enqueue_many([SLEEPER.job(0.1)] * 200)
    broker.trouble.fail["settle"] = trepid.BrokerFullError
    async with working(trepid.Worker(SLEEPER, tasks_limit=3), connection) as running:
        await trio.sleep(20)
        assert running.statistics().unsettled <= 2 * 3
        broker.trouble.fail.clear()
        await trio.sleep(20)
        assert running.statistics().report.succeeded == 200
        assert running.statistics().free == 3


# ---------------------------------------------------------------------------------------------------- intake


def test_the_pauses_stay_short_however_long_the_trouble_lasts():
    assert all(1.0 <= pause_after(troubles) <= 2.0 for troubles in (10, 1_023, 1_024, 1_000_000))


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_intake_backs_off_and_recovers(broker, connection, autojump_clock, trouble):
    broker.trouble.fail["lease"] = trouble
    async with working(trepid.Worker(SLEEPER), connection) as running:
        await trio.sleep(100)
        assert not running.statistics().ready
        asked = broker.trouble.times("lease")
        assert len(asked) < 110
        pauses = [after - before for before, after in itertools.pairwise(asked)]
        assert max(pauses) <= 2.0
        assert pauses[0] <= 0.1
        broker.trouble.fail.clear()
        await trio.sleep(2.1)
        assert running.statistics().ready, "ready although there is nothing to do"
        handle = await connection.enqueue(SLEEPER.job(1))
        await handle.wait()
        broker.trouble.fail["lease"] = trouble
        again = trio.current_time()
        await connection.enqueue(SLEEPER.job(1))  # the call under way takes it; the next one fails
        await trio.sleep(1)
        first, second, *_ = [moment for moment in broker.trouble.times("lease") if moment >= again]
        assert second - first <= 0.1, "the next trouble is a new one"


async def test_trouble_elsewhere_leaves_intake_ready(broker, connection, autojump_clock):
    async with working(trepid.Worker(SLEEPER), connection) as running:
        await connection.enqueue(SLEEPER.job(1))
        await idle()
        broker.trouble.fail["settle"] = trepid.BrokerBusyError
        await trio.sleep(2)
        broker.trouble.fail.clear()
        await trio.sleep(10)
        assert running.statistics().report.succeeded == 1
        assert running.statistics().ready


async def test_any_other_error_of_the_broker_ends_the_worker(broker, connection, autojump_clock):
    broker.trouble.fail["lease"] = ZeroDivisionError
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        await trepid.Worker(SLEEPER).run(connection)


async def test_an_undeclarable_queue_comes_out_bare(broker, connection, autojump_clock):
    broker.trouble.fail["declare"] = trepid.BrokerLostError("gone")
    with pytest.raises(trepid.BrokerLostError, match="gone"):
        await trepid.Worker(SLEEPER).run(connection)


# ---------------------------------------------------------------------------------------------------- leases


async def test_renewals_keep_a_job_that_is_longer_than_its_lease(broker, connection, autojump_clock):
    handle = await connection.enqueue(SLEEPER.job(500))
    await trepid.Worker(SLEEPER, lease=3, messages_limit=1).run(connection)
    view = await handle.status()
    assert (view.state, view.crashes, trio.current_time()) == (trepid.State.DONE, 0, 500)
    assert broker.trouble.calls["extend"] == 500


async def test_one_beat_extends_all_leases(broker, connection, autojump_clock):
    await connection.enqueue_many([SLEEPER.job(35)] * 50)
    await trepid.Worker(SLEEPER, messages_limit=50).run(connection)
    assert broker.trouble.calls["extend"] == 3


@pytest.mark.parametrize("how", ["fail", "hang"])
@pytest.mark.parametrize("lease", [1, 3, 10, 30, 600])
async def test_without_renewals_a_job_stops_before_its_lease_ends(broker, connection, autojump_clock, how, lease):
    ended = []

    async def job():
        try:
            await trio.sleep_forever()
        finally:
            ended.append(trio.current_time())

    actor = trepid.Actor(job, timeout=86_400)
    handle = await connection.enqueue(actor.job())
    if how == "fail":
        broker.trouble.fail["extend"] = trepid.BrokerLostError
    else:
        broker.trouble.hang.add("extend")
    async with working(trepid.Worker(actor, lease=lease), connection) as running:
        await trio.sleep(lease * 0.99)
        assert running.statistics().report == trepid.Report(lost=1)
        view = await handle.status()
        assert view.state is trepid.State.LEASED, "the broker has not given it away yet, and nothing was settled"
        assert broker.trouble.calls["settle"] == 0
        running.stop(grace=0)
    assert lease / 2 < ended[0] < lease - lease / 100
    view = await handle.status()
    assert view.attempts == 0


async def test_one_failed_beat_is_made_up_for(broker, connection, autojump_clock):
    handle = await connection.enqueue(SLEEPER.job(100))
    async with working(trepid.Worker(SLEEPER, messages_limit=1), connection, stop=False):
        await trio.sleep(9)
        broker.trouble.fail["extend"] = trepid.BrokerLostError
        await trio.sleep(15)
        broker.trouble.fail.clear()
    assert (await handle.status()).crashes == 0
    assert await handle.result() == "slept"


async def test_trouble_with_renewals_is_told(broker, connection, autojump_clock):
    seen = []
    await connection.enqueue(SLEEPER.job(100))
    broker.trouble.hang.add("extend")
    async with working(trepid.Worker(SLEEPER, observers=[seen.append]), connection) as running:
        await trio.sleep(25)
        assert [event.operation for event in seen if isinstance(event, WorkerTroubled)] == ["renew leases"]
        running.stop(grace=0)


async def test_a_lost_lease_stops_the_job_and_settles_nothing(broker, connection, autojump_clock):
    seen, stopped = [], []

    async def job():
        try:
            await trio.sleep_forever()
        finally:
            stopped.append(trio.current_time())

    actor = trepid.Actor(job, timeout=3600)
    handle = await connection.enqueue(actor.job())
    async with working(trepid.Worker(actor, observers=[seen.append]), connection) as running:
        await trio.sleep(5)
        await connection.session.inner.expire_owner(running.statistics().owner)
        await trio.sleep(5.5)
        assert stopped == [10], "told by the next beat"
        running.stop(grace=0)
        report = await running.wait_stopped()
    assert report.lost == 1
    assert broker.trouble.calls["settle"] <= 1
    assert (await handle.status()).crashes == 1


async def test_a_return_after_the_loss_is_refused_and_changes_nothing(broker, connection, autojump_clock):
    async def deaf():
        with trio.CancelScope(shield=True):
            await trio.sleep(20)
        return "too late"

    actor = trepid.Actor(deaf)
    handle = await connection.enqueue(actor.job())
    async with working(trepid.Worker(actor, messages_limit=1), connection, stop=False) as running:
        await trio.sleep(5)
        await connection.session.inner.expire_owner(running.statistics().owner)
        await trio.sleep(17)
        # The same worker has it again, and its second run goes well.
        assert running.statistics().report.lost == 1
    view = await handle.status()
    assert (view.state, view.crashes, view.attempts) == (trepid.State.DONE, 1, 1)


async def test_a_fence_that_fired_is_no_timeout_even_if_the_lease_is_confirmed_later(
    broker, connection, autojump_clock
):
    async def slow_to_stop():
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(2.5)

    actor = trepid.Actor(slow_to_stop, timeout=3600)
    handle = await connection.enqueue(actor.job())
    broker.trouble.fail["extend"] = trepid.BrokerLostError
    async with working(trepid.Worker(actor), connection) as running:
        await trio.sleep(28)  # the fence was at 27
        broker.trouble.fail.clear()
        await trio.sleep(2)
        assert running.statistics().report == trepid.Report(lost=1)
        running.stop(grace=0)
    view = await handle.status()
    assert (view.attempts, view.error) == (0, None)


async def test_a_timeout_stays_one_when_the_worker_hurries(connection, autojump_clock):
    async def slow_to_stop():
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(10)

    actor = trepid.Actor(slow_to_stop, timeout=5)
    handle = await connection.enqueue(actor.job())
    async with working(trepid.Worker(actor), connection) as running:
        await trio.sleep(6)
        running.stop(grace=0)
    view = await handle.status()
    assert (view.state, view.error.type) == (trepid.State.DEAD, "TimeoutError")


async def test_the_push_of_cancels_survives_trouble(broker, connection, autojump_clock):
    handle = await connection.enqueue(SLEEPER.job(500))
    broker.trouble.fail["asked"] = trepid.BrokerLostError
    async with working(trepid.Worker(SLEEPER), connection):
        await trio.sleep(2)
        await handle.cancel("enough")
        await handle.wait()
        assert trio.current_time() <= 10, "the beat says it, too"
        broker.trouble.fail.clear()
        await trio.sleep(10)
        other = await connection.enqueue(SLEEPER.job(500))
        await idle()
        before = trio.current_time()
        await other.cancel()
        await other.wait()
        assert trio.current_time() == before


# ------------------------------------------------------------------------------------------ the broker is away


@asynccontextmanager
async def with_faults():
    faults = Faults()
    async with trepid.open_connection(FaultyBroker(trepid.MemoryBroker(), faults)) as connection:
        await connection.declare("default")
        yield connection, faults


@pytest.mark.parametrize("away", [0.5, 3, 60, 600])
async def test_a_worker_is_not_ready_while_the_broker_is_away_and_soon_after(away, autojump_clock):
    async with with_faults() as (connection, faults), working(trepid.Worker(SLEEPER), connection) as running:
        await idle()
        assert running.statistics().ready
        # The lease call that waits is the engine's to end; here it was waiting for a message before the loss.
        await connection.enqueue(SLEEPER.job(0))
        faults.away(away)
        assert not running.statistics().ready, "at once, whatever is under way"
        await trio.sleep(away + 2.1)
        assert running.statistics().ready
        handle = await connection.enqueue(SLEEPER.job(0))
        with trio.fail_after(0.5):
            assert await handle.result() == "slept"


async def test_a_worker_does_not_start_while_the_broker_is_away(autojump_clock):
    async with with_faults() as (connection, faults):
        faults.away(60)
        with pytest.raises(trepid.BrokerLostError):
            await trepid.Worker(SLEEPER).run(connection)
        assert trio.current_time() < 1


async def test_a_worker_does_not_wait_for_ever_to_declare(broker, connection, autojump_clock):
    broker.trouble.hang.add("declare")
    with pytest.raises(trepid.BrokerLostError, match="30 s"):
        await trepid.Worker(SLEEPER).run(connection)


async def test_a_job_that_enqueues_waits_and_its_timeout_bounds_that(autojump_clock):
    async def parent(ctx: trepid.Context) -> str:
        return (await ctx.connection.enqueue(SLEEPER.job(0))).id

    actor = trepid.Actor(parent, timeout=5)
    async with with_faults() as (connection, faults):
        patient = await connection.enqueue(actor.job())
        faults.next("publish", request_lost(), times=2)
        worker = trepid.Worker(actor, SLEEPER, tasks_limit=1)
        async with working(worker, connection):
            assert await patient.result()
        stopped = await connection.enqueue(actor.job())
        faults.next("publish", request_lost(), times=math.inf)
        async with working(worker, connection):
            with pytest.raises(trepid.JobFailedError, match="TimeoutError"):
                await stopped.result()
            faults.clear()


async def test_requests_about_strangers_do_not_keep_a_worker_busy(connection, autojump_clock):
    # A lease of this worker that it never heard of, and which somebody wants to be cancelled.
    async with working(trepid.Worker(SLEEPER, queues=["other"]), connection) as running:
        await idle()
        await connection.enqueue(SLEEPER.job(0))
        owner = running.statistics().owner
        [stranger] = await connection.session.lease(["default"], 1, 100, owner=owner)
        await connection.session.cancel("default", [stranger.id], "no")
        real, times = connection.session.asked, []

        async def asked(*args, **kwargs):
            times.append(trio.current_time())
            return await real(*args, **kwargs)

        connection.session.asked = asked
        await trio.sleep(10)
        assert 30 < len(times) < 60
        assert max(after - before for before, after in itertools.pairwise(times)) < 0.26
