"""The text in which a broker keeps a schedule that was given to it.

Version 1 is one JSON object; what is left out has the default of :class:`~trepid.Schedule`::

    {"v": 1, "created": 1764979200.0, "name": "nightly",
     "when": {"kind": "cron", "expression": "0 3 * * *", "tz": "UTC"},
     "job": {"envelope": {"v": 1, "actor": "digest"}, "queue": "default"}, "misfire": "all"}

``when`` is of the kind ``cron``, ``every`` (``period``, in seconds, and perhaps ``start``) or ``at`` (``moment``).
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from trepid.values import chains, envelope
from trepid.values.calendar import At, Cron, Every, When
from trepid.values.job import Job
from trepid.values.queue import Priority
from trepid.values.schedule import Misfire, Overlap, Schedule
from trepid.values.unique import OnConflict, Unique

VERSION = 1


class _Cron(msgspec.Struct, frozen=True, tag_field="kind", tag="cron"):
    expression: str
    tz: str


class _Every(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="every"):
    period: float
    start: datetime | None = None


class _At(msgspec.Struct, frozen=True, tag_field="kind", tag="at"):
    moment: datetime


class _Unique(msgspec.Struct, frozen=True, omit_defaults=True):
    key: str
    on_conflict: OnConflict = "existing"
    for_: float | None = None


class _Job(msgspec.Struct, frozen=True, omit_defaults=True):
    envelope: msgspec.Raw
    queue: str
    priority: int | None = None
    ttl: float | None = None
    unique: _Unique | None = None
    result_ttl: float | None = None
    max_crashes: int | None = None
    gate: str | None = None


class _Text(msgspec.Struct, frozen=True, omit_defaults=True):
    v: int
    created: float
    name: str
    when: _Cron | _Every | _At
    job: _Job
    misfire: Misfire = "once"
    most: int = 100
    grace: float = 60.0
    overlap: Overlap = "allow"
    jitter: float = 0.0


class _Version(msgspec.Struct, frozen=True):
    v: int


_TEXTS = msgspec.json.Decoder(_Text)
_VERSIONS = msgspec.json.Decoder(_Version)
_ENCODER = msgspec.json.Encoder()


def written(schedule: Schedule, created: float) -> bytes:
    """Return a schedule, and when it was first stored, as text."""
    return _ENCODER.encode(
        _Text(
            VERSION,
            created,
            schedule.name,
            _plain(schedule.when),
            _plain_job(schedule.job),
            schedule.misfire,
            schedule.most,
            schedule.grace,
            schedule.overlap,
            schedule.jitter,
        )
    )


def read(text: bytes) -> tuple[Schedule, float]:
    """Return the schedule in a text, and when it was first stored.

    Raises:
      ValueError: if it cannot be read, or is of another version.
      UnsupportedError: if it has a cron expression, and cronsim is not installed.
    """
    try:
        found = _TEXTS.decode(text)
    except (ValueError, RecursionError) as exc:
        _refuse_other_version(text)
        raise ValueError(f"not a schedule: {exc}") from exc
    if found.v != VERSION:
        _refuse_other_version(text)
    try:
        schedule = Schedule(
            found.name,
            _when(found.when),
            _job(found.job),
            misfire=found.misfire,
            most=found.most,
            grace=found.grace,
            overlap=found.overlap,
            jitter=found.jitter,
        )
    except (TypeError, ValueError) as exc:
        raise ValueError(f"not a schedule: {exc}") from exc
    return schedule, found.created


def _refuse_other_version(text: bytes) -> None:
    try:
        found = _VERSIONS.decode(text).v
    except (ValueError, RecursionError):
        return
    if found != VERSION:
        raise ValueError(f"the schedule has version {found}; version {VERSION} is read here")


def _plain(when: When) -> _Cron | _Every | _At:
    match when:
        case Cron():
            return _Cron(when.expression, when.tz)
        case Every():
            return _Every(when.period, when.start)
        case At():
            return _At(when.moment)


def _when(plain: _Cron | _Every | _At) -> When:
    match plain:
        case _Cron(expression=expression, tz=tz):
            return Cron(expression, tz)
        case _Every(period=period, start=start):
            return Every(period, start=start)
        case _At(moment=moment):
            return At(moment)


def _plain_job(job: Job) -> _Job:
    unique = job.unique
    return _Job(
        msgspec.Raw(job.payload),
        job.queue.name,
        None if job.priority is None else int(job.priority),
        job.ttl,
        None if unique is None else _Unique(unique.key, unique.on_conflict, unique.for_),
        job.result_ttl,
        job.max_crashes,
        job.gate,
    )


def _job(plain: _Job) -> Job:
    payload = bytes(plain.envelope)
    sealed = envelope.unseal(payload)
    args, kwargs = envelope.arguments_of(payload)
    unique = plain.unique
    return Job(
        sealed.actor,
        args=args,
        kwargs=kwargs,
        queue=plain.queue,
        priority=None if plain.priority is None else Priority(plain.priority),
        retries=sealed.retries,
        timeout=sealed.timeout,
        ttl=plain.ttl,
        unique=None if unique is None else Unique(unique.key, unique.on_conflict, for_=unique.for_),
        result_ttl=plain.result_ttl,
        headers=sealed.headers,
        max_crashes=plain.max_crashes,
        gate=plain.gate,
        follow_ups=map(chains.job_of, sealed.then),
    )
