"""Progress, emitted values and saved state: what a job tells, and what its next attempt and its watchers get."""

import itertools

import attrs
import pytest
import trio
import trio.testing

import trepid
import trepid.testing
from tests.brokers.places import place_of
from tests.runtime.stage import idle, working
from trepid.brokers.memory.session import MemorySession
from trepid.ports.broker import Session
from trepid.ports.records import Drop, Read, Write
from trepid.values.notes import Note, Piece, Saved, dump, load, note_key, piece_key, state_key, written


async def collect(handle, into=None):
    into = [] if into is None else into
    async for update in handle.watch():
        into.append((trio.current_time(), update))
    return [update for _, update in into]


def kinds(updates):
    return [type(update).__name__ for update in updates]


def states(updates):
    return [str(update.state) for update in updates if isinstance(update, trepid.StateChanged)]


async def watched(connection, job, worker):
    handle = await connection.enqueue(job)
    seen = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect, handle, seen)
        await idle()
        async with working(worker, connection):
            await handle.wait()
            await idle()
    return handle, seen


async def note_of(connection, id):
    [kept] = await connection.session.records.carry_out([Read(note_key("default", id))])
    return load(Note, kept)


async def state_of(connection, id):
    [kept] = await connection.session.records.carry_out([Read(state_key("default", id))])
    return kept


# ------------------------------------------------------------------------------------------------------- watching


async def test_a_watch_gives_states_progress_values_and_the_end(connection, autojump_clock):
    async def index(ctx: trepid.Context, n: int) -> str:
        for done in range(n):
            await ctx.progress(done, n, f"file {done}")
            await ctx.emit({"file": done})
            await trio.sleep(10)
        return "done"

    actor = trepid.Actor(index)
    handle, seen = await watched(connection, actor.job(3), trepid.Worker(actor))
    updates = [update for _, update in seen]
    assert states(updates) == ["ready", "leased"]
    progress = [update for update in updates if isinstance(update, trepid.Progressed)]
    assert progress == [trepid.Progressed(handle.id, 1, n, 3, f"file {n}") for n in range(3)]
    assert [update.fraction for update in progress] == [0, 1 / 3, 2 / 3]
    values = [update for update in updates if isinstance(update, trepid.Emitted)]
    assert values == [trepid.Emitted(handle.id, 1, {"file": n}) for n in range(3)]
    assert isinstance(updates[-1], trepid.Ended)
    assert (updates[-1].state, updates[-1].result) == (trepid.State.DONE, "done")
    times = [when for when, update in seen if isinstance(update, trepid.Progressed)]
    assert times == pytest.approx([0, 10, 20]), "each at its time: nobody polls"


async def test_a_watch_sees_retries_and_how_it_failed(connection, autojump_clock):
    async def fail(ctx: trepid.Context) -> None:
        await ctx.progress(ctx.attempt)
        await ctx.emit(ctx.attempt)
        await trio.sleep(1)
        raise ValueError("oops")

    actor = trepid.Actor(fail, retries=1, retry_policy=lambda _: 60)
    _, seen = await watched(connection, actor.job(), trepid.Worker(actor))
    updates = [update for _, update in seen]
    # It is leased in the very moment in which it is due: nobody need have seen it ready again.
    assert [state for state in states(updates) if state != "ready"] == ["leased", "scheduled", "leased"]
    assert [(u.attempt, u.value) for u in updates if isinstance(u, trepid.Emitted)] == [(1, 1), (2, 2)]
    assert [(u.attempt, u.done) for u in updates if isinstance(u, trepid.Progressed)] == [(1, 1), (2, 2)]
    assert updates[-1].state is trepid.State.DEAD
    with pytest.raises(trepid.JobFailedError, match="oops"):
        _ = updates[-1].result


async def test_a_late_watch_gets_all_that_is_kept(connection, autojump_clock):
    async def index(ctx: trepid.Context) -> None:
        for n in range(100):
            await ctx.emit(n)
            await ctx.progress(n)

    actor = trepid.Actor(index)
    handle, _ = await watched(connection, actor.job(), trepid.Worker(actor))
    updates = await collect(handle)
    assert [u.value for u in updates if isinstance(u, trepid.Emitted)] == list(range(100))
    assert [u.done for u in updates if isinstance(u, trepid.Progressed)] == [99]
    assert kinds(updates)[-1] == "Ended"
    await trio.sleep(86_400 + 700)
    with pytest.raises(trepid.JobGoneError):
        await collect(handle)
    await connection.session.records.carry_out([])  # sweeps
    assert len(connection.session.records) == 0, "kept as long as the result, and not longer"


async def test_what_a_job_told_at_its_beginning_is_kept_as_long_as_its_result(connection, autojump_clock):
    async def long(ctx: trepid.Context) -> None:
        await ctx.emit("early")
        await ctx.progress(1, 2)
        await trio.sleep(500)

    actor = trepid.Actor(long, result_ttl=10)
    handle = await connection.enqueue(actor.job())
    await trepid.Worker(actor, messages_limit=1).run(connection)
    await trio.sleep(9)
    assert kinds(await collect(handle)) == ["Emitted", "Progressed", "Ended"]


async def test_a_watch_of_nothing(connection, autojump_clock):
    with pytest.raises(trepid.JobGoneError):
        await collect(connection.handle("nothing"))


async def test_a_watch_that_has_ended_stays_so(connection, autojump_clock):
    async def quick() -> int:
        await trio.lowlevel.checkpoint()
        return 1

    actor = trepid.Actor(quick)
    handle = await connection.enqueue(actor.job())
    await trepid.Worker(actor, messages_limit=1).run(connection)
    watch = handle.watch()
    with trio.testing.assert_checkpoints():
        assert (await anext(watch)).result == 1
    for _ in range(2):
        with pytest.raises(StopAsyncIteration):
            await anext(watch)


async def test_a_watch_goes_along_a_chain(connection, autojump_clock):
    async def step(ctx: trepid.Context, n: int) -> int:
        await ctx.emit(f"value {n}")
        await ctx.progress(n)
        await trio.sleep(1)
        return n + 1

    actor = trepid.Actor(step)
    chain = actor.job(1).options(id="c").then(actor.job(trepid.PREVIOUS)).then(actor.job(trepid.PREVIOUS))
    _, seen = await watched(connection, chain, trepid.Worker(actor))
    updates = [update for _, update in seen]
    assert [(u.id, u.done) for u in updates if isinstance(u, trepid.Progressed)] == [("c", 1), ("c.1", 2), ("c.2", 3)]
    values = [(u.id, u.value) for u in updates if isinstance(u, trepid.Emitted)]
    assert values == [("c", "value 1"), ("c.1", "value 2"), ("c.2", "value 3")]
    assert [u.id for u in updates if isinstance(u, trepid.StateChanged) and u.state is trepid.State.DONE] == [
        "c",
        "c.1",
    ]
    assert (updates[-1].id, updates[-1].result) == ("c.2", 4)


async def test_a_watch_goes_on_when_the_broker_is_back(autojump_clock):
    async def slow(ctx: trepid.Context) -> int:
        for n in range(5):
            await ctx.progress(n)
            await trio.sleep(10)
        return 5

    actor = trepid.Actor(slow)
    async with trepid.testing.open_test_connection(actor) as desk:
        seen = []
        async with trio.open_nursery() as nursery:
            handle = await desk.enqueue(actor.job())
            nursery.start_soon(collect, handle, seen)
            nursery.start_soon(desk.run_until_idle)
            await trio.sleep(15)
            desk.faults.away(3)
        updates = [update for _, update in seen]
        assert updates[-1].result == 5
        assert [u.done for u in updates if isinstance(u, trepid.Progressed)] == [0, 1, 2, 3, 4]


async def test_cancelling_a_watch_loses_nothing(connection, autojump_clock):
    async def slow(ctx: trepid.Context) -> None:
        for n in range(10):
            await ctx.emit(n)
            await trio.sleep(10)

    actor = trepid.Actor(slow)
    handle = await connection.enqueue(actor.job())
    values = []
    async with working(trepid.Worker(actor), connection):
        watch = handle.watch()
        while True:
            with trio.move_on_after(3) as scope:
                update = await anext(watch)
            if scope.cancelled_caught:
                continue
            if isinstance(update, trepid.Emitted):
                values.append(update.value)
            if isinstance(update, trepid.Ended):
                break
    assert values == list(range(10))


@pytest.mark.parametrize("after", range(12))
async def test_a_step_that_is_cancelled_loses_neither_a_move_nor_the_end(connection, autojump_clock, after):
    async def quick(ctx: trepid.Context) -> int:
        await ctx.progress(1)
        await ctx.emit("x")
        return 1

    actor = trepid.Actor(quick)
    handle = await connection.enqueue(actor.job())
    watch = handle.watch()
    updates = [await anext(watch)]
    await trepid.Worker(actor, messages_limit=1).run(connection)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def cancel_later():
            for _ in range(after):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

        async for update in watch:
            updates.append(update)  # noqa: PERF401 - it is cancelled in between
    with trio.fail_after(10):
        updates += [update async for update in watch]
    assert kinds(updates) == ["StateChanged", "Emitted", "Progressed", "Ended"]


@pytest.mark.parametrize("operation", ["carry_out", "result"])
async def test_a_step_that_fails_after_it_has_seen_something_tells_it_next_time(autojump_clock, operation, monkeypatch):
    async def told(ctx: trepid.Context) -> int:
        await ctx.emit("x")
        await trio.sleep(1)
        return 1

    actor = trepid.Actor(told)
    async with trepid.open_connection("memory:", wait_for_broker=False) as connection:
        await connection.declare("default")
        handle = await connection.enqueue(actor.job())
        watch = handle.watch()
        updates = [await anext(watch)]
        await trepid.Worker(actor, messages_limit=1).run(connection)
        session = connection.session
        owner = type(session.records if operation == "carry_out" else session)

        async def lost(self, *args, **settings):
            await trio.lowlevel.checkpoint()
            raise trepid.BrokerLostError("lost")

        with monkeypatch.context() as patch:
            patch.setattr(owner, operation, lost)
            with pytest.raises(trepid.BrokerLostError):
                while True:
                    updates.append(await anext(watch))
        with trio.fail_after(10):
            updates += [update async for update in watch]
    assert kinds(updates) == ["StateChanged", "Emitted", "Ended"]


async def test_what_goes_wrong_while_a_watch_waits_comes_out_bare(autojump_clock, monkeypatch):
    async with trepid.open_connection("memory:", wait_for_broker=False) as connection:
        await connection.declare("default")
        watch = (await connection.enqueue(trepid.Job("nobody"))).watch()
        assert (await anext(watch)).state is trepid.State.READY
        errors = [trepid.BrokerLostError("lost")]

        async def moved(self, *args, **settings):
            await trio.lowlevel.checkpoint()
            if errors:
                raise errors.pop()
            await trio.sleep_forever()

        monkeypatch.setattr(MemorySession, "moved", moved)
        with trio.fail_after(10), pytest.raises(trepid.BrokerLostError, match="lost"):
            await anext(watch)


async def test_a_late_watch_reads_what_was_emitted_little_by_little(connection, autojump_clock, monkeypatch):
    async def talker(ctx: trepid.Context) -> None:
        for n in range(100):
            await ctx.emit(n)

    actor = trepid.Actor(talker)
    handle = await connection.enqueue(actor.job())
    await trepid.Worker(actor, messages_limit=1).run(connection)
    reads = []
    carry_out = type(connection.session.records).carry_out

    async def counted(self, steps):
        reads.extend(steps)
        return await carry_out(self, steps)

    monkeypatch.setattr(type(connection.session.records), "carry_out", counted)
    watch = handle.watch()
    assert (await anext(watch)).value == 0
    assert len(reads) < 20
    rest = [update async for update in watch]
    assert [update.value for update in rest[:-1]] == list(range(1, 100))
    assert kinds(rest[-1:]) == ["Ended"]
    assert len(reads) == 101


async def test_a_watch_of_a_running_job_gets_all_that_it_has_emitted_at_once(connection, autojump_clock):
    async def talker(ctx: trepid.Context) -> None:
        for n in range(50):
            await ctx.emit(n)
        await ctx.progress(50)
        await trio.sleep(500)

    actor = trepid.Actor(talker)
    handle = await connection.enqueue(actor.job())
    async with working(trepid.Worker(actor), connection):
        await trio.sleep(1)
        seen = []
        await collect(handle, seen)
    told = [update for when, update in seen if when == 1]
    assert [u.value for u in told if isinstance(u, trepid.Emitted)] == list(range(50))
    assert kinds(told) == ["StateChanged", *["Emitted"] * 50, "Progressed"]


async def test_a_dead_job_that_is_requeued_before_its_end_is_read_is_watched_on(
    connection, autojump_clock, monkeypatch
):
    async def flawed() -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError

    actor = trepid.Actor(flawed)
    handle = await connection.enqueue(actor.job())
    watch = handle.watch()
    assert (await anext(watch)).state is trepid.State.READY
    await trepid.Worker(actor, messages_limit=1).run(connection)
    result = MemorySession.result

    async def too_late(self, *args, **settings):
        await connection.requeue("default")
        return await result(self, *args, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(MemorySession, "result", too_late)
        assert (await anext(watch)).state is trepid.State.READY
    await trepid.Worker(actor, messages_limit=1).run(connection)
    assert (await anext(watch)).state is trepid.State.DEAD


async def test_a_watch_is_told_at_once_that_a_running_job_was_asked_to_stop(connection, autojump_clock):
    handle = await connection.enqueue(trepid.Job("deaf"))
    await connection.session.lease(["default"], 1, 600.0, owner="a worker")
    watch = handle.watch()
    assert (await anext(watch)).view.cancel is None
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def cancel_later():
            await idle()
            await handle.cancel("enough")

        with trio.fail_after(1):
            assert (await anext(watch)).view.cancel == "enough"


# ------------------------------------------------------------------------------------------------------- progress


async def test_progress_is_throttled_and_the_last_one_arrives(connection, autojump_clock, monkeypatch):
    writes = []
    carry_out = type(connection.session.records).carry_out

    async def counted(self, steps):
        notes = [step for step in steps if step.key.startswith("progress:") and not isinstance(step, Read)]
        writes.extend(trio.current_time() for _ in notes)
        return await carry_out(self, steps)

    monkeypatch.setattr(type(connection.session.records), "carry_out", counted)

    async def busy(ctx: trepid.Context) -> None:
        for n in range(1000):
            await ctx.progress(n, 1000)
            await trio.sleep(0.001)

    actor = trepid.Actor(busy)
    handle = await connection.enqueue(actor.job())
    await trepid.Worker(actor, messages_limit=1).run(connection)
    assert (await note_of(connection, handle.id)).done == 999
    assert 8 <= len(writes) <= 12
    # The very last one need not wait.
    assert all(later - earlier >= 0.0999 for earlier, later in itertools.pairwise(writes[:-1]))


async def test_progress_that_came_too_soon_is_written_in_time(connection, autojump_clock):
    async def pause(ctx: trepid.Context) -> None:
        await ctx.progress(1)
        await ctx.progress(2)
        await trio.sleep(1000)

    actor = trepid.Actor(pause, timeout=2000)
    handle = await connection.enqueue(actor.job())
    async with working(trepid.Worker(actor), connection):
        await trio.sleep(0.05)
        assert (await note_of(connection, handle.id)).done == 1
        await trio.sleep(0.1)
        assert (await note_of(connection, handle.id)).done == 2


@pytest.mark.parametrize("end", ["returns", "raises", "snoozes"])
async def test_the_last_progress_is_there_before_the_end_is_known(connection, end, autojump_clock):
    async def work(ctx: trepid.Context) -> None:
        await ctx.progress(1)
        await ctx.progress(2, 2, "at the end")
        if end == "raises":
            raise ValueError
        if end == "snoozes":
            raise trepid.Snooze(1000)

    actor = trepid.Actor(work)
    handle = await connection.enqueue(actor.job())
    order = []
    settle = connection.session.settle

    class Settling:
        async def __call__(self, batch, *, then=()):
            order.append((await note_of(connection, handle.id)).done)
            return await settle(batch, then=then)

    connection.session.__class__.settle, before = Settling().__call__, connection.session.__class__.settle
    try:
        async with working(trepid.Worker(actor), connection):
            await trio.sleep(1)
    finally:
        connection.session.__class__.settle = before
    assert order == [2]


@pytest.mark.parametrize("within", ["progress", "emit"])
async def test_progress_whose_write_is_cancelled_is_still_to_be_told(connection, autojump_clock, monkeypatch, within):
    """By itself, or riding along with a value that is emitted."""
    hangs = []
    carry_out = type(connection.session.records).carry_out

    async def slow(self, steps):
        if hangs and any(step.key.startswith("progress:") and not isinstance(step, Read) for step in steps):
            hangs.clear()
            await trio.sleep_forever()
        return await carry_out(self, steps)

    monkeypatch.setattr(type(connection.session.records), "carry_out", slow)

    async def hasty(ctx: trepid.Context) -> None:
        if within == "emit":
            await ctx.progress(4)
            await ctx.progress(5)  # too soon
        hangs.append(None)
        with trio.move_on_after(1):
            await (ctx.emit("value") if within == "emit" else ctx.progress(5))

    actor = trepid.Actor(hasty)
    handle = await connection.enqueue(actor.job())
    await trepid.Worker(actor, messages_limit=1).run(connection)
    assert hangs == []
    assert (await note_of(connection, handle.id)).done == 5


async def test_progress_does_not_fail_a_job_while_the_broker_is_away(autojump_clock):
    async def work(ctx: trepid.Context) -> str:
        await ctx.progress(1)
        desk.faults.next("records", trepid.testing.request_lost(), times=3)
        for n in range(2, 100):
            await ctx.progress(n)
            await trio.sleep(0.05)
        return "well"

    actor = trepid.Actor(work)
    async with trepid.testing.open_test_connection(actor) as desk:
        ran = await desk.run(actor.job())
        assert ran.result == "well"
        assert (await note_of(desk, ran.id)).done == 99


class Silence:
    """Records that do not answer to some steps: *deaf* says to which."""

    def __init__(self):
        self.deaf = lambda _: False


@pytest.fixture
def silence(connection, monkeypatch):
    silence, records = Silence(), type(connection.session.records)
    real = records.carry_out

    async def carry_out(self, steps):
        if any(silence.deaf(step) for step in steps):
            await trio.sleep_forever()
        return await real(self, steps)

    monkeypatch.setattr(records, "carry_out", carry_out)
    return silence


async def test_progress_that_gets_no_answer_holds_up_no_other_for_long(connection, silence, autojump_clock):
    async def work(ctx: trepid.Context) -> None:
        await ctx.progress(1)
        if ctx.job.id == "b":
            await trio.sleep(1)
        await ctx.progress(2)
        if ctx.job.id == "a":
            silence.deaf = lambda step: step.key == note_key("default", "a")
        await trio.sleep(100)

    actor = trepid.Actor(work)
    for id in ("a", "b"):
        await connection.enqueue(actor.job().options(id=id))
    async with working(trepid.Worker(actor, lease=30), connection):
        await trio.sleep(12)
        assert (await note_of(connection, "b")).done == 2
        silence.deaf = lambda _: False
        await trio.sleep(12)
        assert (await note_of(connection, "a")).done == 2, "it is tried again"


async def test_whoever_is_stopped_at_once_does_not_wait_for_progress(connection, silence, autojump_clock):
    async def work(ctx: trepid.Context) -> None:
        await ctx.progress(1)
        silence.deaf = lambda step: isinstance(step, Write)
        while True:
            await ctx.progress(trio.current_time())
            await trio.sleep(0.3)

    actor = trepid.Actor(work, timeout=100)
    handle = await connection.enqueue(actor.job())
    with trio.move_on_after(3):
        await trepid.Worker(actor, lease=60).run(connection)
    assert trio.current_time() < 3 + 5
    view = await handle.status()
    assert (view.state, view.releases) == (trepid.State.READY, 1)


async def test_a_saved_state_that_cannot_be_removed_holds_up_no_verdict_for_long(connection, silence, autojump_clock):
    async def work(ctx: trepid.Context, seconds: float) -> None:
        await ctx.checkpoint_state("half way")
        await trio.sleep(seconds)

    actor = trepid.Actor(work)
    silence.deaf = lambda step: isinstance(step, Drop)
    ended, stopped = [await connection.enqueue(actor.job(seconds)) for seconds in (1, 100)]
    with trio.move_on_after(2):
        await trepid.Worker(actor, lease=60).run(connection)
    assert (await ended.status()).state is trepid.State.DONE
    view = await stopped.status()
    assert (view.state, view.releases) == (trepid.State.READY, 1)


async def test_values_and_state_wait_for_the_broker(autojump_clock):
    async def work(ctx: trepid.Context) -> float:
        desk.faults.next("records", trepid.testing.reply_lost(), times=2)
        await ctx.emit("a")
        desk.faults.next("records", trepid.testing.reply_lost(), times=2)
        await ctx.checkpoint_state("s")
        desk.faults.next("records", trepid.testing.request_lost(), times=2)
        await ctx.emit("b")
        # Nothing is read any more before a value takes its place.
        desk.faults.next("records", trepid.testing.reply_lost())
        await ctx.emit("c")
        return trio.current_time()

    actor = trepid.Actor(work)
    async with trepid.testing.open_test_connection(actor) as desk:
        ran = await desk.run(actor.job())
        assert ran.result > 0
        updates = await collect(desk.handle(ran.id))
        assert [u.value for u in updates if isinstance(u, trepid.Emitted)] == ["a", "b", "c"], "once each"


async def test_a_value_takes_no_place_that_is_taken(connection, autojump_clock):
    """An earlier worker has stored one and did not live to tell of it; both are values of the job."""

    async def work(ctx: trepid.Context) -> None:
        await ctx.emit("mine")

    actor = trepid.Actor(work)
    handle = await connection.enqueue(actor.job())
    theirs = Write(piece_key("default", handle.id, 0), dump(Piece(1, written("theirs"))), None)
    await connection.session.records.carry_out([theirs])
    await trepid.Worker(actor, messages_limit=1).run(connection)
    assert [u.value for u in await collect(handle) if isinstance(u, trepid.Emitted)] == ["theirs", "mine"]


@pytest.mark.parametrize(
    ("amounts", "error"),
    [(("1",), TypeError), ((True,), TypeError), ((-1,), ValueError), ((float("nan"),), ValueError),
     ((10**400,), ValueError), ((1, 10**400), ValueError), ((1, "2"), TypeError), ((1, 2, 3), TypeError),
     ((1, 2, "\ud800"), ValueError)],
)  # fmt: skip
async def test_progress_that_is_none(connection, amounts, error, autojump_clock):
    async def work(ctx: trepid.Context) -> None:
        with pytest.raises(error):
            await ctx.progress(*amounts)

    actor = trepid.Actor(work)
    handle = await connection.enqueue(actor.job())
    await trepid.Worker(actor, messages_limit=1).run(connection)
    assert await handle.result() is None


async def test_values_that_cannot_be_written(connection, autojump_clock):
    async def work(ctx: trepid.Context) -> None:
        for tell in (ctx.emit, ctx.checkpoint_state):
            with pytest.raises(TypeError):
                await tell(object())
            with pytest.raises(ValueError, match="finite"):
                await tell(float("inf"))
            with pytest.raises(trepid.PayloadTooLargeError):
                await tell("x" * 2**20)

    actor = trepid.Actor(work)
    handle = await connection.enqueue(actor.job())
    await trepid.Worker(actor, messages_limit=1).run(connection)
    assert await handle.result() is None
    assert len(connection.session.records) == 0


async def test_from_a_thread():
    def work(ctx: trepid.Context) -> int:
        trio.from_thread.run(ctx.progress, 1, 2)
        trio.from_thread.run(ctx.emit, "value")
        trio.from_thread.run(ctx.checkpoint_state, ctx.attempt)
        if ctx.attempt == 1:
            raise ValueError
        return ctx.state

    actor = trepid.Actor(work, retries=1, retry_policy=lambda _: 0)
    with trio.fail_after(20):
        async with trepid.open_connection("memory:") as connection:
            await connection.declare("default")
            handle = await connection.enqueue(actor.job())
            await trepid.Worker(actor, messages_limit=2).run(connection)
            updates = await collect(handle)
    assert [(u.attempt, u.value) for u in updates if isinstance(u, trepid.Emitted)] == [(1, "value"), (2, "value")]
    assert updates[-1].result == 1


async def test_without_records_it_is_refused(autojump_clock, monkeypatch):
    async def work(ctx: trepid.Context) -> None:
        for tell, feature in (
            (ctx.progress, "progress"),
            (ctx.emit, "emitted values"),
            (ctx.checkpoint_state, "saved"),
        ):
            with pytest.raises(trepid.UnsupportedError, match=rf"memory does not support {feature}.*a second engine"):
                await tell(1)
        if ctx.attempt == 1:
            raise ValueError

    monkeypatch.setattr(MemorySession, "records", Session.records)
    actor = trepid.Actor(work, retries=1)
    async with trepid.open_connection("memory:") as connection:
        poor = attrs.evolve(connection.capabilities, records=False)
        monkeypatch.setattr(MemorySession, "capabilities", property(lambda _: poor))
        await connection.declare("default")
        _, seen = await watched(connection, actor.job(), trepid.Worker(actor))
        assert kinds([update for _, update in seen])[-1] == "Ended", "it can be watched all the same"
        assert seen[-1][1].state is trepid.State.DONE


# ---------------------------------------------------------------------------------------------------------- state


async def test_a_retried_job_goes_on_where_it_was(connection, autojump_clock):
    async def count(ctx: trepid.Context, to: int) -> list:
        begin = ctx.state or 0
        for n in range(begin, to):
            await ctx.checkpoint_state(n + 1)
            if n % 3 == 2:
                raise OSError
        return [begin, ctx.attempt]

    actor = trepid.Actor(count, retries=9)
    handle = await connection.enqueue(actor.job(8))
    async with working(trepid.Worker(actor), connection):
        assert await handle.result() == [6, 3]
        await idle()
    assert await state_of(connection, handle.id) is None, "dropped when it is done"


async def test_a_released_job_goes_on_where_it_was(connection, autojump_clock):
    async def count(ctx: trepid.Context) -> int:
        begin = ctx.state or 0
        for n in range(begin, 100):
            await ctx.checkpoint_state(n + 1)
            await trio.sleep(1)
        return begin

    actor = trepid.Actor(count)
    handle = await connection.enqueue(actor.job())
    async with working(trepid.Worker(actor, graceful_shutdown_time=0), connection):
        await trio.sleep(49.5)
    assert (await handle.status()).releases == 1
    async with working(trepid.Worker(actor), connection):
        assert await handle.result() == 50


async def test_a_job_of_a_dead_worker_goes_on_where_it_was(autojump_clock):
    async def count(ctx: trepid.Context) -> int:
        state = ctx.state or 0
        await ctx.checkpoint_state(state + 1)
        return state

    actor = trepid.Actor(count)
    async with trepid.testing.open_test_connection(actor) as desk:
        handle = await desk.enqueue(actor.job())
        [delivery] = await desk.session.lease(["default"], 1, 30.0, owner="crasher")
        saved = dump(Saved(delivery.enqueued, delivery.token, written(41)))
        await desk.session.records.carry_out([Write(state_key("default", handle.id), saved, None)])
        await desk.session.expire_owner("crasher")
        await desk.run_until_idle(scheduled_within=100)
        assert await handle.result() == 41


async def test_a_first_attempt_has_no_state_and_asks_for_none(connection, autojump_clock, monkeypatch):
    async def look(ctx: trepid.Context) -> object:
        await trio.lowlevel.checkpoint()
        return ctx.state

    real = type(connection.session.records).carry_out

    async def carry_out(self, steps):
        assert not any(step.key.startswith("state:") for step in steps)
        return await real(self, steps)

    monkeypatch.setattr(type(connection.session.records), "carry_out", carry_out)
    actor = trepid.Actor(look)
    handle = await connection.enqueue(actor.job())
    await trepid.Worker(actor, messages_limit=1).run(connection)
    assert await handle.result() is None


async def test_where_what_comes_back_is_a_copy_each_attempt_asks(connection, autojump_clock, monkeypatch):
    """A copy of a message that was released looks like its first delivery."""

    async def look(ctx: trepid.Context) -> object:
        await trio.lowlevel.checkpoint()
        return ctx.state

    session = type(connection.session)
    copying = attrs.evolve(connection.session.capabilities, keeps_place=False)
    monkeypatch.setattr(session, "capabilities", copying)
    actor = trepid.Actor(look)
    handle = await connection.enqueue(actor.job())
    view = await handle.status()
    saved = dump(Saved(view.enqueued, (0, 1), written(7)))
    await connection.session.records.carry_out([Write(state_key("default", handle.id), saved, None)])
    await trepid.Worker(actor, messages_limit=1).run(connection)
    assert await handle.result() == 7


async def test_a_job_that_was_cancelled_leaves_no_state(connection, autojump_clock):
    async def slow(ctx: trepid.Context) -> None:
        await ctx.checkpoint_state("half way")
        await trio.sleep_forever()

    actor = trepid.Actor(slow)
    handle = await connection.enqueue(actor.job())
    async with working(trepid.Worker(actor), connection):
        await idle()
        assert await state_of(connection, handle.id) is not None
        await handle.cancel()
        await handle.wait()
        await idle()
        assert await state_of(connection, handle.id) is None


async def test_a_dead_letter_that_is_requeued_goes_on_where_it_was(connection, autojump_clock):
    async def once(ctx: trepid.Context) -> object:
        if ctx.state is None:
            await ctx.checkpoint_state({"page": 5})
            raise ValueError
        await trio.lowlevel.checkpoint()
        return ctx.state

    actor = trepid.Actor(once)
    handle = await connection.enqueue(actor.job())
    async with working(trepid.Worker(actor), connection):
        await handle.wait()
        await connection.requeue("default")
        assert await handle.result() == {"page": 5}


async def test_the_state_of_a_dead_letter_is_kept_for_thirty_days(connection, autojump_clock):
    async def fail(ctx: trepid.Context) -> None:
        await ctx.checkpoint_state(1)
        raise ValueError

    actor = trepid.Actor(fail)
    handle = await connection.enqueue(actor.job())
    await trepid.Worker(actor, messages_limit=1).run(connection)
    await trio.sleep(30 * 86_400 - 1)
    assert await state_of(connection, handle.id) is not None
    await trio.sleep(2)
    assert await state_of(connection, handle.id) is None


async def test_another_run_under_the_same_id_begins_anew(connection, autojump_clock):
    async def once(ctx: trepid.Context) -> object:
        before = ctx.state
        await ctx.emit("value")
        await ctx.checkpoint_state("mine")
        await trio.sleep(1)
        if before is None and len(runs) == 0:
            runs.append(None)
            raise ValueError
        return before

    runs = []
    actor = trepid.Actor(once)
    job = actor.job().options(id="x")
    handle = await connection.enqueue(job)
    async with working(trepid.Worker(actor), connection):
        await handle.wait()
        again = await connection.enqueue(job)
        assert await again.result() is None, "the state of a dead letter is not that of a new message"
        values = [u for u in await collect(again) if isinstance(u, trepid.Emitted)]
        assert len(values) == 1, "nor are its values"
    assert await state_of(connection, "x") is None


async def test_a_retry_of_another_run_does_not_find_the_state_of_the_one_before(connection, autojump_clock):
    seen = []

    async def flawed(ctx: trepid.Context, *, saves: bool) -> None:
        seen.append(ctx.state)
        if saves:
            await ctx.checkpoint_state("of a dead letter")
        raise ValueError

    actor = trepid.Actor(flawed, retry_policy=lambda _: 0)
    async with working(trepid.Worker(actor), connection):
        await (await connection.enqueue(actor.job(saves=True).options(id="x"))).wait()
        await trio.sleep(1)  # runs are told apart by when they were published
        await (await connection.enqueue(actor.job(saves=False).options(id="x", retries=1))).wait()
    assert seen == [None, None, None]


async def test_who_comes_too_late_takes_no_state_away(connection, autojump_clock):
    """What it returned is refused, so the job goes on elsewhere, and where it was."""
    tries = []

    async def late(ctx: trepid.Context) -> object:
        tries.append(ctx.state)
        if len(tries) == 1:
            await ctx.checkpoint_state({"page": 5})
            await connection.session.expire_owner(running.statistics().owner)
        return ctx.state

    actor = trepid.Actor(late)
    handle = await connection.enqueue(actor.job())
    async with working(trepid.Worker(actor), connection) as running:
        assert await handle.result() == {"page": 5}
    assert tries == [None, {"page": 5}]


async def test_a_stale_worker_does_not_write_over_its_successor(connection, autojump_clock):
    """Two attempts at once: the first one has lost its lease and does not know."""
    began, told = [], []

    async def work(ctx: trepid.Context) -> str:
        me = len(began)
        began.append(ctx)
        with trio.CancelScope(shield=True):
            await ctx.progress(me)
            await ctx.checkpoint_state(me)
            await ctx.emit(me)
            if me == 0:
                await connection.session.expire_owner(first.statistics().owner)
                await trio.sleep(20)
                for tell in (ctx.progress, ctx.checkpoint_state, ctx.emit):
                    with pytest.raises(trepid.LeaseLostError):
                        await tell(100)
                told.append(None)
            else:
                await trio.sleep(60)
        return "done"

    actor = trepid.Actor(work)
    handle = await connection.enqueue(actor.job())
    async with working(trepid.Worker(actor, tasks_limit=1), connection) as first:
        await trio.sleep(1)
        async with working(trepid.Worker(actor), connection):
            await trio.sleep(30)
            assert told
            assert (await note_of(connection, handle.id)).done == 1
            assert b'"state":1' in await state_of(connection, handle.id)
            assert await handle.result() == "done"
    assert (await note_of(connection, handle.id)).done == 1


# ----------------------------------------------------------------------------------------------- all engines with it


@pytest.fixture(params=["sqlite", "redis", "postgres", "nats", "rabbitmq"])
def place(request, tmp_path):
    return place_of(request.param, request, tmp_path)


async def test_every_engine_that_keeps_records(place):
    url, results = place

    async def work(ctx: trepid.Context, n: int) -> int:
        begin = ctx.state or 0
        for number in range(begin, n):
            await ctx.progress(number + 1, n)
            await ctx.emit(number)
            await ctx.checkpoint_state(number + 1)
            if number == 2:
                raise ValueError
        return begin

    actor = trepid.Actor(work, retries=1, retry_policy=lambda _: 0)
    with trio.fail_after(60):
        async with trepid.open_connection(url, results=results or None) as connection:
            await connection.declare("default")
            handle = await connection.enqueue(actor.job(5))
            updates = []
            async with working(trepid.Worker(actor), connection):
                updates = await collect(handle)
            assert [(u.attempt, u.value) for u in updates if isinstance(u, trepid.Emitted)] == [
                (1, 0), (1, 1), (1, 2), (2, 3), (2, 4)
            ]  # fmt: skip
            progress = [u for u in updates if isinstance(u, trepid.Progressed)]
            assert (progress[-1].done, progress[-1].total) == (5, 5)
            assert updates[-1].result == 3
            # A watch that comes late is told the same, except for what came and went.
            late = await collect(handle)
            assert [u.value for u in late if isinstance(u, trepid.Emitted)] == [0, 1, 2, 3, 4]
            assert kinds(late)[-1] == "Ended"
            assert await state_of(connection, handle.id) is None


async def test_from_the_asyncio_loop():
    trio_asyncio = pytest.importorskip("trio_asyncio")

    async def work(ctx: trepid.Context) -> str:
        await trio_asyncio.trio_as_aio(ctx.progress)(1, 2)
        await trio_asyncio.trio_as_aio(ctx.emit)("value")
        return "well"

    actor = trepid.Actor(work, run_in="asyncio")
    with trio.fail_after(20):
        async with trepid.open_connection("memory:") as connection:
            await connection.declare("default")
            handle = await connection.enqueue(actor.job())
            await trepid.Worker(actor, messages_limit=1).run(connection)
            updates = await collect(handle)
    assert kinds(updates) == ["Emitted", "Progressed", "Ended"]
    assert updates[-1].result == "well"
