"""Moments at which time will decide something about messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from itertools import count
from typing import TypeAlias

from trepid.brokers.memory.shelf import Row
from trepid.rules.life import ENDED, READY, SCHEDULED, Life

Entry: TypeAlias = tuple[float, int, Row]


class Agenda:
    """Moments at which time will decide something about a message, earliest first.

    Entries whose message has moved on are skipped, and dropped in bulk when they outnumber the others.
    """

    __slots__ = ("_entries", "_moment", "_ticks", "live")

    def __init__(self, moment: Callable[[Life], float | None]) -> None:
        self._moment = moment
        self._entries: list[Entry] = []
        self._ticks = count()  # breaks ties, so that rows are never compared
        self.live = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, when: float, row: Row) -> None:
        """Note that something is to happen to *row*."""
        heappush(self._entries, (when, next(self._ticks), row))
        self.live += 1
        if len(self._entries) > 2 * self.live + 64:
            # One for each message: what was leased and came back stands again, beside its earlier entry.
            rows = {entry[2]: entry for entry in self._entries if self._stands(entry)}
            self._entries = list(rows.values())
            heapify(self._entries)

    def due(self, now: float) -> Iterator[Row]:
        """Remove and yield the messages whose moment has come."""
        entries = self._entries
        while entries and entries[0][0] <= now:
            entry = heappop(entries)
            if self._stands(entry):
                yield entry[2]

    def next(self) -> float | None:
        """Return the next moment."""
        entries = self._entries
        while entries and not self._stands(entries[0]):
            heappop(entries)
        return entries[0][0] if entries else None

    def _stands(self, entry: Entry) -> bool:
        return self._moment(entry[2].life) == entry[0]


def becomes_due(life: Life) -> float | None:
    """The moment at which a scheduled message becomes ready."""
    return life.due if life.state is SCHEDULED else None


def overstays(life: Life) -> float | None:
    """The moment at which a waiting message dies of its ttl; while it is scheduled, that is not before it is due."""
    if life.expires is None:
        return None
    if life.state is READY:
        return life.expires
    return max(life.due, life.expires) if life.state is SCHEDULED else None


def is_forgotten(life: Life) -> float | None:
    """The moment at which an ended message may be forgotten."""
    return life.forget if life.state in ENDED else None
