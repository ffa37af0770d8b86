"""The stock: messages that the server has handed out, and that nobody here has leased yet.  Pure."""

from __future__ import annotations

import heapq
from collections import Counter
from itertools import takewhile
from typing import TYPE_CHECKING, final

from trepid.brokers.rabbitmq.passport import Passport
from trepid.brokers.rabbitmq.topology import level_of
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
        self._since: dict[Item, float] = {}
        self._levels: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._since)

    def count(self, level: str) -> int:
        """Count those of a level of priority."""
        return self._levels[level]

    def add(self, item: Item, now: float) -> None:
        """Keep a message; one that is not due yet is not handed out before."""
        self._since[item] = now
        self._levels[level_of(item.passport.priority)] += 1
        self._file(item, now)

    def _file(self, item: Item, now: float) -> None:
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
            self._file(heapq.heappop(self._early)[-1], now)
        return len(self._ready)

    def pop(self) -> Item:
        """Take the most urgent message out; there must be one that is :meth:`ready`."""
        item = heapq.heappop(self._ready)[-1]
        self._forget(item)
        return item

    def _forget(self, item: Item) -> None:
        del self._since[item]
        self._levels[level_of(item.passport.priority)] -= 1

    def oldest(self) -> float | None:
        """Return since when the one waits that came first, or None if there is none."""
        return next(iter(self._since.values()), None)

    def waiting(self, since: float) -> list[Item]:
        """Return those that wait since then or longer, the first to come first."""
        return [item for item, _ in takewhile(lambda each: each[1] <= since, self._since.items())]

    def stale(self, since: float) -> list[Item]:
        """Take out those that wait since then or longer, the first to come first."""
        items = self.waiting(since)
        for item in items:
            self._forget(item)
        self._ready = [entry for entry in self._ready if entry[-1] in self._since]
        self._early = [entry for entry in self._early if entry[-1] in self._since]
        heapq.heapify(self._ready)
        heapq.heapify(self._early)
        return items

    def next_due(self) -> float | None:
        """Return when the next one becomes due, if any is early."""
        return self._early[0][0] if self._early else None

    def clear(self) -> list[Item]:
        """Take everything out, in order."""
        items = [entry[-1] for entry in sorted(self._ready)] + [entry[-1] for entry in sorted(self._early)]
        self._ready, self._early = [], []
        self._since.clear()
        self._levels.clear()
        return items
