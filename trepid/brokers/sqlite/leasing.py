"""Leasing and extending, inside a write transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from msgspec.structs import replace

from trepid.brokers.sql.rows import load
from trepid.brokers.sqlite import statements
from trepid.brokers.sqlite.transaction import Transaction
from trepid.ports.messages import Delivery, Extension, Ref
from trepid.rules import lifecycle
from trepid.rules.life import Reply


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
    found = [(name, tx.find_queue(name)) for name in wish.queues]
    queues = [(name, queue[0]) for name, queue in found if queue is not None and not queue[1]]
    for _, key in queues:
        tx.observe(key)
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
            deliveries = _take(tx, queue, most, wish, deadline)
            taken += deliveries
            if len(deliveries) == most:
                more.append(queue)
        queues = more
    return Claim(taken, None if taken else _next_change(tx, [key for _, key in asked]))


def _take(tx: Transaction, queue: tuple[str, int], most: int, wish: Wish, deadline: float) -> list[Delivery]:
    """Lease up to *most* messages of one queue, in the order of priority, due time and publishing."""
    if not most:
        return []
    name, key = queue
    now = tx.now
    deliveries: list[Delivery] = []
    for lane in _lanes(tx, key):
        # What is claimed is exactly what `lifecycle.elapse` would call ready now.
        claimed = tx.run(statements.CLAIM, (key, lane, now, now, most - len(deliveries))).fetchall()
        deliveries += [
            Delivery(name, id, (seq, n), payload, lane, failures, crashes, due, enqueued, now, deadline, *rest)
            for seq, id, n, payload, failures, crashes, due, enqueued, *rest in claimed
        ]
        if len(deliveries) == most:
            break
    until = now + wish.lease_for
    tx.run_many(statements.TAKE, [(wish.owner, until, delivery.token[0]) for delivery in deliveries])
    return deliveries


def _lanes(tx: Transaction, queue: int) -> Any:
    """Yield the priorities of waiting messages, highest first: one look into the index each, however many there are."""
    (lane,) = tx.run(statements.TOP_LANE, (queue,)).fetchone()
    while lane is not None:
        yield lane
        (lane,) = tx.run(statements.NEXT_LANE, (queue, lane)).fetchone()


def _next_change(tx: Transaction, queues: Sequence[int]) -> float | None:
    """Return in how many seconds time alone may make something leasable."""
    moments: list[float | None] = []
    for queue in queues:
        moments += tx.run(statements.NEXT_UNTIL, (queue,)).fetchone()
        for lane in _lanes(tx, queue):
            moments += tx.run(statements.NEXT_DUE, (queue, lane, tx.now)).fetchone()
    return min((moment - tx.now for moment in moments if moment is not None), default=None)


def extend(tx: Transaction, refs: Sequence[Ref], lease_for: float, deadline: float) -> list[Extension]:
    """Let leases run on."""
    until = tx.now + lease_for
    extensions = []
    for ref in refs:
        queue = tx.find_queue(ref.queue)
        row = None if queue is None else tx.leased_by(ref.token, queue[0], ref.id)
        if row is None:
            extensions.append(Extension(Reply.UNKNOWN))
            continue
        life, reply = lifecycle.extend(row.life, ref.token, until, tx.now)
        if reply is Reply.APPLIED:
            if life is not row.life:
                tx.run(statements.EXTEND, (life.until, life.seq))
            extensions.append(Extension(reply, life.cancel, deadline))
        else:
            if life is not row.life:
                tx.move(row, life)
            extensions.append(Extension(reply))
    return extensions


def expire_owner(tx: Transaction, owner: str) -> int:
    """Expire all leases of an owner."""
    held = tx.run(statements.HELD, (owner, tx.now)).fetchall()
    for found in held:
        row = load(found)
        tx.move(row, lifecycle.elapse(replace(row.life, until=tx.now), tx.now))
    return len(held)
