"""Leasing and extending, inside a write transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any

import attrs
from msgspec.structs import replace

from trepid.brokers.postgres import claiming
from trepid.brokers.postgres.transaction import Step, Transaction
from trepid.brokers.sql.rows import Row, load
from trepid.ports.messages import Delivery, Extension, Ref
from trepid.rules import lifecycle
from trepid.rules.life import LEASED, Life, Reply


@attrs.define(eq=False)
class Wish:
    """A call of ``lease``, which may have to ask several times.

    Attributes:
      queues, limit, lease_for, owner: as the port says.
      turns: how often the session has asked several queues; decides which is the first.
    """

    queues: Sequence[str]
    limit: int
    lease_for: float
    owner: str
    turns: list[int]


@attrs.frozen
class Claim:
    """What a wish was granted.

    Attributes:
      deliveries: the leases.
      wait: seconds after which time alone may make something leasable, or None; only known where nothing was.
    """

    deliveries: list[Delivery]
    wait: float | None = None


def lease(tx: Transaction, wish: Wish, deadline: float) -> Claim:
    """Lease up to ``wish.limit`` messages; queues take turns at being asked first."""
    found = {name: rest for name, *rest in tx.run(claiming.LOOK, (list(wish.queues),)).fetchall()}
    queues = [(name, found[name][0]) for name in wish.queues if name in found and not found[name][1]]
    late = [
        found[name][0]
        for name, _ in queues
        if any(moment is not None and moment <= tx.now for moment in found[name][2:4])
    ]
    if late:
        tx.observe(late)
    if len(queues) > 1:
        wish.turns[0] += 1
        start = wish.turns[0] % len(queues)
        queues = queues[start:] + queues[:start]
    asked, taken = queues, list[Delivery]()
    # Each queue may give its share; what is left over goes round again.
    while queues and len(taken) < wish.limit:
        share = -(-(wish.limit - len(taken)) // len(queues))
        more: list[tuple[str, int]] = []
        for queue in queues:
            most = min(share, wish.limit - len(taken))
            more_of_it = _take(tx, queue, most, wish, deadline)
            taken += more_of_it
            if len(more_of_it) == most:
                more.append(queue)
        queues = more
    return Claim(taken, None if taken else _next_change(tx, [key for _, key in asked]))


def _take(tx: Transaction, queue: tuple[str, int], most: int, wish: Wish, deadline: float) -> list[Delivery]:
    """Lease up to *most* messages of one queue, in the order of priority, due time and publishing."""
    if not most:
        return []
    name, key = queue
    now = tx.now
    # What is claimed is exactly what `lifecycle.elapse` would call ready now.
    claimed = tx.run(claiming.CLAIM, (key, now, most, wish.owner, now + wish.lease_for)).fetchall()
    tx.changes += len(claimed)
    return deliveries(name, claimed, now, deadline)


def deliveries(queue: str, claimed: Iterable[tuple[Any, ...]], now: float, deadline: float) -> list[Delivery]:
    """Return what was claimed of a queue, in the order of priority, due time and publishing."""
    found = [
        Delivery(queue, id, (seq, n), payload, priority, failures, crashes, due, enqueued, now, deadline, *rest)
        for seq, id, n, payload, priority, failures, crashes, due, enqueued, *rest in claimed
    ]
    found.sort(key=attrgetter("due", "token"))
    found.sort(key=attrgetter("priority"), reverse=True)
    return found


def _next_change(tx: Transaction, queues: Sequence[int]) -> float | None:
    """Return in how many seconds time alone may make something leasable."""
    found: list[tuple[Any, ...]] = []
    for queue in queues:
        found += tx.run(claiming.NEXT_DUE, (queue, tx.now)).fetchall()
    return soonest(tx, found)


def soonest(tx: Transaction, found: Iterable[tuple[Any, ...]]) -> float | None:
    """Return in how many seconds the first of some moments is, or None if there are none."""
    return min((moment - tx.now for (moment,) in found if moment is not None), default=None)


def extend(tx: Transaction, refs: Sequence[Ref], lease_for: float, deadline: float) -> list[Extension]:
    """Let leases run on."""
    until = tx.now + lease_for
    rows = held_by(tx, refs, wait=True)
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


def held_by(tx: Transaction, refs: Sequence[Ref], *, wait: bool) -> dict[tuple[str, str], Row]:
    """Return and hold messages for somebody who shows tokens, as time has made them but for the end of their leases.

    This is left to the rules, which then say that a lease has expired, and not only that it is there no more.
    """
    rows: dict[tuple[str, str], Row] = {}
    wanted: dict[str, set[str]] = {}
    tokens = {(ref.queue, ref.id): ref.token for ref in refs}
    for ref in refs:
        wanted.setdefault(ref.queue, set()).add(ref.id)
    for name, key in sorted(tx.keys(wanted).items()):
        for id, row in tx.stored(key, wanted[name], wait=wait).items():
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
