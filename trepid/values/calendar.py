"""When something happens: by a cron expression, at regular intervals, or once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias, final
from zoneinfo import ZoneInfo

import attrs

from trepid.errors import UnsupportedError
from trepid.values.durations import LONGEST, Duration, seconds

_NICKNAMES: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


@final
@attrs.frozen(init=False)
class Cron:
    """The moments that a cron expression names, by the clocks of a time zone.  Needs the extra ``cron``.

    Where the clocks are put forward, a fixed time that they skip happens at the first moment after the gap; where they
    are put back, it happens once, the first time.  If the minute or the hour begins with a star, the expression counts
    real time instead: what the clocks skip is left out, and what they show twice happens twice.  That is Debian's rule.

    Args:
      expression: five fields: minute, hour, day of the month, month, day of the week (0 or 7 is Sunday).  Lists, ranges
        and steps, names of months and days, ``L``, ``LW`` and ``5#2`` are understood, and ``@hourly``, ``@daily``,
        ``@weekly``, ``@monthly`` and ``@yearly``.
      tz: a :class:`zoneinfo.ZoneInfo`, or its name, such as ``"Europe/Berlin"``.

    Raises:
      ValueError: if the expression or the time zone cannot be understood.
      UnsupportedError: if cronsim is not installed.
    """

    expression: str
    tz: str
    zone: ZoneInfo = attrs.field(eq=False, repr=False)
    """The time zone."""

    def __init__(self, expression: str, tz: str | ZoneInfo = "UTC") -> None:
        zone = _zone(tz)
        object.__setattr__(self, "expression", _understood(expression))
        object.__setattr__(self, "tz", zone.key)
        object.__setattr__(self, "zone", zone)

    @property
    def fixed(self) -> bool:
        """Whether it names times of the day, rather than steps of real time."""
        minute, hour = self.expression.split()[:2]
        return not minute.startswith("*") and not hour.startswith("*")

    def __str__(self) -> str:
        return f"{self.expression} {self.tz}"


def _understood(expression: str) -> str:
    """Return an expression in its plain form, or say what is wrong with it."""
    if not isinstance(expression, str):
        raise TypeError(f"a cron expression is a string such as '0 3 * * 1-5', not {expression!r}")
    fields = _NICKNAMES.get(expression.strip().lower(), expression).upper().split()
    if len(fields) != 5:
        raise ValueError(f"cron expression {expression!r} must have five fields, minute to day of the week")
    try:
        from cronsim import CronSim, CronSimError
    except ModuleNotFoundError as exc:
        raise UnsupportedError("cron expressions", "this installation", "pip install 'trepid[cron]'") from exc
    try:
        CronSim(" ".join(fields), datetime(2000, 1, 1))  # noqa: DTZ001 - only to have it read
    except CronSimError as exc:
        raise ValueError(f"cron expression {expression!r}: {exc}") from exc
    return " ".join(fields)


def _zone(tz: str | ZoneInfo) -> ZoneInfo:
    if isinstance(tz, ZoneInfo) and tz.key is not None:
        return tz
    if not isinstance(tz, str):
        raise TypeError(f"tz must be a ZoneInfo or the name of one, such as 'Europe/Berlin', not {tz!r}")
    try:
        return ZoneInfo(tz)
    except (KeyError, ValueError, OSError) as exc:
        raise ValueError(f"time zone {tz!r} is not known here; a name is like 'Europe/Berlin'") from exc


@final
@attrs.frozen(init=False)
class Every:
    """Moments at a regular distance, in real time: the clocks of people do not matter.

    They are counted from *start*, not from when somebody first looks; so all workers agree on them.

    Args:
      period: the distance, in seconds or as a ``timedelta``: from 1 second to 400 days.
      start: the first of them, as an aware datetime.  Without it they are counted from the beginning of 1970 in UTC:
        ``Every(timedelta(hours=1))`` is each full hour.

    Raises:
      TypeError, ValueError: if a field breaks its rule.
    """

    period: float
    start: datetime | None

    def __init__(self, period: Duration, *, start: datetime | None = None) -> None:
        span = seconds(period, "period", positive=True)
        if span < 1:
            raise ValueError(f"period must be from 1 second to {LONGEST / 86_400:g} days, not {period!r}")
        object.__setattr__(self, "period", span)
        object.__setattr__(self, "start", None if start is None else _aware(start, "start"))

    def __str__(self) -> str:
        begin = "" if self.start is None else f" from {self.start.astimezone(UTC).isoformat()}"
        return f"every {timedelta(seconds=self.period)}{begin}"


@final
@attrs.frozen(init=False)
class At:
    """One moment.

    Args:
      moment: an aware datetime.

    Raises:
      TypeError, ValueError: if it is none.
    """

    moment: datetime

    def __init__(self, moment: datetime) -> None:
        try:
            _aware(moment, "moment").astimezone(UTC)
        except OverflowError:
            raise ValueError(f"moment must lie in the years 1 to 9999 in UTC, not {moment!r}") from None
        object.__setattr__(self, "moment", moment)

    def __str__(self) -> str:
        return f"at {self.moment.astimezone(UTC).isoformat()}"


def _aware(value: Any, name: str) -> datetime:
    if not isinstance(value, datetime):
        raise TypeError(f"{name} must be a datetime, not {value!r}")
    if value.utcoffset() is None:
        raise ValueError(f"{name} must know its time zone (tzinfo), not {value!r}")
    return value


When: TypeAlias = Cron | Every | At
"""When a schedule fires."""
