"""How messages ended: of one, or of many in one look."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from trepid.brokers.look import Look
from trepid.brokers.sql import endings
from trepid.brokers.sql.rows import Row
from trepid.brokers.sqlite import statements
from trepid.brokers.sqlite.looking import Reading
from trepid.ports.messages import Absent, Ending
from trepid.rules.life import ENDED


def result(reading: Reading, queue: str, id: str) -> Look[Ending | Absent]:
    """Return how a message ended."""

    def read(row: Row) -> Ending:
        life = row.life
        stored, unreadable = reading.run(statements.RESULT, (life.seq,)).fetchone()
        (failure,) = reading.run(statements.LAST_FAILURE, (life.seq,)).fetchone() or (None,)
        return endings.ending(life.state, life.reason, stored, unreadable, failure)

    return endings.of_one(reading.message(queue, id), reading.now, read)


def results(reading: Reading, queue: str, ids: Sequence[str]) -> Look[dict[str, Ending | Absent]]:
    """Return how some messages ended."""
    key = reading.find_queue(queue)
    if key is None:
        return Look(dict.fromkeys(ids, Absent.GONE), bool(ids))
    names = msgspec.json.encode(ids).decode()
    found: dict[str, Ending | Absent] = {}
    for id, stored, unreadable, failure, *row in reading.run(statements.ENDED_AMONG, (key[0], names, reading.now)):
        # What time has decided need not be written: a lease that ran out may also have become a retry.
        rows = [] if row[0] is None else reading.aged([tuple(row)])
        if not rows:
            found[id] = Absent.GONE
        elif (life := rows[0].life).state in ENDED:
            found[id] = endings.ending(life.state, life.reason, stored, unreadable, failure)
    moments = () if found else reading.run(statements.NEXT_END, (key[0], names, reading.now)).fetchone()
    return endings.of_many(found, moments, reading.now)
