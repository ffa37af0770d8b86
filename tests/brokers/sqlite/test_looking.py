"""Looking: what is read is what was there when it was asked for, or newer; never older."""

import pytest
import trio

from tests.brokers.sqlite.kit import Hold, put
from trepid.brokers.sqlite import SQLiteBroker


@pytest.fixture
async def session(tmp_path):
    async with SQLiteBroker(tmp_path / "jobs.db").open() as session:
        await session.declare(["q"])
        yield session


async def test_nobody_joins_a_look_that_began_before_his_own_commit(session):
    seen = []

    async def look():
        seen.append(await session.get("q", "m"))

    async with trio.open_nursery() as nursery:
        hold = Hold()
        nursery.start_soon(session._read, hold)
        await trio.to_thread.run_sync(hold.began.wait)
        await put(session, "m")  # committed, while the reader's transaction still shows what was there before
        nursery.start_soon(look)
        while not session._reader._line:
            await trio.lowlevel.checkpoint()
        hold.go.set()
    assert [view.id for view in seen if view is not None] == ["m"]


async def test_looks_that_wait_together_share_a_transaction(session):
    await put(session, "m")
    async with trio.open_nursery() as nursery:
        hold = Hold()
        nursery.start_soon(session._read, hold)
        await trio.to_thread.run_sync(hold.began.wait)
        before = session._reader.tally.transactions
        for _ in range(20):
            nursery.start_soon(session.get, "q", "m")
        while len(session._reader._line) < 20:
            await trio.lowlevel.checkpoint()
        hold.go.set()
    assert session._reader.tally.transactions - before == 2  # the one that was held, and one for all of them
