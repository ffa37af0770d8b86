"""The memory broker's records tell of a change at the moment when it happens, and look at nothing until then."""

import trio

from tests.runtime.stage import idle
from trepid.brokers.memory import MemoryBroker
from trepid.ports.records import Claim, Drop, Read, Write


async def told(records, changes, key="k", known=b"1", *, wait=3600.0):
    """Return what a waiter is told, and when, while something is done 10 seconds later."""
    began = trio.current_time()
    found = []

    async def listen():
        found.append((await records.changed(key, known, wait=wait), trio.current_time() - began))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        await idle()
        for change in changes:
            await trio.sleep(10)
            await records.carry_out([change])
    return found[0]


async def test_a_change_is_told_at_once(autojump_clock):
    async with MemoryBroker().open() as session:
        records = session.records
        await records.carry_out([Write("k", b"1", None), Write("expiring", b"1", 20), Write("renewed", b"1", 20)])
        assert await records.changed("k", None, wait=10) == b"1"
        assert trio.current_time() == 0
        nothing_new = [Read("k"), Write("other", b"2", None), Write("k", b"1", None)]
        assert await told(records, nothing_new, wait=25) == (b"1", 25)
        assert await told(records, [Write("k", b"2", None, b"2"), Write("k", b"2", None, b"1")]) == (b"2", 20)
        assert await told(records, [Drop("k", b"1"), Drop("k")], known=b"2") == (None, 20)
        assert await told(records, [Claim("k", b"3", None)], known=None) == (b"3", 10)


async def test_time_is_a_change_too(autojump_clock):
    async with MemoryBroker().open() as session:
        records = session.records
        await records.carry_out([Write("k", b"1", 20)])
        assert await told(records, []) == (None, 20)
        await records.carry_out([Write("k", b"1", 20)])
        assert await told(records, [Write("k", b"1", 30)]) == (None, 40)


async def test_nothing_is_left_of_those_who_gave_up(autojump_clock):
    async with MemoryBroker().open() as session:
        records = session.records
        async with trio.open_nursery() as nursery:
            for wait in (1, 2, 3):
                nursery.start_soon(lambda wait=wait: records.changed("k", None, wait=wait))
        assert not records._bells
