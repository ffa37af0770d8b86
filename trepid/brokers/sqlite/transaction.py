"""One open write transaction: the time it acts on, the places it gives away, and the rows it moves."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from trepid.brokers.sql.news import ENDED_SOMETHING, WORK
from trepid.brokers.sql.rows import Row, dump, load
from trepid.brokers.sqlite import departed, statements
from trepid.errors import UnknownQueueError
from trepid.rules import lifecycle
from trepid.rules.gates import Limit
from trepid.rules.life import CANCELLED, ENDED, LEASED, Life, Token
from trepid.rules.publishing import PublishToken

_LAPSED_AT_ONCE = 10_000
_NO_LIMITS: Mapping[str, Limit] = {}


class Transaction:
    """A write transaction on a broker's file.  Whoever has one is the only writer.

    Attributes:
      run: executes a statement.
      now: the broker's time in this transaction.
      seq: the last place given in the order of publishing.
      news: what has come about, a sum of the kinds of news.
      gone: how many messages have ended here, for the pace of removing others.
    """

    __slots__ = (
        "_bounded",
        "_deleted",
        "_limited",
        "_limits",
        "_queues",
        "connection",
        "gone",
        "news",
        "now",
        "run",
        "run_many",
        "seq",
    )

    def __init__(self, connection: sqlite3.Connection, cursor: sqlite3.Cursor, now: float, seq: int) -> None:
        self.connection = connection
        self.run = cursor.execute
        self.run_many = cursor.executemany
        self.now = now
        self.seq = seq
        self.news = 0
        self.gone = 0
        self._queues: dict[str, tuple[int, bool]] | None = None
        self._deleted: list[int] = []
        self._limited: set[int] = set()
        self._bounded: set[int] = set()
        self._limits: dict[int, dict[str, Limit]] = {}

    def next_seq(self) -> int:
        """Give a place in the order of publishing."""
        self.seq += 1
        return self.seq

    def close(self) -> None:
        """Store the time and the places given, before the commit."""
        self.run(statements.SET_HEAD, (self.seq, self.now))

    # ----------------------------------------------------------------------------------------------------- queues

    def find_queue(self, name: str) -> tuple[int, bool] | None:
        """Return the key of a declared queue, and whether it is paused."""
        return self._all_queues().get(name)

    def queue(self, name: str) -> int:
        """Return the key of a declared queue.

        Raises:
          UnknownQueueError: if there is none.
        """
        found = self.find_queue(name)
        if found is None:
            raise UnknownQueueError(name)
        return found[0]

    def queue_names(self) -> list[str]:
        """Return the names of all declared queues."""
        return list(self._all_queues())

    def deleted_queues(self) -> list[int]:
        """Return the keys of deleted queues that still have messages."""
        self._all_queues()
        return self._deleted

    def _all_queues(self) -> dict[str, tuple[int, bool]]:
        if self._queues is None:
            found = self.run(statements.QUEUES).fetchall()
            self._queues = {name: (key, bool(paused)) for key, name, paused, _, _ in found if name is not None}
            self._deleted, self._limited, self._bounded, self._limits = [], set(), set(), {}
            for key, name, _, limited, bounded in found:
                if name is None:
                    self._deleted.append(key)
                elif limited:
                    self._limited.add(key)
                    if bounded:
                        self._bounded.add(key)
        return self._queues

    def forget_queues(self) -> None:
        """Look at the tables of queues and limits again: they were changed, or a change of them undone."""
        self._queues = None

    # ----------------------------------------------------------------------------------------------------- limits

    def limits(self, queue: int) -> Mapping[str, Limit]:
        """Return what the gates of a queue let through, by family."""
        if self._queues is None:
            self._all_queues()
        if queue not in self._limited:
            return _NO_LIMITS
        found = self._limits.get(queue)
        if found is None:
            rows = self.run(statements.ALL_LIMITS, (queue,)).fetchall()
            # The engine knows a queue by its key; that its name is not in here is of no account.
            found = self._limits[queue] = {family: Limit("", family, *rest) for family, *rest in rows}
        return found

    def bounded_queues(self) -> Collection[int]:
        """Return the keys of queues that take only so many messages."""
        if self._queues is None:
            self._all_queues()
        return self._bounded

    def grow(self, queue: int, by: int) -> None:
        """Count messages of a queue that have begun to live, or ended, where that is counted at all."""
        if queue in self.bounded_queues():
            self.run(statements.ADD_LIVE, (by, queue))

    def make_room(self, queue: int) -> None:
        """A message of a queue has ended: somebody else may be let in, or through."""
        if self._queues is None:
            self._all_queues()
        if queue in self._limited:
            self.news |= WORK
            self.grow(queue, -1)

    # --------------------------------------------------------------------------------------------------- messages

    def stored(self, queue: int, id: str) -> Row | None:
        """Return what is stored under an id, also if it should have been forgotten by now."""
        found = self.run(statements.BY_ID, (queue, id)).fetchone()
        return None if found is None else load(found)

    def by_id(self, queue: int, id: str) -> Row | None:
        """Return a message as it is stored, unless it is to be forgotten by now."""
        return self._present(self.run(statements.BY_ID, (queue, id)).fetchone())

    def leased_by(self, token: Token, queue: int, id: str) -> Row | None:
        """Return a message for somebody who shows a token, after all that time has decided but the end of that lease.

        This is left to the rules, which then say that the lease has expired, and not only that it is there no more.
        """
        row = self.by_id(queue, id)
        if row is not None and row.life.state is LEASED and row.life.token == token:
            return row
        return self.aged(row)

    def by_unique(self, queue: int, key: str) -> Row | None:
        """Return the stored live holder of a unique key."""
        return self._present(self.run(statements.BY_UNIQUE, (queue, key)).fetchone())

    def _present(self, found: tuple[Any, ...] | None) -> Row | None:
        if found is None:
            return None
        row = load(found)
        forget = row.life.forget
        return row if forget is None or forget > self.now else None

    def aged(self, row: Row | None) -> Row | None:
        """Let time decide about a message, and return it unless that made it gone."""
        if row is None:
            return None
        life = lifecycle.elapse(row.life, self.now)
        return row if life is row.life else self.move(row, life)

    def move(self, row: Row, new: Life) -> Row | None:
        """Give a message its new life, and return it unless that is over and not to be kept."""
        old = row.life
        moved = row.with_life(new)
        if new.state in ENDED and old.state not in ENDED:
            self.news |= ENDED_SOMETHING
            self.gone += 1
            self.make_room(row.queue)
            if new.state is CANCELLED and row.unique is not None:
                self.run(statements.RELEASE_HOLD, (row.queue, row.unique, row.id))
            if new.forget is not None and new.forget <= self.now:
                self.remove([moved], stored=old.seq)
                return None
        elif new.state is not LEASED:
            self.news |= WORK
            if old.state in ENDED:
                self.grow(row.queue, 1)
        self.run(statements.SET_LIFE, (*dump(new), old.seq))
        if new.seq != old.seq:
            self.run(statements.MOVE_PAYLOAD, (new.seq, old.seq))
            self.run(statements.MOVE_FAILURES, (new.seq, old.seq))
        return moved

    def add_failure(self, seq: int, failure: bytes) -> None:
        """Keep a failure of the message with this place."""
        self.run(statements.ADD_FAILURE, (seq, failure, seq))

    def remove(self, rows: Iterable[Row], *, stored: int | None = None) -> None:
        """Forget messages, but not that they were published.

        Args:
          rows: which.
          stored: the place under which the only one of them is stored, if that differs.
        """
        tokens, places = [], []
        for row in rows:
            tokens.append(row.token)
            places.append((row.life.seq if stored is None else stored,))
            if row.life.state not in ENDED:
                self.grow(row.queue, -1)
        self.run_many(statements.DELETE_MESSAGE, places)
        self._clear(places, tokens)

    def clear_after(self, gone: Mapping[int, PublishToken]) -> None:
        """Clear away what is left of messages, given by their places, whose rows have been deleted."""
        self._clear([(seq,) for seq in gone], gone.values())

    def _clear(self, places: Sequence[tuple[int]], tokens: Iterable[PublishToken]) -> None:
        self.run_many(statements.DELETE_PAYLOAD, places)
        self.run_many(statements.DELETE_FAILURES, places)
        departed.add(self.run, tokens, self.now)

    # ------------------------------------------------------------------------------------------------------- time

    def observe(self, queue: int) -> int:
        """Carry out what time has decided in a queue about leases and ttls, and return how much it was.

        What it leaves for the next time, where there are very many, is not leased and not counted wrongly meanwhile.
        """
        lapsed = self.run(statements.LAPSED, (queue, self.now, _LAPSED_AT_ONCE)).fetchall()
        lapsed += self.run(statements.OVERDUE, (queue, self.now, _LAPSED_AT_ONCE)).fetchall()
        for found in lapsed:
            self.aged(load(found))
        return len(lapsed)
