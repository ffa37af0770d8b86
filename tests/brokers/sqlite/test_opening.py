"""Opening and closing: what is admitted, what is refused, and what is left behind."""

# ruff: noqa: PTH208 - names of files are compared as the system lists them.
import contextlib
import gc
import os
import sqlite3
import stat
import sys
import tempfile
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.brokers.sqlite.kit import PRELUDE, our_threads, put, python, take
from trepid.brokers.sqlite import SQLiteBroker, file, schema
from trepid.errors import BrokerFileError, UnsupportedError

NOBODY = 65534


@pytest.fixture
def path(tmp_path):
    return tmp_path / "jobs.db"


async def create(path, count=0):
    async with SQLiteBroker(path).open() as session:
        await session.declare(["q"])
        await put(session, *(f"m{number}" for number in range(count)))


async def refused(path, match):
    before = path.read_bytes() if path.is_file() else None
    beside = sorted(os.listdir(path.parent)) if path.parent.is_dir() else None
    with pytest.raises(BrokerFileError, match=match) as caught:
        async with SQLiteBroker(path).open():
            pytest.fail("it was admitted")
    assert str(path) in str(caught.value)
    if before is not None:
        assert path.read_bytes() == before
        assert sorted(os.listdir(path.parent)) == beside
    assert our_threads() == []


async def test_what_is_promised_is_in_force(path):
    async with SQLiteBroker(path).open() as session:
        assert "journal_mode=wal" in session.capabilities.durability_proof
        assert "synchronous=2" in session.capabilities.durability_proof

        def pragmas(transaction):
            names = ("journal_mode", "synchronous", "trusted_schema", "temp_store", "journal_size_limit")
            return [transaction.run(f"PRAGMA {name}").fetchone()[0] for name in names]

        assert await session._write(pragmas) == ["wal", 2, 0, 2, 64 * 1024 * 1024]

        def written(reading):
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                reading.run("DELETE FROM queues")

        await session._read(written)


async def test_the_file_is_for_its_owner_only(path):
    async with SQLiteBroker(path).open() as session:
        await session.declare(["q"])
        for file in (path, path.with_name("jobs.db-wal"), path.with_name("jobs.db-shm")):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "content", [b"#!/bin/sh\n", b"x" * 5000, b"SQLite format 3\0", b"SQLite format 3\0" + b"y" * 200]
)
async def test_another_kind_of_file_is_refused(path, content):
    path.write_bytes(content)
    await refused(path, "not an SQLite database|damaged")


async def test_what_else_sqlite_complains_of_is_passed_on(path, monkeypatch):
    await create(path)

    def fail(_path):
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(file, "_header", fail)
    await refused(path, "unable to open")


@pytest.mark.parametrize("journal", ["delete", "wal"])
async def test_the_database_of_another_application_is_refused(path, journal):
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA journal_mode = {journal}")
    connection.execute("CREATE TABLE theirs (a)")
    connection.commit()
    connection.close()
    await refused(path, "another application")


async def test_a_newer_file_is_refused_with_a_hint(path):
    await create(path)
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    connection.close()
    await refused(path, "upgrade Trepid")


async def test_an_older_file_is_migrated(path, monkeypatch):
    await create(path, 3)
    latest = schema.VERSION
    steps = {latest: ("CREATE TABLE second (a)",), latest + 1: ("CREATE TABLE third (a)",)}
    monkeypatch.setattr(schema, "VERSION", latest + 2)
    monkeypatch.setattr(schema, "MIGRATIONS", steps)
    async with SQLiteBroker(path).open() as session:
        assert (await session.stats("q")).ready == 3
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (latest + 2,)
    connection.execute("SELECT * FROM second, third")
    connection.close()


async def test_a_migration_that_fails_leaves_the_file_as_it_was(path, monkeypatch):
    await create(path, 3)
    latest = schema.VERSION
    monkeypatch.setattr(schema, "VERSION", latest + 2)
    monkeypatch.setattr(schema, "MIGRATIONS", {latest: ("CREATE TABLE second (a)",), latest + 1: ("nonsense",)})
    with pytest.raises(BrokerFileError):
        async with SQLiteBroker(path).open():
            pytest.fail("it was admitted")
    monkeypatch.undo()
    async with SQLiteBroker(path).open() as session:
        assert (await session.stats("q")).ready == 3


@pytest.mark.parametrize("damage", ["middle", "truncated", "index"])
async def test_a_damaged_file_is_refused(path, damage):
    await create(path, 2000)
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        del content[len(content) // 2 :]
    elif damage == "middle":
        content[len(content) // 2 : len(content) // 2 + 8192] = os.urandom(8192)
    else:
        content[4096:4200] = bytes(104)
    path.write_bytes(content)
    await refused(path, "damaged")


async def test_a_missing_directory_is_not_made(tmp_path):
    await refused(tmp_path / "missing" / "jobs.db", "create it first")
    assert os.listdir(tmp_path) == []


async def test_a_directory_is_refused(tmp_path):
    (tmp_path / "jobs.db").mkdir()
    await refused(tmp_path / "jobs.db", "directory")


async def test_a_pipe_is_refused(path):
    os.mkfifo(path)
    await refused(path, "ordinary file")


@contextlib.contextmanager
def unprivileged():
    """Be somebody to whom things can be forbidden; to root they cannot."""
    me = os.geteuid()
    if me == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(me)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="no users as POSIX has them")
async def test_no_permission():
    # pytest's own directories are closed to others, so the file itself would not be what is forbidden.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "jobs.db"
        await create(path)
        content = path.read_bytes()
        path.chmod(0)
        with unprivileged(), pytest.raises(BrokerFileError, match="permission") as caught:
            async with SQLiteBroker(path).open():
                pytest.fail("it was admitted")
        assert str(path) in str(caught.value)
        path.chmod(0o600)
        assert path.read_bytes() == content
    assert our_threads() == []


@pytest.mark.parametrize("wrong", ["", "a\0b"])
def test_no_path_at_all(wrong):
    with pytest.raises(ValueError, match="no path"):
        SQLiteBroker(wrong)


async def test_memory_is_an_ordinary_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    await create(tmp_path / ":memory:")
    async with SQLiteBroker(":memory:").open() as session:
        assert await session.queues() == ["q"]


async def test_a_file_of_which_a_part_is_still_in_the_log_is_admitted(path):
    """So a kill leaves it that falls into the moving of the log: the head knows of pages that are not there yet."""
    await create(path)
    log = path.with_name("jobs.db-wal")
    async with SQLiteBroker(path).open() as session:
        await put(session, *(f"m{number}" for number in range(300)))
        for name in (path, log):  # by another process: read here, they would lose the locks that are on them
            await trio.run_process(["cp", name, f"{name}.copy"])
    whole, part = path.read_bytes(), path.with_name("jobs.db.copy").read_bytes()
    assert len(part) < len(whole)
    path.write_bytes(whole[:4096] + part[4096:])
    path.with_name("jobs.db-wal.copy").rename(log)
    async with SQLiteBroker(path).open() as session:
        assert (await session.stats("q")).ready == 300


async def test_an_empty_file_becomes_ours(path):
    path.touch()
    await create(path, 1)


def test_processes_that_create_one_file_at_once_all_succeed(path):
    code = (
        PRELUDE
        + """
async def main():
    async with SQLiteBroker(path).open() as session:
        await session.declare(["q"])
        await put(session, f"m{os.getpid()}", token=(str(os.getpid()), 1))
print("ready", flush=True); sys.stdin.readline()
trio.run(main)
print("done", flush=True)
"""
    )
    for round in range(3):
        file = path.with_name(f"{round}.db")
        with python(code, file) as a, python(code, file) as b, python(code, file) as c:
            processes = (a, b, c)
            assert [process.stdout.readline() for process in processes] == ["ready\n"] * 3
            for process in processes:
                process.stdin.write("\n")
                process.stdin.flush()
            assert [process.stdout.readline() for process in processes] == ["done\n"] * 3

        async def count(file=file):
            async with SQLiteBroker(file).open() as session:
                return (await session.stats("q")).ready

        assert trio.run(count) == 3


@pytest.mark.parametrize("first", ["session", "guest"])
async def test_opening_the_file_once_more_lets_go_of_no_lock(path, first):
    """Closing any descriptor of a file lets go of all its process's locks; then others throw the log away."""
    code = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
print(connection.execute("SELECT count(*) FROM messages").fetchone()[0])
connection.close()
"""
    await create(path)
    async with contextlib.AsyncExitStack() as stack:
        if first == "session":
            await stack.enter_async_context(SQLiteBroker(path).open())
        else:
            guest = stack.enter_context(contextlib.closing(sqlite3.connect(path)))
            guest.execute("SELECT count(*) FROM queues").fetchone()
        session = await stack.enter_async_context(SQLiteBroker(path).open())
        for number in range(2):
            await put(session, f"m{number}")
            seen = await trio.run_process([sys.executable, "-c", code, path], capture_stdout=True)
            assert int(seen.stdout) == number + 1
            assert path.with_name("jobs.db-wal").exists()


async def test_a_session_that_still_has_a_name_lets_go_of_the_file(path):
    async with SQLiteBroker(path).open() as session:
        await session.declare(["q"])
        assert not await session.purge("q", ["done"])
    assert os.listdir(path.parent) == ["jobs.db"]
    assert session is not None


async def test_nothing_is_left_behind(path):
    async def once():
        async with SQLiteBroker(path).open() as session:
            await session.declare(["q"])
            await put(session, "m")
            await take(session, wait=0.01)
            async with SQLiteBroker(path).open() as other:
                await other.stats("q")

    await once()
    gc.collect()  # what earlier tests have left in cycles is not ours to count
    descriptors = sorted(os.listdir("/proc/self/fd")) if sys.platform == "linux" else []
    for _ in range(5):
        await once()
    assert our_threads() == []
    if sys.platform == "linux":
        assert sorted(os.listdir("/proc/self/fd")) == descriptors
    assert os.listdir(path.parent) == ["jobs.db"]


async def test_a_cancelled_body_closes_soon(path):
    with trio.fail_after(5), trio.move_on_after(0.05) as scope:
        async with SQLiteBroker(path).open() as session:
            await session.declare(["q"])
            await take(session, wait=60)
    assert scope.cancelled_caught
    assert our_threads() == []


async def test_opening_can_be_cancelled(path):
    await create(path)
    for number in range(30):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def interrupt(scope=scope, number=number):
                    for _ in range(number):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()

                async with SQLiteBroker(path).open() as session:
                    await session.queues()
    assert our_threads() == []


def test_a_clock_that_jumps_by_itself_is_refused(path):
    async def main():
        async with SQLiteBroker(path).open():
            pytest.fail("it was opened")

    with pytest.raises(UnsupportedError, match="memory broker"):
        trio.run(main, clock=MockClock(autojump_threshold=0))
    assert not path.exists()
    trio.run(create, path, clock=MockClock(rate=1.0))


async def test_two_event_loops_in_one_process(path):
    async def other():
        async with SQLiteBroker(path).open() as session:
            for number in range(20):
                await put(session, f"other{number}")

    await create(path)
    async with SQLiteBroker(path).open() as session, trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, trio.run, other)
        got = 0
        with trio.fail_after(10):
            while got < 20:
                got += len(await take(session, wait=5))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
async def test_a_session_does_not_cross_a_fork(path):
    async with SQLiteBroker(path).open() as session:
        session._process -= 1  # as the child would see it
        with pytest.raises(UnsupportedError, match="fork"):
            await session.queues()


async def test_the_value_says_where_the_messages_are(path):
    assert str(SQLiteBroker(path)) == f"sqlite:{path}"
    assert SQLiteBroker(str(path)) == SQLiteBroker(path)
