"""How messages ended: of one, or of many in one look."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import msgspec

from trepid.brokers.sql.rows import read_failure
from trepid.brokers.sqlite import statements
from trepid.brokers.sqlite.looking import Reading
from trepid.ports.messages import Absent, Ending
from trepid.rules import lifecycle
from trepid.rules.life import DONE, ENDED, Life


@attrs.frozen
class Found:
    """How a message ended, if it has; and otherwise in how many seconds time alone may end it."""

    ending: Ending | Absent
    wait: float | None = None


def result(reading: Reading, queue: str, id: str) -> Found:
    """Return how a message ended."""
    row = reading.message(queue, id)
    if row is None:
        return Found(Absent.GONE)
    life = row.life
    if life.state not in ENDED:
        moment = lifecycle.next_change(life)
        return Found(Absent.PENDING, None if moment is None else moment - reading.now)
    stored, unreadable = reading.run(statements.RESULT, (life.seq,)).fetchone()
    failure = reading.run(statements.LAST_FAILURE, (life.seq,)).fetchone()
    return Found(_ending(life, stored, unreadable, None if failure is None else failure[0]))


def _ending(life: Life, result: bytes | None, unreadable: str | None, failure: bytes | None) -> Ending:
    done = life.state is DONE
    return Ending(
        life.state,
        result if done else None,
        unreadable if done else None,
        None if failure is None else read_failure(failure),
        life.reason,
    )


@attrs.frozen
class FoundAmong:
    """How messages ended, those that have; and where none has, in how many seconds time alone may end one."""

    endings: dict[str, Ending | Absent]
    wait: float | None = None


def results(reading: Reading, queue: str, ids: Sequence[str]) -> FoundAmong:
    """Return how some messages ended."""
    key = reading.find_queue(queue)
    if key is None:
        return FoundAmong(dict.fromkeys(ids, Absent.GONE))
    names = msgspec.json.encode(ids).decode()
    endings: dict[str, Ending | Absent] = {}
    for id, stored, unreadable, failure, *found in reading.run(statements.ENDED_AMONG, (key[0], names, reading.now)):
        # What time has decided need not be written: a lease that ran out may also have become a retry.
        rows = [] if found[0] is None else reading.aged([tuple(found)])
        if not rows:
            endings[id] = Absent.GONE
        elif rows[0].life.state in ENDED:
            endings[id] = _ending(rows[0].life, stored, unreadable, failure)
    if endings:
        return FoundAmong(endings)
    (moment,) = reading.run(statements.NEXT_END, (key[0], names, reading.now)).fetchone()
    return FoundAmong({}, None if moment is None else moment - reading.now)
