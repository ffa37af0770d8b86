"""A whole worker on a disk that fills up, and is emptied again: a process with a small limit to its files."""

import sqlite3

import pytest

from tests.brokers.sqlite.kit import PRELUDE, python

pytest.importorskip("resource")

WORKER = """
import resource, trepid
from trepid.errors import BrokerFullError
from trepid.ports.events import JobEnded, WorkerTroubled

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

def fill():  # what is in the log already stays; nothing can be added
    limit(os.path.getsize(path + "-wal"))

gate, troubles, ended, runs = trio.Event(), [], [], []
troubled = {"settle": trio.Event(), "extend": trio.Event(), "receive": trio.Event()}

def observe(event):
    if isinstance(event, WorkerTroubled):
        troubles.append(event)
        troubled.setdefault(event.operation, trio.Event()).set()
    elif isinstance(event, JobEnded):
        ended.append(event.outcome)

async def large(number: int) -> str:
    runs.append(number)
    await gate.wait()
    return "x" * 50_000

LARGE = trepid.Actor(large)
"""


def integrity(path):
    connection = sqlite3.connect(path)
    try:
        return connection.execute("PRAGMA integrity_check").fetchone()[0]
    finally:
        connection.close()


def fine(code, path):
    with python(PRELUDE + WORKER + code, path) as process:
        assert process.stdout.readline() == "fine\n"
    assert integrity(path) == "ok"


def test_a_worker_outlasts_a_full_disk(tmp_path):
    """Its verdicts wait for room, nothing runs twice, and it then goes on with what it could not lease."""
    fine(
        """
async def main():
    async with trepid.open_connection("sqlite:" + path) as connection:
        await connection.declare("default")
        handles = await connection.enqueue_many(LARGE.job(number) for number in range(12))
        async with trio.open_nursery() as nursery:
            worker = trepid.Worker(LARGE, tasks_limit=6, observers=[observe])
            running = await nursery.start(worker.run, connection)
            while len(runs) < 6:
                await trio.sleep(0.01)
            fill()
            gate.set()
            with trio.fail_after(20):
                await troubled["settle"].wait()
            try:
                await connection.enqueue(LARGE.job(99))
            except BrokerFullError as exc:
                assert "/" in str(exc) and isinstance(exc, OSError), exc
            else:
                raise AssertionError("it was stored on a full disk")
            assert not running.statistics().report.processed
            limit(resource.RLIM_INFINITY)
            with trio.fail_after(20):
                for handle in handles:
                    assert len(await handle.result()) == 50_000
            running.stop()
            report = await running.wait_stopped()
        assert (report.succeeded, report.processed, report.lost, report.released) == (12, 12, 0, 0), report
        assert sorted(runs) == list(range(12)), runs
        assert ended == ["succeeded"] * 12, ended
        assert all("no space" in event.error.lower() or "full" in event.error.lower() for event in troubles), troubles
        stats = await connection.stats("default")
        assert (stats.done, stats.ready, stats.leased, stats.dead) == (12, 0, 0, 0), stats
    print("fine", flush=True)
trio.run(main)
""",
        tmp_path / "jobs.db",
    )


def test_a_worker_that_is_stopped_on_a_full_disk_ends_and_loses_nothing(tmp_path):
    """It cannot say what became of its jobs; they come back when their leases have expired, and run again."""
    fine(
        """
async def main():
    async with trepid.open_connection("sqlite:" + path) as connection:
        await connection.declare("default")
        handles = await connection.enqueue_many(LARGE.job(number) for number in range(3))
        async with trio.open_nursery() as nursery:
            worker = trepid.Worker(LARGE, lease=2.0, observers=[observe])
            running = await nursery.start(worker.run, connection)
            while len(runs) < 3:
                await trio.sleep(0.01)
            fill()
            gate.set()
            with trio.fail_after(20):
                await troubled["settle"].wait()
            nursery.cancel_scope.cancel()
        limit(resource.RLIM_INFINITY)
        with trio.fail_after(30):
            report = await trepid.Worker(LARGE, messages_limit=3).run(connection)
        assert report.succeeded == 3, report
        assert [len(await handle.result()) for handle in handles] == [50_000] * 3
        assert all([(await handle.status()).crashes <= 1 for handle in handles])
    print("fine", flush=True)
trio.run(main)
""",
        tmp_path / "jobs.db",
    )
