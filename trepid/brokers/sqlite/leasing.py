"""Leasing and extending, inside a write transaction."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from trepid.brokers.look import Look
from trepid.brokers.sql.rows import load
from trepid.brokers.sqlite import statements
from trepid.brokers.sqlite.passing import Passing, Wish, lanes
from trepid.brokers.sqlite.transaction import Transaction
from trepid.ports.messages import Delivery, Extension, Ref
from trepid.rules import lifecycle
from trepid.rules.gates import share, shares
from trepid.rules.life import Reply


def lease(tx: Transaction, wish: Wish, deadline: float) -> Look[list[Delivery]] | None:
    """Lease up to ``wish.limit`` messages; queues take turns at being asked first, by their weight.

    None if there was nothing only because not all gates have been looked at yet.
    """
    found = [(name, tx.find_queue(name)) for name in dict.fromkeys(wish.queues)]
    open_queues = [(name, queue[0]) for name, queue in found if queue is not None and not queue[1]]
    for _, key in open_queues:
        tx.observe(key)
    asked = [Passing(tx, queue, wish, deadline) for queue in open_queues]
    if len(asked) > 1:
        wish.turns[0] += 1
        start, _ = shares([each.weight for each in asked], wish.turns[0])
        asked = asked[start:] + asked[:start]
    left, taken = asked, list[Delivery]()
    # Each queue may give its share; what is left over goes round again.
    while left and len(taken) < wish.limit:
        room, weights = wish.limit - len(taken), sum(each.weight for each in left)
        left = [
            each for each in left if each.take(min(share(room, each.weight, weights), wish.limit - len(taken)), taken)
        ]
    if taken:
        return Look(taken, True)
    return None if any(each.unfinished for each in asked) else Look([], False, _next_change(tx, wish, asked))


def _next_change(tx: Transaction, wish: Wish, asked: Sequence[Passing]) -> float | None:
    """Return in how many seconds time alone may make something leasable."""
    moments: list[float | None] = [wish.opens]
    for each in asked:
        moments += tx.run(statements.NEXT_UNTIL, (each.key,)).fetchone()
        moments += tx.run(statements.NEXT_AWAITED, (each.key, tx.now)).fetchone()
        for lane in lanes(tx, each.key, each.top):
            moments += tx.run(statements.NEXT_DUE, (each.key, lane, tx.now)).fetchone()
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
