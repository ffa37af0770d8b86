"""Waiting for many ends at once, and for values of the records."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.brokers.sqlite.kit import end, put, take
from trepid.brokers.sqlite import SQLiteBroker
from trepid.ports.messages import Absent, Ending
from trepid.ports.records import Claim, Drop, Write
from trepid.rules.life import CANCELLED, DEAD, DONE
from trepid.rules.verdicts import Done, Failed, Failure

OOPS = Failure("ValueError", "oops")


@pytest.fixture
async def session(tmp_path):
    async with SQLiteBroker(tmp_path / "jobs.db").open() as session:
        await session.declare(["q"])
        yield session


@pytest.fixture
async def other(session, tmp_path):
    async with SQLiteBroker(tmp_path / "jobs.db").open() as other:
        yield other


async def test_many_ends_are_told_in_one_look(session):
    await put(session, "done", "dead", "gone", "cancelled", "lives")
    done, dead, gone, _, _ = await take(session)
    await end(session, [done], Done(b"42", 60.0))
    await end(session, [dead], Failed(OOPS))
    await end(session, [gone], Done(None, 0.0))
    await put(session, "withdrawn")
    await session.cancel("q", ["withdrawn"], "enough")
    before = session.statistics().reads
    found = await session.endings("q", ["done", "dead", "gone", "withdrawn", "lives", "done"])
    assert session.statistics().reads == before + 1
    assert found["done"] == Ending(DONE, b"42")
    assert (found["dead"].state, found["dead"].error.message) == (DEAD, "oops")
    assert found["gone"] is Absent.GONE
    assert found["withdrawn"] == Ending(CANCELLED, reason="enough")
    assert set(found) == {"done", "dead", "gone", "withdrawn"}
    assert await session.endings("q", ["lives"]) == {}
    assert await session.endings("q", []) == {}
    assert await session.endings("nowhere", ["m"]) == {"m": Absent.GONE}


async def test_a_thousand_names_are_looked_up_by_their_index(session):
    ids = [f"m{number}" for number in range(1000)]
    await put(session, *ids)
    assert await session.endings("q", ids) == {}
    got = await take(session, 1000)
    await end(session, got, Done(b"1", 60.0))
    assert await session.endings("q", ids) == dict.fromkeys(ids, Ending(DONE, b"1"))


async def waited(session, ids, change, *args):
    got = {}
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def wait():
            with trio.fail_after(20):
                got.update(await session.endings("q", ids, wait=60.0))

        await wait_all_tasks_blocked(0.02)
        await change(*args)
    return got


async def test_an_end_wakes_who_waits_for_it_among_others(session, other):
    await put(session, *"abcdef")
    got = await take(session)
    assert await waited(session, list("abc"), end, session, got[1:2]) == {"b": Ending(DONE, b"1")}
    assert await waited(session, list("acd"), end, other, got[2:3]) == {"c": Ending(DONE, b"1")}


async def test_an_end_that_time_brings_is_noticed(session):
    await put(session, "brief", ttl=0.1, delay=0.1)
    await put(session, "other")
    found = await waited(session, ["brief", "other"], trio.lowlevel.checkpoint)
    assert found == {"brief": Ending(DEAD, reason="expired")}
    await put(session, "crashing", max_crashes=1, priority=9)
    await take(session, 1, lease_for=0.2)
    found = await waited(session, ["crashing", "other"], trio.lowlevel.checkpoint)
    assert found == {"crashing": Ending(DEAD, reason="poison")}


async def test_a_lease_that_ran_out_unseen_is_not_looked_at_all_the_time(session):
    """Nobody leases, so nobody writes that it waits again; time alone will not end it."""
    await put(session, "m")
    await take(session, 1, lease_for=0.01)
    before = session.statistics().reads
    assert await session.endings("q", ["m"], wait=0.5) == {}
    assert session.statistics().reads - before < 20


async def test_waiting_for_ends_comes_to_an_end(session):
    await put(session, "m")
    began = trio.current_time()
    assert await session.endings("q", ["m"], wait=0.1) == {}
    assert trio.current_time() - began >= 0.1


@pytest.mark.parametrize("step", [Claim("k", b"2", None), Write("k", b"2", None), Drop("k")])
async def test_a_change_of_a_record_wakes_who_waits_for_it(session, other, step):
    known = None if isinstance(step, Claim) else b"1"
    if known is not None:
        await session.records.carry_out([Write("k", known, None)])
    for writer in (session, other):
        got = []
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def wait(got=got):
                with trio.fail_after(20):
                    got.append(await session.records.changed("k", known, wait=60.0))

            await wait_all_tasks_blocked(0.02)
            await writer.records.carry_out([step])
        assert got == [None if isinstance(step, Drop) else b"2"]
        await session.records.carry_out([Drop("k") if known is None else Write("k", known, None)])


async def test_a_record_that_expires_has_changed(session):
    await session.records.carry_out([Write("k", b"1", 0.2)])
    with trio.fail_after(20):
        assert await session.records.changed("k", b"1", wait=60.0) is None


async def test_a_record_that_stays_is_waited_for_in_vain(session):
    await session.records.carry_out([Write("k", b"1", None)])
    assert await session.records.changed("k", b"0", wait=60.0) == b"1"
    assert await session.records.changed("k", b"1", wait=0.05) == b"1"
