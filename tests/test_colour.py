"""The colour of the public API: async functions are checkpoints on every path, sync ones never wait."""

import inspect

import pytest
import trio
import trio.testing

import trepid
from tests.runtime.stage import idle, working


async def work(n: int = 0) -> int:
    await trio.lowlevel.checkpoint()
    return n


WORK = trepid.Actor(work)
WORKER = trepid.Worker(WORK)
HOURLY = trepid.Schedule("hourly", trepid.Every(3600), WORK.job())


async def ended(connection):
    handle = await connection.enqueue(WORK.job())
    await WORKER.options(messages_limit=1).run(connection)
    return handle


async def waiting(connection):
    return await connection.enqueue(WORK.job().options(delay=60))


# By the method they are about: what is called, on every path that returns.
CONNECTION = {
    "declare": [lambda c: c.declare("default"), lambda c: c.declare("new"), lambda c: c.declare()],
    "queues": [lambda c: c.queues()],
    "flush": [lambda c: c.flush("default")],
    "delete": [lambda c: c.delete("default"), lambda c: c.delete("nowhere")],
    "pause": [lambda c: c.pause("default")],
    "resume": [lambda c: c.resume("default")],
    "stats": [lambda c: c.stats()],
    "enqueue": [
        lambda c: c.enqueue(WORK.job()),
        lambda c: c.enqueue(WORK.job().options(id="waiting")),
        lambda c: c.enqueue(WORK.job().options(unique=trepid.Unique("key"))),
    ],
    "enqueue_many": [lambda c: c.enqueue_many([]), lambda c: c.enqueue_many([WORK.job()] * 3)],
    "requeue": [
        lambda c: c.requeue("default"),
        lambda c: c.requeue("default", []),
        lambda c: c.requeue("default", ["x"]),
    ],
    "purge": [lambda c: c.purge("default"), lambda c: c.purge("default", ids=[])],
    "schedule": [lambda c: c.schedule(HOURLY)],
    "unschedule": [lambda c: c.unschedule("nothing")],
    "schedules": [lambda c: c.schedules(), lambda c: c.schedules(trepid.Router())],
    "pause_schedule": [lambda c: c.pause_schedule("hourly")],
    "resume_schedule": [lambda c: c.resume_schedule("hourly")],
    "run_schedule": [lambda c: c.run_schedule("hourly", trepid.Router(schedules=[HOURLY]))],
}
HANDLE = {
    "wait": [lambda h: h.wait()],
    "result": [lambda h: h.result()],
    "outcome": [lambda h: h.outcome()],
    "status": [lambda h: h.status()],
    "cancel": [lambda h: h.cancel()],
}


def public_async(cls):
    members = inspect.getmembers(cls, inspect.iscoroutinefunction)
    return {name for name, _ in members if not name.startswith("_")}


def test_the_tables_are_complete():
    assert public_async(trepid.Connection) == set(CONNECTION)
    assert public_async(trepid.JobHandle) == set(HANDLE)
    assert public_async(trepid.JobNursery) == {"start"}
    assert public_async(trepid.RunningWorker) == {"wait_stopped"}
    assert public_async(trepid.Worker) == {"run"}


@pytest.fixture(params=["memory", "sqlite"])
def url(request, tmp_path):
    return "memory:" if request.param == "memory" else f"sqlite:{tmp_path}/jobs.db"


@pytest.mark.parametrize("name", CONNECTION)
async def test_a_method_of_the_connection_is_a_checkpoint(url, name):
    for call in CONNECTION[name]:
        async with trepid.open_connection(url) as connection:
            await connection.declare("default")
            await connection.enqueue(WORK.job().options(delay=60, id="waiting", unique=trepid.Unique("key")))
            with trio.testing.assert_checkpoints():
                await call(connection)


@pytest.mark.parametrize("name", HANDLE)
async def test_a_method_of_a_handle_is_a_checkpoint(url, name):
    async with trepid.open_connection(url) as connection:
        await connection.declare("default")
        handle = await ended(connection)
        for call in HANDLE[name]:
            with trio.testing.assert_checkpoints():
                await call(handle)
        if name in {"status", "cancel"}:
            with trio.testing.assert_checkpoints():
                await HANDLE[name][0](await waiting(connection))


async def test_each_step_of_an_iteration_is_a_checkpoint(url):
    async with trepid.open_connection(url) as connection:
        await connection.declare("default")
        await connection.enqueue_many([WORK.job()] * 3)
        messages = connection.messages("default", trepid.State.READY)
        for _ in range(3):
            with trio.testing.assert_checkpoints():
                await anext(messages)
        with pytest.raises(StopAsyncIteration):
            await anext(messages)


async def test_opening_and_closing_are_checkpoints(url):
    opened = trepid.open_connection(url)
    with trio.testing.assert_checkpoints():
        await opened.__aenter__()
    await opened.__aexit__(None, None, None)


async def test_running_a_worker_is_a_checkpoint(autojump_clock):
    async with trepid.open_connection("memory:") as connection, trio.open_nursery() as nursery:
        with trio.testing.assert_checkpoints():
            running = await nursery.start(WORKER.run, connection)
        running.stop()
        with trio.testing.assert_checkpoints():
            await running.wait_stopped()
        with trio.testing.assert_checkpoints():
            await running.wait_stopped()


async def test_job_nurseries_are_checkpoints_and_their_handles_too(url):
    async with trepid.open_connection(url) as connection:
        await connection.declare("default")
        opened = trepid.open_job_nursery(connection)
        with trio.testing.assert_checkpoints():
            jobs = await opened.__aenter__()
        with trio.testing.assert_no_checkpoints():
            handle = jobs.start_soon(WORK.job())
            jobs.statistics()
        for ask in (lambda: jobs.start(WORK.job()), handle.status, handle.cancel, handle.cancel, handle.wait):
            with trio.testing.assert_checkpoints():
                await ask()
        jobs.cancel_scope.cancel()
        with trio.testing.assert_checkpoints():
            await opened.__aexit__(None, None, None)


async def test_what_is_sync_never_waits(autojump_clock):
    with trio.testing.assert_no_checkpoints():
        opened = trepid.open_connection("memory:")
    async with opened as connection:
        await connection.declare("default")
        async with working(WORKER, connection) as running:
            await idle()
            with trio.testing.assert_no_checkpoints():
                connection.handle("x").watch()
                connection.messages("default", trepid.State.DEAD)
                _ = connection.capabilities
                running.statistics()
                running.stop()
                running.stop(grace=0)


@pytest.mark.parametrize(
    ("name", "call"),
    [(name, call) for name, calls in CONNECTION.items() for call in calls if name != "declare"],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_cancelled_beforehand_nothing_has_happened(autojump_clock, name, call):
    async with trepid.open_connection("memory:") as connection:
        await connection.declare("default")
        dead = await connection.enqueue(WORK.job().options(ttl=1))
        await trio.sleep(2)
        await connection.enqueue(WORK.job().options(delay=60, id="waiting"))

        async def picture():
            stats = await connection.stats()
            return stats, await connection.queues(), (await dead.status()).state

        before = await picture()
        with trio.CancelScope() as scope:
            scope.cancel()
            await call(connection)
        assert scope.cancelled_caught
        assert await picture() == before
