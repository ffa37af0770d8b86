"""Waking one another: in a session, between sessions, between processes, and when all bells fail."""

# ruff: noqa: PTH102, PTH110, PTH116, PTH118, PTH123, PTH208 - names of files are compared as the system lists them.
import os
import signal
import sqlite3
import stat
import threading

import pytest
import trio

from tests.brokers.sqlite.kit import PRELUDE, end, message, put, python, take
from trepid.brokers.sql import waiting
from trepid.brokers.sql.news import ENDED_SOMETHING, WORK
from trepid.brokers.sqlite import SQLiteBroker
from trepid.brokers.sqlite.doorbell import HAVE_BELLS, Bell, Ringer, directory_of
from trepid.ports.messages import Absent
from trepid.rules.life import State

pytestmark = pytest.mark.skipif(not HAVE_BELLS, reason="no named pipes here")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "jobs.db"


@pytest.fixture
def no_polls(monkeypatch):
    """Let nobody be woken by the net under the bells."""
    monkeypatch.setattr(waiting, "POLL", 3600.0)


async def rung(session, times):
    """Wait until others were told; the caller of an operation is told first."""
    with trio.fail_after(5):
        while session.statistics().rings < times:
            await trio.sleep(0.001)


async def test_bells_are_private(path):
    async with SQLiteBroker(path).open():
        directory = directory_of(str(path))
        (bell,) = os.listdir(directory)
        assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
        assert stat.S_IMODE(os.stat(os.path.join(directory, bell)).st_mode) == 0o600


async def test_another_session_is_woken(path, no_polls):
    async with SQLiteBroker(path).open() as one, SQLiteBroker(path).open() as other:
        await one.declare(["q"])
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def work():
                with trio.fail_after(5):
                    (delivery,) = await take(other, wait=60)
                    await end(other, [delivery])

            await trio.testing.wait_all_tasks_blocked(0.02)
            await put(one, "m")
            with trio.fail_after(5):
                assert (await one.result("q", "m", wait=60)).state is State.DONE


async def test_this_session_is_woken(path, no_polls):
    async with SQLiteBroker(path).open() as session:
        await session.declare(["q"])
        got = []

        async def work():
            with trio.fail_after(5):
                got.extend(await take(session, 1, wait=60))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(work)
            await trio.testing.wait_all_tasks_blocked(0.02)
            await put(session, *"abcde")
        assert len(got) == 5


async def test_the_listener_hands_over_when_it_leaves(path, no_polls):
    async with SQLiteBroker(path).open() as one, SQLiteBroker(path).open() as other:
        await one.declare(["q"])
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def first():
                with trio.move_on_after(0.05):
                    await take(other, wait=60)

            await trio.testing.wait_all_tasks_blocked()

            @nursery.start_soon
            async def second():
                with trio.fail_after(5):
                    assert await take(other, wait=60)

            await trio.sleep(0.1)  # the first one's patience
            await put(one, "m")


async def test_who_waits_for_an_end_is_not_woken_by_work(path, no_polls):
    async with SQLiteBroker(path).open() as session:
        await session.declare(["q"])
        await put(session, "m")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def wait():
                assert await session.result("q", "m", wait=0.5) is Absent.PENDING

            await trio.testing.wait_all_tasks_blocked(0.02)
            reads = session.statistics().reads
            for number in range(20):
                await put(session, f"n{number}")
            assert session.statistics().reads == reads


async def test_a_request_to_stop_is_pushed(path, no_polls):
    async with SQLiteBroker(path).open() as one, SQLiteBroker(path).open() as other:
        await one.declare(["q"])
        await put(one, "m")
        (delivery,) = await take(one)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def listen():
                with trio.fail_after(5):
                    assert await one.asked("w", (), wait=60) == [(delivery.ref, "enough")]
                assert await one.asked("w", {delivery.ref}) == []

            await trio.testing.wait_all_tasks_blocked(0.02)
            await other.cancel("q", ["m"], "enough")


async def test_without_bells_the_file_is_looked_at(path, monkeypatch):
    monkeypatch.setattr("trepid.brokers.sqlite.doorbell.HAVE_BELLS", False)
    async with SQLiteBroker(path).open() as one, SQLiteBroker(path).open() as other:
        assert not os.path.exists(directory_of(str(path)))
        await one.declare(["q"])
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def work():
                with trio.fail_after(5):
                    assert await take(other, wait=60)

            await trio.testing.wait_all_tasks_blocked(0.02)
            await put(one, "m")


async def test_nobody_looks_while_nobody_waits(path):
    async with SQLiteBroker(path).open() as session:
        reads = session.statistics().reads
        await trio.sleep(0.3)  # some polls' worth
        assert session.statistics().reads == reads


async def test_ringing_all_the_time_does_not_keep_the_file_from_being_looked_at(path):
    """Who publishes in a transaction of his own rings no bell, however busy the others are."""
    async with SQLiteBroker(path).open() as session:
        await session.declare(["q"])
        (bell,) = os.listdir(directory_of(str(path)))
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def noise():
                descriptor = os.open(os.path.join(directory_of(str(path)), bell), os.O_WRONLY | os.O_NONBLOCK)
                try:
                    while True:
                        os.write(descriptor, bytes([ENDED_SOMETHING]))
                        await trio.sleep(0.005)
                finally:
                    os.close(descriptor)

            @nursery.start_soon
            async def work():
                with trio.fail_after(5):
                    assert await take(session, wait=60)
                nursery.cancel_scope.cancel()

            await trio.testing.wait_all_tasks_blocked(0.001)
            connection = sqlite3.connect(path)
            session.publish_in(connection, [message("m")])
            connection.commit()
            connection.close()


async def test_stale_bells_are_removed(path):
    broker = SQLiteBroker(path)
    with python(
        PRELUDE
        + """
async def main():
    async with SQLiteBroker(path).open() as session:
        print("open", flush=True)
        await trio.sleep_forever()
trio.run(main)
""",
        path,
    ) as process:
        assert await trio.to_thread.run_sync(process.stdout.readline) == "open\n"
        async with broker.open() as session:
            await session.declare(["q"])
            await put(session, "m")
            await rung(session, 1)
            assert len(os.listdir(directory_of(str(path)))) == 2
            process.send_signal(signal.SIGKILL)
            await trio.to_thread.run_sync(process.wait)
            await put(session, "n")
            await end(session, await take(session))  # the bells are rung before the next transaction
            assert len(os.listdir(directory_of(str(path)))) == 1
    assert not os.path.exists(directory_of(str(path)))


def test_a_bell_without_a_listener_is_found_stale_at_once(path):
    os.mkdir(directory_of(str(path)))
    stale = os.path.join(directory_of(str(path)), "stale")
    os.mkfifo(stale)
    Ringer(str(path), Bell(str(path))).ring(WORK)
    assert not os.path.exists(stale)


def test_a_full_bell_and_a_strange_file_do_no_harm(path):
    bell = Bell(str(path))
    bell.hang()
    ringer = Ringer(str(path), Bell(str(path)))
    open(os.path.join(directory_of(str(path)), "strange"), "w").close()
    for _ in range(70_000):
        ringer.ring(WORK)
    assert bell.heard() == WORK
    ringer.close()
    os.close(bell.descriptor)


def test_a_dead_listener_does_not_kill_who_rings(path):
    """Some programs let SIGPIPE end them; a bell must not be the cause."""
    code = (
        PRELUDE
        + """
import signal
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
async def main():
    async with SQLiteBroker(path).open() as session:
        await session.declare(["q"])
        await put(session, "a")
        while not session.statistics().rings:
            await trio.sleep(0.01)
        print("rung", flush=True)
        sys.stdin.readline()
        await put(session, "b")
    print("alive", flush=True)
trio.run(main)
"""
    )
    bell = Bell(str(path))
    bell.hang()
    with python(code, path) as process:
        assert process.stdout.readline() == "rung\n"
        os.close(bell.descriptor)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "alive\n"


async def test_another_process_is_woken(path, no_polls):
    code = (
        PRELUDE
        + """
async def main():
    async with SQLiteBroker(path).open() as session:
        print("open", flush=True)
        (delivery,) = await take(session, wait=20)
        await end(session, [delivery])
trio.run(main)
"""
    )
    async with SQLiteBroker(path).open() as session:
        await session.declare(["q"])
        with python(code, path) as process:
            assert await trio.to_thread.run_sync(process.stdout.readline) == "open\n"
            await put(session, "m")
            with trio.fail_after(10):
                assert (await session.result("q", "m", wait=20)).state is State.DONE


def test_nothing_here_starts_a_thread_by_itself():
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("trepid ")]
