"""A broker that can do little: messages go in, are leased and settled.  What it is not asked for, it does well."""

from contextlib import asynccontextmanager

import attrs
from msgspec.structs import replace

from trepid.brokers.memory import MemoryBroker
from trepid.errors import UnsupportedError
from trepid.ports.broker import Broker, Session
from trepid.rules.life import READY, SCHEDULED
from trepid.rules.publishing import Published
from trepid.rules.verdicts import Done, Withdrawn
from trepid.testing.relay import Relay

GONE = Done(None, 0.0)


class LimitedBroker(Broker):
    """Keeps no results, unique keys or ids, and recognises nothing: each publish is another message."""

    def __init__(self, inner=None, **claims):
        self.inner = inner or MemoryBroker()
        self.claims = claims
        self.names = {}
        self.tickets = 0

    def __str__(self):
        return f"limited {self.inner}"

    @asynccontextmanager
    async def open(self):
        async with self.inner.open() as session:
            yield LimitedSession(session, self)


class LimitedSession(Relay):
    def __init__(self, inner, broker):
        super().__init__(inner)
        self.broker = broker

    @property
    def capabilities(self):
        return attrs.evolve(
            self.inner.capabilities,
            engine="limited",
            deduplication="none",
            unique_ids=False,
            unique=False,
            results="none",
            cancel_waiting=False,
            cancel_running=False,
            peek=False,
            purge="waiting",
            records=False,
            **self.broker.claims,
        )

    @property
    def records(self):
        raise self._unsupported("records")

    async def carry(self, operation, call):
        return await call()

    def outer(self, thing):
        return replace(thing, id=thing.id.rpartition("#")[0])

    def ref(self, ref):
        return replace(ref, id=self.broker.names.get(ref.token[0], ref.id))

    async def publish(self, batch):
        inside = []
        for item in batch:
            if item.unique is not None:
                raise self._unsupported("unique keys")
            self.broker.tickets += 1
            number = self.broker.tickets
            inside.append(replace(item, id=f"{item.id}#{number}", token=("limited", number)))
        replies = await super().publish(inside)
        return [Published(reply.outcome, item.id) for item, reply in zip(batch, replies, strict=True)]

    async def lease(self, queues, limit, lease_for, *, owner, wait=0.0):
        deliveries = await super().lease(queues, limit, lease_for, owner=owner, wait=wait)
        for delivery in deliveries:
            self.broker.names[delivery.token[0]] = delivery.id
        return [self.outer(delivery) for delivery in deliveries]

    async def extend(self, refs, lease_for):
        return await super().extend([self.ref(ref) for ref in refs], lease_for)

    async def settle(self, batch, *, then=()):
        for settlement in batch:
            if isinstance(settlement.verdict, Withdrawn):
                raise self._unsupported("withdrawing")
        inside = [
            replace(each, ref=self.ref(each.ref), verdict=GONE if isinstance(each.verdict, Done) else each.verdict)
            for each in batch
        ]
        following = [replace(item, id=f"{item.id}#then") for item in then]
        return await super().settle(inside, then=following)

    async def held(self, owner):
        return [self.outer(ref) for ref in await super().held(owner)]

    async def requeue(self, queue, ids=None, *, limit=1000):
        if ids is not None:
            ids = [name for name in self.broker.names.values() if name.rpartition("#")[0] in ids]
        return await super().requeue(queue, ids, limit=limit)

    async def purge(self, queue, states, ids=None, *, limit=1000):
        if ids is not None or not set(states) <= {READY, SCHEDULED, "dead"}:
            raise self._unsupported("purging by id")
        return await super().purge(queue, states, limit=limit)

    async def cancel(self, queue, ids, reason):
        raise self._unsupported("cancelling")

    async def get(self, queue, id):
        raise self._unsupported("looking")

    async def peek(self, queue, state, *, limit=100, after=None):
        raise self._unsupported("looking")

    async def result(self, queue, id, *, wait=0.0):
        raise self._unsupported("results")

    async def asked(self, owner, known, *, wait=0.0):
        return await Session.asked(self, owner, known, wait=wait)

    def _unsupported(self, feature):
        return UnsupportedError(feature, "limited")
