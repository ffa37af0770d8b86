"""The schedule: a job that is to be enqueued again and again, and what is done about instants that come amiss."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, tzinfo
from typing import Any, Final, Literal, TypeAlias, cast, final

import attrs

from trepid.values.calendar import At, Cron, Every, When
from trepid.values.durations import Duration, seconds
from trepid.values.job import Job
from trepid.values.names import checked_name
from trepid.values.unique import OnConflict, Unique

Misfire: TypeAlias = Literal["skip", "once", "all"]
Overlap: TypeAlias = Literal["allow", "skip", "replace"]

NAME_HEADER: Final = "trepid-schedule"
INSTANT_HEADER: Final = "trepid-instant"
"""Headers in which a scheduled job finds its schedule, and the instant that it is for."""

_MISFIRES = ("skip", "once", "all")
_OVERLAPS: Final[dict[str, OnConflict | None]] = {"allow": None, "skip": "existing", "replace": "replace"}
_MOST_MOST = 1000


@final
@attrs.frozen(init=False)
class Schedule:
    """A job, and when it is enqueued: each instant once, however many workers there are.

    Args:
      name: what it is called; with its instant it makes the message's id.
      when: a :class:`Cron`, :class:`Every` or :class:`At`.
      job: what to enqueue.  The job of an instant has that in its header ``trepid-instant``, in ISO 8601, and the
        schedule's name in ``trepid-schedule``.
      misfire: what happens to instants that nobody fired within *grace*, because no worker ran.  ``"skip"``: nothing.
        ``"once"``: the last of them is fired, unless one on time is.  ``"all"``: they all are, one after the other.
      most: no more than so many instants are fired in arrears, the latest ones, 1 to 1000.
      grace: seconds by which an instant may be late without being a misfire.
      overlap: what happens to an instant while the message of an earlier one waits or runs.  ``"allow"``: they run
        side by side.  ``"skip"``: it is passed over.  ``"replace"``: the earlier one is withdrawn, or, if it runs,
        cancelled, and the instant is fired once it has ended.
      jitter: the longest time, in seconds, by which the message of an instant is due later.  How much it is depends on
        name and instant alone.

    Raises:
      TypeError, ValueError: if a field breaks its rule, or the job says itself what only the schedule can: an id, a
        delay, a moment, or a unique key beside *overlap*.
    """

    name: str
    when: When
    job: Job[Any]
    misfire: Misfire
    most: int
    grace: float
    overlap: Overlap
    jitter: float

    def __init__(
        self,
        name: str,
        when: When,
        job: Job[Any],
        *,
        misfire: Misfire = "once",
        most: int = 100,
        grace: Duration = 60.0,
        overlap: Overlap = "allow",
        jitter: Duration = 0.0,
    ) -> None:
        if not isinstance(when, (Cron, Every, At)):
            raise TypeError(f"when must be a Cron, Every or At, not {when!r}")
        if misfire not in _MISFIRES:
            raise ValueError(f"misfire must be one of {', '.join(_MISFIRES)}, not {misfire!r}")
        if overlap not in _OVERLAPS:
            raise ValueError(f"overlap must be one of {', '.join(_OVERLAPS)}, not {overlap!r}")
        if not isinstance(most, int) or isinstance(most, bool):
            raise TypeError(f"most must be a whole number, not {most!r}")
        if not 1 <= most <= _MOST_MOST:
            raise ValueError(f"most must be 1 to {_MOST_MOST:,}, not {most:,}")
        fields: dict[str, Any] = {
            "name": checked_name(name, "schedule name"),
            "when": when,
            "job": _schedulable(job, overlap),
            "misfire": misfire,
            "most": most,
            "grace": seconds(grace, "grace"),
            "overlap": overlap,
            "jitter": seconds(jitter, "jitter"),
        }
        for field, value in fields.items():
            object.__setattr__(self, field, value)
        self.job_of(0.0)  # what is too large with its headers is refused here, and not at three in the morning

    def options(self, **changes: Any) -> Schedule:
        """Return a copy with some fields changed, by the rules of the constructor."""
        fields = {field.name: getattr(self, field.name) for field in attrs.fields(Schedule)} | changes
        return Schedule(**fields)

    def job_of(self, instant: float, *, id: str | None = None) -> Job[Any]:
        """Return the job of one instant.

        Args:
          instant: which one, in seconds since the epoch.
          id: the id of its message.
        """
        moment = datetime.fromtimestamp(instant, self.zone).isoformat()
        unique, policy = self.job.unique, _OVERLAPS[self.overlap]
        if policy is not None:
            unique = Unique(f"schedule:{self.name}", policy)
        headers = {**self.job.headers, NAME_HEADER: self.name, INSTANT_HEADER: moment}
        return self.job.options(id=id, unique=unique, headers=headers)

    @property
    def zone(self) -> tzinfo:
        """The time zone in which its instants are told."""
        match self.when:
            case Cron(zone=zone):
                return zone
            case At(moment=moment):
                return cast("tzinfo", moment.tzinfo)
            case Every():
                return UTC

    def mark(self, created: float | None = None) -> str:
        """Return the name under which an engine keeps its last instant.

        Another time, another mark: a schedule that is changed begins anew.

        Args:
          created: when it was stored, if it does not stand in a router.
        """
        return f"{self.name}:{_digest(str(self.when), str(created))}"

    def id_of(self, instant: float) -> str:
        """Return the id of the message of an instant: readable, and the same wherever it is made."""
        moment = datetime.fromtimestamp(instant, UTC).strftime("%Y%m%dT%H%M%SZ")
        return f"{self.name[:80]}:{moment}:{_digest(self.name, repr(instant))}"

    def lag(self, instant: float) -> float:
        """Return by how many seconds the message of an instant is due later."""
        if not self.jitter:
            return 0.0
        return self.jitter * int(_digest("jitter", self.name, repr(instant)), 16) / 16.0**16


def name_of(mark: str) -> str:
    """Return the name of the schedule that a mark belongs to."""
    return mark.rpartition(":")[0]


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _schedulable(job: Any, overlap: str) -> Job[Any]:
    """Return the job of a schedule, or say what it must not say."""
    if not isinstance(job, Job):
        raise TypeError(f"a schedule enqueues a job, such as actor.job(...), not {job!r}")
    for field in ("id", "delay", "deferred_until"):
        if getattr(job, field) is not None:
            raise ValueError(f"the job of a schedule must not have {field}={getattr(job, field)!r}; the schedule has")
    if job.unique is not None and overlap != "allow":
        raise ValueError(f"overlap={overlap!r} is a unique key, so the job must not have one of its own")
    if job.unique is not None and job.unique.on_conflict == "raise":
        raise ValueError("a schedule has nobody to raise UniqueConflictError to; its job says existing or replace")
    for header in (NAME_HEADER, INSTANT_HEADER):
        if header in job.headers:
            raise ValueError(f"the header {header!r} is the schedule's")
    return job


# attrs would make a frozen class hashable; its job is not, so neither is the schedule.
setattr(Schedule, "__hash__", None)  # noqa: B010 - both type checkers refuse the plain assignment
