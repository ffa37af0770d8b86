"""Unique keys that outlive their message, for as long as its publish said.

While a message lives, its row is what holds the key, and between two who publish at once the index of the rows decides.
So a hold is only looked at once a message is stored, and only written by who has stored one.
"""

# ruff: noqa: S608 - the parts that are put together are constants; values are always parameters.

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from trepid.brokers.postgres.schema import NOW, TIME
from trepid.brokers.postgres.transaction import Transaction
from trepid.ports.messages import Publication

OBJECTION: Final = f"""
    WITH {TIME}
    SELECT EXISTS (
        SELECT FROM unnest($2::text[], $3::text[]) AS g(queue, key) JOIN @.queues q ON q.name = g.queue
        CROSS JOIN LATERAL (
            SELECT FROM @.holds h WHERE h.queue = q.key AND h.unique_key = g.key AND h.until > {NOW} OFFSET 0) AS h)"""
"""Whether a key is held; where it is, the message that was just stored with it must go."""

FIND: Final = """
    SELECT h.* FROM unnest($2::bigint[], $3::text[]) AS g(queue, key) CROSS JOIN LATERAL (
        SELECT queue, unique_key, id FROM @.holds
        WHERE queue = g.queue AND unique_key = g.key AND until > $1 OFFSET 0) AS h"""
_KEEP: Final = """
    INSERT INTO @.holds (queue, unique_key, id, until)
    SELECT q.key, g.unique_key, g.id, $1 + g.for_
    FROM unnest($2::text[], $3::text[], $4::text[], $5::float8[]) AS g(queue, unique_key, id, for_)
    JOIN @.queues q ON q.name = g.queue
    ON CONFLICT (queue, unique_key) DO UPDATE SET id = excluded.id, until = excluded.until"""


def suspects(batch: Sequence[Publication]) -> tuple[list[str], list[str]] | None:
    """Return what is to be asked about the unique keys of a batch, or None if there are none."""
    keyed = [(item.queue, item.unique.key) for item in batch if item.unique is not None]
    return ([queue for queue, _ in keyed], [key for _, key in keyed]) if keyed else None


def find(tx: Transaction, queues: Mapping[str, int], batch: Iterable[Publication]) -> dict[tuple[int, str], str]:
    """Return the messages for which unique keys of a batch are held, alive or not."""
    wanted = sorted({(queues[i.queue], i.unique.key) for i in batch if i.unique is not None and i.queue in queues})
    if not wanted:
        return {}
    given = (tx.now, [queue for queue, _ in wanted], [key for _, key in wanted])
    return {(queue, key): id for queue, key, id in tx.run(FIND, given).fetchall()}


def keep(tx: Transaction, stored: Iterable[Publication]) -> None:
    """Hold the keys of messages that have been stored, as their publishes say."""
    kept = [
        (item.queue, item.unique.key, item.id, item.unique.for_)
        for item in stored
        if item.unique is not None and item.unique.for_ is not None
    ]
    if kept:
        tx.run(_KEEP, (tx.now, *map(list, zip(*kept, strict=True))))
