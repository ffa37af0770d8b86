"""Between a worker and the broker: a network that loses, delays and refuses, and a witness on the broker's side."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import TypeVar, final

import trio
from attrs import evolve
from msgspec.structs import replace

from trepid.errors import BrokerFullError, BrokerLostError
from trepid.ports.broker import Session
from trepid.ports.capabilities import Capabilities
from trepid.ports.messages import Delivery, Extension, Publication, Ref, Settlement
from trepid.rules.life import CancelReply, Reply
from trepid.rules.publishing import Published
from trepid.testing.relay import Relay
from trepid.testing.simulation.judge import Judge
from trepid.testing.simulation.plan import Post, Trouble
from trepid.testing.simulation.tenure import Tenure

T = TypeVar("T")

LEASE_NAME = b"@lease@"
"""What the witness replaces, in an envelope, by the name of the lease."""

_HARMLESS = 0.05
"""What an operation may be late, as a part of the lease, without excusing the loss of a lease."""


@final
class Weather:
    """The state of the network at one post."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self._troubles: list[Trouble] = []

    def add(self, trouble: Trouble) -> None:
        """Let a trouble begin."""
        self._troubles.append(trouble)

    def of(self, kind: str) -> Trouble | None:
        """Return a trouble of this kind that lasts at this moment."""
        now = trio.current_time()
        return next((t for t in self._troubles if t.kind == kind and t.at <= now < t.at + t.length), None)


@final
class Link(Relay):
    """The way from one worker to the broker and back."""

    def __init__(self, inner: Session, weather: Weather, tenure: Tenure | None, post: Post) -> None:
        super().__init__(inner)
        self._weather = weather
        self._tenure = tenure
        self._post = post

    @property
    def capabilities(self) -> Capabilities:
        """What the broker can do; but who hangs up does not know whether it was done."""
        return evolve(self.inner.capabilities, certain_cancellation=False)

    async def carry(self, operation: str, call: Callable[[], Awaitable[T]]) -> T:
        """Carry a request there, and the reply back."""
        weather = self._weather
        await self._travel()
        if weather.of("full") and operation in ("publish", "settle"):
            self._hindered()
            await trio.lowlevel.checkpoint()
            raise BrokerFullError("the disk is full")
        if self._lost():
            await trio.lowlevel.checkpoint()
            raise BrokerLostError("the request was lost")
        reply = await call()
        await self._travel()
        if self._lost():
            raise BrokerLostError("the reply was lost")
        return reply

    async def _travel(self) -> None:
        """Take the time that the network takes; in silence, nothing arrives before it ends."""
        await trio.lowlevel.checkpoint()
        slowness = self._weather.of("slowness")
        if slowness is not None:
            seconds = self._weather.rng.uniform(0.0, slowness.strength)
            if seconds > _HARMLESS * self._post.lease:
                self._hindered()
            await trio.sleep(seconds)
        while (silence := self._weather.of("silence")) is not None:
            self._hindered()
            await trio.sleep_until(silence.at + silence.length)
            self._hindered()

    def _lost(self) -> bool:
        loss = self._weather.of("loss")
        if loss is None or self._weather.rng.random() >= loss.strength / 2:
            return False
        self._hindered()
        return True

    def _hindered(self) -> None:
        if self._tenure is not None:
            self._tenure.hindered(trio.current_time())


@final
class Witness(Relay):
    """Stands beside the broker and tells the judge what it really did, whoever may learn of it."""

    def __init__(self, inner: Session, judge: Judge, tenure: Tenure | None) -> None:
        super().__init__(inner)
        self._judge = judge
        self._tenure = tenure

    async def carry(self, operation: str, call: Callable[[], Awaitable[T]]) -> T:  # noqa: ARG002 - all alike
        """Let an operation through that nobody needs to know of."""
        return await call()

    async def publish(self, batch: Sequence[Publication]) -> list[Published]:
        """Publish."""
        replies = await self.inner.publish(batch)
        for item, published in zip(batch, replies, strict=True):
            self._judge.published(item, published)
        return replies

    async def lease(
        self, queues: Sequence[str], limit: int, lease_for: float, *, owner: str, wait: float = 0.0
    ) -> list[Delivery]:
        """Lease, and write the name of the lease into each envelope."""
        deliveries = await self.inner.lease(queues, limit, lease_for, owner=owner, wait=wait)
        named = []
        for delivery in deliveries:
            assert self._tenure is not None
            name = self._judge.leased(delivery, self._tenure, lease_for)
            named.append(replace(delivery, payload=delivery.payload.replace(LEASE_NAME, name.encode())))
        return named

    async def extend(self, refs: Sequence[Ref], lease_for: float) -> list[Extension]:
        """Extend leases."""
        extensions = await self.inner.extend(refs, lease_for)
        for ref, extension in zip(refs, extensions, strict=True):
            self._judge.extended(ref, extension, lease_for)
        return extensions

    async def settle(self, batch: Sequence[Settlement], *, then: Sequence[Publication] = ()) -> list[Reply]:
        """Settle."""
        replies = await self.inner.settle(batch, then=then)
        for settlement, reply in zip(batch, replies, strict=True):
            self._judge.settled(settlement, reply)
        return replies

    async def cancel(self, queue: str, ids: Sequence[str], reason: str) -> list[CancelReply]:
        """Cancel."""
        replies = await self.inner.cancel(queue, ids, reason)
        for id, reply in zip(ids, replies, strict=True):
            self._judge.cancelled(id, reply)
        return replies
