"""What a job may ask of its attempt: the job itself, a nursery, resources, the connection; and what wraps it."""

from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing

import trepid
from tests.runtime.stage import TroubledBroker, idle, working


async def run_one(connection, fn, *args, worker=None, job=None, **settings):
    actor = trepid.Actor(fn, **settings)
    handle = await connection.enqueue(actor.job(*args).options(**(job or {})))
    await trepid.Worker(actor, messages_limit=1, **(worker or {})).run(connection)
    return handle


@attrs.frozen
class Shop:
    name: str


# ------------------------------------------------------------------------------------------------- what it shows


async def test_the_context_shows_the_job(connection, autojump_clock):
    seen = []

    async def job(ctx: trepid.Context, name: str, *, mark: str = "!") -> str:
        await trio.lowlevel.checkpoint()
        seen.append(ctx)
        return f"{name}{mark}"

    actor = trepid.Actor(job, retries=3, timeout=9, priority=trepid.Priority.HIGH)
    sent = actor.job("Trio", mark="?").options(headers={"trace": "4bf9"}, id="one", result_ttl=60, queue="default")
    handle = await connection.enqueue(sent)
    await trepid.Worker(actor, messages_limit=1).run(connection)
    assert await handle.result() == "Trio?"
    [ctx] = seen
    assert (ctx.job.name, ctx.job.args, dict(ctx.job.kwargs)) == ("job", ("Trio",), {"mark": "?"})
    assert (ctx.job.id, ctx.job.queue.name, dict(ctx.job.headers)) == ("one", "default", {"trace": "4bf9"})
    assert (ctx.job.retries, ctx.job.timeout, ctx.job.result_ttl) == (3, 9, 60)
    assert ctx.job.priority is trepid.Priority.HIGH
    assert ctx.attempt == 1
    assert ctx.connection is connection
    assert ctx.resources is None


async def test_the_attempt_counts_failures(connection, autojump_clock):
    attempts = []

    async def job(ctx: trepid.Context):
        await trio.lowlevel.checkpoint()
        attempts.append(ctx.attempt)
        if ctx.attempt < 3:
            raise ValueError
        if len(attempts) == 3:
            raise trepid.Snooze(1)

    actor = trepid.Actor(job, retries=3)
    handle = await connection.enqueue(actor.job())
    async with working(trepid.Worker(actor), connection):
        await handle.wait()
    assert attempts == [1, 2, 3, 3]


async def test_a_job_may_enqueue_another(connection, autojump_clock):
    async def child(n: int) -> int:
        await trio.lowlevel.checkpoint()
        return n * 2

    async def parent(ctx: trepid.Context, n: int) -> int:
        handle = await ctx.connection.enqueue(CHILD.job(n))
        return await handle.result() + 1

    CHILD = trepid.Actor(child)  # noqa: N806 - as a program would call it
    actor = trepid.Actor(parent)
    handle = await connection.enqueue(actor.job(20))
    await trepid.Worker(actor, CHILD, messages_limit=2).run(connection)
    assert await handle.result() == 41


async def test_jobs_do_not_see_each_others_context_variables(connection, autojump_clock):
    import contextvars

    var = contextvars.ContextVar("var", default="clean")
    seen = []

    async def job(n: int):
        seen.append(var.get())
        var.set(str(n))
        await trio.sleep(1)
        seen.append(var.get())

    actor = trepid.Actor(job)
    for n in range(3):
        await connection.enqueue(actor.job(n))
    await trepid.Worker(actor, messages_limit=3).run(connection)
    assert seen[:3] == ["clean"] * 3
    assert sorted(seen[3:]) == ["0", "1", "2"]
    assert var.get() == "clean"


# -------------------------------------------------------------------------------------------------------- nursery


async def test_children_end_before_the_message_is_settled(connection, autojump_clock):
    async def job(ctx: trepid.Context) -> str:
        await trio.lowlevel.checkpoint()
        ctx.nursery.start_soon(trio.sleep, 7)
        return "body done"

    handle = await run_one(connection, job)
    assert trio.current_time() == 7
    assert await handle.result() == "body done"


async def test_the_timeout_covers_children(connection, autojump_clock):
    async def job(ctx: trepid.Context):
        await trio.lowlevel.checkpoint()
        ctx.nursery.start_soon(trio.sleep_forever)

    handle = await run_one(connection, job, timeout=7)
    assert trio.current_time() == 7
    assert (await handle.status()).error.type == "TimeoutError"


async def test_the_jobs_own_exception_is_bare(connection, autojump_clock):
    ended = []

    async def child():
        try:
            await trio.sleep_forever()
        finally:
            ended.append(1)

    async def job(ctx: trepid.Context):
        ctx.nursery.start_soon(child)
        await trio.sleep(1)
        raise ValueError("mine")

    handle = await run_one(connection, job)
    view = await handle.status()
    assert (view.error.type, view.error.message, ended) == ("ValueError", "mine", [1])


async def test_a_verb_of_the_jobs_own_is_bare(connection, autojump_clock):
    async def job(ctx: trepid.Context):
        ctx.nursery.start_soon(trio.sleep_forever)
        await trio.sleep(1)
        raise trepid.Bury("mine")

    handle = await run_one(connection, job, retries=3)
    assert (await handle.status()).reason == "buried"


async def test_a_child_that_fails_fails_the_job_with_a_group(connection, autojump_clock):
    async def child():
        await trio.sleep(1)
        raise ValueError("the child's")

    async def job(ctx: trepid.Context):
        ctx.nursery.start_soon(child)
        await trio.sleep_forever()

    handle = await run_one(connection, job)
    view = await handle.status()
    assert view.error.type == "ExceptionGroup"
    assert "ValueError: the child's" in view.error.traceback
    assert trio.current_time() == 1


async def test_a_child_may_say_a_verb(connection, autojump_clock):
    async def child():
        await trio.sleep(1)
        raise trepid.Bury("the child's")

    async def job(ctx: trepid.Context):
        ctx.nursery.start_soon(child)
        await trio.sleep_forever()

    handle = await run_one(connection, job, retries=3)
    view = await handle.status()
    assert (view.state, view.error.message) == (trepid.State.DEAD, "the child's")


async def test_both_fail(connection, autojump_clock):
    async def child():
        try:
            await trio.sleep_forever()
        finally:
            raise OSError("cleaning up")

    async def job(ctx: trepid.Context):
        ctx.nursery.start_soon(child)
        await trio.sleep(1)
        raise ValueError("mine")

    handle = await run_one(connection, job)
    view = await handle.status()
    assert (view.error.type, view.error.message) == ("ValueError", "mine")
    assert "OSError: cleaning up" in view.error.traceback, "nothing is swept under the carpet"


async def test_a_base_exception_of_a_child_ends_the_worker(connection, autojump_clock):
    async def child():
        await trio.sleep(1)
        raise SystemExit(3)

    async def job(ctx: trepid.Context):
        ctx.nursery.start_soon(child)
        await trio.sleep_forever()

    with pytest.RaisesGroup(SystemExit, flatten_subgroups=True):
        await run_one(connection, job)


async def test_a_thread_has_no_nursery(connection):
    def job(ctx: trepid.Context) -> str:
        assert ctx.attempt == 1
        with pytest.raises(RuntimeError, match="no Trio nursery"):
            _ = ctx.nursery
        return trio.from_thread.run(hello, ctx)

    async def hello(ctx):
        return (await ctx.connection.queues())[0]

    handle = await run_one(connection, job)
    assert await handle.result() == "default"


# ------------------------------------------------------------------------------------------------------ resources


async def test_resources_are_entered_before_the_start_and_left_after_the_last_settlement(autojump_clock):
    broker, story = TroubledBroker(), []

    @asynccontextmanager
    async def resources():
        story.append("entered")
        await trio.sleep(1)
        yield Shop("corner")
        assert broker.trouble.calls["settle"] == 1
        await trio.sleep(1)
        story.append("left")

    async def job(ctx: trepid.Context[Shop]) -> str:
        await trio.sleep(5)
        story.append("ran")
        return ctx.resources.name

    actor = trepid.Actor(job)
    async with trepid.open_connection(broker) as connection:
        await connection.declare("default")
        handle = await connection.enqueue(actor.job())
        async with working(trepid.Worker(actor, resources=resources), connection) as running:
            story.append("started")
            await idle()
            running.stop()
        assert await handle.result() == "corner"
    assert story == ["entered", "started", "ran", "left"]


async def test_each_run_has_its_own_resources(connection, autojump_clock):
    shops = []

    @asynccontextmanager
    async def resources():
        await trio.lowlevel.checkpoint()
        shops.append(shop := Shop(str(len(shops))))
        yield shop

    worker = trepid.Worker(resources=resources)
    async with working(worker, connection), working(worker, connection):
        await idle()
    assert len(shops) == 2


async def test_resources_that_cannot_be_had_raise_bare_and_take_no_message(connection, autojump_clock):
    @asynccontextmanager
    async def resources():
        await trio.lowlevel.checkpoint()
        raise OSError("no database")
        yield

    async def job():
        await trio.lowlevel.checkpoint()

    handle = await connection.enqueue(trepid.Job("job"))
    with pytest.raises(OSError, match="no database"):
        await trepid.Worker(trepid.Actor(job), resources=resources).run(connection)
    assert (await handle.status()).releases == 0


async def test_resources_see_what_ended_the_worker_and_are_left_when_cancelled(connection, autojump_clock):
    seen = []

    @asynccontextmanager
    async def resources():
        await trio.lowlevel.checkpoint()
        try:
            yield
        except* trio.Cancelled:
            seen.append("cancelled")
            raise

    with trio.move_on_after(1):
        await trepid.Worker(resources=resources).run(connection)
    assert seen == ["cancelled"]


# ----------------------------------------------------------------------------------------------------- middleware


def noting(story, name):
    async def middleware(ctx, call):
        story.append(f"{name} in")
        try:
            return await call()
        finally:
            story.append(f"{name} out")

    return middleware


async def test_the_workers_middleware_is_outermost_and_leftmost_first(connection, autojump_clock):
    story = []

    async def job() -> str:
        await trio.lowlevel.checkpoint()
        story.append("job")
        return "result"

    router = trepid.Router(trepid.Actor(job)).wrapped(noting(story, "inner")).wrapped(noting(story, "router"))
    worker = trepid.Worker(router, middleware=[noting(story, "first"), noting(story, "second")], messages_limit=1)
    handle = await connection.enqueue(trepid.Job("job"))
    await worker.run(connection)
    assert await handle.result() == "result"
    names = ["first", "second", "router", "inner"]
    assert story == [f"{n} in" for n in names] + ["job"] + [f"{n} out" for n in reversed(names)]


async def test_middleware_is_inside_the_timeout(connection, autojump_clock):
    async def slow(ctx, call):
        await trio.sleep(8)
        return await call()

    async def job():
        await trio.sleep(8)

    handle = await run_one(connection, job, worker={"middleware": [slow]}, timeout=10)
    assert ((await handle.status()).error.type, trio.current_time()) == ("TimeoutError", 10)


async def test_middleware_may_raise_swallow_replace_and_leave_out(connection, autojump_clock):
    ran = []

    async def raising(ctx, call):
        await call()
        raise OSError("middleware")

    async def swallowing(ctx, call):
        try:
            return await call()
        except ValueError:
            return "swallowed"

    async def leaving_out(ctx, call):
        await trio.lowlevel.checkpoint()
        return "without"

    async def job(fail: bool) -> str:
        await trio.lowlevel.checkpoint()
        ran.append(fail)
        if fail:
            raise ValueError
        return "done"

    handle = await run_one(connection, job, False, worker={"middleware": [raising]})
    assert (await handle.status()).error.message == "middleware"
    handle = await run_one(connection, job, True, worker={"middleware": [swallowing]})
    assert await handle.result() == "swallowed"
    handle = await run_one(connection, job, True, worker={"middleware": [leaving_out]})
    assert await handle.result() == "without"
    assert ran == [False, True]


async def test_middleware_may_try_again(connection, autojump_clock):
    tries = []

    async def again(ctx, call):
        while True:
            try:
                return await call()
            except ValueError:
                await trio.sleep(1)

    async def job() -> int:
        await trio.lowlevel.checkpoint()
        tries.append(1)
        if len(tries) < 3:
            raise ValueError
        return len(tries)

    handle = await run_one(connection, job, worker={"middleware": [again]})
    assert await handle.result() == 3
    assert (await handle.status()).attempts == 1


async def test_middleware_sees_the_context_of_actors_that_take_none(connection, autojump_clock):
    seen = []

    async def look(ctx, call):
        seen.append((ctx.job.name, ctx.attempt))
        ctx.nursery.start_soon(trio.sleep, 3)
        return await call()

    async def job():
        await trio.lowlevel.checkpoint()

    await run_one(connection, job, worker={"middleware": [look]})
    assert seen == [("job", 1)]
    assert trio.current_time() == 3


async def test_middleware_that_is_not_async_is_a_failure_that_explains(connection, autojump_clock):
    async def job():
        await trio.lowlevel.checkpoint()

    handle = await run_one(connection, job, worker={"middleware": [lambda ctx, call: None]})
    assert (await handle.status()).error.type == "TypeError"


async def test_resources_that_are_no_context_manager_are_told_so(connection, autojump_clock):
    worker = trepid.Worker(resources=lambda: {"database": 1})  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError, match=r"resources must return an async context manager, not \{'database': 1\}"):
        await worker.run(connection)
