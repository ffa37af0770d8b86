"""A job that settles itself in its own transaction: its rows and its end are committed together, or not at all."""

import sqlite3

import pytest
import trio

import trepid
from trepid.brokers.memory.session import MemorySession
from trepid.rules.life import Reply


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "jobs.db")


@pytest.fixture
async def connection(path):
    async with trepid.open_connection(f"sqlite:{path}") as connection:
        await connection.declare("default")
        with sqlite3.connect(path) as own:
            own.execute("CREATE TABLE charges (id TEXT)")
        own.close()
        yield connection


def charges(path):
    own = sqlite3.connect(path)
    try:
        return own.execute("SELECT count(*) FROM charges").fetchone()[0]
    finally:
        own.close()


class Charging:
    """An actor that charges, settles, and then does what the test wants, inside and after its transaction."""

    def __init__(self, path, *, inside=None, after=None, before=None):
        self.path, self.inside, self.after, self.before = path, inside, after, before

    def __call__(self, ctx: trepid.Context, amount: int) -> str:
        own = sqlite3.connect(self.path)
        try:
            with own:
                own.execute("INSERT INTO charges VALUES (?)", (ctx.job.id,))
                if self.before is not None:
                    self.before(ctx)
                ctx.settle_in(own, f"charged {amount}")
                if self.inside is not None:
                    self.inside(ctx)
            if self.after is not None:
                self.after(ctx)
            return "ignored"
        finally:
            own.close()


async def run_one(connection, charging, *, lease=30.0, **settings):
    actor = trepid.Actor(charging.__call__, name="charge", **settings)
    handle = await connection.enqueue(actor.job(5))
    with trio.fail_after(20):
        report = await trepid.Worker(actor, messages_limit=1, lease=lease).run(connection)
    return handle, report


def fail(_ctx):
    raise ValueError("oops")


async def test_rows_and_end_are_committed_together(connection, path):
    handle, report = await run_one(connection, Charging(path))
    assert (report.succeeded, report.lost) == (1, 0)
    assert await handle.result() == "charged 5"
    assert charges(path) == 1


@pytest.fixture
async def shout(connection):
    async def shout(text: str) -> str:
        await trio.lowlevel.checkpoint()
        return text.upper()

    return trepid.Actor(shout)


async def run_chain(connection, charging, shout, *, queue="default"):
    actor = trepid.Actor(charging.__call__, name="charge")
    handle = await connection.enqueue(actor.job(5).then(shout.job(trepid.PREVIOUS).options(queue=queue)))
    async with trio.open_nursery() as nursery:
        running = await nursery.start(trepid.Worker(actor, shout).run, connection)
        with trio.fail_after(20):
            await handle.wait()
        running.stop()
    return handle


async def test_a_follow_up_comes_with_the_rows_and_the_end(connection, path, shout):
    handle = await run_chain(connection, Charging(path, after=fail), shout)
    assert await handle.result() == "CHARGED 5"
    assert charges(path) == 1


async def test_a_follow_up_is_gone_with_the_rows(connection, path, shout):
    handle = await run_chain(connection, Charging(path, inside=fail), shout)
    with pytest.raises(trepid.JobFailedError, match="step 1 of 2, charge"):
        await handle.result()
    assert charges(path) == 0
    assert (await connection.stats()).done == 0


async def test_a_follow_up_that_cannot_be_stored_rolls_all_back(connection, path, shout):
    await connection.declare("other")

    def delete(_ctx):
        trio.from_thread.run(connection.delete, "other")

    class Deleting(Charging):
        def __call__(self, ctx: trepid.Context, amount: int) -> str:
            delete(ctx)
            return super().__call__(ctx, amount)

    handle = await run_chain(connection, Deleting(path), shout, queue="other")
    with pytest.raises(trepid.JobFailedError, match="'other' is not declared"):
        await handle.result()
    assert charges(path) == 0


async def test_rows_and_end_are_gone_together(connection, path):
    handle, report = await run_one(connection, Charging(path, inside=fail))
    assert report.dead == 1
    with pytest.raises(trepid.JobFailedError, match="oops"):
        await handle.result()
    assert charges(path) == 0


async def test_what_fails_after_the_commit_changes_nothing(connection, path):
    handle, report = await run_one(connection, Charging(path, after=fail), retries=3)
    assert (report.succeeded, report.retried) == (1, 0)
    assert await handle.result() == "charged 5"
    assert charges(path) == 1


async def test_a_late_one_is_refused_and_rolls_back(connection, path):
    def lose():
        # Somebody has given this worker up meanwhile.
        trio.from_thread.run(connection.session.expire_owner, owner[0])

    refused = []

    class Late(Charging):
        def __call__(self, ctx: trepid.Context, amount: int) -> str:
            lose()
            try:
                return super().__call__(ctx, amount)
            except trepid.LeaseLostError as exc:
                refused.append(exc)
                raise

    owner = []
    actor = trepid.Actor(Late(path).__call__, name="charge", max_crashes=1)
    await connection.enqueue(actor.job(5))
    async with trio.open_nursery() as nursery:
        running = await nursery.start(trepid.Worker(actor, messages_limit=1).run, connection)
        owner.append(running.statistics().owner)
        with trio.fail_after(20):
            while not refused:
                await trio.sleep(0.01)
        running.stop(grace=1)
        report = await running.wait_stopped()
    assert report.succeeded == 0
    assert charges(path) == 0
    assert refused[0].reason == "ended", "poison, by then"


async def test_a_result_that_is_not_kept_is_seen_by_the_worker_all_the_same(connection, path):
    _, report = await run_one(connection, Charging(path), result_ttl=0)
    assert (report.succeeded, report.lost) == (1, 0)


async def test_a_job_that_goes_on_beyond_its_lease_after_the_commit_is_done(connection, path):
    async def charge(ctx: trepid.Context, amount: int) -> int:
        own = sqlite3.connect(path)
        with own:
            own.execute("INSERT INTO charges VALUES (?)", (ctx.job.id,))
            ctx.settle_in(own, amount)
        own.close()
        await trio.sleep_forever()

    actor = trepid.Actor(charge)
    handle = await connection.enqueue(actor.job(5))
    with trio.fail_after(20):
        report = await trepid.Worker(actor, messages_limit=1, lease=1).run(connection)
    assert (report.succeeded, report.lost) == (1, 0)
    assert await handle.result() == 5
    assert charges(path) == 1


async def test_an_engine_without_transactions_refuses(autojump_clock):
    async def charge(ctx: trepid.Context) -> None:
        await trio.lowlevel.checkpoint()
        ctx.settle_in(None)

    actor = trepid.Actor(charge)
    async with trepid.open_connection("memory:") as memory:
        await memory.declare("default")
        handle = await memory.enqueue(actor.job())
        await trepid.Worker(actor, messages_limit=1).run(memory)
        with pytest.raises(trepid.JobFailedError, match="does not support settling in a database transaction"):
            await handle.result()


async def test_no_renewal_comes_between_a_settlement_and_its_commit(connection, path, monkeypatch):
    runs, renewed = [], []
    real = connection.session.settle_in

    def settle_in(own, settlement):
        renewed.append(not runs[0].settled_inside)
        return real(own, settlement)

    monkeypatch.setattr(connection.session, "settle_in", settle_in)
    _, report = await run_one(connection, Charging(path, before=lambda ctx: runs.append(ctx._settle_in.args[0])))
    assert report.succeeded == 1
    assert renewed == [False], "the renewal would wait for the transaction, and all other leases with it"


async def test_a_renewal_that_was_under_way_does_not_stop_what_comes_after_the_commit(autojump_clock, monkeypatch):
    """It waits for the transaction, and is told that the message has ended: by the job itself."""
    real, told = MemorySession.extend, []

    def settle_in(self, own, settlement):
        return self._broker.ledger.settle([settlement], self._broker.now())[0]

    async def extend(self, refs, lease_for):
        await trio.sleep(2)
        extensions = await real(self, refs, lease_for)
        told.extend(extension.reply for extension in extensions)
        return extensions

    async def charge(ctx: trepid.Context) -> None:
        await trio.sleep(11)
        ctx.settle_in(None)
        await trio.sleep(5)
        finished.append(trio.current_time())

    finished = []
    monkeypatch.setattr(MemorySession, "settle_in", settle_in)
    monkeypatch.setattr(MemorySession, "extend", extend)
    actor = trepid.Actor(charge)
    async with trepid.open_connection("memory:") as memory:
        await memory.declare("default")
        await memory.enqueue(actor.job())
        report = await trepid.Worker(actor, messages_limit=1, lease=30).run(memory)
    assert told == [Reply.ENDED]
    assert finished == [16]
    assert report == trepid.Report(succeeded=1)
