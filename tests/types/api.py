"""The public API as type checkers see it.  Nobody runs this; mypy and pyright must accept it, wrong calls marked.

Each wrong call carries a comment for each checker, and both complain of a comment that is not needed.
"""

from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

import trepid
from trepid.values.router import Call

# --------------------------------------------------------------------------------------------------- the functions


class Resources:
    pool: int = 0


async def greet(name: str, *, mark: str = "!") -> str:
    return name + mark


def thumbnail(path: str, size: int = 100) -> int:
    return len(path) * size


async def with_context(ctx: trepid.Context, n: int) -> float:
    assert_type(ctx.resources, None)
    assert_type(ctx.attempt, int)
    assert_type(ctx.job, trepid.Job[Any])
    assert_type(ctx.stopping, bool)
    await ctx.progress(1)
    await ctx.progress(1, 2.5, "half")
    await ctx.progress("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await ctx.emit({"any": [1]})
    await ctx.checkpoint_state(ctx.state)
    await ctx.connection.enqueue(GREET.job("x"))
    return n


async def with_resources(ctx: trepid.Context[Resources], n: int = 1) -> list[str]:
    assert_type(ctx.resources.pool, int)
    return []


def sync_with_context(ctx: trepid.Context, n: int) -> bytes:
    return bytes(n)


def nothing() -> None: ...


# ------------------------------------------------------------------------------------------------------ the actors

GREET = trepid.Actor(greet)
THUMB = trepid.Actor(
    thumbnail,
    name="thumb",
    queue="images",
    priority=trepid.Priority.LOW,
    retries=3,
    timeout=timedelta(seconds=30),
    retry_policy=trepid.ExponentialBackoff(min_backoff=1, max_backoff=60),
    result_ttl=60,
    max_crashes=2,
    run_in="process",
)
COUNT = trepid.Actor(with_context)
LIST = trepid.Actor(with_resources, queue=trepid.Queue("lists"))
BYTES = trepid.Actor(sync_with_context, run_in="thread", abandon_on_cancel=True)
NOTHING = trepid.Actor(nothing)
LIMITED = trepid.Actor(thumbnail, concurrency=3, rate=trepid.Rate(100, per=timedelta(minutes=1)), key="path")
assert_type(LIMITED.job("cat.png"), trepid.Job[int])
trepid.Actor(thumbnail, rate=100)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
trepid.Actor(thumbnail, concurrency="3")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
trepid.Rate("100")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
trepid.Actor(greet, run_in="asyncio")
trepid.Actor(greet, retry_policy=lambda n: timedelta(minutes=n))

# What a job returns is known from its actor; arguments are those of the function, without the Context.
assert_type(GREET.job("x"), trepid.Job[str])
assert_type(GREET.job("x", mark="?"), trepid.Job[str])
assert_type(GREET.job(name="x"), trepid.Job[str])
assert_type(THUMB.job("cat.png"), trepid.Job[int])
assert_type(THUMB.job("cat.png", size=5), trepid.Job[int])
assert_type(COUNT.job(5), trepid.Job[float])
assert_type(COUNT.job(n=5), trepid.Job[float])
assert_type(LIST.job(), trepid.Job[list[str]])
assert_type(BYTES.job(3), trepid.Job[bytes])
assert_type(NOTHING.job(), trepid.Job[None])
assert_type(GREET.options(retries=5).job("x"), trepid.Job[str])
assert_type(GREET.job("x").options(delay=5, queue="mail"), trepid.Job[str])

GREET.job()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
GREET.job(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
GREET.job("x", "y")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
GREET.job("x", mark=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
GREET.job("x", colour="red")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
THUMB.job(size=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
COUNT.job("five")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
COUNT.job(5, ctx=None)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
LIST.job(Resources())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
NOTHING.job(1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
GREET("x")  # type: ignore[operator]  # pyright: ignore[reportCallIssue]

trepid.Actor(thumbnail, run_in="asyncio")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
trepid.Actor(thumbnail, retries="3")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
trepid.Actor(thumbnail, colour="red")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
trepid.Actor()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
trepid.Actor("greet")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
GREET.options(colour="red")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
trepid.Actor(greet, abandon_on_cancel="no")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
GREET.name = "other"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]

# "Anything but an awaitable" is no type, so this one is left to the TypeError at run time.  What it would return is of
# no use to anybody, which the checkers do see.
useless = trepid.Actor(greet, run_in="process").job("x")
its_result: trepid.Job[Coroutine[Any, Any, str]] = useless
no_text: trepid.Job[str] = useless  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]

# -------------------------------------------------------------------------------------------------- jobs and values

assert_type(trepid.Job("greet"), trepid.Job[Any])
assert_type(trepid.Job("greet", args=["x"], kwargs={"mark": "?"}, queue="mail").options(retries=1), trepid.Job[Any])
trepid.Job("greet", deferred_until=datetime.now(UTC), unique=trepid.Unique("k", "raise"), headers={"a": "b"})

trepid.Job()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
trepid.Job("greet", retries="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
trepid.Job("greet", priority=9)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
trepid.Job("greet", colour="red")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
trepid.Job("greet").options(colour="red")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
trepid.Job("greet").retries = 5  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
trepid.Unique("k", "ignore")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
trepid.Queue(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
trepid.Snooze()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
trepid.Retry(delay="soon")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
trepid.Bury("bad")
trepid.Retry(timedelta(minutes=1), "later")

# ---------------------------------------------------------------------------------------------------------- chains

assert_type(THUMB.job("cat.png").then(COUNT.job(trepid.PREVIOUS)), trepid.Job[float])
assert_type(THUMB.job("cat.png").then(COUNT.job(trepid.PREVIOUS)).then(GREET.job("x")), trepid.Job[str])
assert_type(THUMB.job("cat.png").then(COUNT.job(5).then(GREET.job("x", mark=trepid.PREVIOUS))), trepid.Job[str])
assert_type(THUMB.job("cat.png").then(GREET.job("x")).options(delay=5), trepid.Job[str])
assert_type(trepid.Job("by name").then(COUNT.job(trepid.PREVIOUS)), trepid.Job[float])

THUMB.job("cat.png").then(GREET)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
THUMB.job("cat.png").then("greet")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
THUMB.job("cat.png").then()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
THUMB.job("cat.png").then(GREET.job(trepid.PREVIOUS, "!"))  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
THUMB.job("cat.png").then(GREET.job("x", trepid.PREVIOUS))  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
THUMB.job("cat.png").then(NOTHING.job(trepid.PREVIOUS))  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
THUMB.job("cat.png").then(GREET.job())  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
THUMB.then(GREET.job("x"))  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
a_text: trepid.Job[str] = GREET.job("x").then(THUMB.job("x"))  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]

# ------------------------------------------------------------------------------------------------------- the router


async def middleware(ctx: trepid.Context[Any], call: Call) -> object:
    return await call()


router = trepid.Router(GREET) | trepid.Router(THUMB, COUNT) | LIST
assert_type(router, trepid.Router)
assert_type(router.wrapped(middleware), trepid.Router)
assert_type(list(router), list[str])
trepid.Router(greet)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
trepid.Router([GREET])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
nightly = trepid.Schedule(
    "nightly", trepid.Cron("0 3 * * 1-5", tz="Europe/Berlin"), GREET.job("Trio"), misfire="all", overlap="skip"
)
assert_type(trepid.Router(GREET, router, schedules=[nightly]), trepid.Router)
assert_type(nightly.job, trepid.Job[Any])
trepid.Schedule("hourly", trepid.Every(timedelta(hours=1)), trepid.Job("greet"), grace=timedelta(minutes=5), jitter=60)
trepid.Schedule("once", trepid.At(datetime.now(UTC)), THUMB.job("cat.png"))
trepid.Router(schedules=nightly)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
trepid.Router(schedules=[GREET])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
trepid.Schedule("x", "0 3 * * *", GREET.job("x"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
trepid.Schedule("x", trepid.Every(5), GREET)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
trepid.Schedule("x", trepid.Every(5), GREET.job("x"), misfire="never")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
trepid.Cron("0 3 * * *", tz=UTC)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
trepid.Every("hour")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
nightly.name = "other"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
_ = router | greet  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue]
router["x"] = GREET  # type: ignore[index]  # pyright: ignore[reportIndexIssue]

# ------------------------------------------------------------------------------------------ connections and workers


async def use() -> None:
    async with trepid.open_connection("memory:") as connection:
        assert_type(connection, trepid.Connection)
        await connection.declare(trepid.Queue("default"), "images")
        hello = await connection.enqueue(GREET.job("Trio"))
        assert_type(hello, trepid.JobHandle[str])
        assert_type(await hello.result(), str)
        assert_type(await (await connection.enqueue(THUMB.job("x"))).result(), int)
        assert_type(await connection.stats("images"), trepid.QueueStats)
        assert_type(await hello.cancel("no"), trepid.CancelResult)
        async for update in hello.watch():
            match update:
                case trepid.Progressed():
                    assert_type(update.fraction, float | None)
                case trepid.Ended():
                    assert_type(update.result, str)
                case trepid.Emitted():
                    assert_type(update.value, Any)
                case _:
                    assert_type(update, trepid.StateChanged)
        chained = await connection.enqueue(GREET.job("Trio").then(THUMB.job(trepid.PREVIOUS)))
        assert_type(chained, trepid.JobHandle[int])
        assert_type(await trepid.Worker(router, messages_limit=2).run(connection), trepid.Report)
        await connection.schedule(nightly)
        assert_type(await connection.schedules(router), list[trepid.ScheduleView])
        assert_type(await connection.run_schedule("nightly"), trepid.JobHandle[Any])
        assert_type(await connection.run_schedule("nightly", router, wait=False), trepid.JobHandle[Any])
        assert_type(await connection.unschedule("nightly"), bool)
        await connection.schedule(GREET.job("x"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        await connection.enqueue("greet")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        await connection.declare(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        async with trepid.open_job_nursery(connection, lease=60, max_pending=10) as jobs:
            assert_type(jobs, trepid.JobNursery)
            assert_type(jobs.start_soon(GREET.job("Trio")), trepid.JobHandle[str])
            assert_type(await jobs.start(THUMB.job("cat.png")), trepid.JobHandle[int])
            assert_type(await jobs.start_soon(COUNT.job(5)).result(), float)
            assert_type(jobs.start_soon(trepid.Job("greet")), trepid.JobHandle[Any])
            assert_type([size async for size in jobs.map(THUMB, ["a", "b"], limit=5)], list[int])
            assert_type([text async for text in jobs.map(GREET, iter("ab"), as_completed=True)], list[str])
            assert_type(jobs.statistics(), trepid.JobNurseryStatistics)
            jobs.cancel_scope.cancel()
            jobs.start_soon(GREET)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            jobs.map(greet, ["a"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            jobs.map(THUMB, ["a"], 5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        trepid.open_job_nursery("memory:")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    trepid.Worker(greet)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    trepid.Worker(router, tasks_limit="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
