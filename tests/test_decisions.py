"""The examples of the design, as a program would write them, and one test for each of its decisions.

Most decisions have many tests of their own elsewhere; here each one stands once, in a few lines.
"""

import signal
import sys
import threading
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trio.testing

import trepid
from tests.runtime.stage import idle, working
from trepid.ports.messages import Publication, Settlement
from trepid.rules.verdicts import Returned


async def greet(name: str, *, mark: str = "!") -> str:
    await trio.lowlevel.checkpoint()
    return f"Hello, {name}{mark}"


def thumbnail(path: str) -> int:
    return len(path)


GREET = trepid.Actor(greet)
THUMB = trepid.Actor(
    thumbnail,
    name="thumb",
    queue="images",
    run_in="process",
    retries=3,
    timeout=30,
    retry_policy=trepid.ExponentialBackoff(min_backoff=1, max_backoff=60),
)
router = trepid.Router(GREET) | trepid.Router(THUMB)


@pytest.fixture
async def connection():
    async with trepid.open_connection("memory:") as connection:
        await connection.declare("default")
        yield connection


# ------------------------------------------------------------------------------------------------------- examples


@pytest.mark.parametrize("url", ["memory:", "sqlite:jobs.db"])
def test_the_first_example(url, tmp_path, monkeypatch):
    pytest.importorskip("trio_parallel")
    monkeypatch.chdir(tmp_path)

    async def main() -> None:
        async with trepid.open_connection(url) as connection:
            await connection.declare(trepid.Queue("default"), "images")
            hello = await connection.enqueue(GREET.job("Trio"))
            await connection.enqueue(
                trepid.Job("thumb", kwargs={"path": "cat.png"}, queue="images", priority=trepid.Priority.HIGH)
            )
            report = await trepid.Worker(router, messages_limit=2).run(connection)
            assert report.processed == 2 and await hello.result() == "Hello, Trio!"  # noqa: PT018 - as documented

    trio.run(main)
    assert GREET.fn is greet
    assert (GREET.name, GREET.queue.name) == ("greet", "default")


async def test_the_embedded_worker(autojump_clock):
    url = "memory:"
    async with trepid.open_connection(url) as connection, trio.open_nursery() as nursery:
        running = await nursery.start(trepid.Worker(GREET).run, connection)
        hello = await connection.enqueue(GREET.job("Trio"))
        assert await hello.result() == "Hello, Trio!"
        running.stop()


async def test_what_a_context_gives(connection, autojump_clock):
    @attrs.frozen
    class Pool:
        size: int

    @asynccontextmanager
    async def resources():
        await trio.lowlevel.checkpoint()
        yield Pool(3)

    async def look(ctx: trepid.Context[Pool]) -> list[int]:
        await trio.lowlevel.checkpoint()
        ctx.nursery.start_soon(trio.sleep, 1)
        assert ctx.connection is connection
        assert not ctx.stopping
        return [ctx.attempt, ctx.resources.size, len(ctx.job.args)]

    actor = trepid.Actor(look)
    handle = await connection.enqueue(actor.job())
    await trepid.Worker(actor, resources=resources, messages_limit=1).run(connection)
    assert await handle.result() == [1, 3, 0]


# ------------------------------------------------------------------------------------------------------ decisions


async def test_decision_1_publishing_is_idempotent_by_id_and_token(connection, autojump_clock):
    session = connection.session
    first = Publication("default", "x", ("publisher", 1), GREET.job("Trio").payload)
    other = Publication("default", "x", ("publisher", 2), GREET.job("Other").payload)

    async def publish(publication):
        [published] = await session.publish([publication])
        return published.outcome.value

    assert await publish(first) == "accepted"
    assert await publish(first) == "duplicate"
    assert await publish(other) == "existing"
    async with working(trepid.Worker(GREET), connection):
        assert await connection.handle("x").result() == "Hello, Trio!"
        assert await publish(first) == "duplicate", "in every state"
        assert await publish(other) == "accepted", "a new run once it has ended"
        assert await connection.handle("x").result() == "Hello, Other!"
        await connection.purge("default", trepid.State.DONE)
        await trio.sleep(599)
        assert await publish(other) == "duplicate", "for ten minutes after it is gone"


async def test_decision_2_job_then_actor_then_defaults(connection, autojump_clock):
    waits = []

    async def failing() -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError

    def policy(n):
        waits.append(n)
        return 1

    travelled = trepid.Actor(failing, retries=1, retry_policy=lambda n: 5000)
    executing = trepid.Actor(failing, retries=2, retry_policy=policy)
    said, unsaid = await connection.enqueue(travelled.job()), await connection.enqueue(trepid.Job("failing"))
    async with working(trepid.Worker(executing), connection):
        await said.wait()
        await unsaid.wait()
    assert [(await handle.status()).attempts for handle in (said, unsaid)] == [2, 3]
    assert trio.current_time() == 2, "the policy is the executing worker's"
    assert sorted(waits) == [1, 1, 2]
    assert (await unsaid.status()).priority == trepid.Priority.MEDIUM


async def test_decision_3_priority_then_due_time_then_order(connection, autojump_clock):
    order = []

    async def note(what: str) -> None:
        await trio.sleep(1)
        order.append(what)
        if what == "snoozed" and order.count("snoozed") == 1:
            raise trepid.Snooze(0)

    actor = trepid.Actor(note)
    await connection.enqueue(actor.job("due at 2").options(delay=2))
    await connection.enqueue(actor.job("due at 1").options(delay=1))
    await trio.sleep(3)
    for what in ("snoozed", "third"):
        await connection.enqueue(actor.job(what))
    await connection.enqueue(actor.job("high").options(priority=trepid.Priority.HIGH))
    await trepid.Worker(actor, tasks_limit=1, messages_limit=5).run(connection)
    assert order == ["high", "due at 1", "due at 2", "snoozed", "third", "snoozed"]


async def test_decision_3_a_release_keeps_its_place(connection, autojump_clock):
    handles = [await connection.enqueue(GREET.job(str(n))) for n in range(3)]
    session = connection.session
    [first] = await session.lease(["default"], 1, 30, owner="me")
    await session.settle([Settlement(first.ref, Returned())])
    again = await session.lease(["default"], 3, 30, owner="me")
    assert [delivery.id for delivery in again] == [handle.id for handle in handles]


async def test_decision_4_only_verdicts_count(connection, autojump_clock):
    async def moody(ctx: trepid.Context) -> None:
        await trio.sleep(1)
        view = await ctx.connection.handle(ctx.job.id).status()
        if view.releases < 2:
            raise trepid.Snooze(1)
        if ctx.attempt == 1:
            raise ValueError

    actor = trepid.Actor(moody, retries=1)
    handle = await connection.enqueue(actor.job())
    report = await trepid.Worker(actor, messages_limit=2).run(connection)
    assert report == trepid.Report(succeeded=1, retried=1, released=2)
    view = await handle.status()
    assert (view.attempts, view.releases) == (2, 2)


async def test_decision_5_the_ttl_ends_at_the_first_start(connection, autojump_clock):
    async def slow(ctx: trepid.Context) -> int:
        await trio.sleep(20)
        if ctx.attempt == 1:
            raise ValueError
        return ctx.attempt

    actor = trepid.Actor(slow, retries=1)
    started = await connection.enqueue(actor.job().options(ttl=5, delay=10))
    await trio.sleep(12)
    late = await connection.enqueue(actor.job().options(ttl=5))
    async with working(trepid.Worker(actor, tasks_limit=1), connection):
        assert await started.result() == 2
        assert (await late.status()).reason == "expired"


async def test_decision_6_crashes_have_their_own_budget(connection, autojump_clock):
    handle = await connection.enqueue(GREET.job("Trio"))
    session, pauses = connection.session, []
    for _ in range(5):
        before = trio.current_time()
        await session.lease(["default"], 1, 30, owner="crasher", wait=600)
        pauses.append(trio.current_time() - before)
        await session.expire_owner("crasher")
    view = await handle.status()
    assert (view.state, view.reason, view.crashes, view.attempts) == (trepid.State.DEAD, "poison", 5, 0)
    assert pauses == [0, 1, 2, 4, 8]


async def test_decision_7_a_result_is_kept_or_gone_and_never_a_riddle(connection, autojump_clock):
    async def odd() -> object:
        await trio.lowlevel.checkpoint()
        return object()

    with pytest.raises(TypeError, match="cannot build"):
        trepid.Actor(needs_a_lock)
    actor = trepid.Actor(odd)
    handle, gone = await connection.enqueue(actor.job()), await connection.enqueue(actor.job().options(result_ttl=0))
    await trepid.Worker(actor, messages_limit=2).run(connection)
    with pytest.raises(trepid.ResultError):
        await handle.result()
    with pytest.raises(trepid.JobGoneError):
        await gone.result()
    with pytest.raises(trepid.PayloadTooLargeError):
        GREET.job("x" * 2**20)


async def needs_a_lock(lock: threading.Thread) -> None: ...


async def test_decision_8_base_exceptions(connection, autojump_clock):
    async def leave() -> None:
        await trio.sleep(1)
        sys.exit(3)

    actor = trepid.Actor(leave)
    other = await connection.enqueue(GREET.job("Trio").options(delay=60))
    leaver = await connection.enqueue(actor.job())
    with pytest.RaisesGroup(SystemExit, flatten_subgroups=True):
        await trepid.Worker(actor, GREET).run(connection)
    assert (await leaver.status()).attempts == 1
    assert (await other.status()).attempts == 0


async def test_decision_9_a_thread_is_never_abandoned_unless_told(connection):
    entered, leave = threading.Event(), threading.Event()

    def deaf() -> str:
        entered.set()
        leave.wait(10)
        return "at last"

    actor = trepid.Actor(deaf, timeout=0.05)
    handle = await connection.enqueue(actor.job())
    async with working(trepid.Worker(actor), connection) as running:
        await trio.to_thread.run_sync(entered.wait)
        await trio.sleep(0.1)
        assert running.statistics().running[0][0] == handle.id
        leave.set()
        assert await handle.result() == "at last"


def test_decision_10_contexts_are_typed():
    async def untyped(ctx) -> None: ...

    async def anything(ctx: "trepid.Context[object]") -> None: ...

    async def hiding(ctx: trepid.Context[Any]) -> None: ...

    with pytest.raises(TypeError, match="needs an annotation"):
        trepid.Actor(untyped)
    with pytest.raises(TypeError, match="hides a wrong resource"):
        trepid.Actor(hiding)
    assert trepid.Actor(anything).parameters.takes_context


async def test_decision_11_time_is_virtual_in_memory_and_nowhere_else(tmp_path, autojump_clock):
    async with trepid.open_connection("memory:") as connection:
        assert connection.capabilities.virtual_time
    with pytest.raises(trepid.UnsupportedError):
        async with trepid.open_connection(f"sqlite:{tmp_path}/jobs.db"):
            raise AssertionError


async def test_decision_12_each_run_has_its_own_owner_and_raises_in_a_group_once_started(connection, autojump_clock):
    async def doomed() -> None:
        await trio.sleep(1)
        raise GeneratorExit

    actor = trepid.Actor(doomed)
    async with working(trepid.Worker(), connection) as one, working(trepid.Worker(), connection) as two:
        await idle()
        assert one.statistics().owner != two.statistics().owner
    await connection.enqueue(actor.job())
    with pytest.RaisesGroup(GeneratorExit, flatten_subgroups=True):
        await trepid.Worker(actor).run(connection)


def test_decision_13_signals_by_platform():
    names = {"SIGINT", "SIGBREAK"} if sys.platform == "win32" else {"SIGINT", "SIGTERM"}
    worker = trepid.Worker(handle_signals=[getattr(signal, name) for name in names])
    assert {number.name for number in worker.handle_signals} == names
