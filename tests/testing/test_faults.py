"""Outages made to order."""

from math import inf

import pytest
import trio

import trepid
from trepid.testing import Fault, Faults, FaultyBroker, refused, reply_lost, request_lost, slow

JOB = trepid.Job("greet", id="one")


@pytest.fixture
def faults():
    return Faults()


@pytest.fixture
async def connection(faults, trepid_broker):
    async with trepid.open_connection(FaultyBroker(trepid_broker, faults), wait_for_broker=False) as connection:
        await connection.declare("default")
        yield connection


async def live(connection):
    return (await connection.stats()).live


async def test_without_faults_all_goes_well(connection):
    await connection.enqueue(JOB)
    assert await live(connection) == 1
    assert connection.capabilities.virtual_time


async def test_a_lost_request_was_not_applied(connection, faults):
    faults.next("publish", request_lost(delay=3))
    with pytest.raises(trepid.BrokerLostError, match="request"):
        await connection.enqueue(JOB)
    assert (trio.current_time(), await live(connection)) == (3, 0)


async def test_a_lost_reply_was_applied(connection, faults):
    faults.next("publish", reply_lost(delay=3))
    with pytest.raises(trepid.BrokerLostError, match="reply"):
        await connection.enqueue(JOB)
    assert (trio.current_time(), await live(connection)) == (3, 1)


async def test_a_full_broker_applies_nothing(connection, faults):
    faults.next("publish", refused(trepid.BrokerFullError))
    with pytest.raises(trepid.BrokerFullError):
        await connection.enqueue(JOB)
    assert await live(connection) == 0


async def test_a_slow_broker_answers_in_the_end(connection, faults):
    faults.next("publish", slow(60))
    await connection.enqueue(JOB)
    assert (trio.current_time(), await live(connection)) == (60, 1)


async def test_cancelled_before_it_arrives_a_request_was_not_applied(connection, faults):
    faults.next("publish", slow(60))
    with trio.move_on_after(1):
        await connection.enqueue(JOB)
    assert await live(connection) == 0


async def test_cancelled_before_the_reply_comes_a_request_was_applied(connection, faults):
    faults.next("publish", Fault(reply_delay=60))
    with trio.move_on_after(1):
        await connection.enqueue(JOB)
    assert await live(connection) == 1


async def test_faults_come_in_the_order_of_planning_and_so_often(connection, faults):
    faults.next(("stats", "publish"), refused(trepid.BrokerFullError), times=2)
    faults.next((), request_lost(), times=1)
    for error in (trepid.BrokerFullError, trepid.BrokerFullError, trepid.BrokerLostError):
        with pytest.raises(error):
            await connection.stats()
    assert await live(connection) == 0


async def test_an_outage_is_over_after_its_block(connection, faults):
    faults.next("stats", refused(trepid.BrokerFullError), times=inf)
    with faults.outage():
        for operation in (connection.stats, connection.queues):
            with pytest.raises(trepid.BrokerLostError):
                await operation()
    with pytest.raises(trepid.BrokerFullError):
        await connection.stats()
    faults.clear()
    assert await live(connection) == 0


async def test_a_plan_is_any_function_of_the_operation(autojump_clock):
    asked = []
    async with trepid.open_connection(FaultyBroker(trepid.MemoryBroker(), asked.append)) as connection:
        await connection.declare("default")
        await connection.enqueue(JOB)
    assert asked == ["declare", "publish"]


def test_what_cannot_be_planned_is_refused(faults):
    with pytest.raises(ValueError, match="no operation 'enqueue'"):
        faults.next("enqueue", slow(1))
    with pytest.raises(ValueError, match="times"):
        faults.next("publish", slow(1), times=0)
    assert str(FaultyBroker(trepid.MemoryBroker(), faults)) == "faulty memory:"


async def test_every_operation_of_the_port_is_relayed(autojump_clock, faults):
    """Called once each, with whatever fits, under an outage: all must fail as the plan says."""
    from trepid.ports.broker import Session

    calls = {
        "declare": (["q"],), "delete": ("q",), "pause": ("q",), "resume": ("q",), "stats": ("q",), "publish": ([],),
        "lease": (["q"], 1, 1.0), "extend": ([], 1.0), "settle": ([],), "cancel": ("q", [], "r"), "requeue": ("q",),
        "purge": ("q", []), "get": ("q", "i"), "peek": ("q", trepid.State.DEAD), "result": ("q", "i"), "held": ("o",),
        "asked": ("o", []), "expire_owner": ("o",), "fire": ([],), "limit": ([],), "marks": ("q",),
        "endings": ("q", []), "moved": ("q", "i", None), "now": (), "queues": (), "reap": (),
    }  # fmt: skip
    public = {name for name in vars(Session) if not name.startswith("_")}
    relayed_otherwise = {"capabilities", "connected", "records", "publish_in", "settle_in"}
    assert public - set(calls) == relayed_otherwise, "a new operation needs its relay"
    async with FaultyBroker(trepid.MemoryBroker(), faults).open() as session:
        with faults.outage():
            for name, args in calls.items():
                options = {"owner": "o"} if name == "lease" else {}
                with pytest.raises(trepid.BrokerLostError):
                    await getattr(session, name)(*args, **options)
            with pytest.raises(trepid.BrokerLostError):
                await session.records.carry_out([])
        assert session.connected
        faults.away(1)
        assert not session.connected
        await trio.sleep(1)
        assert session.connected
        for refused_here in (
            lambda: session.publish_in(None, []),
            lambda: session.settle_in(None, None),
        ):
            with pytest.raises(trepid.UnsupportedError):
                refused_here()


async def test_a_delivery_that_arrives_too_late_is_not_started(connection, faults):
    """Its lease has ended, or ends too soon to stop the job in time: somebody else may have the message already."""
    calls = []

    async def greet() -> None:
        calls.append(trio.current_time())
        await trio.sleep(1)

    faults.next("lease", Fault(reply_delay=8))
    await connection.enqueue(JOB)
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            running = await nursery.start(trepid.Worker(trepid.Actor(greet), lease=6).run, connection)
            nursery.start_soon(running.wait_stopped)
        await connection.handle("one").wait()
        nursery.cancel_scope.cancel()
    # The lease of the first delivery ended after 6 s, and the message came back one second later.
    assert calls == [7]
