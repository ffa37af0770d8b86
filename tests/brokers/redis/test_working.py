"""Whole programs on Redis: a worker, its results, and what is told at once."""

import subprocess
import sys

import pytest
import trio

import trepid
from tests.brokers.redis.steps import publications
from trepid.brokers.redis import RedisBroker
from trepid.ports.messages import Absent, Ending, Settlement
from trepid.rules.life import State
from trepid.rules.verdicts import Done
from trepid.wire.redis.faults import RedisError


async def add(left: int, right: int) -> int:
    await trio.lowlevel.checkpoint()
    return left + right


ADD = trepid.Actor(add)


async def test_a_worker(redis_server):
    async with trepid.open_connection(redis_server.new_database()) as connection, trio.open_nursery() as nursery:
        await connection.declare("default")
        running = await nursery.start(trepid.Worker(ADD).run, connection)
        handles = [await connection.enqueue(ADD.job(number, 1)) for number in range(50)]
        with trio.fail_after(10):
            for number, handle in enumerate(handles):
                assert await handle.result() == number + 1
        running.stop()
        report = await running.wait_stopped()
        assert report.succeeded == 50


async def test_a_running_job_is_cancelled_from_elsewhere_at_once(redis_server):
    started = trio.Event()

    async def endless() -> None:
        started.set()
        await trio.sleep_forever()

    actor, url = trepid.Actor(endless), redis_server.new_database()
    async with (
        trepid.open_connection(url) as ours,
        trepid.open_connection(url) as theirs,
        trio.open_nursery() as nursery,
    ):
        await ours.declare("default")
        running = await nursery.start(trepid.Worker(actor, lease=60.0).run, theirs)
        handle = await ours.enqueue(actor.job())
        # A lease of 60 s is renewed every 20 s: whoever is quicker has been told.
        with trio.fail_after(10):
            await started.wait()
            await handle.cancel("enough")
            with pytest.raises(trepid.JobCancelledError):
                await handle.result()
        running.stop()


async def test_bells_are_rung_for_who_waits_and_only_then(redis_server):
    url = redis_server.new_database()
    async with RedisBroker(url).open() as session, RedisBroker(url).open() as other:
        await session.declare(["q"])
        got = []

        async def lease():
            got.extend(await session.lease(["q"], 1, 60.0, owner="me", wait=3600.0))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lease)
            await trio.sleep(0.2)
            with trio.fail_after(1):
                for _ in range(20):
                    await other.publish(publications("q", 1))
                while not got:
                    await trio.sleep(0.01)
        assert session._bells.heard_of == 1, "of 20 publishes the first one rang"
        endings = []

        async def wait():
            endings.append(await session.result("q", got[0].id, wait=3600.0))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.sleep(0.2)
            with trio.fail_after(1):
                rest = await other.lease(["q"], 10, 60.0, owner="other")
                await other.settle([Settlement(each.ref, Done(b"1", 60.0)) for each in (*rest, *got)])
                while not endings:
                    await trio.sleep(0.01)
        assert endings == [Ending(State.DONE, b"1")]
        assert session._bells.heard_of == 2, "of 11 ends the one that was waited for was told"
        assert await session.result("q", "nothing", wait=3600.0) is Absent.GONE


async def test_a_script_that_fails_has_changed_nothing(own_redis):
    server = own_redis()
    async with RedisBroker(server.url).open() as session:
        await session.declare(["q"])
        first, second = publications("q", 2)
        await session.publish([first, second])
        before = await session.get("q", first.id), await session.stats("q")
        server.command("SET", "{trepid:q}:leased", "a string")
        with pytest.raises(RedisError, match="user_script"):
            await session.lease(["q"], 2, 60.0, owner="me")
        server.command("DEL", "{trepid:q}:leased")
        assert (await session.get("q", first.id)) == before[0]
        after = await session.stats("q")
        assert (after.ready, after.leased) == (before[1].ready, 0)
        assert await session.held("me") == []


async def test_a_user_with_the_permissions_of_the_guide(own_redis):
    rules = ">secret resetkeys ~{trepid* resetchannels &{trepid* +@all -@admin -@dangerous +info +config|get"
    server = own_redis(users={"trepid": rules})
    url = f"redis://trepid:secret@{server.host}:{server.port}"
    async with trepid.open_connection(url) as connection, trio.open_nursery() as nursery:
        await connection.declare("default")
        assert connection.capabilities.durability == "fsync"
        running = await nursery.start(trepid.Worker(ADD).run, connection)
        with trio.fail_after(10):
            assert await (await connection.enqueue(ADD.job(1, 2))).result() == 3
        running.stop()


async def test_what_a_waiting_job_takes(own_redis):
    """The guide says so."""
    server = own_redis(durable=False)

    def used():
        return int(server.command("INFO", "memory").partition("used_memory:")[2].split()[0])

    async with trepid.open_connection(server.url) as connection:
        await connection.declare("default")
        before = used()
        for _ in range(20):
            await connection.enqueue_many([ADD.job(1, 2)] * 1000)
        assert 300 < (used() - before) / 20_000 < 800


def test_a_missing_extra_is_named():
    code = "import sys; sys.modules['hiredis'] = None; import trepid; trepid.open_connection('redis://host')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30)
    assert "pip install 'trepid[redis]'" in done.stderr.splitlines()[-1]


def test_the_extra_is_not_loaded_unasked():
    code = "import sys, trepid; trepid.open_connection('memory:'); sys.exit('hiredis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0
