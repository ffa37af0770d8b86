"""Burst: when a worker has nothing left to do, in virtual time."""

import pytest
import trio

import trepid
from trepid.cli.burst import stop_when_idle
from trepid.errors import BrokerLostError


async def nap(seconds: float) -> None:
    await trio.sleep(seconds)


async def split(ctx: trepid.Context, depth: int) -> None:
    await trio.sleep(1)
    if depth:
        await ctx.connection.enqueue_many([SPLIT.job(depth - 1), SPLIT.job(depth - 1)])


async def flop() -> None:
    await trio.lowlevel.checkpoint()
    raise ValueError


NAP, SPLIT = trepid.Actor(nap), trepid.Actor(split)
FLOP = trepid.Actor(flop, retries=1, retry_policy=lambda number: 60)


@pytest.fixture
async def connection():
    async with trepid.open_connection("memory:") as connection:
        await connection.declare("default")
        yield connection


async def burst(connection, worker):
    """Run a worker until it has nothing left to do, and return what it did."""
    ended = []
    worker = worker.options(observers=[ended.append])
    with trio.fail_after(10_000):
        async with trio.open_nursery() as nursery:
            running = await nursery.start(worker.run, connection)
            nursery.start_soon(stop_when_idle, running, connection, worker, lambda: len(ended))
            report = await running.wait_stopped()
    return report


async def test_an_empty_queue(connection, autojump_clock):
    assert (await burst(connection, trepid.Worker(NAP))).processed == 0


async def test_what_runs_is_waited_for(connection, autojump_clock):
    await connection.enqueue_many([NAP.job(500), NAP.job(3), NAP.job(0)])
    assert (await burst(connection, trepid.Worker(NAP, tasks_limit=2))).succeeded == 3


async def test_what_jobs_enqueue_belongs_to_it(connection, autojump_clock):
    await connection.enqueue(SPLIT.job(4))
    assert (await burst(connection, trepid.Worker(SPLIT))).succeeded == 2**5 - 1


async def test_a_retry_for_later_is_left(connection, autojump_clock):
    await connection.enqueue(FLOP.job())
    report = await burst(connection, trepid.Worker(FLOP))
    assert (report.retried, report.dead) == (1, 0)
    assert (await connection.stats()).scheduled == 1


async def test_a_paused_queue_is_left(connection, autojump_clock):
    await connection.enqueue(NAP.job(1))
    await connection.pause("default")
    assert (await burst(connection, trepid.Worker(NAP))).processed == 0


async def test_queues_that_are_not_there_are_empty(connection, autojump_clock):
    worker = trepid.Worker(NAP, queues=["nowhere"], auto_declare=False)
    assert (await burst(connection, worker)).processed == 0


async def test_a_broker_in_trouble_is_asked_again(connection, autojump_clock, monkeypatch):
    await connection.enqueue(NAP.job(1))
    troubles = iter([True] * 5)
    stats = type(connection.session).stats

    async def troubled(self, queue):
        if next(troubles, False):
            raise BrokerLostError("gone for a while")
        return await stats(self, queue)

    monkeypatch.setattr(type(connection.session), "stats", troubled)
    assert (await burst(connection, trepid.Worker(NAP))).succeeded == 1
    assert next(troubles, None) is None
