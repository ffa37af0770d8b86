"""The instants of a schedule, forwards and backwards: from calendars to seconds since the epoch, without a clock.

Cron expressions are about what clocks show, so a time zone is walked in stretches of one offset to UTC.  Within a
stretch cronsim finds what matches, in plain local time; what happens where two stretches meet is said here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from datetime import UTC, datetime
from functools import lru_cache
from itertools import count
from math import ceil, floor
from typing import TYPE_CHECKING, Final

from trepid.values.calendar import At, Cron, Every, When

if TYPE_CHECKING:
    from cronsim import CronSim

_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - what a clock shows, wherever it hangs
_STEP: Final = 86_400
"""No zone has ever changed its offset twice within so many seconds."""


def following(when: When, after: float) -> Iterator[float]:
    """Yield the instants after a moment, earliest first."""
    match when:
        case Cron():
            return _cron_following(when, floor(after))
        case Every():
            return _every_following(when, after)
        case At(moment=moment):
            return iter([moment.timestamp()] if moment.timestamp() > after else [])


def preceding(when: When, until: float) -> Iterator[float]:
    """Yield the instants up to a moment, latest first, that one included."""
    match when:
        case Cron():
            return _cron_preceding(when, floor(until))
        case Every():
            return _every_preceding(when, until)
        case At(moment=moment):
            return iter([moment.timestamp()] if moment.timestamp() <= until else [])


# ------------------------------------------------------------------------------------------------------ regular ones


def _every_following(every: Every, after: float) -> Iterator[float]:
    instant = _numbered(every)
    number = _number(every, after)
    # The division may be off by one in its last digit; the instants themselves decide.
    while instant(number - 1) > after:
        number -= 1
    while instant(number) <= after:
        number += 1
    return (instant(n) for n in count(number if every.start is None else max(0, number)))


def _every_preceding(every: Every, until: float) -> Iterator[float]:
    instant = _numbered(every)
    number = _number(every, until)
    while instant(number + 1) <= until:
        number += 1
    while instant(number) > until:
        number -= 1
    return (instant(n) for n in (count(number, -1) if every.start is None else range(number, -1, -1)))


def _numbered(every: Every) -> Callable[[int], float]:
    """Return the function from numbers to instants.

    In whole microseconds: so every instant is the same number, whoever comes to it and from where.
    """
    start = 0 if every.start is None else _microseconds(every.start.timestamp())
    period = _microseconds(every.period)
    return lambda number: (start + number * period) / 1_000_000


def _number(every: Every, moment: float) -> int:
    start = 0.0 if every.start is None else every.start.timestamp()
    return floor((moment - start) / every.period)


def _microseconds(seconds: float) -> int:
    return round(seconds * 1_000_000)


# -------------------------------------------------------------------------------------------------- cron expressions


def _cron_following(cron: Cron, after: int) -> Iterator[float]:
    offset = _offset(cron, after)
    at, shown = after, after + offset  # both of them are done with
    while True:
        for local in _matches(cron.expression, shown):
            shown = _seconds(local)
            moment = shown - offset
            change = _next_change(cron, at, moment, offset)
            if change is not None:
                break
            at = moment
            if not (cron.fixed and _repeated(cron, moment)):
                yield float(moment)
        else:
            return
        before, offset = offset, _offset(cron, change)
        at = change
        if cron.fixed and change + before <= shown < change + offset:
            # The clocks skip it.  It happens now, once, whatever else they skip or show now.
            yield float(change)
            shown = change + offset
        else:
            shown = change + offset - 1


def _cron_preceding(cron: Cron, until: int) -> Iterator[float]:
    offset = _offset(cron, until)
    at, shown = until, until + offset + 1  # the one is to be looked at, the other one is not
    told = None
    while True:
        for local in _matches(cron.expression, shown, reverse=True):
            shown = _seconds(local)
            moment = shown - offset
            change = _last_change(cron, moment, at, offset)
            if change is not None:
                break
            at = moment
            if not (cron.fixed and _repeated(cron, moment)):
                told = moment
                yield float(moment)
        else:
            return
        after, offset = offset, _offset(cron, change - 1)
        at = change - 1
        if cron.fixed and change + offset <= shown < change + after and told != change:
            yield float(change)
        shown = change + offset


def _matches(expression: str, shown: int, *, reverse: bool = False) -> Iterator[datetime]:
    """Yield what clocks show when an expression matches, after or before something that they show."""
    found = copy(_parsed(expression, reverse=reverse))
    found.dt = datetime.fromtimestamp(shown, UTC).replace(tzinfo=None)
    return found


@lru_cache(maxsize=1024)
def _parsed(expression: str, *, reverse: bool) -> CronSim:
    """Return an expression as cronsim reads it, which takes longer than to find its next match."""
    from cronsim import CronSim

    return CronSim(expression, _EPOCH, reverse=reverse)


def _offset(cron: Cron, instant: int) -> int:
    """Return how many seconds the clocks are ahead of UTC."""
    shown = datetime.fromtimestamp(instant, cron.zone).utcoffset()
    assert shown is not None
    return ceil(shown.total_seconds())


def _repeated(cron: Cron, instant: int) -> bool:
    """Whether the clocks show for the second time what they show now."""
    return bool(datetime.fromtimestamp(instant, cron.zone).fold)


def _next_change(cron: Cron, start: int, end: int, offset: int) -> int | None:
    """Return the first instant after *start*, and not after *end*, with another offset than that of *start*."""
    while start < end:
        step = min(start + _STEP, end)
        if _offset(cron, step) != offset:
            return _change(cron, start, step, offset)
        start = step
    return None


def _last_change(cron: Cron, start: int, end: int, offset: int) -> int | None:
    """Return the first instant with the offset of *end*, if that is after *start*."""
    while start < end:
        step = max(end - _STEP, start)
        if (before := _offset(cron, step)) != offset:
            return _change(cron, step, end, before)
        end = step
    return None


def _change(cron: Cron, before: int, after: int, offset: int) -> int:
    """Return the instant between two at which the clocks change: the first without the *offset* of the one before."""
    while after - before > 1:
        middle = (before + after) // 2
        if _offset(cron, middle) == offset:
            before = middle
        else:
            after = middle
    return after


def _seconds(local: datetime) -> int:
    return round((local - _EPOCH).total_seconds())
