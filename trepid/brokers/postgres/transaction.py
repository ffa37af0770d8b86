"""One open write transaction: the time it acts on, and the rows it holds and moves."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final

import attrs

from trepid.brokers.postgres import claiming, statements
from trepid.brokers.sql.news import ENDED_SOMETHING, WORK
from trepid.brokers.sql.rows import Row, dump, load
from trepid.errors import UnknownQueueError
from trepid.rules import lifecycle
from trepid.rules.life import CANCELLED, ENDED, LEASED, Life
from trepid.rules.publishing import REMEMBERED

LAPSED_AT_ONCE: Final = 1000

Run = Callable[..., Any]


@attrs.frozen
class Step:
    """What became of a message, to be written.

    Attributes:
      row: as it was stored.
      life: its new life.
      error: a failure to be added to its history.
      result, unreadable: what a job that is done returned.
    """

    row: Row
    life: Life
    error: bytes | None = None
    result: bytes | None = None
    unreadable: str | None = None


class Transaction:
    """A write transaction.  What it changes is locked until its end; others go on elsewhere.

    Attributes:
      run: executes a statement, and returns the cursor.
      now: the broker's time in this transaction.
      news: what has come about, a sum of the kinds of news.
      gone: how many messages have ended here, for the pace of removing others.
      changes: grows with each change, so that it is known whether there were any.
    """

    __slots__ = ("changes", "gone", "news", "now", "run")

    def __init__(self, run: Run, now: float) -> None:
        self.run = run
        self.now = now
        self.news = 0
        self.gone = 0
        self.changes = 0

    @property
    def remembered(self) -> float:
        """Until when the publishes of messages that go now are remembered."""
        return self.now + REMEMBERED

    # ----------------------------------------------------------------------------------------------------- queues

    def keys(self, names: Iterable[str]) -> dict[str, int]:
        """Return the keys of those of some queues that are declared."""
        return dict(self.run(statements.KEYS, (list(set(names)),)).fetchall())

    def queue(self, name: str) -> int:
        """Return the key of a declared queue.

        Raises:
          UnknownQueueError: if there is none.
        """
        found = self.keys([name]).get(name)
        if found is None:
            raise UnknownQueueError(name)
        return found

    # --------------------------------------------------------------------------------------------------- messages

    def stored(self, queue: int, ids: Iterable[str]) -> dict[str, Row]:
        """Return messages by id as they are stored, also if they should have been forgotten by now.

        Those that are alive are held until the end of the transaction.
        """
        found: dict[str, Row] = {}
        wanted = sorted(set(ids))
        # A message moves between the tables by what others commit: who was in neither may have passed behind our back.
        for look in range(3):
            if not wanted:
                break
            statement = statements.ENDED_BY_IDS if look == 1 else statements.LOCKED_BY_IDS
            for row in map(load, self.run(statement, (queue, wanted)).fetchall()):
                found[row.id] = row
            wanted = [id for id in wanted if id not in found]
        return found

    def present(self, row: Row | None) -> Row | None:
        """Return a message unless it is to be forgotten by now."""
        if row is None:
            return None
        forget = row.life.forget
        return row if forget is None or forget > self.now else None

    def aged(self, row: Row | None) -> Row | None:
        """Return a message as time has made it by now, unless that made it gone; nothing is written."""
        if row is None:
            return None
        return self.present(row.with_life(lifecycle.elapse(row.life, self.now)))

    def save(self, steps: Collection[Step]) -> None:
        """Give messages their new lives, each of them once."""
        living: list[Step] = []
        ended: list[Step] = []
        gone: list[int] = []
        for step in steps:
            old, new = step.row.life, step.life
            if new.state not in ENDED:
                living.append(step)
                if new.state is not LEASED:
                    self.news |= WORK
                continue
            assert old.state not in ENDED, "what has ended changes by requeue alone"
            self.news |= ENDED_SOMETHING
            self.gone += 1
            if old.state is LEASED:
                self.news |= WORK  # somebody else may pass a gate now
            if new.forget is not None and new.forget <= self.now:
                gone.append(old.seq)
            else:
                ended.append(step)
        if living:
            self.run(statements.SAVE, (*_columns(living), [step.error for step in living]))
        if ended:
            errors, results, unreadable = zip(*[(s.error, s.result, s.unreadable) for s in ended], strict=True)
            self.run(statements.END, (*_columns(ended), list(errors), list(results), list(unreadable)))
        if gone:
            self.run(statements.REMOVE, (self.remembered, gone))
        cancelled = [step.row for step in steps if step.life.state is CANCELLED and step.row.unique is not None]
        if cancelled:
            # They have done nothing: the next ones with their keys may.
            given = ([row.queue for row in cancelled], [row.unique for row in cancelled], [row.id for row in cancelled])
            self.run(statements.RELEASE_HOLDS, given)
        self.changes += len(steps)

    def observe(self, queues: Iterable[int]) -> int:
        """Carry out what time has decided in queues about leases and ttls, and return how much it was.

        What it leaves for the next time, where there are very many or others hold them, is not leased and not counted
        wrongly meanwhile.
        """
        steps: list[Step] = []
        for queue in queues:
            given = (queue, self.now, LAPSED_AT_ONCE)
            for statement in (claiming.TAKE_LAPSED, claiming.TAKE_OVERDUE):
                rows = map(load, self.run(statement, given).fetchall())
                steps += [Step(row, lifecycle.elapse(row.life, self.now)) for row in rows]
        self.save(steps)
        return len(steps)


def _columns(steps: Sequence[Step]) -> list[list[Any]]:
    """Return where messages are stored, and the columns of their new lives."""
    dumped = [dump(step.life) for step in steps]
    return [[step.row.life.seq for step in steps], *(list(column) for column in zip(*dumped, strict=True))]
