"""What a publish does, given what is there already."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import msgspec

from trepid.rules.life import LIVE, READY, SCHEDULED, State
from trepid.values.unique import OnConflict

PublishToken: TypeAlias = tuple[str, int]
"""Which publish this is: a random name of the publisher, and a number that it never uses twice."""

REMEMBERED = 600.0
"""For how many seconds after a message is removed its publish is still recognised as a repetition."""

LONG_REMEMBERED = 86_400.0
"""The same of a follow-up of a chain, or of a fired instant, where it is published before its step is settled or its
instant marked: for so long what a dead worker has left between the two may wait for the next one.
"""


class Publishing(enum.StrEnum):
    """What became of a publish."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    """The same publish again: nothing was done twice."""
    EXISTING = "existing"
    """A live message has this id, or holds this unique key; the new payload was ignored."""
    CONFLICT = "conflict"
    """Another live message holds the unique key, and the job wanted an error."""
    NO_QUEUE = "no queue"
    """The queue was never declared."""
    FULL = "full"
    """The queue has as many messages as it may have."""
    NOT_STORED = "not stored"
    """Nothing is wrong with it, but another item of its batch was refused."""


class Published(msgspec.Struct, frozen=True):
    """A broker's answer to a publish.

    Attributes:
      outcome: what became of it.
      id: the message that a handle should follow: the new one, or the one that was there.
    """

    outcome: Publishing
    id: str


REFUSALS: Final = frozenset({Publishing.NO_QUEUE, Publishing.CONFLICT, Publishing.FULL})
"""Outcomes with which nothing of a batch is stored."""


class Plan(msgspec.Struct, frozen=True):
    """What a store shall do about a publish: answer, and perhaps withdraw a holder and insert."""

    outcome: Publishing
    id: str
    withdraw: bool = False

    @property
    def insert(self) -> bool:
        """Whether a message is to be inserted, replacing an ended one of the same id."""
        return self.outcome is Publishing.ACCEPTED


def plan(
    id: str,
    token: PublishToken,
    *,
    namesake: tuple[PublishToken, State] | None,
    holder: tuple[str, State] | None = None,
    on_conflict: OnConflict = "existing",
) -> Plan:
    """Decide about a publish.

    Args:
      id: the message's id.
      token: which publish this is.
      namesake: the message that has the id now, if any: its publish and its state.
      holder: the message that holds the unique key, if any: its id and its state.  One that has ended may still hold
        it for a while (``Unique.for_``).
      on_conflict: what the job wants in that case.
    """
    if namesake is not None:
        if namesake[0] == token:
            return Plan(Publishing.DUPLICATE, id)
        if namesake[1] in LIVE:
            return Plan(Publishing.EXISTING, id)
    if holder is None:
        return Plan(Publishing.ACCEPTED, id)
    if on_conflict == "raise":
        return Plan(Publishing.CONFLICT, holder[0])
    if on_conflict == "replace" and holder[1] in (READY, SCHEDULED):
        return Plan(Publishing.ACCEPTED, id, withdraw=True)
    return Plan(Publishing.EXISTING, holder[0])


def replaced_by(id: str) -> str:
    """Return the reason with which a holder is withdrawn for a message that takes its unique key."""
    return f"replaced by {id}"


def measured(queues: Sequence[str], plans: list[Plan], has_room: Callable[[str, int], bool]) -> list[Plan]:
    """Refuse what is new in queues that have no room for all of it.

    Args:
      queues: where each of a batch goes.
      plans: what would be done about each.
      has_room: whether a queue, by its name, takes so many messages more.
    """
    growth = dict.fromkeys(queues, 0)
    for queue, planned in zip(queues, plans, strict=True):
        growth[queue] += planned.insert - planned.withdraw
    full = {queue for queue, more in growth.items() if more > 0 and not has_room(queue, more)}
    if not full:
        return plans
    return [
        Plan(Publishing.FULL, planned.id) if planned.insert and queue in full else planned
        for queue, planned in zip(queues, plans, strict=True)
    ]


def refusals(plans: Sequence[Plan]) -> list[Published] | None:
    """Return the answers to a batch of which something is refused, so that nothing is stored; else None."""
    if not any(planned.outcome in REFUSALS for planned in plans):
        return None
    return [Published(Publishing.NOT_STORED if planned.insert else planned.outcome, planned.id) for planned in plans]


def fired(outcome: Publishing, *, insist: bool) -> bool:
    """Whether an instant of a schedule counts as fired, given what became of its message.

    Args:
      outcome: of publishing it.
      insist: whether it shall be tried again where another message was alive instead.
    """
    match outcome:
        case Publishing.ACCEPTED | Publishing.DUPLICATE:
            return True
        case Publishing.EXISTING:
            return not insist
        case _:
            return False
