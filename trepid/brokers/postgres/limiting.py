"""Setting limits, inside a write transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from trepid.brokers.postgres import statements
from trepid.brokers.postgres.transaction import Transaction
from trepid.brokers.sql.news import WORK
from trepid.rules.gates import QUEUE, Limit

_FOUND: Final = """
    SELECT queue, family, concurrency, count, per FROM @.limits WHERE queue = ANY($1::bigint[])"""
_MEASURES: Final = "SELECT key, max_size, weight FROM @.queues WHERE key = ANY($1::bigint[])"
_SET: Final = """
    INSERT INTO @.limits (queue, family, concurrency, count, per) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (queue, family) DO UPDATE
    SET concurrency = excluded.concurrency, count = excluded.count, per = excluded.per"""
_LIFT: Final = "DELETE FROM @.limits WHERE queue = $1 AND family = $2"
# What has started counts for as long as the new limit says; without a rate, for no longer.
_COUNT_ANEW: Final = """
    UPDATE @.starts SET until = at + $3 WHERE queue = $1 AND split_part(gate, ':', 1) = $2"""
_MEASURE: Final = "UPDATE @.queues SET max_size = $2, weight = $3 WHERE key = $1"
# A queue stays limited until its gates were looked at without any limits, and nothing is left of them.
_MARK: Final = """
    UPDATE @.queues SET limited = true
    WHERE key = $1 AND NOT limited AND EXISTS (SELECT FROM @.limits WHERE queue = $1)"""

_Gate: TypeAlias = tuple[int | None, int | None, float]
_Measure: TypeAlias = tuple[int | None, int]


def limit(tx: Transaction, limits: Sequence[Limit]) -> None:
    """Set limits; what is the same as before costs a look and keeps nobody waiting."""
    keys = tx.keys(each.queue for each in limits)
    wanted = {(keys[each.queue], each.family): each for each in limits if each.queue in keys}
    given = (sorted(keys.values()),)
    gates: dict[tuple[int, str], _Gate] = {
        (q, name): (c, n, per) for q, name, c, n, per in tx.run(_FOUND, given).fetchall()
    }
    measures: dict[int, _Measure] = {key: (most, weight) for key, most, weight in tx.run(_MEASURES, given).fetchall()}
    changed = {
        place: each
        for place, each in wanted.items()
        if _gate(each) != gates.get(place)
        or (each.family == QUEUE and (each.max_size, each.weight) != measures.get(place[0]))
    }
    names = {key: name for name, key in keys.items()}
    # Who leases at present has not seen the limits; from here on, nobody who has not.
    for key in sorted({key for key, _ in changed}):
        tx.run(statements.LOCK_QUEUE, (names[key],))
    for (key, family), each in changed.items():
        _set(tx, key, family, each)
    if changed:
        tx.changes += len(changed)
        tx.news |= WORK


def _gate(limit: Limit) -> _Gate | None:
    """Return what a limit says of a gate, or None if nothing."""
    if limit.concurrency is None and limit.count is None:
        return None
    return limit.concurrency, limit.count, float(limit.per)


def _set(tx: Transaction, key: int, family: str, limit: Limit) -> None:
    if _gate(limit) is None:
        tx.run(_LIFT, (key, family))
    else:
        given: tuple[Any, ...] = (key, family, limit.concurrency, limit.count, float(limit.per))
        tx.run(_SET, given)
    tx.run(_COUNT_ANEW, (key, family, 0.0 if limit.count is None else float(limit.per)))
    if family == QUEUE:
        tx.run(_MEASURE, (key, limit.max_size, limit.weight))
    tx.run(_MARK, (key,))
