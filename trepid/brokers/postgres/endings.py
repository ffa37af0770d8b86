"""How messages ended: of one, or of many in one look, in a read transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from trepid.brokers.look import Look
from trepid.brokers.postgres import queries
from trepid.brokers.postgres.looking import Reading
from trepid.brokers.sql import endings
from trepid.brokers.sql.rows import STATES, Row
from trepid.ports.messages import Absent, Ending

# Of those that live, only when time will next decide something: whoever waits for a thousand asks this again and again.
LIVE: Final = """
    SELECT m.* FROM unnest($2::text[]) AS g(name) CROSS JOIN LATERAL (
        SELECT id, CASE WHEN state = 2 THEN until WHEN due > $3 THEN due ELSE expires END
        FROM @.messages WHERE queue = $1 AND id = g.name OFFSET 0) AS m"""
ENDED: Final = """
    SELECT m.* FROM unnest($2::text[]) AS g(name) CROSS JOIN LATERAL (
        SELECT id, state, reason, result, unreadable, errors[cardinality(errors)]
        FROM @.ended WHERE queue = $1 AND id = g.name AND (forget IS NULL OR forget > $3) OFFSET 0) AS m"""


def result(reading: Reading, queue: str, id: str) -> Look[Ending | Absent]:
    """Return how a message ended."""

    def read(row: Row) -> Ending:
        _, _, failures, _ = reading.run(queries.BODIES, (row.queue, [row.life.seq], [id])).fetchone()
        # Nothing, if time alone has just ended it.
        stored, unreadable = reading.run(queries.RESULT, (row.queue, id)).fetchone() or (None, None)
        failure = failures[-1] if failures else None
        return endings.ending(row.life.state, row.life.reason, stored, unreadable, failure)

    return endings.of_one(reading.message(queue, id), reading.now, read)


def results(reading: Reading, queue: str, ids: Sequence[str]) -> Look[dict[str, Ending | Absent]]:
    """Return how those of some messages ended that have ended, or are gone."""
    key = reading.find_queue(queue)
    if key is None:
        return Look(dict.fromkeys(ids, Absent.GONE), bool(ids))
    given = (key[0], list(dict.fromkeys(ids)), reading.now)
    pending: dict[str, float | None] = dict(reading.run(LIVE, given).fetchall())
    found: dict[str, Ending | Absent] = dict.fromkeys(ids, Absent.GONE)
    for id, number, *ended in reading.run(ENDED, given).fetchall():
        found[id] = endings.ending(STATES[number], *ended)
    for id, moment in pending.items():
        # What time has decided about it, the rules know.
        found[id] = Absent.PENDING if moment is None or moment > reading.now else result(reading, queue, id).found
        if found[id] is Absent.PENDING:
            del found[id]
    return endings.of_many(found, pending.values(), reading.now)
