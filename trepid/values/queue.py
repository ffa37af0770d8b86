"""Queues and priorities."""

from __future__ import annotations

import enum

import attrs

from trepid.values.names import checked_name


class Priority(enum.IntEnum):
    """How urgent a message is.  Within a queue, a more urgent message is always leased first."""

    LOW = 0
    MEDIUM = 5
    HIGH = 9


@attrs.frozen
class Queue:
    """The name of a place where messages wait.

    A plain string serves wherever a queue is taken.  Declaring a queue makes it exist on a broker; declaring it
    again changes nothing.

    Args:
      name: matches ``[A-Za-z_][A-Za-z0-9_.-]*``, at most 100 characters.
    """

    name: str = "default"

    def __attrs_post_init__(self) -> None:
        checked_name(self.name, "queue name")

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
