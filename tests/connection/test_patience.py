"""What a program feels while the broker is away: it waits or fails, as it chose, and nothing is stored twice."""

import itertools
import logging
import math

import attrs
import pytest
import trio

import trepid
from trepid.connection.patience import Patience
from trepid.testing import Faults, FaultyBroker, refused, reply_lost, request_lost
from trepid.testing.conformance.cancellation import cancelled_at


@pytest.fixture
def faults():
    return Faults()


@pytest.fixture
async def connection(faults):
    async with trepid.open_connection(FaultyBroker(trepid.MemoryBroker(), faults)) as connection:
        await connection.declare("default")
        yield connection


@pytest.fixture
async def hasty(faults):
    async with trepid.open_connection(FaultyBroker(trepid.MemoryBroker(), faults), wait_for_broker=False) as connection:
        await connection.declare("default")
        yield connection


async def stored(connection):
    return [view.id async for view in connection.messages("default", trepid.State.READY)]


# ------------------------------------------------------------------------------------------------------- publishing


@pytest.mark.parametrize("fault", [request_lost(), reply_lost(), reply_lost(delay=3), request_lost(delay=3)])
@pytest.mark.parametrize("times", [1, 7])
async def test_an_enqueue_goes_on_trying_and_is_stored_once(connection, faults, fault, times, autojump_clock):
    faults.next("publish", fault, times=times)
    handle = await connection.enqueue(trepid.Job("greet"))
    assert not handle.existing
    assert await stored(connection) == [handle.id]


async def test_a_batch_is_stored_once(connection, faults, autojump_clock):
    faults.next("publish", reply_lost(), times=3)
    handles = await connection.enqueue_many(trepid.Job("greet") for _ in range(5))
    assert await stored(connection) == [handle.id for handle in handles]


async def test_a_repetition_runs_no_job_twice_that_has_ended_meanwhile(connection, faults, autojump_clock):
    ran = []

    async def note(number: int) -> None:
        ran.append(number)

    actor = trepid.Actor(note, result_ttl=0)
    async with trio.open_nursery() as nursery:
        running = await nursery.start(trepid.Worker(actor).run, connection)
        faults.next("publish", reply_lost(delay=20), times=3)
        await connection.enqueue(actor.job(1))
        await trio.sleep(20)
        running.stop()
    assert ran == [1]


async def test_the_broker_comes_back_and_the_program_goes_on(connection, faults, autojump_clock):
    faults.away(100)
    await connection.enqueue(trepid.Job("greet"))
    assert 100 <= trio.current_time() <= 101.5


async def test_a_scope_bounds_the_wait(connection, faults, autojump_clock):
    faults.away(math.inf)
    with pytest.raises(trio.TooSlowError), trio.fail_after(10):
        await connection.enqueue(trepid.Job("greet"))
    assert trio.current_time() == 10
    faults.clear()
    assert await stored(connection) == []


async def test_attempts_back_off_with_jitter(connection, faults, autojump_clock):
    times = []
    real = faults.__call__

    session = connection.session

    def plan(operation):
        times.append(trio.current_time())
        return real(operation)

    session._plan = plan
    faults.next("publish", request_lost(), times=math.inf)
    with trio.move_on_after(60):
        await connection.enqueue(trepid.Job("greet"))
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert 0.025 <= pauses[0] <= 0.05
    assert max(pauses) <= 1.0
    assert len(set(pauses)) > len(pauses) / 2, "jittered"
    assert 60 < len(times) < 140


@pytest.mark.parametrize("moment", range(12))
async def test_a_cancelled_enqueue_can_be_repeated_by_its_id(connection, faults, moment, autojump_clock):
    faults.next("publish", reply_lost(), times=2)
    job = trepid.Job("greet", id="once")
    cancelled, _ = await cancelled_at(moment, lambda: connection.enqueue(job))
    faults.clear()
    if cancelled:
        handle = await connection.enqueue(job)
        assert handle.id == "once"
    assert await stored(connection) == ["once"]


async def test_who_does_not_wait_is_told_at_once(hasty, faults, autojump_clock):
    faults.away(math.inf)
    began = trio.current_time()
    for operation in (
        lambda: hasty.enqueue(trepid.Job("greet")),
        lambda: hasty.enqueue_many([trepid.Job("greet")]),
        lambda: hasty.declare("other"),
        hasty.queues,
        hasty.stats,
        lambda: hasty.pause("default"),
        lambda: hasty.resume("default"),
        lambda: hasty.handle("m").result(),
        lambda: hasty.handle("m").outcome(),
        lambda: hasty.handle("m").wait(),
        lambda: hasty.handle("m").status(),
        lambda: stored(hasty),
    ):
        with pytest.raises(trepid.BrokerLostError):
            await operation()
    assert trio.current_time() == began


# ------------------------------------------------------------------------------------------------ other operations


@pytest.mark.parametrize("fault", [request_lost(), reply_lost()])
async def test_what_only_looks_goes_on_trying(connection, faults, fault, autojump_clock):
    handle = await connection.enqueue(trepid.Job("greet"))
    for name, operation, wanted in (
        ("declare", lambda: connection.declare("other"), None),
        ("queues", connection.queues, ["default", "other"]),
        ("get", handle.status, None),
        ("peek", lambda: stored(connection), [handle.id]),
        ("pause", lambda: connection.pause("other"), None),
        ("resume", lambda: connection.resume("other"), None),
    ):
        faults.next(name, fault, times=5)
        got = await operation()
        assert wanted is None or got == wanted
        assert faults(name) is None, "all of them were met"
    faults.next("stats", fault, times=5)
    assert (await connection.stats()).ready == 1


async def test_a_result_is_waited_for_through_an_outage(connection, faults, autojump_clock):
    async def greet() -> str:
        await trio.sleep(5)
        return "hello"

    actor = trepid.Actor(greet)
    handle = await connection.enqueue(actor.job())
    async with trio.open_nursery() as nursery:
        running = await nursery.start(trepid.Worker(actor).run, connection)
        faults.next("result", request_lost(delay=1), times=9)
        assert await handle.result() == "hello"
        assert isinstance(await handle.outcome(), trepid.connection.handle.outcome.Value)
        running.stop()


@pytest.mark.parametrize("fault", [request_lost(), reply_lost()])
async def test_what_returns_counts_is_not_repeated(connection, faults, fault, autojump_clock):
    handle = await connection.enqueue(trepid.Job("greet"))
    for name, operation in (
        ("cancel", handle.cancel),
        ("purge", lambda: connection.flush("default")),
        ("purge", lambda: connection.purge("default")),
        ("requeue", lambda: connection.requeue("default")),
        ("delete", lambda: connection.delete("default")),
    ):
        faults.next(name, fault)
        with pytest.raises(trepid.BrokerLostError):
            await operation()


async def test_a_busy_broker_is_waited_for_and_a_full_one_is_not(connection, faults, autojump_clock):
    faults.next("publish", refused(trepid.BrokerBusyError), times=4)
    await connection.enqueue(trepid.Job("greet"))
    faults.next("publish", refused(trepid.BrokerFullError))
    with pytest.raises(trepid.BrokerFullError):
        await connection.enqueue(trepid.Job("greet"))
    assert len(await stored(connection)) == 1


async def test_an_outage_is_logged_once_per_operation(connection, faults, caplog, autojump_clock):
    faults.next("publish", request_lost(), times=9)
    with caplog.at_level(logging.WARNING, "trepid.connection"):
        handle = await connection.enqueue(trepid.Job("greet"))
    [record] = caplog.records
    assert record.getMessage() == f"waiting for the broker with job {handle.id}: BrokerLostError: the request was lost"


# -------------------------------------------------------------------------- engines that do not know repetitions


class Forgetful:
    """A session that only counts publishes, of an engine with less of a memory."""

    def __init__(self, **claims):
        self.capabilities = attrs.evolve(trepid.Capabilities("Sieve", "none", "none"), **claims)
        self.connected = True
        self.errors = []
        self.times = []

    async def publish(self):
        self.times.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if self.errors:
            raise self.errors.pop(0)
        return "stored"


LOST = trepid.BrokerLostError("gone")


async def test_an_engine_without_a_memory_is_never_asked_twice(autojump_clock):
    session = Forgetful(deduplication="none")
    session.errors = [LOST]
    with pytest.raises(
        trepid.BrokerLostError, match=r"job m was on its way, and Sieve .* it may be stored, or not"
    ) as info:
        await Patience().publish("job m", session, session.publish)
    assert "results=" in str(info.value)
    assert info.value.__cause__ is LOST
    assert len(session.times) == 1


async def test_an_engine_without_a_memory_is_waited_for_before_anything_is_sent(autojump_clock):
    session = Forgetful(deduplication="none")
    session.connected = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Patience().publish, "job m", session, session.publish)
        await trio.sleep(30)
        assert session.times == []
        session.connected = True
    assert len(session.times) == 1
    session.connected = False
    assert await Patience(waits=False).publish("job m", session, session.publish) == "stored", "it is the engine's word"


async def test_a_busy_engine_has_stored_nothing_and_may_be_asked_again(autojump_clock):
    session = Forgetful(deduplication="none")
    session.errors = [trepid.BrokerBusyError("busy")] * 20
    assert await Patience().publish("job m", session, session.publish) == "stored"


async def test_a_window_is_used_for_as_long_as_it_surely_lasts(autojump_clock):
    session = Forgetful(deduplication="window", deduplication_window=60.0)
    session.errors = [LOST] * 5
    assert await Patience().publish("job m", session, session.publish) == "stored"
    session.errors, session.times = [LOST] * 1000, []
    with pytest.raises(trepid.BrokerLostError, match="would not recognise"):
        await Patience().publish("job m", session, session.publish)
    assert len(session.times) > 20
    assert session.times[-1] - session.times[0] <= 30


async def test_a_window_begins_with_the_first_attempt(autojump_clock):
    session = Forgetful(deduplication="window", deduplication_window=60.0)
    session.connected = False
    session.errors = [LOST]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Patience().publish, "job m", session, session.publish)
        await trio.sleep(1000)
        session.connected = True
    assert len(session.times) == 2


async def test_a_busy_engine_does_not_make_an_unknown_end_known(autojump_clock):
    session = Forgetful(deduplication="window", deduplication_window=60.0)
    session.errors = [LOST] + [trepid.BrokerBusyError("busy")] * 1000
    with pytest.raises(trepid.BrokerLostError, match="would not recognise"):
        await Patience().publish("job m", session, session.publish)
    assert session.times[-1] - session.times[0] <= 30


async def test_a_window_begins_with_the_first_attempt_whose_end_is_unknown(autojump_clock):
    session = Forgetful(deduplication="window", deduplication_window=60.0)
    session.errors = [trepid.BrokerBusyError("busy")] * 100 + [LOST]
    assert await Patience().publish("job m", session, session.publish) == "stored"
    assert session.times[-1] - session.times[0] > 40
