"""Limits of actors and queues, seen from inside the jobs."""

from collections import Counter

import attrs
import pytest
import trio

import trepid
from tests.runtime.stage import idle, working
from trepid.brokers.memory import MemoryBroker
from trepid.brokers.memory.session import MemorySession
from trepid.testing.faults import Faults, FaultyBroker


@attrs.define
class Gauge:
    """How many jobs run at once, all told and by key, and when each started."""

    running: Counter = attrs.field(factory=Counter)
    highest: Counter = attrs.field(factory=Counter)
    starts: list = attrs.field(factory=list)

    async def work(self, key: str, seconds: float = 1.0) -> str:
        self.starts.append((trio.current_time(), key))
        for name in ("all", key):
            self.running[name] += 1
            self.highest[name] = max(self.highest[name], self.running[name])
        try:
            await trio.sleep(seconds)
        finally:
            self.running["all"] -= 1
            self.running[key] -= 1
        return key


@pytest.fixture
def gauge():
    return Gauge()


async def finish(handles):
    for handle in handles:
        await handle.wait()


async def test_an_actor_runs_so_often_at_once_across_workers(connection, gauge, autojump_clock):
    actor = trepid.Actor(gauge.work, concurrency=3)
    other = trepid.Actor(gauge.work, name="free")
    handles = await connection.enqueue_many([actor.job("a") for _ in range(12)])
    worker = trepid.Worker(actor, other)
    async with working(worker, connection), working(worker, connection), working(worker, connection):
        free = await connection.enqueue_many([other.job("b", 0.1) for _ in range(5)])
        await finish(free)
        assert trio.current_time() < 0.5, "what is not limited is not held up"
        await finish(handles)
        assert trio.current_time() == pytest.approx(4.0, abs=0.1), "and no place is left empty"
    assert gauge.highest["a"] == 3


async def test_limits_count_by_key(connection, gauge, autojump_clock):
    actor = trepid.Actor(gauge.work, concurrency=1, key="key")
    handles = await connection.enqueue_many([actor.job(key) for key in "aaabbc"])
    async with working(trepid.Worker(actor), connection):
        await finish(handles)
    assert trio.current_time() == pytest.approx(3.0, abs=0.1)
    assert gauge.highest == {"a": 1, "b": 1, "c": 1, "all": 3}


async def test_waiting_jobs_take_no_slots(connection, gauge, autojump_clock):
    actor = trepid.Actor(gauge.work, concurrency=1)
    other = trepid.Actor(gauge.work, name="free")
    await connection.enqueue_many([actor.job("a", 1000) for _ in range(10)])
    async with working(trepid.Worker(actor, other, tasks_limit=2), connection):
        await idle()
        handles = await connection.enqueue_many([other.job("b") for _ in range(5)])
        await finish(handles)
        assert trio.current_time() == pytest.approx(5.0, abs=0.1)
        assert gauge.running["a"] == 1


async def test_a_rate_spreads_starts_evenly_enough(connection, gauge, autojump_clock):
    actor = trepid.Actor(gauge.work, rate=trepid.Rate(10, per=60))
    handles = await connection.enqueue_many([actor.job("a", 0.5) for _ in range(35)])
    async with working(trepid.Worker(actor), connection), working(trepid.Worker(actor), connection):
        await finish(handles)
    moments = [when for when, _ in gauge.starts]
    for first, last in zip(moments, moments[10:], strict=False):
        assert last - first >= 60
    assert moments[-1] == pytest.approx(180, abs=1), "three full spans, and not a second wasted"


async def test_a_queue_limits_all_of_it(connection, gauge, autojump_clock):
    await connection.declare(trepid.Queue("mail", concurrency=2, rate=trepid.Rate(4, per=10)))
    first = trepid.Actor(gauge.work, name="first", queue="mail")
    second = trepid.Actor(gauge.work, name="second", queue="mail", concurrency=1)
    handles = await connection.enqueue_many([actor.job(actor.name) for actor in (first, second) for _ in range(4)])
    async with working(trepid.Worker(first, second), connection):
        await finish(handles)
    assert (gauge.highest["all"], gauge.highest["second"]) == (2, 1), "and the actor's own limit counts as well"
    moments = [when for when, _ in gauge.starts]
    assert all(last - earlier >= 10 for earlier, last in zip(moments[:4], moments[4:], strict=True))
    assert moments[-1] < 15, "time alone opens the queue again"


async def test_declaring_by_name_alone_leaves_the_limits(connection, gauge, autojump_clock):
    queue = trepid.Queue("mail", concurrency=1)
    await connection.declare(queue)
    await connection.declare("mail", trepid.Queue("mail"))
    actor = trepid.Actor(gauge.work, queue="mail")
    handles = await connection.enqueue_many([actor.job("x") for _ in range(3)])
    async with working(trepid.Worker(actor), connection):
        await finish(handles)
        assert gauge.highest["x"] == 1
        await connection.declare(trepid.Queue("mail", concurrency=5))
        await finish(await connection.enqueue_many([actor.job("x") for _ in range(5)]))
    assert gauge.highest["x"] == 5


async def test_a_worker_declares_what_its_queues_limit(connection, gauge, autojump_clock):
    queue = trepid.Queue("mail", concurrency=2)
    actor = trepid.Actor(gauge.work, queue=queue)
    async with working(trepid.Worker(actor), connection):
        await finish(await connection.enqueue_many([actor.job("x") for _ in range(6)]))
    assert gauge.highest["x"] == 2


async def test_a_job_by_name_is_put_where_it_counts(connection, gauge, autojump_clock):
    """Its producer knows no actor; the first worker that meets it puts it behind its gate, uncounted."""
    actor = trepid.Actor(gauge.work, concurrency=1, key="key")
    jobs = [trepid.Job(actor.name, args=["a", 1.0]) for _ in range(5)]
    handles = await connection.enqueue_many(jobs)
    async with working(trepid.Worker(actor), connection):
        await finish(handles)
    assert gauge.highest["a"] == 1
    view = await handles[4].status()
    assert (view.gate, view.attempts, view.crashes, view.releases) == ("work:a", 1, 0, 1)


async def test_who_is_put_where_it_counts_has_not_started(connection, gauge, autojump_clock):
    """So its ttl goes on while it waits before its gate."""
    actor = trepid.Actor(gauge.work, concurrency=1)
    handles = await connection.enqueue_many([trepid.Job(actor.name, args=["a", 60.0], ttl=30) for _ in range(2)])
    async with working(trepid.Worker(actor), connection):
        await finish(handles)
    # Whoever is put back first goes first.
    views = [await handle.status() for handle in handles]
    assert {(view.state, view.reason) for view in views} == {(trepid.State.DONE, None), (trepid.State.DEAD, "expired")}
    assert [when for when, _ in gauge.starts] == [0]


async def test_a_header_given_later_is_put_right(connection, gauge, autojump_clock):
    actor = trepid.Actor(gauge.work, concurrency=1, key="header:tenant")
    jobs = [actor.job(tenant).options(headers={"tenant": tenant}) for tenant in "ttuu"]
    handles = await connection.enqueue_many(jobs)
    async with working(trepid.Worker(actor), connection):
        await finish(handles)
    assert (gauge.highest["t"], gauge.highest["u"]) == (1, 1)
    assert [(await handle.status()).gate for handle in handles] == [f"work:{tenant}" for tenant in "ttuu"]


async def test_an_actor_that_lost_its_limits_frees_its_jobs(connection, gauge, autojump_clock):
    limited = trepid.Actor(gauge.work, concurrency=1)
    handles = await connection.enqueue_many([limited.job("a") for _ in range(4)])
    async with working(trepid.Worker(trepid.Actor(gauge.work)), connection):
        await finish(handles)
    assert gauge.highest["a"] == 4


async def test_a_retry_gives_its_place_to_others(connection, autojump_clock):
    order = []

    async def flaky(name: str) -> None:
        order.append((trio.current_time(), name))
        await trio.sleep(1)
        if len(order) == 1:
            raise ValueError

    actor = trepid.Actor(flaky, concurrency=1, retries=1, retry_policy=lambda n: 5)
    handles = await connection.enqueue_many([actor.job("first"), actor.job("second")])
    async with working(trepid.Worker(actor), connection):
        await finish(handles)
    assert [(round(when), name) for when, name in order] == [(0, "first"), (1, "second"), (6, "first")]


class TestBoundedQueues:
    """A queue with a size makes producers wait, or tells them."""

    async def test_enqueuing_waits_for_room(self, connection, gauge, autojump_clock):
        await connection.declare(trepid.Queue("default", max_size=2))
        actor = trepid.Actor(gauge.work)
        async with working(trepid.Worker(actor, tasks_limit=1), connection):
            handles = [await connection.enqueue(actor.job("a")) for _ in range(5)]
            assert trio.current_time() == pytest.approx(3.0, abs=0.9)
            assert (await connection.stats()).live <= 2
            await finish(handles)
        assert len(gauge.starts) == 5

    async def test_or_fails_at_once(self, connection, gauge, autojump_clock):
        await connection.declare(trepid.Queue("default", max_size=2))
        actor = trepid.Actor(gauge.work)
        with pytest.raises(trepid.QueueFullError, match="'default' has no room"):
            await connection.enqueue_many([actor.job("a") for _ in range(3)], wait=False)
        assert (await connection.stats()).live == 0
        await connection.enqueue_many([actor.job("a"), actor.job("a")], wait=False)
        with pytest.raises(trepid.QueueFullError):
            await connection.enqueue(actor.job("a"), wait=False)

    async def test_what_will_never_fit_is_refused(self, connection, gauge, autojump_clock):
        await connection.declare(trepid.Queue("default", max_size=2))
        actor = trepid.Actor(gauge.work)
        [first] = await connection.enqueue_many([actor.job("a")])
        async with working(trepid.Worker(actor), connection):
            with pytest.raises(trepid.QueueFullError, match="fewer at once"):
                await connection.enqueue_many([actor.job("a") for _ in range(3)])
            await first.wait()
        assert (await connection.stats()).live == 0

    async def test_a_job_waits_however_often_others_are_quicker(self, connection, gauge, autojump_clock, monkeypatch):
        await connection.declare(trepid.Queue("default", max_size=1))
        actor = trepid.Actor(gauge.work)
        publish = MemorySession.publish
        others = [connection.publisher.publication(actor.job("other")) for _ in range(5)]

        async def contended(self, batch):
            if not others:
                return await publish(self, batch)
            # Full whenever it is tried, and empty again whenever it is looked at.
            [other] = await publish(self, [others.pop()])
            replies = await publish(self, batch)
            await self.cancel("default", [other.id], "enough")
            return replies

        monkeypatch.setattr(MemorySession, "publish", contended)
        assert not (await connection.enqueue(actor.job("a"))).existing
        assert others == []
        assert (await connection.stats()).live == 1

    async def test_the_wait_can_be_cancelled(self, connection, gauge, autojump_clock):
        await connection.declare(trepid.Queue("default", max_size=1))
        actor = trepid.Actor(gauge.work)
        await connection.enqueue(actor.job("a"))
        with trio.move_on_after(60) as scope:
            await connection.enqueue(actor.job("b"))
        assert scope.cancelled_caught
        assert (await connection.stats()).live == 1


async def test_an_engine_without_limits_refuses_them(gauge, autojump_clock, monkeypatch):
    """Producer, worker and declaration each say so; nothing is stored, and nothing is run without its limits."""
    broker = MemoryBroker()
    actor = trepid.Actor(gauge.work, concurrency=1)
    async with trepid.open_connection(FaultyBroker(broker, Faults())) as connection:
        await connection.declare("default")
        poor = attrs.evolve(connection.capabilities, engine="tin can", limits=False)
        monkeypatch.setattr(type(connection.session), "capabilities", property(lambda _: poor))
        with pytest.raises(trepid.UnsupportedError, match="tin can does not support limits of actors"):
            await connection.enqueue(actor.job("a"))
        with pytest.raises(trepid.UnsupportedError, match="limits of queues"):
            await connection.declare(trepid.Queue("mail", concurrency=1))
        with pytest.raises(trepid.UnsupportedError, match="limits of queues and actors"):
            await trepid.Worker(actor).run(connection)
        assert await connection.queues() == ["default"]
        assert (await connection.stats()).live == 0
