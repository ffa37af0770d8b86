"""The memory broker's dealings with time: exact, and with no more effort than there is reason for."""

import trio
import trio.testing

import trepid
from trepid.brokers.memory import Ledger, MemoryBroker
from trepid.brokers.memory.lanes import Lane
from trepid.ports.messages import Publication, Settlement
from trepid.rules.verdicts import Returned


def _publication(id, **settings):
    return Publication("default", id, (id, 1), b"{}", 5, **settings)


def test_messages_that_come_back_again_and_again_leave_nothing_behind():
    ledger = Ledger()
    ledger.declare("default")
    ledger.publish([_publication("a", ttl=1e6)], 0.0)
    for now in range(1000):
        [delivery] = ledger.lease(["default"], 1, 30.0, owner="somebody", now=now, deadline=now + 30.0)
        ledger.settle([Settlement(delivery.ref, Returned(reason="no room", started=False))], now)
    assert len(ledger.ttl) < 100
    assert ledger.ttl.live == 1
    ledger.advance(1e6)
    assert ledger.row("default", "a").life.reason == "expired"


def test_an_end_tidies_up_behind_its_own_gate_and_at_no_other(monkeypatch):
    tidied = []
    real = Lane.prune

    def prune(lane, ready):
        tidied.append(lane)
        real(lane, ready)

    monkeypatch.setattr(Lane, "prune", prune)
    ledger = Ledger()
    ledger.declare("default")
    ledger.publish([_publication(f"m{n}", gate=f"a:{n}") for n in range(100)], 0.0)
    ledger.publish([_publication(f"n{n}", gate="b") for n in range(1000)], 0.0)
    lane = ledger.shelves["default"].gate("b").lanes.lane(5)
    assert len(lane) == 1000
    for n in range(1000):
        ledger.cancel("default", f"n{n}", "enough", 0.0)
    assert tidied == [lane] * 1000
    assert len(lane) <= 2 * 100 + 64


async def test_whoever_waits_for_one_message_is_not_woken_by_others(autojump_clock, monkeypatch):
    looks = 0
    real = Ledger.row

    def row(self, queue, id):
        nonlocal looks
        looks += id == "waited for"
        return real(self, queue, id)

    monkeypatch.setattr(Ledger, "row", row)
    async with MemoryBroker().open() as session, trio.open_nursery() as nursery:
        await session.declare(["default"])
        await session.publish([_publication("waited for", delay=500.0)])
        await session.publish([_publication(str(n), delay=1.0 + n, ttl=0.5) for n in range(100)])
        nursery.start_soon(lambda: session.result("default", "waited for", wait=300.0))
        await trio.sleep(200.0)
        assert looks < 10
        nursery.cancel_scope.cancel()


async def test_a_crash_too_many_is_noticed_at_its_very_moment_by_who_waits(autojump_clock):
    async with trepid.open_connection("memory:") as connection, trio.open_nursery() as nursery:
        await connection.declare("default")
        handle = await connection.enqueue(trepid.Job("x", max_crashes=1))
        nursery.start_soon(handle.wait)
        await trio.testing.wait_all_tasks_blocked()
        # Leased only now, by somebody who falls silent; there is no worker that would look at the clock.
        start = trio.current_time()
        await connection.session.lease(["default"], 1, 30.0, owner="somebody")
    assert trio.current_time() == start + 30.0
