"""The world of a simulation: posts with their workers, producers, troubles, and an end."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from random import Random
from typing import TYPE_CHECKING, final

import trio

from trepid.brokers.memory import MemoryBroker
from trepid.errors import BrokerFullError, BrokerLostError
from trepid.ports.broker import Session
from trepid.ports.messages import Publication
from trepid.rules.publishing import Publishing
from trepid.runtime.worker import Worker
from trepid.testing.mortality import Life
from trepid.testing.simulation.chronicle import Chronicle
from trepid.testing.simulation.errands import actors
from trepid.testing.simulation.judge import Judge
from trepid.testing.simulation.network import LEASE_NAME, Link, Weather, Witness
from trepid.testing.simulation.plan import Errand, Plan, Post, Trouble
from trepid.testing.simulation.tenure import Tenure
from trepid.values.job import Job
from trepid.values.unique import Unique

if TYPE_CHECKING:
    from trio.testing import MockClock

_PATIENCE = 60.0
"""For how many seconds a worker may still be busy once all messages have ended: with jobs whose leases it has lost."""

_KEPT = 1e9
"""Seconds for which ended messages stay, so that none is forgotten before it is judged."""


@final
class World:
    """Everything that exists in one simulation.  To be run once, under a ``MockClock`` that starts at zero."""

    def __init__(self, plan: Plan, chronicle: Chronicle, clock: MockClock) -> None:
        self.plan = plan
        self.chronicle = chronicle
        self.broker = MemoryBroker(wall_clock=lambda: 0.0)
        self.judge = Judge(chronicle, plan.errands, self.broker.ledger)
        self._clock = clock
        self._weather = [Weather(Random(f"{plan.seed}/{n}")) for n in range(len(plan.posts) + 1)]  # noqa: S311
        self._tenures: dict[int, Tenure] = {}
        self._down_until = [0.0] * len(plan.posts)
        self._closing = False
        self._lives = count(1)
        self._router = actors(self.judge)

    async def run(self) -> None:
        """Let it all happen, and judge it."""
        async with self.broker.open() as session, trio.open_nursery() as nursery:
            await session.declare(sorted({errand.queue for errand in self.plan.errands}))
            for number, post in enumerate(self.plan.posts):
                nursery.start_soon(self._man, number, post, session, name=f"post {number}")
            for errand in self.plan.errands:
                nursery.start_soon(self._produce, errand, session, name=f"producer of {errand.id}")
            for trouble in self.plan.troubles:
                nursery.start_soon(self._befall, trouble, name=f"{trouble.kind} at {trouble.at}")
            await trio.sleep_until(self.plan.calm)
            if not await _soon(self._all_done, self.plan.bound):
                self.chronicle.violated(f"still unfinished: {', '.join(self.judge.unfinished())}")
            await self._close()
            nursery.cancel_scope.cancel()
        self.judge.close()

    def _all_done(self) -> bool:
        self.broker.now()
        published = all(self.chronicle.counts[f"known {errand.id}"] for errand in self.plan.errands)
        return published and not self.judge.unfinished()

    # ----------------------------------------------------------------------------------------------------- workers

    async def _man(self, number: int, post: Post, session: Session) -> None:
        """Have a worker at a post; when one leaves or dies, the next one comes after a while."""
        await trio.lowlevel.checkpoint()
        worker = Worker(
            self._router,
            queues=post.queues,
            tasks_limit=post.tasks_limit,
            lease=post.lease,
            graceful_shutdown_time=post.grace,
            auto_declare=False,
        )
        while not self._closing:
            tenure = Tenure(f"worker{number}.{next(self._lives)}", post)
            witness = Witness(session, self.judge, tenure)
            tenure.life = Life(self.broker, Link(witness, self._weather[number], tenure, post))
            self._tenures[number] = tenure
            self.chronicle.note(str(tenure), "begins")
            try:
                await tenure.life.run(worker)
            except Exception as exc:  # noqa: BLE001 - whatever it is, it is a violation
                self.chronicle.violated(f"{tenure} fell over: {exc!r}")
            self.chronicle.note(str(tenure), "is dead" if tenure.dead else "is gone")
            if not tenure.leaving and not tenure.dead:
                self.chronicle.violated(f"{tenure} left by itself")
                await trio.sleep(1.0)
            await trio.sleep_until(self._down_until[number])

    async def _close(self) -> None:
        """Stop all workers.  They must be idle, with all their slots free, once their lost jobs have ended."""
        await trio.lowlevel.checkpoint()
        self._closing = True
        lives = [(tenure, tenure.life) for tenure in self._tenures.values() if tenure.life and not tenure.dead]
        for tenure, life in lives:
            if not await _soon(lambda: not _busy(life, tenure.post), trio.current_time() + _PATIENCE):  # noqa: B023 - now
                self.chronicle.violated(f"{tenure} is not idle at the end: {_busy(life, tenure.post)}")
            tenure.leaving = True
            life.stop(grace=0.0)
        if not await _soon(lambda: all(life.over for _, life in lives), trio.current_time() + _PATIENCE):
            self.chronicle.violated("a worker did not stop")

    # ---------------------------------------------------------------------------------------------------- producers

    async def _produce(self, errand: Errand, session: Session) -> None:
        """Publish an errand, repeating the same publish until its outcome is known; perhaps cancel it later."""
        await trio.sleep_until(errand.at)
        link = Link(Witness(session, self.judge, None), self._weather[-1], None, self.plan.posts[0])
        while True:
            try:
                [published] = await link.publish([_publication(errand)])
                break
            except (BrokerLostError, BrokerFullError):
                await trio.sleep(0.5)
        self.chronicle.count(f"known {errand.id}")
        if errand.cancel_at is None or published.outcome not in (Publishing.ACCEPTED, Publishing.DUPLICATE):
            return
        await trio.sleep_until(errand.cancel_at)
        while True:
            try:
                await link.cancel(errand.queue, [errand.id], "as planned")
                return
            except BrokerLostError:
                await trio.sleep(0.5)

    # ----------------------------------------------------------------------------------------------------- troubles

    async def _befall(self, trouble: Trouble) -> None:
        """Let a trouble happen."""
        await trio.sleep_until(trouble.at)
        now = trio.current_time()
        self.chronicle.note(f"post{trouble.post}", f"{trouble.kind} for {trouble.length:.3f}, {trouble.strength:.3f}")
        self.chronicle.count(f"trouble {trouble.kind}")
        tenure = self._tenures[trouble.post]
        assert tenure.life is not None
        if trouble.kind in ("kill", "stop", "cancel"):
            self._down_until[trouble.post] = now + trouble.length
        match trouble.kind:
            case "kill":
                tenure.died = now if tenure.died is None else tenure.died
                tenure.life.kill()
            case "stop":
                tenure.leaving = True
                tenure.life.stop()
            case "cancel":
                tenure.leaving = True
                tenure.life.cancel()
            case "stall":
                for each in self._tenures.values():
                    each.stalled(now, now + trouble.length)
                self._clock.jump(trouble.length)
            case _:
                self._weather[trouble.post].add(trouble)
                # Producers have a bad time together with the first worker.
                if trouble.post == 0:
                    self._weather[-1].add(trouble)


async def _soon(done: Callable[[], bool], deadline: float) -> bool:
    """Wait until something is done, looking every second; return whether that was before a deadline."""
    await trio.lowlevel.checkpoint()
    while not done() and trio.current_time() < deadline:  # noqa: ASYNC110 - who is watched does not know it
        await trio.sleep(1.0)
    return done()


def _busy(life: Life, post: Post) -> str | None:
    """Return what a worker still does, or None if it does nothing, with all its slots free."""
    if life.over or life.running is None or life.running.statistics().stopping:
        return None
    seen = life.running.statistics()
    if seen.free == post.tasks_limit and not seen.running and not seen.unsettled:
        return None
    return f"{seen.free} of {post.tasks_limit} slots free, {seen.unsettled} verdicts open, running {seen.running}"


def _publication(errand: Errand) -> Publication:
    job = Job[object](
        "tended" if errand.manner == "tended" else "plain",
        kwargs={"id": errand.id, "lease": LEASE_NAME.decode()},
        retries=errand.retries,
        timeout=errand.timeout,
    )
    return Publication(
        errand.queue,
        errand.id,
        (errand.id, 1),
        job.payload,
        int(errand.priority),
        errand.delay,
        ttl=errand.ttl,
        unique=None if errand.unique is None else Unique(errand.unique[0], on_conflict=errand.unique[1]),
        result_ttl=_KEPT,
        max_crashes=errand.max_crashes,
    )


def enact(plan: Plan, chronicle: Chronicle) -> float:
    """Run a world in a ``trio.run`` of its own, and return how many seconds passed in it."""
    # Where pytest is installed, `trio.testing` imports it.
    from trio.testing import MockClock

    clock = MockClock(autojump_threshold=0.0)
    world = World(plan, chronicle, clock)
    trio.run(partial(world.run), clock=clock)
    return clock.current_time()
