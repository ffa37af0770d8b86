"""Starting jobs in a job nursery: at once, in batches, and with handles that are older than their messages."""

import pytest
import trio
import trio.testing

import trepid
from tests.connection.nursery.cast import WORK, Log, counts
from tests.runtime.stage import TroubledBroker, idle, working
from trepid.values.envelope import unseal

WORKER = trepid.Worker(WORK)


async def test_leaving_the_block_waits_for_all(connection, autojump_clock):
    async with working(WORKER, connection):
        async with trepid.open_job_nursery(connection) as jobs:
            handles = [jobs.start_soon(WORK.job(n, n)) for n in range(10)]
            assert len({handle.id for handle in handles}) == 10, "the ids are valid at once"
        assert trio.current_time() == 9
        assert [await handle.result() for handle in handles] == list(range(0, 20, 2))
    assert jobs.statistics() == trepid.JobNurseryStatistics(unpublished=0, live=0, done=10, failed=0, cancelled=0)


async def test_an_empty_block(connection, autojump_clock):
    async with trepid.open_job_nursery(connection):
        pass
    assert trio.current_time() == 0


async def test_start_soon_never_waits_and_publishes_in_batches(autojump_clock):
    broker = TroubledBroker()
    async with trepid.open_connection(broker) as connection:
        await connection.declare("default")
        async with working(WORKER, connection), trepid.open_job_nursery(connection) as jobs:
            with trio.testing.assert_no_checkpoints():
                for n in range(1200):
                    jobs.start_soon(WORK.job(n))
            assert jobs.statistics().unpublished == 1200
            await idle()
            assert (jobs.statistics().unpublished, jobs.statistics().live) == (0, 1200)
            assert broker.trouble.calls["publish"] == 3
    assert jobs.statistics().done == 1200


async def test_a_batch_is_bounded_by_bytes_too(autojump_clock):
    large = trepid.Job("large", args=["x" * 1_000_000])
    broker = TroubledBroker()
    async with trepid.open_connection(broker) as connection:
        await connection.declare("default")
        async with trepid.open_job_nursery(connection) as jobs:
            for _ in range(20):
                jobs.start_soon(large)
            await idle()
            assert jobs.statistics() == trepid.JobNurseryStatistics(0, 20, done=0, failed=0, cancelled=0)
            jobs.cancel_scope.cancel()
    published = [args for _, name, args, _ in broker.trouble.log if name == "publish"]
    assert [len(batch) for (batch,) in published] == [4, 4, 4, 4, 4]


@pytest.mark.parametrize(
    ("job", "error"),
    [
        ("greet", TypeError),
        (WORK, TypeError),
        (trepid.Job("x", args=["y" * (2**20 - 70)]), trepid.PayloadTooLargeError),
    ],
)
async def test_what_cannot_be_published_is_refused_at_the_call(connection, autojump_clock, job, error):
    async with trepid.open_job_nursery(connection) as jobs:
        with pytest.raises(error):
            jobs.start_soon(job)
        assert jobs.statistics().unpublished == 0
    assert await counts(connection) == {}


async def test_start_waits_while_too_many_are_unpublished(autojump_clock):
    broker = TroubledBroker()
    async with trepid.open_connection(broker) as connection:
        await connection.declare("default")
        broker.trouble.late["publish"] = 5
        async with working(WORKER, connection), trepid.open_job_nursery(connection, max_pending=3) as jobs:
            times = []
            for n in range(9):
                await jobs.start(WORK.job(n))
                assert jobs.statistics().unpublished <= 3
                times.append(trio.current_time())
            assert times[:3] == [0, 0, 0]
            assert times[3] == 5
            assert times[-1] > 5
    assert jobs.statistics().done == 9


async def test_start_is_a_checkpoint(connection, autojump_clock):
    async with working(WORKER, connection), trepid.open_job_nursery(connection) as jobs:
        with trio.testing.assert_checkpoints():
            await jobs.start(WORK.job(1))


async def test_messages_carry_the_nursery_and_its_deadline_and_plain_ones_do_not(connection, autojump_clock):
    with trio.move_on_after(60):
        async with trepid.open_job_nursery(connection) as jobs:
            child = jobs.start_soon(WORK.job(1))
            plain = await connection.enqueue(WORK.job(2))
            await idle()
            envelope = unseal((await child.status()).payload)
            assert envelope.scope
            assert envelope.until == pytest.approx(await connection.session.now() + 60)
            envelope = unseal((await plain.status()).payload)
            assert (envelope.scope, envelope.until) == (None, None)
    assert (await plain.status()).state is trepid.State.READY, "it belongs to nobody"


async def test_jobs_may_be_started_from_other_tasks_until_the_last_one_has_ended(connection, autojump_clock):
    async def later(jobs):
        await trio.sleep(5)
        jobs.start_soon(WORK.job(2, 10))
        await trio.sleep(20)
        with pytest.raises(RuntimeError, match="has ended"):
            jobs.start_soon(WORK.job(3))
        with pytest.raises(RuntimeError, match="has ended"):
            await jobs.start(WORK.job(3))

    async with working(WORKER, connection), trio.open_nursery() as nursery:
        async with trepid.open_job_nursery(connection) as jobs:
            jobs.start_soon(WORK.job(1, 10))
            nursery.start_soon(later, jobs)  # noqa: ASYNC111 - it looks at what becomes of it
        assert trio.current_time() == 15


# --------------------------------------------------------------------------------------------------------- handles


async def test_a_handle_waits_for_its_message(autojump_clock):
    broker = TroubledBroker()
    async with trepid.open_connection(broker) as connection:
        await connection.declare("default")
        broker.trouble.late["publish"] = 5
        async with working(WORKER, connection), trepid.open_job_nursery(connection) as jobs:
            handle = jobs.start_soon(WORK.job(1, 10))
            assert (await handle.status()).state in (trepid.State.READY, trepid.State.LEASED)
            assert trio.current_time() == 5
            assert await handle.result() == 2


async def test_a_handle_finds_an_existing_message_which_is_waited_for_but_not_cancelled(connection, autojump_clock):
    theirs = await connection.enqueue(WORK.job(1, 50).options(id="mine"))
    held = await connection.enqueue(WORK.job(2, 50).options(unique=trepid.Unique("key")))
    async with working(WORKER, connection):
        with trio.move_on_after(10):
            async with trepid.open_job_nursery(connection) as jobs:
                same = jobs.start_soon(WORK.job(3).options(id="mine"))
                keyed = jobs.start_soon(WORK.job(4).options(unique=trepid.Unique("key")))
                assert not same.existing
                await idle()
                assert (same.existing, same.id, keyed.existing, keyed.id) == (True, "mine", True, held.id)
        assert trio.current_time() == 10
        async with trepid.open_job_nursery(connection) as jobs:
            jobs.start_soon(WORK.job(3).options(id="mine"))
        assert trio.current_time() == 50, "it is waited for"
        assert [await handle.result() for handle in (theirs, held, keyed)] == [2, 4, 4]


async def test_the_same_id_twice_is_one_job(connection, autojump_clock):
    async with working(WORKER, connection):
        async with trepid.open_job_nursery(connection) as jobs:
            one, two = (jobs.start_soon(WORK.job(n).options(id="same")) for n in (1, 2))
        assert (await one.result(), await two.result()) == (2, 2)
        assert (one.existing, two.existing, jobs.statistics().done) == (False, True, 2)
        with pytest.RaisesGroup(trepid.JobFailedError):
            async with trepid.open_job_nursery(connection) as jobs:
                for _ in range(3):
                    jobs.start_soon(WORK.job(-1).options(id="same"))
        assert (jobs.statistics().done, jobs.statistics().failed) == (0, 3)


@pytest.mark.parametrize(("said", "kept"), [(None, 86_400), (0, 60), (5, 60), (600, 600)])
async def test_an_ended_child_stays_readable_for_a_while(connection, autojump_clock, said, kept):
    async with working(WORKER, connection):
        async with trepid.open_job_nursery(connection) as jobs:
            handle = jobs.start_soon(WORK.job(1, 0).options(result_ttl=said))
        await trio.sleep(kept - 1)
        assert await handle.result() == 2
        await trio.sleep(2)
        with pytest.raises(trepid.JobGoneError):
            await handle.result()


async def test_delays_retries_and_several_queues(connection, autojump_clock):
    async def third(ctx: trepid.Context) -> int:
        await trio.lowlevel.checkpoint()
        if ctx.attempt < 3:
            raise ValueError
        return ctx.attempt

    actor = trepid.Actor(third, queue="other", retries=5)
    async with working(trepid.Worker(WORK, actor), connection):
        async with trepid.open_job_nursery(connection) as jobs:
            retried = jobs.start_soon(actor.job())
            delayed = jobs.start_soon(WORK.job(1).options(delay=600))
        assert (await retried.result(), await delayed.result(), trio.current_time()) == (3, 2, 601)


async def test_the_ends_of_many_are_asked_for_in_bounded_calls(autojump_clock):
    broker = TroubledBroker()
    async with trepid.open_connection(broker) as connection:
        await connection.declare("default")
        async with working(trepid.Worker(WORK, tasks_limit=2000), connection):
            async with trepid.open_job_nursery(connection) as jobs:
                for n in range(5_000):
                    await jobs.start(WORK.job(n))
            assert jobs.statistics().done == 5_000
            assert trio.current_time() < 10
        asked = [args for _, name, args, _ in broker.trouble.log if name == "endings"]
        assert max(len(ids) for _, ids in asked) <= 1000
        assert len(asked) < 1000, "they are asked for many at once"


async def test_an_end_behind_a_thousand_others_is_noticed(connection, autojump_clock):
    log = Log()
    async with working(trepid.Worker(log.actor, tasks_limit=3000), connection):
        with pytest.RaisesGroup(trepid.JobFailedError):
            async with trepid.open_job_nursery(connection) as jobs:
                for n in range(1, 2500):
                    jobs.start_soon(log.actor.job(n))
                await trio.sleep(60)
                jobs.start_soon(log.actor.job(-1, 1))
        assert trio.current_time() <= 67
    assert len(log.ended) == 2500


# ------------------------------------------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"lease": 2}, ValueError),
        ({"lease": "long"}, TypeError),
        ({"max_pending": 0}, ValueError),
        ({"max_pending": True}, TypeError),
    ],
)
async def test_wrong_arguments_are_refused_at_the_call(connection, autojump_clock, settings, error):
    with pytest.raises(error):
        trepid.open_job_nursery(connection, **settings)


@pytest.mark.parametrize("wrong", ["sqlite:jobs.db", None, trepid.MemoryBroker()])
def test_it_is_opened_on_a_connection(wrong):
    with pytest.raises(TypeError, match=r"on a connection, not .*; write `async with trepid.open_connection"):
        trepid.open_job_nursery(wrong)


@pytest.mark.parametrize("lack", [{"results": "none"}, {"cancel_running": False}, {"records": False}])
async def test_an_engine_that_lacks_something_is_refused_at_the_call(connection, autojump_clock, lack, monkeypatch):
    import attrs

    can = attrs.evolve(connection.capabilities, **lack)
    monkeypatch.setattr(type(connection.session), "capabilities", property(lambda _: can))
    with pytest.raises(trepid.UnsupportedError, match="memory does not support job nurseries"):
        trepid.open_job_nursery(connection)
