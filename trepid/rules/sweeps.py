"""A sweep over messages that wait: when it is due, where it looks, whose they are, and which are to be ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from trepid.rules import scopes
from trepid.rules.life import READY, SCHEDULED, State
from trepid.values.envelope import scope_of

PAGES: Final = 5
"""So many pages of a queue are looked at in one sweep."""

AT_ONCE: Final = 200
"""So many messages are on one page."""

KEPT: Final = 86_400.0
"""For how many seconds it is kept how far a queue has been swept."""

_JITTER: Final = 0.2

_SHARE: Final = 100
"""A broker spends no more than the hundredth part of its time on the sweeps of a queue, about."""


class Stand(msgspec.Struct, frozen=True, array_like=True):
    """Where the sweep of a queue goes on, whichever worker does it.

    Attributes:
      later: whether it is among the messages that are not due yet; before that come those that are.
      after: behind which message there, as the broker says it; None from the first one.
    """

    later: bool = False
    after: int | None = None

    @property
    def state(self) -> State:
        """The messages among which it is."""
        return SCHEDULED if self.later else READY


_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(Stand)


def turn_key(queue: str) -> str:
    """Return under which key of the broker's records it stands that a queue was swept just now."""
    return f"sweep:{queue}"


def stand_key(queue: str) -> str:
    """Return under which key it stands how far it was."""
    return f"swept:{queue}"


def dump(stand: Stand) -> bytes:
    """Return the value of a record."""
    return _ENCODER.encode(stand)


def load(value: bytes | None, *, everywhere: bool) -> Stand:
    """Return where to go on.

    Args:
      value: what is kept about it, if anything.
      everywhere: whether also among messages that are due.  A worker that takes some comes to all of them by itself.
    """
    try:
        stand = Stand() if value is None else _DECODER.decode(value)
    except ValueError:
        stand = Stand()
    return stand if everywhere or stand.later else Stand(later=True)


def period(spread: float, took: float) -> float:
    """Return after how many seconds a worker sweeps once more: about the lease of a job nursery, or longer.

    Args:
      spread: a random number from 0 to 1, so that many workers do not sweep at once.
      took: how many seconds the last sweep took.
    """
    return max(scopes.LEASE, _SHARE * took) * (1 + _JITTER * (2 * spread - 1))


def onward(stand: Stand, cursor: int | None) -> Stand | None:
    """Return where to look next, or None once all is seen.

    Args:
      stand: where a page was read.
      cursor: what it says about where to go on; None behind the last one.
    """
    if cursor is not None:
        return Stand(stand.later, cursor)
    return None if stand.later else Stand(later=True)


def children(messages: Iterable[tuple[str, bytes]]) -> dict[str, str]:
    """Return of ids and payloads those that belong to job nurseries: the nursery by the id."""
    return {id: scope for id, payload in messages if (scope := scope_of(payload)) is not None}


def unseen(children: Mapping[str, str], alive: Mapping[str, bool]) -> list[str]:
    """Return the job nurseries of which it is not known yet whether they are alive, each once."""
    return [scope for scope in dict.fromkeys(children.values()) if scope not in alive]


def orphans(children: Mapping[str, str], alive: Mapping[str, bool]) -> list[str]:
    """Return the ids of those whose job nursery is known to be gone."""
    return [id for id, scope in children.items() if not alive.get(scope, True)]
