"""The job: which actor to call, with what, and how."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, Generic, TypedDict

import attrs
from typing_extensions import TypeVar, Unpack

from trepid.errors import PayloadTooLargeError
from trepid.values import codec, envelope
from trepid.values.durations import Duration, seconds
from trepid.values.envelope import Key, Link
from trepid.values.limits import checked_gate
from trepid.values.names import checked_id, checked_name
from trepid.values.previous import PREVIOUS
from trepid.values.queue import Priority, Queue, as_priority, as_queue
from trepid.values.unique import Unique

T = TypeVar("T", default=Any, covariant=True)
U = TypeVar("U")

_MOST_HEADERS = 64
_LONGEST_HEADER = 1024
_LARGEST_COUNT = 2**31 - 1  # fits into every engine


class JobOptions(TypedDict, total=False):
    """What :meth:`Job.options` may change."""

    args: tuple[object, ...]
    kwargs: Mapping[str, object]
    queue: Queue | str
    priority: Priority | None
    id: str | None
    retries: int | None
    timeout: Duration | None
    ttl: Duration | None
    delay: Duration | None
    deferred_until: datetime | None
    unique: Unique | None
    result_ttl: Duration | None
    headers: Mapping[str, str]
    max_crashes: int | None
    gate: str | None


def _count(value: int | None, name: str, least: int) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be {least} or more, not {value!r}")
    if value > _LARGEST_COUNT:
        raise ValueError(f"{name} must be at most {_LARGEST_COUNT:,}, not {value:,}")
    return value


def _span(value: Duration | None, name: str, *, positive: bool = False) -> float | None:
    return None if value is None else seconds(value, name, positive=positive)


def _headers(value: Mapping[str, str]) -> Mapping[str, str]:
    if len(value) > _MOST_HEADERS:
        raise ValueError(f"at most {_MOST_HEADERS} headers, not {len(value)}")
    for name, text in value.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise TypeError(f"headers must map strings to strings, not {name!r} to {text!r}")
        if len(name) + len(text) > _LONGEST_HEADER:
            raise ValueError(f"header {name[:40]!r} has more than {_LONGEST_HEADER} characters")
    return MappingProxyType(dict(value))


def _listed(value: Iterable[object]) -> tuple[object, ...]:
    if isinstance(value, (str, bytes, Mapping)):
        raise TypeError(f"args must be a list or tuple of arguments, not {value!r}")
    return tuple(value)


def _named(value: Mapping[str, object]) -> Mapping[str, object]:
    for key in value:
        if not isinstance(key, str):
            raise TypeError(f"kwargs must be named by strings, not {key!r}")
    return MappingProxyType(dict(value))


def _aware(value: datetime | None) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, datetime):
        raise TypeError(f"deferred_until must be a datetime, not {value!r}")
    if value.utcoffset() is None:
        raise ValueError(f"deferred_until must know its time zone (tzinfo), not {value!r}")
    return value


@attrs.frozen(init=False)
class Job(Generic[T]):
    """A call to an actor, as a value: reusable, and enqueued as often as you like.

    What is None is said by the actor of the worker that runs the job, and then by the defaults: medium priority,
    no retries, a timeout of 10 minutes, results kept for a day.  A job copies what it is given: changing a list
    afterwards does not change the job.  Jobs compare by value and are unhashable.

    Args:
      name: the actor to call.
      args: positional arguments; anything the codec can write.
      kwargs: keyword arguments.
      queue: a :class:`Queue`, or its name.
      priority: how urgent it is within its queue.
      id: the message's id, unique per queue; generated afresh by each enqueue where None.
      retries: how often to try again after a failure.
      timeout: the longest one attempt may take, in seconds.  Reaching it is a failure.
      ttl: the longest a message may wait for its first start once it is due, in seconds.
      delay: seconds until it is due, counted from the enqueue.
      deferred_until: when it is due, as an aware datetime; not together with *delay*.
      unique: a key that at most one live message may hold.
      result_ttl: how long the finished message stays readable, in seconds; 0 keeps nothing.
      headers: small texts that travel with it, such as trace ids.
      max_crashes: how often a worker may die over it before it is given up as poison.
      gate: which limit it counts towards; :meth:`Actor.job` sets it where the actor has one.  What is missing or wrong
        here, the first worker that meets the message puts right.
      follow_ups: what comes after it, one after the other; :meth:`then` adds to them.

    Raises:
      TypeError, ValueError: if a field breaks its rule, or an argument cannot be written as JSON.
      PayloadTooLargeError: if it would have more than 1 MiB.
    """

    name: str
    args: tuple[object, ...]
    kwargs: Mapping[str, object]
    queue: Queue
    priority: Priority | None
    id: str | None
    retries: int | None
    timeout: float | None
    ttl: float | None
    delay: float | None
    deferred_until: datetime | None
    unique: Unique | None
    result_ttl: float | None
    headers: Mapping[str, str]
    max_crashes: int | None
    gate: str | None
    follow_ups: tuple[Job[Any], ...]
    """What comes after it, one after the other; see :meth:`then`."""
    read_result: Callable[[bytes], T] = attrs.field(eq=False, repr=False)
    """How the result, of a chain that of its last step, is read back; :meth:`Actor.job` sets it."""
    payload: bytes = attrs.field(eq=False, repr=False)
    """The envelope, ready to travel."""

    def __init__(
        self,
        name: str,
        *,
        args: Iterable[object] = (),
        kwargs: Mapping[str, object] = MappingProxyType({}),
        queue: Queue | str = "default",
        priority: Priority | None = None,
        id: str | None = None,
        retries: int | None = None,
        timeout: Duration | None = None,
        ttl: Duration | None = None,
        delay: Duration | None = None,
        deferred_until: datetime | None = None,
        unique: Unique | None = None,
        result_ttl: Duration | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
        max_crashes: int | None = None,
        gate: str | None = None,
        follow_ups: Iterable[Job[Any]] = (),
        read_result: Callable[[bytes], T] = codec.decode,
    ) -> None:
        if delay is not None and deferred_until is not None:
            raise ValueError("give delay or deferred_until, not both")
        if unique is not None and not isinstance(unique, Unique):
            raise TypeError(f"unique must be a trepid.Unique, not {unique!r}")
        fields: dict[str, Any] = {
            "name": checked_name(name, "job name"),
            "args": _listed(args),
            "kwargs": _named(kwargs),
            "queue": as_queue(queue),
            "priority": as_priority(priority),
            "id": None if id is None else checked_id(id),
            "retries": _count(retries, "retries", 0),
            "timeout": _span(timeout, "timeout", positive=True),
            "ttl": _span(ttl, "ttl", positive=True),
            "delay": _span(delay, "delay"),
            "deferred_until": _aware(deferred_until),
            "unique": unique,
            "result_ttl": _span(result_ttl, "result_ttl"),
            "headers": _headers(headers),
            "max_crashes": _count(max_crashes, "max_crashes", 1),
            "gate": None if gate is None else checked_gate(gate),
            "follow_ups": tuple(map(_follow_up, follow_ups)),
            "read_result": read_result,
        }
        for field, value in fields.items():
            object.__setattr__(self, field, value)
        object.__setattr__(self, "payload", self._sealed())

    def _sealed(self) -> bytes:
        try:
            payload = envelope.seal(
                self.name,
                self.args,
                dict(self.kwargs),
                retries=self.retries,
                timeout=self.timeout,
                headers=dict(self.headers),
                then=tuple(map(_linked, self.follow_ups)),
            )
        except (TypeError, ValueError) as exc:
            raise type(exc)(f"job {self.name!r}: {exc}") from exc
        if len(payload) > codec.LARGEST:
            raise PayloadTooLargeError(len(payload), codec.LARGEST)
        return payload

    def options(self, **changes: Unpack[JobOptions]) -> Job[T]:
        """Return a copy of this job with some fields changed, by the rules of the constructor."""
        fields: dict[str, Any] = {field: getattr(self, field) for field in JobOptions.__annotations__}
        fields.update(changes)
        return Job(self.name, read_result=self.read_result, follow_ups=self.follow_ups, **fields)

    def then(self, follow_up: Job[U], /) -> Job[U]:
        """Return a chain: this job, and after it *follow_up*.

        The follow-up is published in the same step that settles this job as done; if this one fails for good, or is
        cancelled, the chain ends here.  ``trepid.PREVIOUS`` as an argument of the follow-up stands for what this job
        returns.  Everything else is each step's own: its queue, its retries, its delay, which counts from its publish.
        ``a.then(b).then(c)`` and ``a.then(b.then(c))`` are the same.

        The chain is a job: :meth:`options` changes its first step.  The follow-ups' ids are made of the first one's.

        Raises:
          TypeError: if *follow_up* is no job.
          ValueError: if it has an id of its own.
          PayloadTooLargeError: if the whole chain has more than 1 MiB.
        """
        following = _follow_up(follow_up)
        # Each follow-up is whole by itself, so a chain is flat.
        bare = following if not following.follow_ups else _without_follow_ups(following)
        fields: dict[str, Any] = {field: getattr(self, field) for field in JobOptions.__annotations__}
        steps = (*self.follow_ups, bare, *following.follow_ups)
        return Job(self.name, read_result=follow_up.read_result, follow_ups=steps, **fields)

    @property
    def awaits_previous(self) -> bool:
        """Whether an argument is still to be filled with a result: only a follow-up may be so."""
        return any(value is PREVIOUS for value in (*self.args, *self.kwargs.values()))


def _without_follow_ups(job: Job[Any]) -> Job[Any]:
    fields: dict[str, Any] = {field: getattr(job, field) for field in JobOptions.__annotations__}
    return Job(job.name, **fields)


def _follow_up(job: object) -> Job[Any]:
    if not isinstance(job, Job):
        hint = "; write actor.job(...)" if hasattr(job, "job") else ""
        raise TypeError(f"a follow-up must be a job, not {job!r}{hint}")
    if job.id is not None:
        raise ValueError(f"follow-up {job.name!r}: its id is made of that of the first job, so it cannot be {job.id!r}")
    return job


def _linked(job: Job[Any]) -> Link:
    """Return a job as it travels with the one before it."""
    unique = job.unique
    return Link(
        envelope.unsealed(job.payload),
        job.queue.name,
        int(Priority.MEDIUM if job.priority is None else job.priority),
        job.delay,
        None if job.deferred_until is None else job.deferred_until.timestamp(),
        job.ttl,
        None if unique is None else Key(unique.key, unique.on_conflict, unique.for_),
        job.result_ttl,
        job.max_crashes,
        job.gate,
    )


# attrs would make a frozen class hashable; its arguments are not, so neither is the job.
setattr(Job, "__hash__", None)  # noqa: B010 - both type checkers refuse the plain assignment
