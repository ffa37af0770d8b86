"""The same stories on engines that are shared by processes: real time, real sockets, and a caller that is killed."""

import math
import os
import signal
import sys
from collections import Counter
from functools import partial

import pytest
import trio

import trepid
from tests.brokers.places import SERVERS, fresh_url
from tests.connection.nursery.cast import WORK, Log, failures
from tests.runtime.stage import working
from trepid.rules import scopes

LEASE = 3.0
SOON = 20.0
"""Seconds within which everything happens on a machine that is busy otherwise."""

pytestmark = pytest.mark.parametrize("engine", ["sqlite", *SERVERS])


@pytest.fixture
def urls(engine, request, tmp_path):
    """The URL of the engine, and of a second one if it needs that."""
    if engine == "sqlite":
        return [f"sqlite:{tmp_path}/jobs.db"]
    second = [fresh_url("redis", request)[1]] if engine in ("rabbitmq", "nats") else []
    return [fresh_url(engine, request)[1], *second]


@pytest.fixture
async def ends(urls):
    """A connection for the caller, and one for the worker."""
    url, results = urls[0], urls[1] if urls[1:] else None
    async with (
        trepid.open_connection(url, results=results) as near,
        trepid.open_connection(url, results=results) as far,
    ):
        await near.declare("default")
        yield near, far


async def ended(connection, handles):
    """Return how many jobs ended how; not all engines can count what has ended."""
    outcomes = Counter()
    for handle in handles:
        error = (await handle.outcome()).error
        outcomes["cancelled" if isinstance(error, trepid.JobCancelledError) else "dead"] += 1
    assert (await connection.stats()).live == 0
    return outcomes


async def test_results_and_maps(ends):
    near, far = ends
    with trio.fail_after(60):
        async with working(trepid.Worker(WORK), far):
            async with trepid.open_job_nursery(near) as jobs:
                handles = [jobs.start_soon(WORK.job(n, 0.01)) for n in range(30)]
                assert [v async for v in jobs.map(WORK, range(5), limit=3)] == [0, 2, 4, 6, 8]
            assert [await handle.result() for handle in handles] == list(range(0, 60, 2))


async def test_a_failure_cancels_what_runs_and_what_waits(ends):
    near, far = ends
    log = Log()
    with trio.fail_after(60):
        async with working(trepid.Worker(log.actor, tasks_limit=20), far):
            with pytest.raises(ExceptionGroup) as caught:
                async with trepid.open_job_nursery(near) as jobs:
                    # It has its place before the others, which would take all of them for good.
                    failed = jobs.start_soon(log.actor.job(-1, 3.0))
                    while -1 not in log.began:
                        await trio.sleep(0.01)
                    others = [jobs.start_soon(log.actor.job(n)) for n in range(1, 200)]
            assert failures(caught.value) == [failed.id]
            assert await ended(near, [failed, *others]) == {"dead": 1, "cancelled": 199}
    assert log.began.keys() == log.ended.keys()


async def test_cancelling_the_block_leaves_nothing(ends):
    near, far = ends
    log = Log()
    with trio.fail_after(60):
        async with working(trepid.Worker(log.actor, tasks_limit=20), far):
            with trio.CancelScope() as scope:
                async with trepid.open_job_nursery(near) as jobs:
                    handles = [jobs.start_soon(log.actor.job(n)) for n in range(200)]
                    while len(log.began) < 20:
                        await trio.sleep(0.01)
                    scope.cancel()
            assert await ended(near, handles) == {"cancelled": 200}
    assert len(log.ended) == len(log.began)


async def test_the_deadline_travels(ends):
    near, far = ends
    log = Log()
    with trio.fail_after(60):
        async with working(trepid.Worker(log.actor), far):
            due = trio.current_time() + 4
            with pytest.raises(trio.TooSlowError), trio.fail_at(due):
                async with trepid.open_job_nursery(near) as jobs:
                    handle = jobs.start_soon(log.actor.job(1))
            assert trio.current_time() < due + SOON
            assert await ended(near, [handle]) == {"cancelled": 1}
    # Earlier by what two requests take, which is long on a busy machine; and never later, but for what a float rounds.
    assert due - 3 < log.deadlines[1] < due + 0.05


async def test_a_job_past_its_deadline_is_cancelled_by_the_worker(ends):
    near, far = ends
    log = Log()
    with trio.fail_after(60), pytest.RaisesGroup(pytest.RaisesExc(trepid.JobCancelledError, match="deadline")):
        with trio.move_on_after(1) as scope:
            async with trepid.open_job_nursery(near) as jobs:
                handle = jobs.start_soon(log.actor.job(1))
                await handle.status()
                scope.deadline = math.inf  # what was published keeps the deadline that it was given
                await trio.sleep(1)
                async with working(trepid.Worker(log.actor), far):
                    await trio.sleep_forever()
    assert log.began == {}


async def test_a_caller_that_is_killed_leaves_nothing_after_its_lease(ends, urls):
    near, far = ends
    log = Log()
    with trio.fail_after(90):
        async with working(trepid.Worker(log.actor, tasks_limit=100), far):
            command = [sys.executable, "-m", "tests.connection.nursery.caller", str(LEASE), "50", *urls]
            async with trio.open_nursery() as nursery:
                process = await nursery.start(partial(trio.run_process, command, check=False))
                while len(log.began) < 50:
                    await trio.sleep(0.05)
                await trio.sleep(LEASE + 1)
                assert not log.ended, "as long as it lives, its jobs do"
                os.kill(process.pid, signal.SIGKILL)
                killed = trio.current_time()
            # Not all engines count what another session has leased.
            while len(log.ended) < 50 or (await near.stats()).live:
                await trio.sleep(0.05)
            passed = trio.current_time() - killed
            if near.capabilities.peek:
                views = [view async for view in near.messages("default", trepid.State.CANCELLED)]
                assert [view.reason for view in views] == ["its job nursery is gone"] * 50
    assert LEASE / 3 < passed < LEASE + SOON


async def test_what_a_killed_caller_left_waiting_is_not_started(ends, urls):
    near, far = ends
    log = Log()
    with trio.fail_after(90):
        command = [sys.executable, "-m", "tests.connection.nursery.caller", str(LEASE), "20", *urls]
        async with trio.open_nursery() as nursery:
            process = await nursery.start(partial(trio.run_process, command, check=False))
            while (await near.stats()).ready < 20:
                await trio.sleep(0.05)
            os.kill(process.pid, signal.SIGKILL)
        await trio.sleep(LEASE + 0.5)
        async with working(trepid.Worker(log.actor), far):
            while (await near.stats()).live:
                await trio.sleep(0.05)
    assert log.began == {}


async def test_what_a_killed_caller_left_waiting_behind_a_full_worker_ends(ends, urls, monkeypatch, tmp_path):
    near, far = ends
    monkeypatch.setattr(scopes, "LEASE", LEASE)  # that long a worker is full before it looks over what waits
    log, told = Log(), tmp_path / "ids"
    command = [sys.executable, "-m", "tests.connection.nursery.caller", str(LEASE), "20", *urls]

    with trio.fail_after(90):
        async with working(trepid.Worker(log.actor, tasks_limit=1, graceful_shutdown_time=0), far):
            await near.enqueue(log.actor.job(100))
            while not log.began:
                await trio.sleep(0.05)
            with told.open("wb") as file:
                async with trio.open_nursery() as nursery:
                    process = await nursery.start(partial(trio.run_process, command, check=False, stdout=file))
                    while (await near.stats()).ready < 20:
                        await trio.sleep(0.05)
                    os.kill(process.pid, signal.SIGKILL)
            killed = trio.current_time()
            ids = told.read_text().split()
            assert len(ids) == 20
            for id in ids:
                with pytest.raises(trepid.JobCancelledError, match="its job nursery is gone"):
                    await near.handle(id).result()
            assert trio.current_time() < killed + LEASE + SOON
            assert not log.ended
    assert log.began.keys() == {100}
