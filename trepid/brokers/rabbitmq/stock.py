"""The stock: messages that the server has handed out, and that nobody here has leased yet.  Pure."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, final

from trepid.brokers.rabbitmq.passport import Passport
from trepid.ports.messages import Delivery
from trepid.rules.life import Life

if TYPE_CHECKING:
    from trepid.brokers.rabbitmq.tap import Tap


@final
class Item:
    """A message that the server has handed out to this session, and waits to hear of."""

    __slots__ = ("passport", "payload", "tag", "tap")

    def __init__(self, tap: Tap, tag: int, passport: Passport, payload: bytes) -> None:
        self.tap = tap
        self.tag = tag
        self.passport = passport
        self.payload = payload

    def delivery(self, life: Life, now: float, deadline: float) -> Delivery:
        """Return what a worker gets to see of it, once it is leased."""
        return Delivery(
            self.tap.queue,
            self.passport.id,
            life.token,
            self.payload,
            self.passport.priority,
            life.failures - life.spent_failures,
            life.crashes - life.spent_crashes,
            life.due,
            self.passport.enqueued,
            now,
            deadline,
            life.stray_since,
            life.result_ttl,
            life.max_crashes,
        )


@final
class Stock:
    """The messages of one queue that wait here: the most urgent first, then those due first, then the oldest."""

    def __init__(self) -> None:
        self._ready: list[tuple[int, float, int, int, Item]] = []
        self._early: list[tuple[float, int, Item]] = []
        self._entries = 0

    def __len__(self) -> int:
        return len(self._ready) + len(self._early)

    def add(self, item: Item, now: float) -> None:
        """Keep a message; one that is not due yet is not handed out before."""
        self._entries += 1
        passport = item.passport
        if passport.due > now:
            heapq.heappush(self._early, (passport.due, self._entries, item))
        else:
            entry = (-passport.priority, passport.due, passport.seq, self._entries, item)
            heapq.heappush(self._ready, entry)

    def ready(self, now: float) -> int:
        """Count those that are due."""
        while self._early and self._early[0][0] <= now:
            self.add(heapq.heappop(self._early)[-1], now)
        return len(self._ready)

    def pop(self) -> Item:
        """Take the most urgent message out; there must be one that is :meth:`ready`."""
        return heapq.heappop(self._ready)[-1]

    def next_due(self) -> float | None:
        """Return when the next one becomes due, if any is early."""
        return self._early[0][0] if self._early else None

    def clear(self) -> list[Item]:
        """Take everything out, in order."""
        items = [entry[-1] for entry in sorted(self._ready)] + [entry[-1] for entry in sorted(self._early)]
        self._ready, self._early = [], []
        return items
