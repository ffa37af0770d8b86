"""The ordinary course of things in one or two round trips, however many ask: publishes, ends by success, and leases.

Where something is published, the first begins a transaction and stores it.  What has come meanwhile goes with the last:
ends, leases and the commit, sent together and answered together.  Each statement guards itself: where a guard says that
something is not ordinary, nothing is done about it, and the request goes the long way, by the rules, in a transaction
after this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, final

import attrs
import outcome

from trepid.brokers.look import Look
from trepid.brokers.postgres import claiming, holding, leasing, publishing, settling, statements
from trepid.brokers.postgres.transaction import Transaction
from trepid.brokers.sql.carrying import Done, Request
from trepid.brokers.sql.news import WORK
from trepid.ports.messages import Delivery

Step: TypeAlias = tuple[str, Sequence[Any]]
Rows: TypeAlias = list[tuple[Any, ...]]

_CAREFUL: Final = 16
"""How many groups of publishes go the long way after one that met an objection."""


_GATED: Final = 64
"""How many leases of a queue go the long way after one for which there were gates to be looked at."""


class Line(Protocol):
    """What is asked of the connection, each in one round trip."""

    def floor(self) -> float:
        """Return a time that is surely over; no round trip."""
        ...

    def begin_with(self, *steps: Step) -> tuple[Transaction, list[Rows]]:
        """Begin a transaction with some statements, and return it, and their rows."""
        ...

    def commit_with(self, *steps: Step) -> tuple[Transaction, list[Rows]]:
        """Carry out some statements and commit; return the transaction, and their rows."""
        ...

    def all_with(self, *steps: Step) -> tuple[Transaction, list[Rows]]:
        """Begin, carry out some statements, and commit; return the transaction, and their rows."""
        ...

    def rollback(self) -> None:
        """Undo the transaction."""
        ...


@attrs.define(eq=False)
class _Sorted:
    """Requests by what they ask for."""

    publishes: list[Request] = attrs.field(factory=list)
    ends: list[Request] = attrs.field(factory=list)
    leases: list[Request] = attrs.field(factory=list)
    others: list[Request] = attrs.field(factory=list)
    gated: dict[str, int] = attrs.field(kw_only=True)

    def add(self, requests: Iterable[Request]) -> None:
        """Sort some more."""
        for request in requests:
            if request.function is publishing.publish:
                self.publishes.append(request)
            elif request.function is settling.settle and settling.is_ordinary(*request.args):
                self.ends.append(request)
            elif request.function is leasing.lease and len(request.args[0].queues) == 1 and not self._gates(request):
                self.leases.append(request)
            else:
                self.others.append(request)

    def _gates(self, lease: Request) -> bool:
        """Whether the queue of a lease had gates lately."""
        (queue,) = lease.args[0].queues
        times = self.gated.get(queue, 0)
        if times > 1:
            self.gated[queue] = times - 1
        else:
            self.gated.pop(queue, None)
        return bool(times)

    @property
    def all(self) -> list[Request]:
        """Those that are left."""
        return [*self.publishes, *self.ends, *self.leases, *self.others]


class _Asked(NamedTuple):
    """A lease that was asked for."""

    request: Request
    key: int | None
    next_due: bool


@final
class Express:
    """Carries what is ordinary.  Belongs to the thread that writes.

    Args:
      line: its connection.
    """

    def __init__(self, line: Line) -> None:
        self._line = line
        self._keys: dict[str, int] = {}
        # Queues that lately had less than was asked for: of those it is also asked when they will have more.
        self._short: set[str] = set()
        self._careful = 0
        # How many more leases of a queue that has gates go the long way at once.
        self._gated: dict[str, int] = {}

    def carry(self, taken: Sequence[Request], more: Callable[[], Iterable[Request]]) -> tuple[Done, int, list[Request]]:
        """Carry what is ordinary of some requests, in a transaction of its own.

        If it raises, nothing was done, unless the connection broke.

        Args:
          taken: the requests so far.
          more: takes those that have come meanwhile.

        Returns:
          the answers, the news, and the requests that must go the long way.
        """
        given = _Sorted(gated=self._gated)
        given.add(taken)
        insertion = self._insertion(given.publishes)
        if not (insertion or given.ends or given.leases):
            return [], 0, given.all
        done: Done = []
        news = 0
        if insertion:
            if not self._publish(insertion):
                self._careful = _CAREFUL
                return [], 0, given.all
            done += [(each, outcome.Value(publishing.accepted(*each.args))) for each in given.publishes]
            given.publishes = []
            news = WORK
            given.add(more())
        tx, left = self._finish(given, done, begun=insertion is not None)
        return done, news | tx.news, [*given.publishes, *left, *given.others]

    def _insertion(self, requests: Sequence[Request]) -> publishing.Insertion | None:
        if not requests:
            return None
        if self._careful:
            self._careful -= 1
            return None
        return publishing.Insertion.of([item for request in requests for item in request.args[0]])

    def _publish(self, insertion: publishing.Insertion) -> bool:
        """Begin, storing what is published; false, and no transaction, if there is anything against it."""
        floor = self._line.floor()
        steps: list[Step] = [
            (statements.INSERT_NOW, (floor, *insertion.columns)),
            (statements.OBJECTION, insertion.suspects),
        ]
        if insertion.keys is not None:
            steps.append((holding.OBJECTION, (floor, *insertion.keys)))
        _, (places, *objections) = self._line.begin_with(*steps)
        if len(places) < insertion.number or any(rows[0][0] for rows in objections):
            self._line.rollback()
            return False
        return True

    def _finish(self, given: _Sorted, done: Done, *, begun: bool) -> tuple[Transaction, list[Request]]:
        """End and lease what can be, commit, and return the requests that are left."""
        floor = self._line.floor()
        ends = settling.Successes([each for request in given.ends for each in request.args[0]])
        steps = ends.steps(floor)
        first = len(steps)
        asked: list[_Asked] = []
        for request in given.leases:
            (queue,) = request.args[0].queues
            ask = _Asked(request, self._keys.get(queue), queue in self._short)
            asked.append(ask)
            steps += _lease_steps(floor, ask)
        tx, rows = self._line.commit_with(*steps) if begun else self._line.all_with(*steps)
        left: list[Request] = []
        replies = iter(ends.replies(tx, rows[:first]))
        for request in given.ends:
            own = [next(replies) for _ in request.args[0]]
            if None in own:
                # What was ordinary about it is done, and stays so.
                request.function, request.args = settling.settle_others, (request.args[0], own)
                left.append(request)
            else:
                done.append((request, outcome.Value(own)))
        answers = iter(rows[first:])
        for ask in asked:
            claim = self._claim(tx, ask, answers)
            if claim is None:
                left.append(ask.request)
            else:
                done.append((ask.request, outcome.Value(claim)))
        return tx, left

    def _claim(self, tx: Transaction, ask: _Asked, answers: Iterable[Rows]) -> Look[list[Delivery]] | None:
        """Return what a lease was granted; None if it must be looked at more closely."""
        answers = iter(answers)
        wish, deadline = ask.request.args
        (queue,) = wish.queues
        looked = next(answers)
        claimed = next(answers) if ask.key is not None else []
        due = next(answers) if ask.key is not None and ask.next_due else None
        if not looked:
            self._keys.pop(queue, None)
            return Look([], False)
        facts = leasing.Facts(*looked[0])
        self._keys[queue] = facts.key
        (self._short.add if len(claimed) < wish.limit else self._short.discard)(queue)
        if claimed:
            return Look(leasing.deliveries(queue, claimed, tx.now, deadline), True)
        if facts.paused:
            return Look([], False)
        if facts.gated(tx.now):
            self._gated[queue] = _GATED
            return None
        if facts.late(tx.now) or due is None or ask.key != facts.key:
            return None
        return Look([], False, leasing.soonest(tx, [facts.due, *(moment for (moment,) in due)]))


def _lease_steps(floor: float, ask: _Asked) -> list[Step]:
    wish, _ = ask.request.args
    steps: list[Step] = [(claiming.LOOK, (list(wish.queues),))]
    if ask.key is not None:
        given = (floor, ask.key, wish.limit, wish.owner, wish.lease_for)
        steps.append((claiming.CLAIM_AT_ONCE, given))
        if ask.next_due:
            steps.append((claiming.NEXT_DUE_AT_ONCE, (floor, ask.key)))
    return steps
