"""Where the pure core keeps messages: rows, the lanes they wait in, and the agendas that time works through."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Final, TypeAlias

import attrs

from trepid.rules.life import CANCELLED, DEAD, DONE, ENDED, LEASED, READY, SCHEDULED, Life, State
from trepid.rules.publishing import PublishToken
from trepid.rules.verdicts import Failure

ORDINAL: Final[dict[State, int]] = {
    state: n for n, state in enumerate((READY, SCHEDULED, LEASED, DONE, DEAD, CANCELLED))
}
N_READY, N_SCHEDULED, N_LEASED, N_DONE, N_DEAD, N_CANCELLED = range(6)


@attrs.define(eq=False)
class Row:
    """One message: its life, which changes, and what it was published with, which does not."""

    shelf: Shelf
    id: str
    token: PublishToken
    payload: bytes
    priority: int
    enqueued: float
    unique: str | None
    life: Life
    errors: tuple[Failure, ...] = ()
    result: bytes | None = None
    unreadable: str | None = None
    watched: bool = False


Entry: TypeAlias = tuple[float, int, Row]


class Lane:
    """The ready messages of one queue and priority, in order of due time and then of publishing.

    What is published ready comes in order and goes to a deque; what comes back, or becomes due, goes to a heap.
    Entries of messages that have left are skipped when they are met.
    """

    __slots__ = ("_back", "_fresh")

    def __init__(self) -> None:
        self._fresh: deque[Entry] = deque()
        self._back: list[Entry] = []

    def __len__(self) -> int:
        return len(self._fresh) + len(self._back)

    def append(self, row: Row) -> None:
        """Add a message that has just been published: none in the lane is later."""
        life = row.life
        self._fresh.append((life.due, life.seq, row))

    def insert(self, row: Row) -> None:
        """Add a message that may have to go before others."""
        life = row.life
        heappush(self._back, (life.due, life.seq, row))

    def first(self) -> Row | None:
        """Return the first ready message, without removing it."""
        fresh, back = self._fresh, self._back
        while fresh and not _waits_here(fresh[0]):
            fresh.popleft()
        while back and not _waits_here(back[0]):
            heappop(back)
        if not back:
            return fresh[0][2] if fresh else None
        return back[0][2] if not fresh or back[0][:2] < fresh[0][:2] else fresh[0][2]

    def pop(self) -> Row | None:
        """Remove and return the first ready message."""
        fresh, back = self._fresh, self._back
        while fresh and not back:
            entry = fresh.popleft()
            if _waits_here(entry):
                return entry[2]
        row = self.first()
        if row is not None:
            if fresh and fresh[0][2] is row:
                fresh.popleft()
            else:
                heappop(back)
        return row

    def prune(self, ready: int) -> None:
        """Drop the entries of messages that have left, if they outnumber the *ready* ones."""
        if len(self) > 2 * ready + 64:
            self._fresh = deque(filter(_waits_here, self._fresh))
            self._back = list(filter(_waits_here, self._back))
            heapify(self._back)


def _waits_here(entry: Entry) -> bool:
    life = entry[2].life
    return life.state is READY and life.seq == entry[1] and life.due == entry[0]


@attrs.define(eq=False)
class Shelf:
    """One queue: its messages by id, its lanes, and how many messages are in each state."""

    name: str
    paused: bool = False
    rows: dict[str, Row] = attrs.Factory(dict)
    uniques: dict[str, Row] = attrs.Factory(dict)
    lanes: dict[int, Lane] = attrs.Factory(dict)
    order: list[Lane] = attrs.Factory(list)
    counts: list[int] = attrs.Factory(lambda: [0] * 6)

    def lane(self, priority: int) -> Lane:
        """Return the lane of a priority, making it if it is the first of its kind."""
        lane = self.lanes.get(priority)
        if lane is None:
            lane = self.lanes[priority] = Lane()
            self.order = [self.lanes[key] for key in sorted(self.lanes, reverse=True)]
        return lane

    def pop(self) -> Row | None:
        """Remove and return the ready message that is first by priority, due time and order."""
        for lane in self.order:
            row = lane.pop()
            if row is not None:
                return row
        return None

    def oldest_due(self) -> float | None:
        """Return since when the oldest ready message has been due."""
        firsts = [row.life.due for lane in self.order if (row := lane.first()) is not None]
        return min(firsts, default=None)

    def prune(self) -> None:
        """Give back the space of entries that are of no use any more."""
        for lane in self.order:
            lane.prune(self.counts[N_READY])


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
