"""Leasing and extending, inside a write transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import attrs
from msgspec.structs import replace

from trepid.brokers.look import Look
from trepid.brokers.postgres import claiming
from trepid.brokers.postgres.passing import Passing, hold
from trepid.brokers.postgres.transaction import Step, Transaction
from trepid.brokers.sql.rows import Row, load
from trepid.ports.messages import Delivery, Extension, Ref
from trepid.rules import lifecycle
from trepid.rules.gates import share, shares
from trepid.rules.life import LEASED, Life, Reply


@attrs.define(eq=False)
class Wish:
    """A call of ``lease``, which may have to ask several times.

    Attributes:
      queues, limit, lease_for, owner: as the port says.
      turns: how often the session has asked several queues; decides which is the first.
      places: where the session goes on looking for open gates, by queue; see :class:`Passing`.
    """

    queues: Sequence[str]
    limit: int
    lease_for: float
    owner: str
    turns: list[int]
    places: dict[int, str] = attrs.field(factory=dict)


class Facts(NamedTuple):
    """What is to be known of a queue before anything of it is leased: a row of ``LOOK``.

    Attributes:
      name, key, paused, weight: of the queue.
      limited: whether there is a limit of what it gives, or was lately.
      until, expires: when the first lease ends, and the first ttl.
      due: when the first message before a gate is due.
    """

    name: str
    key: int
    paused: bool
    limited: bool
    weight: int
    until: float | None
    expires: float | None
    due: float | None
    lock: object

    def late(self, now: float) -> bool:
        """Whether time has decided something that is not written yet."""
        return (self.until is not None and self.until <= now) or (self.expires is not None and self.expires <= now)

    def gated(self, now: float) -> bool:
        """Whether it gives nothing without a look at its gates."""
        return self.limited or (self.due is not None and self.due <= now)


def lease(tx: Transaction, wish: Wish, deadline: float) -> Look[list[Delivery]]:
    """Lease up to ``wish.limit`` messages; queues take turns at being asked first."""
    queues = _look(tx, wish.queues)
    if late := [queue.key for queue in queues if queue.late(tx.now)]:
        tx.observe(late)
        queues = _look(tx, wish.queues)  # what has come back may stand before a gate
    gated = sorted({queue.key for queue in queues if queue.gated(tx.now)})
    if gated:
        hold(tx, gated)
    passings = {key: Passing(tx, key, wish.places) for key in gated}
    if len(queues) > 1:
        wish.turns[0] += 1
        start, _ = shares([queue.weight for queue in queues], wish.turns[0])
        queues = queues[start:] + queues[:start]
    asked, taken = queues, list[Delivery]()
    # Each queue may give its share; what is left over goes round again.
    while queues and len(taken) < wish.limit:
        room, weights = wish.limit - len(taken), sum(queue.weight for queue in queues)
        more: list[Facts] = []
        for queue in queues:
            most = min(share(room, queue.weight, weights), wish.limit - len(taken))
            more_of_it = _take(tx, queue, passings.get(queue.key), most, wish)
            taken += deliveries(queue.name, more_of_it, tx.now, deadline)
            if len(more_of_it) == most:
                more.append(queue)
        queues = more
    return Look(taken, bool(taken), None if taken else _next_change(tx, asked, passings.values()))


def _look(tx: Transaction, names: Sequence[str]) -> list[Facts]:
    """Return the open ones of some queues."""
    found = {facts.name: facts for facts in map(Facts._make, tx.run(claiming.LOOK, (list(names),)).fetchall())}
    return [found[name] for name in names if name in found and not found[name].paused]


def lease_together(tx: Transaction, requests: Sequence[tuple[Wish, float]]) -> None:
    """Hold the limited queues that several callers want; the callers go on one by one.

    So everybody holds them in the same order, and nobody waits for one who waits for him.
    """
    tx.run(claiming.HOLD_LIMITED, (sorted({name for wish, _ in requests for name in wish.queues}),))


def _take(tx: Transaction, queue: Facts, passing: Passing | None, most: int, wish: Wish) -> list[tuple[Any, ...]]:
    """Lease up to *most* messages of one queue: the first by priority, due time and publishing."""
    if not most:
        return []
    until = tx.now + wish.lease_for
    claimed: list[tuple[Any, ...]]
    # What is claimed is exactly what `lifecycle.elapse` would call ready now.
    if passing is None:
        claimed = tx.run(claiming.CLAIM, (queue.key, tx.now, most, wish.owner, until)).fetchall()
    else:
        claimed = passing.claim(most, wish.owner, until)
    tx.changes += len(claimed)
    return claimed


def deliveries(queue: str, claimed: Iterable[tuple[Any, ...]], now: float, deadline: float) -> list[Delivery]:
    """Return what was claimed of a queue, in the order of priority, due time and publishing."""
    found = [
        Delivery(queue, id, (seq, n), payload, priority, failures, crashes, due, enqueued, now, deadline, *rest)
        for seq, id, n, payload, priority, failures, crashes, due, enqueued, *rest in claimed
    ]
    found.sort(key=attrgetter("due", "token"))
    found.sort(key=attrgetter("priority"), reverse=True)
    return found


def _next_change(tx: Transaction, queues: Iterable[Facts], passings: Iterable[Passing]) -> float | None:
    """Return in how many seconds time alone may make something leasable."""
    moments: list[float | None] = []
    for queue in queues:
        moments += [moment for (moment,) in tx.run(claiming.NEXT_DUE, (queue.key, tx.now)).fetchall()]
        if not queue.gated(tx.now):
            moments.append(queue.due)
    for passing in passings:
        moments += passing.moments()
    return soonest(tx, moments)


def soonest(tx: Transaction, moments: Iterable[float | None]) -> float | None:
    """Return in how many seconds the first of some moments is, or None if there are none.

    Those that are over are none: whose lease ran out and is not observed yet is held by somebody, until he says so.
    """
    return min((moment - tx.now for moment in moments if moment is not None and moment > tx.now), default=None)


def extend(tx: Transaction, refs: Sequence[Ref], lease_for: float, deadline: float) -> list[Extension]:
    """Let leases run on."""
    until = tx.now + lease_for
    rows = held_by(tx, refs)
    lives: dict[tuple[str, str], Life] = {}
    extended: list[int] = []
    steps: dict[tuple[str, str], Step] = {}
    extensions: list[Extension] = []
    for ref in refs:
        place = (ref.queue, ref.id)
        row = rows.get(place)
        if row is None:
            extensions.append(Extension(Reply.UNKNOWN))
            continue
        before = lives.get(place, row.life)
        life, reply = lifecycle.extend(before, ref.token, until, tx.now)
        lives[place] = life
        if reply is Reply.APPLIED:
            if life is not before:
                extended.append(life.seq)
            extensions.append(Extension(reply, life.cancel, deadline))
        else:
            if life is not before:
                steps[place] = Step(row, life)
            extensions.append(Extension(reply))
    if extended:
        tx.run(claiming.EXTEND, (sorted(extended), until))
        tx.changes += len(extended)
    tx.save(steps.values())
    return extensions


def held_by(tx: Transaction, refs: Sequence[Ref]) -> dict[tuple[str, str], Row]:
    """Return and hold messages for somebody who shows tokens, as time has made them but for the end of their leases.

    This is left to the rules, which then say that a lease has expired, and not only that it is there no more.
    """
    rows: dict[tuple[str, str], Row] = {}
    wanted: dict[str, set[str]] = {}
    tokens = {(ref.queue, ref.id): ref.token for ref in refs}
    for ref in refs:
        wanted.setdefault(ref.queue, set()).add(ref.id)
    for name, key in sorted(tx.keys(wanted).items()):
        for id, row in tx.stored(key, wanted[name]).items():
            if tx.present(row) is not None:
                rows[name, id] = row
    steps: list[Step] = []
    for place, row in list(rows.items()):
        if row.life.state is LEASED and row.life.token == tokens[place]:
            continue
        life = lifecycle.elapse(row.life, tx.now)
        if life is not row.life:
            steps.append(Step(row, life))
            moved = tx.present(row.with_life(life))
            if moved is None:
                del rows[place]
            else:
                rows[place] = moved
    tx.save(steps)
    return rows


def expire_owner(tx: Transaction, owner: str) -> int:
    """Expire all leases of an owner."""
    held = [load(found) for found in tx.run(claiming.TAKE_HELD, (owner, tx.now)).fetchall()]
    tx.save([Step(row, lifecycle.elapse(replace(row.life, until=tx.now), tx.now)) for row in held])
    return len(held)
