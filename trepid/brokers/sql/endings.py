"""How messages ended, as waiting callers are told it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from trepid.brokers.look import Look
from trepid.brokers.sql.rows import Row, read_failure
from trepid.ports.messages import Absent, Ending
from trepid.rules import lifecycle
from trepid.rules.life import ENDED, State

_PAUSE_PER_NAME: Final = 0.00002
_LONGEST_PAUSE: Final = 0.05


def pace(ids: Sequence[str]) -> float:
    """Return the seconds between two looks at many names: about as many as a look takes."""
    return min(_PAUSE_PER_NAME * len(ids), _LONGEST_PAUSE)


def ending(
    state: State, reason: str | None, result: bytes | None, unreadable: str | None, failure: bytes | None
) -> Ending:
    """Return how a message ended, from what is stored of it; *failure* is the last one."""
    return Ending.of(state, reason, result, unreadable, None if failure is None else read_failure(failure))


def of_one(row: Row | None, now: float, read: Callable[[Row], Ending]) -> Look[Ending | Absent]:
    """Return how a message ended; *read* tells it of one that has."""
    if row is None:
        return Look(Absent.GONE, True)
    if row.life.state in ENDED:
        return Look(read(row), True)
    moment = lifecycle.next_change(row.life)
    return Look(Absent.PENDING, False, None if moment is None else moment - now)


def of_many(
    endings: dict[str, Ending | Absent], moments: Iterable[float | None], now: float
) -> Look[dict[str, Ending | Absent]]:
    """Return how some messages ended, and when time alone may end one of the others.

    A moment that is over is none: the lease ran out and ended nothing, though nobody has written yet that its message
    waits again.
    """
    wait = min((moment - now for moment in moments if moment is not None and moment > now), default=None)
    return Look(endings, bool(endings), wait)
