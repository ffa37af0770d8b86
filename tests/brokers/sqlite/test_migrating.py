"""Files of earlier versions are brought up to date, and nothing in them is lost."""

import sqlite3
from pathlib import Path

import pytest

from tests.brokers.sqlite.kit import end, message, put, take
from trepid.brokers.sqlite import SQLiteBroker, schema
from trepid.ports.messages import Ending
from trepid.ports.records import Claim, Read
from trepid.rules.gates import Limit
from trepid.rules.life import DONE, Reply, State
from trepid.rules.publishing import Publishing
from trepid.rules.verdicts import Done
from trepid.values.unique import Unique

VERSION_2 = Path(__file__).with_name("version_2.sql").read_text()
WRITTEN = 1_700_000_000.0


@pytest.fixture
def path(tmp_path):
    return tmp_path / "jobs.db"


def write(path, *scripts):
    connection = sqlite3.connect(path)
    for script in scripts:
        connection.executescript(script)
    connection.close()


def shape(path):
    """Return the columns of all tables, and the indexes as they were made."""
    connection = sqlite3.connect(path)
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    columns = {name: connection.execute(f"PRAGMA table_xinfo({name})").fetchall() for name in tables}
    indexes = set(connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL"))
    connection.close()
    return columns, indexes


@pytest.mark.parametrize("first", [False, True])
async def test_a_migrated_file_has_the_shape_of_a_new_one(path, first):
    write(path, VERSION_2, *(["DROP TABLE records; PRAGMA user_version = 1;"] if first else []))
    async with SQLiteBroker(path).open():
        pass
    async with SQLiteBroker(path.with_name("new.db")).open():
        pass
    assert shape(path) == shape(path.with_name("new.db"))
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


async def test_a_file_of_the_first_version_gets_the_table_of_records(path):
    write(path, VERSION_2, "DROP TABLE records; PRAGMA user_version = 1;")
    async with SQLiteBroker(path, clock=lambda: WRITTEN).open() as session:
        assert (await session.stats("q")).ready == 4
        assert await session.records.carry_out([Claim("k", b"1", None), Read("k")]) == [None, b"1"]


async def test_a_file_of_the_second_version_is_drained(path):
    write(path, VERSION_2)
    now = WRITTEN
    async with SQLiteBroker(path, clock=lambda: now).open() as session:
        counts = await session.stats("q")
        assert [getattr(counts, state) for state in State] == [1, 4, 1, 1, 1, 1]
        assert await session.result("q", "done") == Ending(DONE, b"42")
        assert (await session.get("q", "dead")).error.message == "oops"
        assert await session.records.carry_out([Read("k")]) == [b"1"]
        (conflict,) = await put(session, "other", unique=Unique("k", "raise"))
        assert conflict.outcome is Publishing.CONFLICT
        # What is new in the file works beside what is old.
        await session.limit([Limit("q", "a", concurrency=1), Limit("q", max_size=9)])
        await session.publish([message(id, gate="a") for id in ("gated", "behind")])
        assert (await put(session, "too", "many"))[0].outcome is Publishing.FULL
        got = await take(session)
        assert [each.id for each in got] == ["urgent", "ready", "second", "unique", "gated"]
        now += 700.0  # the lease of version 2 has run out, and so have these
        again = await take(session)
        assert {each.id for each in again} == {"leased", "urgent", "later", "ready", "second", "unique", "behind"}
        assert await end(session, again, Done(None, 0.0)) == [Reply.APPLIED] * 7
        assert [each.id for each in await take(session)] == ["gated"]
        assert await session.requeue("q") == 1
        assert [each.id for each in await take(session)] == ["dead"]
