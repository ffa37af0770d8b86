"""Chains: the next step comes with the end of the one before, once, and gets its result."""

from functools import partial

import attrs
import pytest
import trio

import trepid
import trepid.testing
from tests.runtime.stage import idle, states, working
from trepid.brokers.memory.session import MemorySession
from trepid.connection import Connection
from trepid.connection.publishing import refuse_chain, refuse_unsupported
from trepid.ports.messages import Publication
from trepid.rules.life import CancelReply
from trepid.testing.relay import Relay

PREVIOUS = trepid.PREVIOUS


async def number(n: int) -> int:
    await trio.lowlevel.checkpoint()
    return n


async def double(n: int, *, plus: int = 0) -> int:
    await trio.lowlevel.checkpoint()
    return 2 * n + plus


async def flop(text: str) -> int:
    await trio.lowlevel.checkpoint()
    raise ValueError(text)


async def odd() -> object:
    await trio.lowlevel.checkpoint()
    return object()


NUMBER, DOUBLE = trepid.Actor(number), trepid.Actor(double, queue="doubles")
FLOP, ODD = trepid.Actor(flop), trepid.Actor(odd)
WORKER = trepid.Worker(NUMBER, DOUBLE, FLOP, ODD)


@pytest.fixture
async def connection(connection):
    await connection.declare("doubles")
    return connection


async def run(connection, chain, worker=WORKER):
    handle = await connection.enqueue(chain)
    async with working(worker, connection):
        await handle.wait()
    return handle


async def test_results_are_passed_on_and_the_last_one_comes_back(connection, autojump_clock):
    chain = NUMBER.job(5).then(DOUBLE.job(PREVIOUS)).then(DOUBLE.job(PREVIOUS, plus=1))
    handle = await run(connection, chain)
    assert await handle.result() == 21
    first = handle.id.removesuffix(".2")
    assert (handle.queue, handle.id) == ("doubles", f"{first}.2")
    assert await connection.handle(first).result() == 5
    assert await connection.handle(f"{first}.1", queue="doubles").result() == 10


async def test_previous_by_name_and_more_than_once(connection, autojump_clock):
    assert await (await run(connection, NUMBER.job(3).then(DOUBLE.job(n=PREVIOUS, plus=PREVIOUS)))).result() == 9


async def test_a_step_that_does_not_ask_gets_nothing(connection, autojump_clock):
    assert await (await run(connection, ODD.job().then(DOUBLE.job(1)))).result() == 2
    assert await (await run(connection, NUMBER.job(7).then(DOUBLE.job(1)))).result() == 2


async def test_a_chain_that_begins_with_a_chain_is_the_same(connection, autojump_clock):
    a, b, c = NUMBER.job(5), DOUBLE.job(PREVIOUS), DOUBLE.job(PREVIOUS, plus=1)
    assert a.then(b).then(c) == a.then(b.then(c))
    assert a.then(b).then(c).payload == a.then(b.then(c)).payload
    assert await (await run(connection, a.then(b.then(c)))).result() == 21


async def test_the_next_step_is_published_when_the_one_before_is_done(connection, autojump_clock):
    async def slow() -> None:
        await trio.sleep(10)

    actor = trepid.Actor(slow)
    handle = await connection.enqueue(actor.job().then(DOUBLE.job(1)))
    async with working(WORKER | actor, connection):
        await trio.sleep(9)
        assert await states(connection, "doubles") == {}
        assert (await handle.status()).id == handle.id.removesuffix(".1")
        await trio.sleep(2)
        assert await states(connection, "doubles") == {handle.id: trepid.State.DONE}
        assert (await handle.status()).id == handle.id


@pytest.mark.parametrize(
    ("chain", "step"),
    [
        (FLOP.job("oops").then(DOUBLE.job(1)).then(DOUBLE.job(2)), 1),
        (NUMBER.job(1).then(FLOP.job("oops")).then(DOUBLE.job(2)), 2),
        (NUMBER.job(1).then(DOUBLE.job(2)).then(FLOP.job("oops")), 3),
    ],
)
async def test_a_failure_stops_the_chain_and_says_where(connection, chain, step, autojump_clock):
    handle = await run(connection, chain.options(id="first"))
    with pytest.raises(trepid.JobFailedError, match="oops") as caught:
        await handle.result()
    assert caught.value.step == f"step {step} of 3, flop"
    assert caught.value.id == ("first" if step == 1 else f"first.{step - 1}")
    assert f"({caught.value.step})" in str(caught.value)
    found = await states(connection) | await states(connection, "doubles")
    assert len(found) == step, "nothing comes after it"


async def test_a_retry_of_a_step_is_the_step_again(connection, autojump_clock):
    tries = []

    async def shaky() -> int:
        await trio.sleep(1)
        tries.append(None)
        if len(tries) < 3:
            raise OSError
        return len(tries)

    actor = trepid.Actor(shaky, retries=5)
    handle = await run(connection, NUMBER.job(1).then(actor.job()).then(DOUBLE.job(PREVIOUS)), WORKER | actor)
    assert await handle.result() == 6


async def test_a_dead_step_that_is_requeued_goes_on_with_the_chain(connection, autojump_clock):
    tries = []

    async def once() -> int:
        await trio.lowlevel.checkpoint()
        tries.append(None)
        if len(tries) == 1:
            raise OSError
        return 5

    actor = trepid.Actor(once)
    handle = await run(connection, actor.job().then(DOUBLE.job(PREVIOUS)), WORKER | actor)
    assert await connection.requeue("default") == 1
    async with working(WORKER | actor, connection):
        assert await handle.result() == 10


async def test_delay_priority_and_all_else_are_each_step_s_own(connection, autojump_clock):
    late = DOUBLE.job(PREVIOUS).options(
        delay=100, priority=trepid.Priority.HIGH, result_ttl=7, max_crashes=3, unique=trepid.Unique("k"), ttl=60
    )
    handle = await connection.enqueue(NUMBER.job(1).options(delay=50).then(late))
    async with working(WORKER, connection):
        await trio.sleep(60)
        view = await handle.status()
        assert (view.id, view.state, view.priority, view.unique) == (handle.id, trepid.State.SCHEDULED, 9, "k")
        assert view.due == pytest.approx(view.enqueued + 100)
        assert await handle.result() == 2
        assert trio.current_time() == pytest.approx(150)
        await trio.sleep(8)
        with pytest.raises(trepid.JobGoneError):
            await handle.result()


async def test_results_that_are_not_kept_are_passed_on_all_the_same(connection, autojump_clock):
    chain = NUMBER.job(5).options(result_ttl=0).then(DOUBLE.job(PREVIOUS).options(result_ttl=0))
    chain = chain.then(NUMBER.job(PREVIOUS))
    handle = await connection.enqueue(chain)
    async with working(WORKER, connection):
        assert await handle.result() == 10
        assert await (await connection.enqueue(chain)).result() == 10


async def test_a_chain_that_leaves_no_trace_is_gone(connection, autojump_clock):
    handle = await connection.enqueue(NUMBER.job(5).options(result_ttl=0).then(DOUBLE.job(1).options(result_ttl=0)))
    async with working(WORKER, connection):
        with pytest.raises(trepid.JobGoneError):
            await handle.result()
        with pytest.raises(trepid.JobGoneError):
            await handle.status()
        with pytest.raises(trepid.JobGoneError):
            await handle.cancel()


async def test_a_result_that_cannot_be_handed_on_is_a_failure_of_its_step(connection, autojump_clock):
    handle = await run(connection, ODD.job().then(DOUBLE.job(PREVIOUS)))
    with pytest.raises(trepid.JobFailedError, match="cannot be handed on to double: ") as caught:
        await handle.result()
    assert (caught.value.type, caught.value.step) == ("ResultError", "step 1 of 2, odd")


async def test_a_result_that_is_too_large_to_be_handed_on_is_one_too(connection, autojump_clock):
    async def big(n: int) -> str:
        await trio.lowlevel.checkpoint()
        return "x" * n

    async def length(text: str) -> int:
        await trio.lowlevel.checkpoint()
        return len(text)

    big_actor, length_actor = trepid.Actor(big), trepid.Actor(length)
    worker = WORKER | big_actor | length_actor
    with pytest.raises(trepid.JobFailedError, match="1,048,576") as caught:
        await (await run(connection, big_actor.job(2**20).then(length_actor.job(PREVIOUS)), worker)).result()
    assert caught.value.step == "step 1 of 2, big"
    assert (
        await (await run(connection, big_actor.job(2**19).then(length_actor.job(PREVIOUS)), worker)).result() == 2**19
    )


async def test_a_result_that_does_not_fit_the_next_step_is_a_failure_of_that(connection, autojump_clock):
    async def text() -> str:
        await trio.lowlevel.checkpoint()
        return "five"

    actor = trepid.Actor(text)
    with pytest.raises(trepid.JobFailedError, match="int") as caught:
        await (await run(connection, actor.job().then(DOUBLE.job(PREVIOUS)), WORKER | actor)).result()
    assert (caught.value.type, caught.value.step) == ("ArgumentsError", "step 2 of 2, double")


async def test_a_job_that_wants_a_result_cannot_come_first(connection, autojump_clock):
    for job in (DOUBLE.job(PREVIOUS), DOUBLE.job(n=PREVIOUS), DOUBLE.job(PREVIOUS).then(DOUBLE.job(1))):
        with pytest.raises(TypeError, match=r"'double' wants a previous result, and comes first; write first_job.then"):
            await connection.enqueue(job)
    assert await states(connection, "doubles") == {}


async def test_an_undeclared_queue_anywhere_stores_nothing(connection, autojump_clock):
    chain = NUMBER.job(1).then(DOUBLE.job(1)).then(DOUBLE.job(1).options(queue="nowhere"))
    with pytest.raises(trepid.UnknownQueueError, match="nowhere"):
        await connection.enqueue(chain)
    with pytest.raises(trepid.UnknownQueueError, match="nowhere"):
        await connection.enqueue_many([NUMBER.job(1), chain])
    assert await states(connection) == {}


async def test_a_queue_that_is_deleted_meanwhile_fails_the_step_before(connection, autojump_clock):
    handle = await connection.enqueue(NUMBER.job(1).then(DOUBLE.job(1)))
    await connection.delete("doubles")
    async with working(trepid.Worker(NUMBER), connection):
        with pytest.raises(trepid.JobFailedError, match="'doubles' is not declared") as caught:
            await handle.result()
    assert (caught.value.type, caught.value.step) == ("UnknownQueueError", "step 1 of 2, number")
    await connection.declare("doubles")
    await connection.requeue("default")
    async with working(WORKER, connection):
        assert await handle.result() == 2


async def test_a_unique_key_that_is_held_leaves_the_holder_be(connection, autojump_clock):
    held = DOUBLE.job(1).options(unique=trepid.Unique("k", "raise"), delay=1000)
    await connection.enqueue(held.options(id="holder"))
    handle = await connection.enqueue(NUMBER.job(1).then(held))
    async with working(WORKER, connection) as running:
        await connection.handle(handle.id.removesuffix(".1")).wait()
        await idle()
        assert running.statistics().report.succeeded == 1
    assert await states(connection, "doubles") == {"holder": trepid.State.SCHEDULED}
    with pytest.raises(trepid.JobGoneError):
        await handle.result()


async def test_a_full_queue_takes_follow_ups(connection, autojump_clock):
    await connection.declare(trepid.Queue("doubles", max_size=1))
    await connection.enqueue(DOUBLE.job(1).options(delay=1000))
    assert await (await run(connection, NUMBER.job(1).then(DOUBLE.job(PREVIOUS)))).result() == 2


async def test_cancelling_is_about_the_step_that_it_has_come_to(connection, autojump_clock):
    handle = await connection.enqueue(NUMBER.job(1).options(delay=10).then(DOUBLE.job(1).options(delay=10)))
    assert await handle.cancel("enough") is trepid.CancelResult.WITHDRAWN
    with pytest.raises(trepid.JobCancelledError, match=r"\(step 1 of 2, number\) was cancelled: enough"):
        await handle.result()
    handle = await connection.enqueue(NUMBER.job(1).options(delay=10).then(DOUBLE.job(1).options(delay=10)))
    async with working(WORKER, connection):
        await trio.sleep(15)
        assert await handle.cancel("enough") is trepid.CancelResult.WITHDRAWN
        with pytest.raises(trepid.JobCancelledError, match="step 2 of 2, double"):
            await handle.result()
        assert await handle.cancel() is trepid.CancelResult.FINISHED


async def test_cancelling_goes_along_with_a_chain_that_moves_meanwhile(connection, autojump_clock, monkeypatch):
    """The second step is not there when it is asked for; the first one is done before it is asked."""
    handle = await connection.enqueue(NUMBER.job(1).then(DOUBLE.job(1).options(delay=10)))
    cancel = MemorySession.cancel

    async def slow(self, queue, ids, reason):
        replies = await cancel(self, queue, ids, reason)
        if replies == [CancelReply.UNKNOWN]:
            await trepid.Worker(NUMBER, messages_limit=1).run(connection)
        return replies

    monkeypatch.setattr(MemorySession, "cancel", slow)
    assert await handle.cancel("enough") is trepid.CancelResult.WITHDRAWN
    with pytest.raises(trepid.JobCancelledError, match="step 2 of 2, double"):
        await handle.result()


async def test_a_chain_enqueued_again_by_its_id_is_the_same_chain(connection, autojump_clock):
    chain = NUMBER.job(4).options(id="mine").then(DOUBLE.job(PREVIOUS))
    first, again = await connection.enqueue(chain), await connection.enqueue(chain)
    assert (first.existing, again.existing, first.id, again.id) == (False, True, "mine.1", "mine.1")
    async with working(WORKER, connection) as running:
        assert await again.result() == 8
        await idle()
        assert running.statistics().report.succeeded == 2
        once_more = await connection.enqueue(chain)
        assert not once_more.existing
        assert await once_more.result() == 8
        await idle()
        assert running.statistics().report.succeeded == 4, "a new run is a new chain"


async def test_many_at_once(connection, autojump_clock):
    chains = [NUMBER.job(n).then(DOUBLE.job(PREVIOUS)) for n in range(300)]
    handles = await connection.enqueue_many([*chains, *[NUMBER.job(n) for n in range(300)]])
    async with working(WORKER, connection) as running:
        assert [await handle.result() for handle in handles] == [2 * n for n in range(300)] + list(range(300))
        await idle()
        assert running.statistics().report.succeeded == 900


async def test_a_context_knows_what_comes_after_it(connection, autojump_clock):
    async def look(ctx: trepid.Context) -> list[str]:
        await trio.lowlevel.checkpoint()
        assert ctx.job.follow_ups == (after,)
        return [job.name for job in ctx.job.follow_ups]

    async def names(of: list[str]) -> list[str]:
        await trio.lowlevel.checkpoint()
        return of

    looker, namer = trepid.Actor(look), trepid.Actor(names)
    after = namer.job(PREVIOUS).options(delay=5, unique=trepid.Unique("k"), priority=trepid.Priority.LOW)
    assert await (await run(connection, looker.job().then(after), WORKER | looker | namer)).result() == ["names"]


async def test_a_bare_envelope_with_follow_ups_is_a_chain_too(connection, autojump_clock):
    """Whoever stores the payload of a chain under an id of its own, as schedules do."""
    chain = NUMBER.job(4).then(DOUBLE.job(PREVIOUS)).then(DOUBLE.job(PREVIOUS))
    for run_ in range(2):
        await connection.session.publish([Publication("default", "bare", ("s", run_), chain.payload)])
        async with working(WORKER, connection):
            await connection.handle("bare").wait()
            await connection.handle("bare.1", queue="doubles").wait()
            assert await connection.handle("bare.2", queue="doubles").result() == 16
        await trio.sleep(1)
        assert (await connection.stats("doubles")).done == 2


async def test_a_settlement_whose_reply_is_lost_is_sent_again_with_its_follow_up(autojump_clock):
    async with trepid.testing.open_test_connection(NUMBER, DOUBLE) as desk:
        desk.faults.next("settle", trepid.testing.reply_lost())
        desk.faults.next("settle", trepid.testing.request_lost())
        ran = await desk.run(NUMBER.job(4).then(DOUBLE.job(PREVIOUS)))
        assert ran.result == 8
        await desk.run_until_idle()
        stats = [await desk.stats(queue) for queue in ("default", "doubles")]
        assert [each.done for each in stats] == [1, 1]


async def test_a_desk_looks_at_the_queues_of_all_steps(autojump_clock):
    async with trepid.testing.open_test_connection(NUMBER) as desk:
        await desk.declare("doubles")
        with pytest.raises(ValueError, match="looks at default, and the job goes to 'doubles'"):
            await desk.run(NUMBER.job(4).then(DOUBLE.job(PREVIOUS)))


def test_a_place_for_single_jobs_refuses_chains():
    refuse_chain(NUMBER.job(1), "a job nursery")
    with pytest.raises(TypeError, match=r"a job nursery takes single jobs, and 'number' has 1 follow-up\(s\)"):
        refuse_chain(NUMBER.job(1).then(NUMBER.job(2)), "a job nursery")


@pytest.mark.parametrize(
    ("lack", "step", "feature"),
    [
        (
            {"unique": False},
            NUMBER.job(1).options(unique=trepid.Unique("k")),
            "unique keys, as job 'number'",
        ),
        ({"holds": False}, NUMBER.job(1).options(unique=trepid.Unique("k", for_=5)), "unique keys that outlive"),
        ({"ttl": False}, NUMBER.job(1).options(ttl=5), "ttl"),
        ({"limits": False}, NUMBER.job(1).options(gate="number"), "limits of actors"),
        ({"delay": "none"}, NUMBER.job(1).options(delay=5), "delays"),
    ],
)
def test_what_the_engine_lacks_is_refused_when_the_chain_is_enqueued(lack, step, feature):
    can = trepid.Capabilities("small", "none", "a test")
    refuse_unsupported(can, [step])
    with pytest.raises(trepid.UnsupportedError, match=feature):
        refuse_unsupported(attrs.evolve(can, **lack), [step])


class Forgetful(Relay):
    """A session of an engine that knows no publish again."""

    @property
    def capabilities(self):
        return attrs.evolve(self.inner.capabilities, engine="small", deduplication="none")

    async def carry(self, operation, call):
        return await call()


async def test_an_engine_that_knows_no_publish_again_gets_no_chain(connection, autojump_clock):
    small = Connection(connection._broker, Forgetful(connection.session))
    chain = NUMBER.job(4).then(DOUBLE.job(PREVIOUS))
    schedule = trepid.Schedule("chain", trepid.Every(60), chain)
    for attempt in (
        partial(small.enqueue, chain),
        partial(small.enqueue_many, [NUMBER.job(1), chain]),
        partial(small.schedule, schedule),
        partial(trepid.Worker(trepid.Router(NUMBER, DOUBLE, schedules=[schedule])).run, small),
    ):
        with pytest.raises(trepid.UnsupportedError, match=r"^small does not support chains; name a second engine"):
            await attempt()
    with pytest.raises(trepid.UnsupportedError, match="chains"):
        small.enqueue_in(None, chain)
    async with working(trepid.Worker(), small):
        with pytest.RaisesGroup(pytest.RaisesExc(trepid.UnsupportedError, match="chains")):
            async with trepid.open_job_nursery(small) as jobs:
                jobs.start_soon(chain)
    assert await states(connection) == {}
    assert await (await small.enqueue(NUMBER.job(1))).status()


async def test_a_chain_that_such_an_engine_has_all_the_same_is_carried_out(connection, autojump_clock):
    """As an earlier version has left it there."""
    handle = await connection.enqueue(NUMBER.job(4).then(DOUBLE.job(PREVIOUS)))
    async with working(WORKER, Connection(connection._broker, Forgetful(connection.session))):
        assert await handle.result() == 8


async def test_an_engine_that_refuses_a_follow_up_fails_the_step_and_not_the_worker(
    connection, autojump_clock, monkeypatch
):
    settle = connection.session.settle

    async def picky(batch, *, then=()):
        if then:
            await trio.lowlevel.checkpoint()
            raise trepid.UnsupportedError("such follow-ups", "picky")
        return await settle(batch)

    monkeypatch.setattr(type(connection.session), "settle", staticmethod(picky))
    handle = await run(connection, NUMBER.job(1).then(DOUBLE.job(1)))
    with pytest.raises(trepid.JobFailedError, match="picky does not support such follow-ups"):
        await handle.result()
