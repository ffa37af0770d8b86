"""Queues and priorities."""

from __future__ import annotations

import enum

import attrs

from trepid.values.limits import Rate, as_rate, checked_limit
from trepid.values.names import checked_name

_HEAVIEST = 1000


class Priority(enum.IntEnum):
    """How urgent a message is.  Within a queue, a more urgent message is always leased first."""

    LOW = 0
    MEDIUM = 5
    HIGH = 9


@attrs.frozen
class Queue:
    """The name of a place where messages wait, and the limits that it is declared with.

    A plain string serves wherever a queue is taken.  Declaring a queue makes it exist on a broker.  Declaring it again
    by name alone changes nothing; declared with any setting, the queue has the settings given, and no others.

    Args:
      name: matches ``[A-Za-z_][A-Za-z0-9_.-]*``, at most 100 characters.
      max_size: how many messages may wait or run in it; enqueuing then waits for room, or is refused.
      weight: its share where several queues have messages for a worker, 1 to 1000; 1 where nothing is said.
      concurrency: how many of its messages may run at once, across all workers.
      rate: how many of its messages may start in a span of time, across all workers.

    Raises:
      TypeError, ValueError: if a field breaks its rule.
    """

    name: str = "default"
    max_size: int | None = attrs.field(default=None, kw_only=True)
    weight: int | None = attrs.field(default=None, kw_only=True)
    concurrency: int | None = attrs.field(default=None, kw_only=True)
    rate: Rate | None = attrs.field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        checked_name(self.name, "queue name")
        checked_limit(self.max_size, "max_size")
        checked_limit(self.concurrency, "concurrency")
        if (checked_limit(self.weight, "weight") or 1) > _HEAVIEST:
            raise ValueError(f"weight must be 1 to {_HEAVIEST}, not {self.weight}")
        if (rate := as_rate(self.rate)) is not None and rate.key is not None:
            raise ValueError("the rate of a queue counts all its messages; a key belongs to the rate of an actor")

    @property
    def settled(self) -> bool:
        """Whether it says anything but its name."""
        return (self.max_size, self.weight, self.concurrency, self.rate) != (None, None, None, None)

    def __str__(self) -> str:
        return self.name


def as_queue(value: Queue | str) -> Queue:
    """Return the queue that *value* is, or names."""
    return value if isinstance(value, Queue) else Queue(value)


def as_priority(value: Priority | None) -> Priority | None:
    """Return the priority that *value* is, or the None that leaves it unsaid.

    Raises:
      ValueError: if it is none of the three.
    """
    try:
        return None if value is None else Priority(value)
    except ValueError:
        names = ", ".join(f"Priority.{priority.name}" for priority in sorted(Priority, reverse=True))
        raise ValueError(f"priority must be one of {names}, not {value!r}") from None
