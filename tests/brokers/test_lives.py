"""Every engine against the pure rules, message by message, for what all engines have: leases, verdicts, counters.

Engines differ in order, and in what can be looked at; what a delivery says of its message's life, and what a settlement
is answered, must be what the rules say everywhere.  (Engines that can be looked at are compared with the whole core in
``test_differential.py``.)
"""

import random

import pytest
import trio

import trepid
from tests.brokers.places import ENGINES, fresh_url
from trepid.connection.urls import broker_at
from trepid.ports.messages import Publication, Settlement
from trepid.rules import lifecycle
from trepid.rules.life import DEAD, READY, Reply
from trepid.rules.publishing import Publishing
from trepid.rules.verdicts import Buried, Done, Failed, Failure, Returned, Withdrawn

QUEUE = "lives"
NOW, LATER = 1000.0, 10_000.0
REFUSED = {Reply.EXPIRED, Reply.SUPERSEDED, Reply.ENDED, Reply.UNKNOWN}
OOPS = Failure("ValueError", "oops")
VERDICTS = (
    Done(b"1", 60.0),
    Done(None, 0.0),
    Failed(OOPS, 0.0),
    Failed(OOPS),
    Returned(),
    Returned(None, "unstarted", started=False),
    Buried(OOPS),
    Withdrawn(9.0),
)


class Lives:
    """An engine, and what the rules say of each of its messages."""

    def __init__(self, draw, session):
        self.draw = draw
        self.session = session
        self.lives = {}
        self.payloads = {}
        self.given = []  # deliveries, each with the token that the rules have for it

    def those(self, state):
        return {id for id, life in self.lives.items() if life.state is state}

    async def publish(self):
        batch = []
        for _ in range(self.draw.randint(1, 4)):
            number = len(self.lives)
            id = f"m{number}"
            self.payloads[id] = b'{"n":%d}' % number
            self.lives[id] = lifecycle.born(number, NOW, NOW, max_crashes=3, result_ttl=60.0)
            batch.append(
                Publication(QUEUE, id, ("lives", number), self.payloads[id], max_crashes=3, result_ttl=60.0, priority=5)
            )
        replies = await self.session.publish(batch)
        assert [reply.outcome for reply in replies] == [Publishing.ACCEPTED] * len(batch)

    async def lease(self):
        limit = self.draw.randint(1, 5)
        # What is ready is found in time; where nothing is, nothing is waited for.
        wait = 10.0 if self.those(READY) else 0.0
        deliveries = await self.session.lease([QUEUE], limit, 600.0, owner="w", wait=wait)
        assert len(deliveries) <= limit
        assert deliveries or not self.those(READY)
        for delivery in deliveries:
            life = self.lives[delivery.id]
            assert life.state is READY, f"{delivery.id} was given out while it is {life.state}"
            assert delivery.payload == self.payloads[delivery.id]
            assert (delivery.failures, delivery.crashes) == (
                life.failures - life.spent_failures,
                life.recent_crashes,
            )
            assert (delivery.max_crashes, delivery.result_ttl, delivery.priority) == (3, 60.0, 5)
            self.lives[delivery.id] = lifecycle.take(life, "w", LATER)
            self.given.append((delivery, self.lives[delivery.id].token))

    async def settle(self):
        if not self.given:
            return
        # Mostly those that were given out last; also such as have been settled long ago.
        delivery, token = self.draw.choice(self.given[-6:] if self.draw.random() < 0.8 else self.given)
        verdict = self.draw.choice(VERDICTS)
        (reply,) = await self.session.settle([Settlement(delivery.ref, verdict)])
        life, expected = lifecycle.settle(self.lives[delivery.id], token, verdict, NOW)
        if expected in REFUSED or expected is Reply.REPEATED:
            # An engine that keeps nothing of an ended message may have forgotten which verdict ended it.
            assert reply in REFUSED | {Reply.REPEATED}, f"{verdict} of {delivery.id}: {reply}"
        else:
            assert reply is expected, f"{verdict} of {delivery.id}"
        self.lives[delivery.id] = life

    async def extend(self):
        if not self.given:
            return
        delivery, token = self.draw.choice(self.given)
        (extension,) = await self.session.extend([delivery.ref], 600.0)
        expected = lifecycle.standing(self.lives[delivery.id], token, NOW)
        assert (extension.reply is Reply.APPLIED) == (expected is Reply.APPLIED), f"{delivery.id}: {extension}"

    async def requeue(self):
        if not self.session.capabilities.requeue:
            return
        assert await self.session.requeue(QUEUE) == len(self.those(DEAD))
        for id in self.those(DEAD):
            self.lives[id] = lifecycle.requeue(self.lives[id], len(self.lives), NOW)

    async def finish(self):
        """Whatever lives is given out once more, and ends; nothing else comes."""
        for delivery, token in self.given:
            if lifecycle.standing(self.lives[delivery.id], token, NOW) is Reply.APPLIED:
                await self.session.settle([Settlement(delivery.ref, Done(None, 0.0))])
                self.lives[delivery.id], _ = lifecycle.settle(self.lives[delivery.id], token, Done(None, 0.0), NOW)
        while self.those(READY):
            first = len(self.given)
            await self.lease()
            for delivery, token in self.given[first:]:
                assert await self.session.settle([Settlement(delivery.ref, Done(None, 0.0))]) == [Reply.APPLIED]
                self.lives[delivery.id], _ = lifecycle.settle(self.lives[delivery.id], token, Done(None, 0.0), NOW)
        assert await self.session.lease([QUEUE], 10, 600.0, owner="w", wait=0.3) == []
        assert all(lifecycle.conserved(life) for life in self.lives.values())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("engine", ENGINES)
async def test_every_message_lives_by_the_rules(engine, seed, request, tmp_path):
    match engine:
        case "memory":
            broker = trepid.MemoryBroker()
        case "sqlite":
            broker = broker_at(f"sqlite:{tmp_path / 'jobs.db'}")
        case _:
            broker = broker_at(fresh_url(engine, request)[1])
    with trio.fail_after(90):
        async with broker.open() as session:
            await session.declare([QUEUE])
            trace = Lives(random.Random(seed), session)
            steps = [trace.publish, trace.lease, trace.settle, trace.extend, trace.requeue]
            for _ in range(80):
                [step] = trace.draw.choices(steps, (2, 3, 6, 1, 0.5))
                await step()
            await trace.finish()
            assert len(trace.given) > 20
