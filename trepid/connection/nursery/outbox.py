"""The outbox: jobs of a nursery on their way to the broker, published in batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf
from typing import Final

import attrs
import trio
from msgspec.structs import replace

from trepid.connection.nursery.child import Child
from trepid.connection.publishing import Publisher
from trepid.errors import (
    PayloadTooLargeError,
    QueueFullError,
    TrepidError,
    UniqueConflictError,
    UnknownQueueError,
    UnsupportedError,
)
from trepid.ports.messages import Publication
from trepid.rules.publishing import Publishing
from trepid.values.envelope import tethered

_REFUSED: Final = (UnknownQueueError, UniqueConflictError, UnsupportedError, PayloadTooLargeError)
"""What the broker says of a batch of which it has stored nothing, if it stores all or none."""

_AT_ONCE: Final = 500
_BYTES_AT_ONCE: Final = 4 * 1024 * 1024
"""Of so many messages, or with so many bytes, is a batch at most: it has to arrive while the end waits for it."""

_FIRST_LOOK: Final = 0.02
_LONGEST_LOOK: Final = 1.0
"""Seconds between looks whether a full queue has room."""


@attrs.define(eq=False)
class Outbox:
    """Children that the broker does not have yet, in order.

    Attributes:
      room: set whenever fewer children wait here, or none will ever more.
      size: how many wait here, or are on their way.
    """

    _publisher: Publisher
    _scope: str
    _offset: Callable[[], float]
    """The broker's time less Trio's."""
    _arrived: Callable[[Child], None]
    """Told of children that are, or may be, on the broker."""
    _dropped: Callable[[Child, str], None]
    """Told of children that never will be."""
    _waiting: deque[Child] = attrs.field(init=False, factory=deque)
    size: int = attrs.field(init=False, default=0)
    room: trio.Event = attrs.field(init=False, factory=trio.Event)
    _more: trio.Event = attrs.field(init=False, factory=trio.Event)
    # The publish that is under way, and whose it is.
    _sending: trio.CancelScope | None = attrs.field(init=False, default=None)
    _sent: list[Child] = attrs.field(init=False, factory=list)
    _landed: trio.Event = attrs.field(init=False, factory=trio.Event)
    _batch: int = attrs.field(init=False, default=_AT_ONCE)
    # Why nothing is published any more.
    _closed: str | None = attrs.field(init=False, default=None)

    def add(self, child: Child) -> None:
        """Publish a child soon.  Never waits."""
        self._waiting.append(child)
        self.size += 1
        self._more.set()

    async def run(self) -> None:
        """Publish what comes, for ever; a task of the nursery.

        A publish that has begun is not cancelled with the nursery, but waited for by :meth:`close`.
        """
        pause = _FIRST_LOOK
        while True:
            if not self._waiting:
                self._more = trio.Event()
                await self._more.wait()
            # Whoever starts one job is likely to start another; and here the nursery's cancellation is felt.
            await trio.lowlevel.checkpoint()
            deadline = trio.current_effective_deadline()
            if deadline == -inf:
                continue
            batch = self._taken(deadline)
            if await self._publish(batch):
                pause = _FIRST_LOOK
            else:
                await trio.sleep(pause)
                pause = min(2 * pause, _LONGEST_LOOK)

    def _taken(self, deadline: float) -> list[Child]:
        """Take the next children out of the box, with what they inherit."""
        batch: list[Child] = []
        room = _BYTES_AT_ONCE
        while self._waiting and len(batch) < self._batch:
            child = self._waiting[0]
            if child.disowned:
                self._waiting.popleft()
                self._drop([child], child.why)
                continue
            if child.publication is not None:
                room -= len(child.publication.payload)
            if batch and room < 0:
                break
            self._waiting.popleft()
            child.taken, child.deadline = True, deadline
            batch.append(child)
        return batch

    async def _publish(self, batch: list[Child]) -> bool:
        """Publish some children; return false if they have to wait for room, and whoever asks again should, too."""
        if not batch:
            await trio.lowlevel.checkpoint()
            return True
        offset = self._offset()
        items = [_tethered(child, self._scope, offset) for child in batch]
        self._landed = trio.Event()
        self._sent = batch
        answered = False
        try:
            with trio.CancelScope(shield=True) as self._sending:
                replies = await self._publisher.publish(items, wait=False)
                answered = True
                for child, reply in zip(batch, replies, strict=True):
                    child.published(reply.id, existing=reply.outcome is Publishing.EXISTING)
        except QueueFullError:
            return self._put_back(batch)  # noqa: ASYNC910 - the broker has said so
        except _REFUSED as exc:
            if self._publisher.session.capabilities.atomic_batches:
                self._refused(batch, exc)
            raise
        finally:
            self._sending = None
            self._sent = []
            if batch[0].taken:
                # Published, or refused, or perhaps published: whatever it is, from now on it is asked for by its id.
                self._hand_over(batch)
            self._landed.set()
        if answered:
            self._batch = min(2 * self._batch, _AT_ONCE)
        return True

    def _put_back(self, batch: list[Child]) -> bool:
        """A queue is full: the same children come again, fewer at once, for a batch fits as a whole or not at all."""
        for child in batch:
            child.taken = False
            if child.disowned:
                self._drop([child], child.why)
            elif self._closed is not None:
                self._drop([child], self._closed)
        self._waiting.extendleft(child for child in reversed(batch) if child.never is None)
        self._batch = max(1, len(batch) // 2)
        return len(batch) > 1

    def _refused(self, batch: list[Child], error: TrepidError) -> None:
        """Nothing of it is stored: whatever has one of these ids is somebody else's."""
        for child in batch:
            child.taken = False
        self._drop(batch, f"not published: {error}")

    def _hand_over(self, batch: list[Child]) -> None:
        for child in batch:
            self._arrived(child)
            child.over()
        self._left(len(batch))

    def _drop(self, children: list[Child], reason: str) -> None:
        self._left(len(children))
        for child in children:
            self._dropped(child, reason)

    def _left(self, count: int) -> None:
        self.size -= count
        self.room.set()
        self.room = trio.Event()

    async def close(self, patience: float, reason: str) -> None:
        """Drop what is not on its way yet; wait for a publish that is under way, for *patience* seconds.

        In this order, as the publish may outlast whoever waits here; what is put back after it is dropped then.
        """
        self._closed = reason
        left = list(self._waiting)
        self._waiting.clear()
        self._drop(left, reason)
        if self._sending is not None:
            self._sending.deadline = trio.current_time() + patience
            await self._landed.wait()
        else:
            await trio.lowlevel.checkpoint()

    def abandon(self) -> list[Child]:
        """Cancel a publish that is still under way; return its children, of which nothing is known."""
        if self._sending is not None:
            self._sending.cancel(reason="the job nursery ends")
        return self._sent


def _tethered(child: Child, scope: str, offset: float) -> Publication:
    publication = child.publication
    assert publication is not None, "it is published once"
    until = None if child.deadline == inf else child.deadline + offset
    return replace(publication, payload=tethered(publication.payload, scope, until))
