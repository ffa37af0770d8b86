"""The pure core's memory: where every message is, and how one is moved when its life changes."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from math import inf

from msgspec.structs import replace

from trepid.brokers.memory.agenda import Agenda, becomes_due, is_forgotten, overstays
from trepid.brokers.memory.departed import Departed
from trepid.brokers.memory.passing import reopens
from trepid.brokers.memory.shelf import N_LEASED, ORDINAL, Row, Shelf
from trepid.errors import QueueBusyError, UnknownQueueError
from trepid.rules import lifecycle
from trepid.rules.life import CANCELLED, DEAD, ENDED, LEASED, READY, Life


class Store:
    """All messages of one memory broker, and the moments at which time decides about them.

    Attributes:
      shelves: the declared queues by name.
      stirred: set whenever a message may have become leasable; whoever looks resets it.
      questioned: set whenever a leased message was asked to stop; whoever looks resets it.
      watched: messages somebody waits for that have moved, or are gone; whoever looks clears it.
      seq: the places in the order of publishing.
      departed: the publishes of messages that are gone.
      due, ttl, forget: the moments at which time decides something.
      leased: the leased messages by place.
    """

    def __init__(self) -> None:
        self.shelves: dict[str, Shelf] = {}
        self.stirred = False
        self.questioned = False
        self.watched: list[Row] = []
        self.seq = count(1)
        self.departed = Departed()
        self.due = Agenda(becomes_due)
        self.ttl = Agenda(overstays)
        self.forget = Agenda(is_forgotten)
        self.leased: dict[int, Row] = {}
        # No lease runs out before this; renewals are not followed one by one, which keeps them cheap.
        self.first_expiry = inf

    # ------------------------------------------------------------------------------------------------------- time

    def advance(self, now: float) -> int:
        """Carry out what time has decided by *now*, and return how many messages it concerned."""
        moved = 0
        if now >= self.first_expiry:
            expired = [row for row in self.leased.values() if row.life.until <= now]
            for row in expired:
                self.moved(row, lifecycle.elapse(row.life, now), now)
            self.first_expiry = min((row.life.until for row in self.leased.values()), default=inf)
            moved += len(expired)
        for agenda in (self.due, self.ttl):
            for row in agenda.due(now):
                self.moved(row, lifecycle.elapse(row.life, now), now)
                moved += 1
        for row in self.forget.due(now):
            self.remove(row, now)
            moved += 1
        return moved

    def next_change(self, now: float) -> float:
        """Return a time before which time alone makes no message leasable and ends none."""
        moments = [self.due.next(), self.ttl.next(), *(reopens(shelf, now) for shelf in self.shelves.values())]
        return min(self.first_expiry, *(inf if moment is None else moment for moment in moments))

    # ----------------------------------------------------------------------------------------------------- queues

    def shelf(self, queue: str) -> Shelf:
        """Return a declared queue.

        Raises:
          UnknownQueueError: if there is none.
        """
        shelf = self.shelves.get(queue)
        if shelf is None:
            raise UnknownQueueError(queue)
        return shelf

    def declare(self, queue: str) -> None:
        """Make a queue exist."""
        if queue not in self.shelves:
            self.shelves[queue] = Shelf(queue)

    def delete(self, queue: str, now: float) -> None:
        """Remove a queue and all its messages, unless one is leased."""
        shelf = self.shelves.get(queue)
        if shelf is None:
            return
        if shelf.counts[N_LEASED]:
            raise QueueBusyError(queue, shelf.counts[N_LEASED])
        for row in list(shelf.rows.values()):
            self.remove(row, now)
        del self.shelves[queue]

    def pause(self, queue: str, *, paused: bool) -> None:
        """Pause or resume a queue."""
        self.shelf(queue).paused = paused
        self.stirred = self.stirred or not paused

    # ---------------------------------------------------------------------------------------------------- moving

    def row(self, queue: str, id: str) -> Row | None:
        """Return a message, or None."""
        shelf = self.shelves.get(queue)
        return None if shelf is None else shelf.rows.get(id)

    def chosen(self, queue: str, ids: Iterable[str] | None) -> list[Row]:
        """Return the named messages of a queue, or all of them in the order of publishing."""
        rows = self.shelf(queue).rows
        if ids is not None:
            return [rows[id] for id in dict.fromkeys(ids) if id in rows]
        return sorted(rows.values(), key=lambda row: row.life.seq)

    def moved(self, row: Row, new: Life, now: float) -> None:
        """Give *row* its new life, and put it where that belongs."""
        old, shelf = row.life, row.shelf
        row.life = new
        shelf.counts[ORDINAL[old.state]] -= 1
        shelf.counts[ORDINAL[new.state]] += 1
        if old.state is LEASED and new.state is not LEASED:
            del self.leased[old.seq]
            if row.gate is not None:
                shelf.gate(row.gate).running -= 1
        for agenda, moment in ((self.due, becomes_due), (self.ttl, overstays), (self.forget, is_forgotten)):
            before, after = moment(old), moment(new)
            if before != after:
                agenda.live -= before is not None
                if after is not None:
                    agenda.add(after, row)
        if new.state is READY:
            shelf.lane(row).insert(row)
        self.stirred = True
        if row.watched:
            self.watched.append(row)
        if new.state in ENDED:
            if new.state is CANCELLED and row.unique is not None and shelf.holds.get(row.unique, ("",))[0] == row.id:
                del shelf.holds[row.unique]  # it has done nothing: the next one may
            self._leave(row)
            shelf.left(row)
        elif row.unique is not None:
            shelf.uniques[row.unique] = row
        if new.forget is not None and new.forget <= now:
            self.remove(row, now)

    def _leave(self, row: Row) -> None:
        """A message has ended: it frees its unique key, and whoever waits for it is told."""
        if row.unique is not None and row.shelf.uniques.get(row.unique) is row:
            del row.shelf.uniques[row.unique]
        if row.watched:
            self.watched.append(row)

    def remove(self, row: Row, now: float) -> None:
        """Forget a message, but not that it was published."""
        shelf = row.shelf
        del shelf.rows[row.id]
        shelf.counts[ORDINAL[row.life.state]] -= 1
        for agenda, moment in ((self.due, becomes_due), (self.ttl, overstays), (self.forget, is_forgotten)):
            agenda.live -= moment(row.life) is not None
        self._leave(row)
        self.departed.add(row.token, now)
        # Entries in lanes and agendas still point here; an ended life without a moment makes them void.
        row.life = replace(row.life, state=DEAD, forget=None)
