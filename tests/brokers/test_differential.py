"""The SQL brokers against the pure core of the memory broker: the same traces, replies and views compared one by one.

Both get the same time from a clock that the trace moves.  What they may differ in is when they carry out what time has
decided, never in what anybody can see; so the one reply that tells the two apart, "too late" before or after somebody
has looked, counts as the same.
"""

import itertools
import random
import re
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from trepid.brokers.memory import Ledger, looking
from trepid.brokers.postgres import PostgreSQLBroker
from trepid.brokers.redis import RedisBroker
from trepid.brokers.sqlite import SQLiteBroker
from trepid.errors import QueueBusyError, UnknownQueueError
from trepid.ports.messages import Absent, Firing, Publication, Ref, Settlement
from trepid.rules.gates import Limit
from trepid.rules.life import Reply, State
from trepid.rules.publishing import REMEMBERED
from trepid.rules.verdicts import Buried, Done, Failed, Failure, Returned, Withdrawn
from trepid.values.unique import Unique

QUEUES = ("a", "b")
IDS = ("m0", "m1", "m2", "m3", "m4", "m5", "m6", "m7")
OWNERS = ("w1", "w2")
# A family without a rate, one with a rate, and one that nothing is said of.
GATES = ("a", "a", "a:x", "r:x", "r:x", "free")
MARKS = ("nightly", "hourly")
# A rate is varied and never lifted, and its span never changes: when an engine forgets starts that no rate asks for any
# more is its own business.
PER = 4.0
START = 1_700_000_000.0
LATE = {Reply.EXPIRED, Reply.SUPERSEDED, Reply.ENDED, Reply.UNKNOWN}


class Trace:
    """A trace of operations, drawn step by step, run against both.

    What an engine declares to lack (``limits``, ``holds``, ``firing``) is left out, as if it were not in here at all.
    """

    def __init__(self, draw: random.Random, session, clock, *, repeats: bool) -> None:
        self.limits = session.capabilities.limits
        self.holds = session.capabilities.holds
        self.fires = session.capabilities.firing == "atomic"
        self.rated = [queue for queue in QUEUES if draw.random() < 0.3]
        self.draw = draw
        self.session = session
        self.clock = clock
        self.ledger = Ledger()
        self.repeats = repeats
        self.tokens = 0
        self.published: list[Publication] = []
        self.refs: list[Ref] = [Ref("a", "m0", (10**9, 1))]
        # The core's places by the engine's: in both they grow, but an engine may leave some out.
        self.places: dict[int, int] = {10**9: 10**9}

    def learn(self, ours, theirs):
        """Messages were leased from both, the same ones."""
        for one, other in zip(ours, theirs, strict=True):
            assert self.places.setdefault(one.token[0], other.token[0]) == other.token[0]
        self.refs += [delivery.ref for delivery in ours]

    def core(self, ref):
        """Return a lease as the core knows it."""
        return Ref(ref.queue, ref.id, (self.places[ref.token[0]], ref.token[1]))

    # -------------------------------------------------------------------------------------------------- drawing

    def chance(self, percent):
        return self.draw.random() * 100 < percent

    def maybe(self, *choices, percent=30):
        return self.draw.choice(choices) if self.chance(percent) else None

    def publication(self) -> Publication:
        if self.repeats and self.published and self.chance(20):
            return self.draw.choice(self.published)
        self.tokens += 1
        delay = self.maybe(0.0, 1.0, 3.0, 20.0)
        item = Publication(
            queue=self.draw.choice(QUEUES),
            id=self.draw.choice(IDS),
            token=("p", self.tokens),
            payload=b'{"v":1,"actor":"x%d"}' % self.tokens,
            priority=self.draw.choice((0, 5, 5, 5, 9)),
            delay=delay,
            due=self.maybe(self.clock[0] - 5, self.clock[0] + 2, percent=10) if delay is None else None,
            ttl=self.maybe(0.0, 0.5, 4.0),
            unique=self.unique(),
            result_ttl=self.maybe(0.0, 2.0, 50.0),
            max_crashes=self.maybe(1, 2, percent=40),
            gate=self.maybe(*GATES, percent=70) if self.limits else None,
        )
        self.published.append(item)
        return item

    def unique(self):
        if self.chance(60):
            return None
        for_ = self.maybe(2.0, 10.0, 200.0, percent=40) if self.holds else None
        return Unique(self.draw.choice("xy"), self.draw.choice(("existing", "raise", "replace")), for_=for_)

    def verdict(self):
        error = Failure("ValueError", f"oops {self.draw.random()}")
        if self.limits and self.chance(15):
            return Returned(self.maybe(0.0, 2.0), started=False, gate=self.draw.choice(("", *GATES)))
        return self.draw.choice(
            (
                Done(b"1", 30.0),
                Done(b"2", 0.0),
                Done(None, 3.0, "unreadable"),
                Failed(error, 1.0),
                Failed(error, 0.0),
                Failed(error),
                Returned(),
                Returned(2.0, "unknown actor", started=False),
                Returned(None, "unstarted", started=False),
                Buried(error),
                Withdrawn(9.0, error),
                Withdrawn(0.0),
                Withdrawn(9.0, reason="deadline"),
            )
        )

    def some(self, values, most=3):
        return [self.draw.choice(values) for _ in range(self.draw.randint(1, most))]

    # --------------------------------------------------------------------------------------------------- running

    async def step(self) -> None:
        lacking = {"do_limit": not self.limits, "do_fire": not self.fires}
        names = [name for name in dir(self) if name.startswith("do_") and not lacking.get(name)]
        weights = [getattr(self, name).__defaults__[0] for name in names]
        (name,) = self.draw.choices(names, weights)
        self.ledger.advance(self.clock[0])
        await getattr(self, name)()
        if self.chance(70):
            await self.compare()

    async def both(self, ours, theirs, *, same=lambda left, right: left == right):
        """Compare what the session returns or raises with what the core does."""
        try:
            expected = theirs()
        except (UnknownQueueError, QueueBusyError) as exc:
            with pytest.raises(type(exc), match=re.escape(str(exc))):
                await ours
            return None
        found = await ours
        assert same(found, expected), f"engine: {found}\n  core: {expected}"
        return found

    async def compare(self) -> None:
        now = self.clock[0]
        self.ledger.advance(now)
        assert await self.session.queues() == sorted(self.ledger.shelves)
        for queue in QUEUES:
            shelf = self.ledger.shelves.get(queue)
            looks = {id: looking.ending(self.ledger.row(queue, id)) for id in IDS}
            ended = {id: look for id, look in looks.items() if look is not Absent.PENDING}
            assert await self.session.endings(queue, IDS) == ended
            if self.fires:
                assert await self.session.marks(queue) == ({} if shelf is None else shelf.marks)
            for id in IDS:
                row = self.ledger.row(queue, id)
                assert await self.session.get(queue, id) == (None if row is None else looking.view(row))
                assert await self.session.result(queue, id) == looks[id]
            if shelf is None:
                continue
            assert await self.session.stats(queue) == looking.stats(shelf, now)
            state = self.draw.choice(list(State))
            for limit in (1, 2, 100):
                after = expected_after = None
                while True:
                    page = await self.session.peek(queue, state, limit=limit, after=after)
                    expected = looking.page(shelf, state, limit, expected_after)
                    assert page.messages == expected.messages
                    assert (page.cursor is None) == (expected.cursor is None)
                    if page.cursor is None:
                        break
                    after, expected_after = page.cursor, expected.cursor

    # ------------------------------------------------------------------------------------------------ operations

    async def do_declare(self, weight=2):
        queue = self.draw.choice(QUEUES)
        await self.both(self.session.declare([queue]), lambda: self.ledger.declare(queue))

    async def do_delete(self, weight=1):
        queue = self.draw.choice(QUEUES)
        await self.both(self.session.delete(queue), lambda: self.ledger.delete(queue, self.clock[0]))

    async def do_pause(self, weight=1):
        queue = self.draw.choice(QUEUES)
        await self.both(self.session.pause(queue), lambda: self.ledger.pause(queue, paused=True))

    async def do_resume(self, weight=2):
        queue = self.draw.choice(QUEUES)
        await self.both(self.session.resume(queue), lambda: self.ledger.pause(queue, paused=False))

    async def do_publish(self, weight=16):
        batch = [self.publication() for _ in range(self.draw.randint(1, 4))]
        await self.both(self.session.publish(batch), lambda: self.ledger.publish(batch, self.clock[0]))

    async def do_limit(self, weight=6):
        queue = self.draw.choice(QUEUES)
        concurrency = self.maybe(1, 1, 2, 4, percent=80)
        match self.draw.choice(("", "a", "a", "r")):
            case "":
                count = self.draw.choice((2, 5)) if queue in self.rated else None
                size = self.maybe(1, 2, 3, 5, percent=50)
                limit = Limit(queue, "", concurrency, count, PER, size, self.draw.choice((1, 1, 2, 5)))
            case "a":
                limit = Limit(queue, "a", concurrency)
            case _:
                limit = Limit(queue, "r", concurrency, self.draw.choice((1, 3)), PER)
        limits = [Limit("nowhere", "a", 1), limit] if self.chance(20) else [limit]
        await self.both(self.session.limit(limits), lambda: self.ledger.limit(limits))

    async def do_fire(self, weight=4):
        firings = [self.firing(queue) for queue in self.some((*QUEUES, *QUEUES, "nowhere"))]
        await self.both(self.session.fire(firings), lambda: [self.fired(each) for each in firings])

    def fired(self, firing):
        self.ledger.advance(self.clock[0])  # each is a step, and in each one time goes first
        return self.ledger.fire(firing, self.clock[0])

    def firing(self, queue):
        mark, instant = self.draw.choice(MARKS), START + 10.0 * self.draw.randint(1, 4 + self.tokens // 10)
        if self.chance(10):
            return Firing(queue, mark, self.maybe(instant, percent=50))
        # Its publish is as good as its instant, but here the ids are few: others may have taken it meanwhile.
        item = replace(self.publication(), queue=queue, token=(f"{queue} {mark}", int(instant)))
        return Firing(queue, mark, instant, item, insist=self.chance(50))

    async def do_lease(self, weight=16):
        queues = self.draw.choice((["a"], ["b"], ["a", "b"], ["b", "nowhere", "a"]))
        limit, lease_for = self.draw.randint(1, 6), self.draw.choice((1.0, 3.0, 60.0))
        owner, now = self.draw.choice(OWNERS), self.clock[0]

        def same(ours, theirs):
            self.learn(ours, theirs)
            return [self.comparable(each) for each in ours] == [_without_deadline(each) for each in theirs]

        await self.both(
            self.session.lease(queues, limit, lease_for, owner=owner),
            lambda: self.ledger.lease(queues, limit, lease_for, owner=owner, now=now, deadline=0.0),
            same=same,
        )

    def comparable(self, delivery):
        return _without_deadline(replace(delivery, token=self.core(delivery.ref).token))

    async def do_extend(self, weight=5):
        refs, lease_for = self.some(self.refs[-8:]), self.draw.choice((0.5, 4.0, 60.0))

        def same(ours, theirs):
            return all(
                _same_reply(one.reply, other.reply) and one.cancel == other.cancel
                for one, other in zip(ours, theirs, strict=True)
            )

        await self.both(
            self.session.extend(refs, lease_for),
            lambda: self.ledger.extend([self.core(ref) for ref in refs], lease_for, self.clock[0], 0.0),
            same=same,
        )

    async def do_settle(self, weight=20):
        batch = [Settlement(ref, self.verdict()) for ref in self.some(self.refs[-8:])]
        then = [self.publication()] if self.chance(30) else []

        def same(ours, theirs):
            return all(_same_reply(*pair) for pair in zip(ours, theirs, strict=True))

        await self.both(
            self.session.settle(batch, then=then),
            lambda: self.ledger.settle(self.core_batch(batch), self.clock[0], then),
            same=same,
        )

    def core_batch(self, batch):
        return [Settlement(self.core(settlement.ref), settlement.verdict) for settlement in batch]

    async def do_settle_at_the_brink(self, weight=5):
        """A lease ends at its last moment, not after it; here all clocks show that very moment, or just not yet."""
        queue, now = self.draw.choice(QUEUES), self.clock[0]
        granted = self.ledger.lease([queue], 1, 1.0, owner="w1", now=now, deadline=0.0)
        found = await self.session.lease([queue], 1, 1.0, owner="w1")
        self.learn(found, granted)
        assert [self.core(each.ref) for each in found] == [each.ref for each in granted]
        self.clock[0] += self.draw.choice((0.75, 1.0))
        self.ledger.advance(self.clock[0])
        batch = [Settlement(delivery.ref, Done(b"3", 30.0)) for delivery in found]
        replies = await self.session.settle(batch)
        assert all(map(_same_reply, replies, self.ledger.settle(self.core_batch(batch), self.clock[0])))

    async def do_cancel(self, weight=6):
        queue, ids = self.draw.choice((*QUEUES, "nowhere")), self.some(IDS)
        now = self.clock[0]
        await self.both(
            self.session.cancel(queue, ids, "enough"),
            lambda: [self.ledger.cancel(queue, id, "enough", now) for id in ids],
        )

    async def do_requeue(self, weight=4):
        queue, ids, limit = self.draw.choice(QUEUES), self.maybe(IDS[:2], IDS), self.draw.choice((1, 100))
        await self.both(
            self.session.requeue(queue, ids, limit=limit),
            lambda: self.ledger.requeue(queue, ids, limit, self.clock[0]),
        )

    async def do_purge(self, weight=2):
        queue, ids = self.draw.choice(QUEUES), self.maybe(IDS[:2], percent=50)
        states = self.some(list(State))
        await self.both(
            self.session.purge(queue, states, ids),
            lambda: self.ledger.purge(queue, states, ids, 1000, self.clock[0]),
        )

    async def do_expire_owner(self, weight=2):
        owner = self.draw.choice(OWNERS)
        await self.both(self.session.expire_owner(owner), lambda: self.ledger.expire_owner(owner, self.clock[0]))

    async def do_look_at_leases(self, weight=2):
        owner = self.draw.choice(OWNERS)

        def same(ours, theirs):
            return sorted(map(repr, map(self.core, ours))) == sorted(map(repr, theirs))

        def same_asked(ours, theirs):
            known = [(self.core(ref), reason) for ref, reason in ours]
            return sorted(map(repr, known)) == sorted(map(repr, theirs))

        await self.both(self.session.held(owner), lambda: self.ledger.held(owner), same=same)
        await self.both(self.session.asked(owner, ()), lambda: self.ledger.asked(owner), same=same_asked)

    async def do_reap(self, weight=1):
        await self.session.reap()

    async def do_pass_time(self, weight=16):
        spans = (0.25, 1.0, 1.0, 5.0, 31.0) if self.repeats else (1.0, 5.0, 70.0, 4000.0, 90_000.0)
        span = self.draw.choice(spans)
        # For how much longer than promised a publish is remembered is nobody's business.
        if not self.repeats or self.clock[0] + span < START + REMEMBERED:
            self.clock[0] += span


def _without_deadline(delivery):
    fields = [getattr(delivery, name) for name in delivery.__struct_fields__ if name != "deadline"]
    return tuple(fields)


def _same_reply(ours, theirs):
    return ours is theirs or (ours is Reply.EXPIRED and theirs in LATE)


SCHEMAS = itertools.count()
PREFIXES = itertools.count()


@contextmanager
def sqlite(clock):
    """Make a broker whose time is what *clock* says."""
    with tempfile.TemporaryDirectory() as directory:
        yield SQLiteBroker(Path(directory) / "jobs.db", clock=clock)


def postgres(server):
    @contextmanager
    def make(clock):
        yield PostgreSQLBroker(f"{server.url}?schema=trace_{next(SCHEMAS)}", clock=clock)

    return make


def redis(server):
    @contextmanager
    def make(clock):
        yield RedisBroker(f"{server.url}?prefix=trace{next(PREFIXES)}", clock=clock)

    return make


async def run_trace(engine, draw: random.Random, steps: int) -> None:
    clock = [START]
    with engine(lambda: clock[0]) as broker:
        async with broker.open() as session:
            trace = Trace(draw, session, clock, repeats=draw.random() < 0.8)
            for _ in range(draw.choice((1, 3))):
                await trace.do_declare()
            for _ in range(steps):
                await trace.step()
            await trace.compare()


@pytest.mark.parametrize("seed", range(40))
async def test_fixed_traces(seed):
    await run_trace(sqlite, random.Random(seed), steps=120)


@given(draw=st.randoms(use_true_random=False), steps=st.integers(1, 60))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_traces(draw, steps):
    trio.run(run_trace, sqlite, draw, steps)


@pytest.mark.parametrize("seed", range(10))
async def test_fixed_traces_on_postgres(seed, postgres_server):
    await run_trace(postgres(postgres_server), random.Random(seed), steps=80)


@given(draw=st.randoms(use_true_random=False), steps=st.integers(1, 60))
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
def test_random_traces_on_postgres(postgres_server, draw, steps):
    trio.run(run_trace, postgres(postgres_server), draw, steps)


@pytest.mark.parametrize("seed", range(40))
async def test_fixed_traces_on_redis(seed, redis_server):
    await run_trace(redis(redis_server), random.Random(seed), steps=120)


@given(draw=st.randoms(use_true_random=False), steps=st.integers(1, 60))
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
def test_random_traces_on_redis(redis_server, draw, steps):
    trio.run(run_trace, redis(redis_server), draw, steps)
