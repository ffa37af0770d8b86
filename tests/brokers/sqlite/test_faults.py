"""When the world is wrong: no space, a killed writer, a lock that is never given back, a file that goes bad."""

import contextlib
import random
import sqlite3

import pytest
import trio

from tests.brokers.sqlite.kit import PRELUDE, message, our_threads, put, python
from trepid.brokers.sqlite import SQLiteBroker, faults, file, statements
from trepid.errors import BrokerBusyError, BrokerFileError, BrokerFullError, BrokerLostError
from trepid.values.unique import Unique

resource = pytest.importorskip("resource")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "jobs.db"


def integrity(path):
    connection = sqlite3.connect(path)
    try:
        return connection.execute("PRAGMA integrity_check").fetchone()[0]
    finally:
        connection.close()


def test_a_full_disk_refuses_what_does_not_fit_and_work_resumes(path):
    code = (
        PRELUDE
        + """
import resource
from trepid.errors import BrokerFullError
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
async def main():
    async with SQLiteBroker(path).open() as session:
        await session.declare(["q"])
        await put(session, "before")
        limit(400_000)
        full, stored = 0, 1
        for number in range(100):
            try:
                await put(session, f"big{number}", payload=b"x" * 20_000)
                stored += 1
            except BrokerFullError:
                full += 1
        limit(resource.RLIM_INFINITY)
        await put(session, "after")
        stats = await session.stats("q")
        assert full and stats.ready == stored + 1, (full, stored, stats)
        deliveries = await take(session, 1000)
        await end(session, deliveries)
        assert len(deliveries) == stored + 1
    print("fine", flush=True)
trio.run(main)
"""
    )
    with python(code, path) as process:
        assert process.stdout.readline() == "fine\n"
    assert integrity(path) == "ok"


def test_in_a_full_disk_what_fits_is_stored_beside_what_does_not(path):
    code = (
        PRELUDE
        + """
import resource
from trepid.errors import BrokerFullError
from tests.brokers.sqlite.kit import Hold
async def main():
    async with SQLiteBroker(path).open() as session:
        await session.declare(["q"])
        refused = []
        async def big():
            try:
                await put(session, "big", payload=b"x" * 900_000)
            except BrokerFullError as exc:
                refused.append(exc)
        async with trio.open_nursery() as nursery:
            hold = Hold()
            nursery.start_soon(session._write, hold)
            await trio.to_thread.run_sync(hold.began.wait)
            for number in range(5):
                nursery.start_soon(put, session, f"small{number}")
            nursery.start_soon(big)
            while len(session._writer._line) < 6:
                await trio.sleep(0)
            resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))
            hold.go.set()
        assert len(refused) == 1
        assert (await session.stats("q")).ready == 5
    print("fine", flush=True)
trio.run(main)
"""
    )
    with python(code, path) as process:
        assert process.stdout.readline() == "fine\n"
    assert integrity(path) == "ok"


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_writer_loses_nothing_that_was_accepted(path, seed):
    """Messages are published, leased and settled by a process that is killed; what it was told must be true."""
    code = (
        PRELUDE
        + """
async def produce(session):
    for number in itertools.count():
        (published,) = await put(session, f"m{number}")
        os.write(1, f"{published.id} {published.outcome}\\n".encode())
async def consume(session):
    while True:
        for delivery in await take(session, 10, wait=1):
            (reply,) = await end(session, [delivery])
            os.write(1, f"{delivery.id} {reply}\\n".encode())
async def main():
    async with SQLiteBroker(path).open() as session, trio.open_nursery() as nursery:
        await session.declare(["q"])
        nursery.start_soon(produce, session)
        nursery.start_soon(consume, session)
trio.run(main)
"""
    )
    with python(code, path) as process:
        said = [process.stdout.readline() for _ in range(random.Random(seed).randrange(20, 200))]
        process.kill()
        said += process.stdout.readlines()
    said = [line.split() for line in said if line.endswith("\n")]
    assert integrity(path) == "ok"

    async def check():
        async with SQLiteBroker(path).open() as session:
            for id, reply in said:
                view = await session.get("q", id)
                assert view is not None
                if reply == "applied":
                    assert view.state == "done"
            held = await session.held("w")
            assert await session.expire_owner("w") == len(held)
            stats = await session.stats("q")
            assert stats.live + stats.done >= len({id for id, _ in said})

    trio.run(check)


def locker(path):
    connection = sqlite3.connect(path, check_same_thread=False)
    connection.execute("BEGIN IMMEDIATE")
    return connection


async def test_a_lock_that_is_given_back_costs_only_time(path):
    async with SQLiteBroker(path).open() as session:
        await session.declare(["q"])
        lock = locker(path)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(put, session, "m")
            await trio.sleep(0.05)
            lock.rollback()
        assert session.statistics().busy_retries > 0
        lock.close()


async def test_a_lock_that_is_kept_is_reported(path, monkeypatch):
    async with SQLiteBroker(path).open() as session:
        await session.declare(["q"])
        monkeypatch.setattr(file, "PATIENCE", 0.1)
        lock = locker(path)
        with pytest.raises(BrokerBusyError):
            await put(session, "m")
        assert await session.get("q", "m") is None
        lock.close()
        await put(session, "m")


async def test_who_waits_for_a_lock_can_be_cancelled(path):
    async with SQLiteBroker(path).open() as session:
        await session.declare(["q"])
        lock = locker(path)
        with trio.fail_after(2), trio.move_on_after(0.05) as scope:
            await put(session, "m")
        assert scope.cancelled_caught
        lock.close()
        assert await session.get("q", "m") is None


async def test_closing_while_the_file_is_locked_is_bounded(path, monkeypatch):
    monkeypatch.setattr(file, "PATIENCE", 0.2)
    lock = None
    with trio.fail_after(8):
        try:
            with trio.CancelScope() as scope:
                async with SQLiteBroker(path).open() as session:
                    await session.declare(["q"])
                    lock = locker(path)
                    scope.deadline = trio.current_time() + 0.05
                    await put(session, "m")
        finally:
            lock.close()
    assert our_threads() == []


async def test_a_file_that_goes_bad_says_so(path):
    async with SQLiteBroker(path).open() as session:
        await session.declare(["q"])

        def spoil(transaction):
            transaction.run("UPDATE sqlite_schema SET rootpage = 999999")

        def fail(_):
            error = sqlite3.DatabaseError("database disk image is malformed")
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error

        with pytest.raises(BrokerFileError, match="malformed"):
            await session._write(fail)
        with pytest.raises(BrokerFileError):
            await session._write(spoil)
        await put(session, "m")


class FailsOnce:
    """A cursor whose first look at the head of the file fails: the transaction has begun by then."""

    def __init__(self, cursor):
        self._cursor = cursor
        self._failed = False

    def execute(self, statement, *args):
        if statement == statements.HEAD and not self._failed:
            self._failed = True
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY_RECOVERY
            raise error
        return self._cursor.execute(statement, *args)

    def __getattr__(self, name):
        return getattr(self._cursor, name)


@pytest.mark.parametrize("engine", ["_writer_engine", "_reader_engine"])
@pytest.mark.parametrize("patience", [0.0, 5.0])
async def test_a_transaction_that_fails_as_it_begins_is_not_left_open(path, monkeypatch, engine, patience):
    async with SQLiteBroker(path).open() as session:
        await session.declare(["q"])
        monkeypatch.setattr(file, "PATIENCE", patience)
        failing = getattr(session, engine)
        ask = session.queues if engine == "_reader_engine" else (lambda: session.declare(["q"]))
        with contextlib.nullcontext() if patience else pytest.raises(BrokerBusyError):
            monkeypatch.setattr(failing, "_cursor", FailsOnce(failing._cursor))
            await ask()
        lock = locker(path)  # nobody keeps the file from others
        lock.close()
        await ask()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_FULL, BrokerFullError),
        (sqlite3.SQLITE_IOERR_WRITE, BrokerFullError),
        (sqlite3.SQLITE_IOERR_FSYNC, BrokerLostError),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, BrokerBusyError),
        (sqlite3.SQLITE_LOCKED, BrokerBusyError),
        (sqlite3.SQLITE_CORRUPT_INDEX, BrokerFileError),
        (sqlite3.SQLITE_NOTADB, BrokerFileError),
        (sqlite3.SQLITE_READONLY, BrokerFileError),
    ],
)
def test_complaints_of_sqlite_in_our_words(code, kind):
    error = sqlite3.OperationalError("as it says")
    error.sqlite_errorcode = code
    ours = faults.typed(error, "jobs.db")
    assert type(ours) is kind
    assert ours.__cause__ is error
    assert "jobs.db" in str(ours)
    assert "as it says" in str(ours)


async def test_an_error_inside_the_thread_ends_the_session_not_the_program(path, monkeypatch):
    async with SQLiteBroker(path).open() as session:
        await session.declare(["q"])

        def broken():
            raise ZeroDivisionError

        monkeypatch.setattr(session._writer._database, "rollback", broken)
        with pytest.raises(BrokerLostError, match="ZeroDivisionError"):
            await session.publish([message("m", unique=Unique("k")), message("n", priority=2**70)])
        with pytest.raises(trio.ClosedResourceError):
            await put(session, "n")
        assert await session.queues() == ["q"]
    assert our_threads() == []


async def test_several_processes_share_the_work(path):
    code = (
        PRELUDE
        + """
async def main():
    async with SQLiteBroker(path).open() as session:
        done = 0
        while deliveries := await take(session, 7, wait=0.2):
            replies = await end(session, deliveries)
            done += replies.count("applied")
    print(done, flush=True)
trio.run(main)
"""
    )
    async with SQLiteBroker(path).open() as session:
        await session.declare(["q"])
        await put(session, *(f"m{number}" for number in range(500)))
        with python(code, path) as one, python(code, path) as other:
            counts = [int(await trio.to_thread.run_sync(each.stdout.readline)) for each in (one, other)]
        assert sum(counts) == 500
        assert (await session.stats("q")).done == 500


def test_threads_do_not_keep_a_crashed_program_alive(path):
    code = (
        PRELUDE
        + """
async def main():
    broker = SQLiteBroker(path).open()
    await broker.__aenter__()
    print("open", flush=True)
    raise KeyboardInterrupt
try:
    trio.run(main)
except BaseException:
    pass
"""
    )
    with python(code, path) as process:
        assert process.stdout.readline() == "open\n"
        assert process.wait(10) is not None
