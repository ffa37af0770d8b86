"""How many messages a queue takes: counted by who publishes into it, one publish after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from trepid.brokers.postgres.transaction import Transaction
from trepid.ports.messages import Publication

_MEASURES: Final = "SELECT key, max_size FROM @.queues WHERE name = ANY($1::text[]) AND max_size IS NOT NULL"
# Those who publish into a bounded queue, until they commit; who leases from it, and other queues, do not care.
_HOLD: Final = """
    SELECT pg_advisory_xact_lock('@.holds'::regclass::oid::integer, g.key::integer)
    FROM unnest($1::bigint[]) AS g(key)"""
# Each count by an index that has nothing else in it.
LIVE: Final = """
    SELECT (SELECT count(*) FROM @.messages WHERE queue = $1 AND state < 2 AND gate IS NULL)
           + (SELECT count(*) FROM @.messages WHERE queue = $1 AND state < 2 AND gate IS NOT NULL)
           + (SELECT count(*) FROM @.messages WHERE queue = $1 AND state = 2)"""


def hold(tx: Transaction, queues: Collection[str]) -> dict[int, int]:
    """Return how many messages bounded queues may have, by their keys; from now on nobody else adds to those."""
    given = (list(queues),)
    keys = sorted(key for key, _ in tx.run(_MEASURES, given).fetchall())
    if not keys:
        return {}
    tx.run(_HOLD, (keys,))
    return {key: most for key, most in tx.run(_MEASURES, given).fetchall() if key in keys}


def fits(tx: Transaction, measures: Mapping[int, int], batch: Sequence[Publication]) -> bool:
    """Whether there is room for a batch in bounded queues, even if all of it is new."""
    more = Counter(item.queue for item in batch)
    return all(_live(tx, key) + more[name] <= measures[key] for name, key in tx.keys(more).items() if key in measures)


def has_room(tx: Transaction, measures: Mapping[int, int], queue: int, more: int) -> bool:
    """Whether a queue takes so many messages more, once time has decided what it has to."""
    while queue in measures and _live(tx, queue) + more > measures[queue]:
        if not tx.observe([queue]):
            return False
    return True


def _live(tx: Transaction, queue: int) -> int:
    (live,) = tx.run(LIVE, (queue,)).fetchone()
    return int(live)
