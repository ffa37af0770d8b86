"""Enqueuing in the caller's own transaction."""

import sqlite3

import pytest
import trio

from tests.brokers.sqlite.kit import message, put, take
from trepid.brokers.sqlite import SQLiteBroker
from trepid.errors import BrokerBusyError, UnsupportedError
from trepid.rules.publishing import Publishing
from trepid.values.unique import Unique


@pytest.fixture
def path(tmp_path):
    return tmp_path / "jobs.db"


@pytest.fixture
async def session(path):
    async with SQLiteBroker(path).open() as session:
        await session.declare(["q"])
        yield session


@pytest.fixture
def theirs(session, path):
    connection = sqlite3.connect(path, timeout=0.1)
    connection.execute("CREATE TABLE orders (id)")
    connection.commit()
    yield connection
    connection.close()


async def test_it_is_there_with_the_commit(session, theirs):
    theirs.execute("INSERT INTO orders VALUES (1)")
    (published,) = session.publish_in(theirs, [message("m")])
    assert published.outcome is Publishing.ACCEPTED
    assert theirs.in_transaction
    assert await session.get("q", "m") is None
    theirs.commit()
    assert [each.id for each in await take(session)] == ["m"]


async def test_it_is_gone_with_the_rollback(session, theirs):
    theirs.execute("INSERT INTO orders VALUES (1)")
    session.publish_in(theirs, [message("m")])
    theirs.rollback()
    assert await session.get("q", "m") is None
    assert theirs.execute("SELECT count(*) FROM orders").fetchone() == (0,)
    await put(session, "n")
    assert (await session.stats("q")).ready == 1


async def test_a_transaction_is_begun_as_sqlite3_would(session, theirs):
    session.publish_in(theirs, [message("m")])
    assert theirs.in_transaction
    theirs.commit()
    assert await session.get("q", "m") is not None


async def test_where_the_caller_begins_transactions_it_must_have(session, path):
    connection = sqlite3.connect(path, isolation_level=None)
    with pytest.raises(RuntimeError, match="BEGIN"):
        session.publish_in(connection, [message("m")])
    connection.execute("BEGIN")
    session.publish_in(connection, [message("m")])
    connection.execute("COMMIT")
    connection.close()
    assert await session.get("q", "m") is not None


async def test_an_idle_worker_notices(session, theirs):
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def work():
            with trio.fail_after(5):
                assert [each.id for each in await take(session, wait=60)] == ["m"]

        await trio.testing.wait_all_tasks_blocked(0.02)
        session.publish_in(theirs, [message("m")])
        theirs.commit()


async def test_a_batch_is_all_or_nothing_also_for_those_who_go_on(session, theirs):
    theirs.execute("INSERT INTO orders VALUES (1)")
    with pytest.raises(OverflowError):
        session.publish_in(theirs, [message("a"), message("b", priority=2**70)])
    assert [each.outcome for each in session.publish_in(theirs, [message("c")])] == [Publishing.ACCEPTED]
    theirs.commit()
    assert theirs.execute("SELECT count(*) FROM orders").fetchone() == (1,)
    assert [each.id for each in await take(session)] == ["c"]


async def test_refusals_are_replies_here_too(session, theirs):
    await put(session, "m", unique=Unique("k"))
    conflict = message("n", unique=Unique("k", "raise"))
    replies = session.publish_in(theirs, [conflict, message("o", queue="nowhere"), message("p")])
    assert [each.outcome for each in replies] == [Publishing.CONFLICT, Publishing.NO_QUEUE, Publishing.NOT_STORED]
    theirs.commit()
    assert (await session.stats("q")).ready == 1


async def test_their_settings_are_theirs(session, theirs):
    theirs.row_factory = sqlite3.Row
    theirs.text_factory = bytes
    session.publish_in(theirs, [message("m")])
    assert theirs.row_factory is sqlite3.Row
    assert theirs.text_factory is bytes
    theirs.commit()
    assert (await session.get("q", "m")).id == "m"


async def test_another_file_is_refused(session, tmp_path):
    for other in (":memory:", tmp_path / "other.db"):
        connection = sqlite3.connect(other)
        with pytest.raises(UnsupportedError, match="cannot span two files"):
            session.publish_in(connection, [message("m")])
        connection.close()


async def test_what_is_no_connection_is_refused(session):
    with pytest.raises(UnsupportedError, match=r"sqlite3\.Connection"):
        session.publish_in(object(), [message("m")])


async def test_a_locked_file_is_busy(session, theirs, path):
    other = sqlite3.connect(path)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(BrokerBusyError):
        session.publish_in(theirs, [message("m")])
    other.close()


async def test_places_are_never_given_twice(session, theirs):
    tokens = set()
    for number in range(5):
        session.publish_in(theirs, [message(f"theirs{number}")])
        theirs.commit()
        await put(session, f"ours{number}")
        tokens |= {each.token for each in await take(session)}
    assert len(tokens) == 10
