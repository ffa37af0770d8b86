"""How many messages at once have ended, in a read transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import attrs

from trepid.brokers.postgres.looking import Reading, result
from trepid.brokers.sql.rows import STATES, read_failure
from trepid.ports.messages import Absent, Ending
from trepid.rules.life import DONE

# Of those that live, only when time will next decide something: whoever waits for a thousand asks this again and again.
LIVE: Final = """
    SELECT m.* FROM unnest($2::text[]) AS g(name) CROSS JOIN LATERAL (
        SELECT id, CASE WHEN state = 2 THEN until WHEN due > $3 THEN due ELSE expires END
        FROM @.messages WHERE queue = $1 AND id = g.name OFFSET 0) AS m"""
ENDED: Final = """
    SELECT m.* FROM unnest($2::text[]) AS g(name) CROSS JOIN LATERAL (
        SELECT id, state, result, unreadable, errors[cardinality(errors)], reason
        FROM @.ended WHERE queue = $1 AND id = g.name AND (forget IS NULL OR forget > $3) OFFSET 0) AS m"""


@attrs.frozen
class Ends:
    """How some messages ended, as far as they have; and in how many seconds time alone may end another one."""

    found: dict[str, Ending | Absent]
    wait: float | None = None


def endings(reading: Reading, queue: str, ids: Sequence[str]) -> Ends:
    """Return how those of some messages ended that have ended, or are gone."""
    key = reading.find_queue(queue)
    if key is None:
        return Ends(dict.fromkeys(ids, Absent.GONE))
    given = (key[0], list(dict.fromkeys(ids)), reading.now)
    pending: dict[str, float | None] = dict(reading.run(LIVE, given).fetchall())
    found: dict[str, Ending | Absent] = dict.fromkeys(ids, Absent.GONE)
    for id, *ended in reading.run(ENDED, given).fetchall():
        found[id] = _ending(*ended)
    for id, moment in pending.items():
        # What time has decided about it, the rules know.
        found[id] = Absent.PENDING if moment is None or moment > reading.now else result(reading, queue, id).ending
    moments = [moment - reading.now for moment in pending.values() if moment is not None and moment > reading.now]
    return Ends(
        {id: ending for id, ending in found.items() if ending is not Absent.PENDING}, min(moments, default=None)
    )


def _ending(number: int, stored: bytes | None, unreadable: str | None, error: bytes | None, reason: Any) -> Ending:
    state = STATES[number]
    failure = None if error is None else read_failure(error)
    return Ending(state, stored if state is DONE else None, unreadable if state is DONE else None, failure, reason)
