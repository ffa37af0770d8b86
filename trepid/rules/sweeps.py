"""A sweep over messages that wait: where it looks, whose they are, and which of them are to be ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from trepid.rules import scopes
from trepid.rules.life import READY, SCHEDULED, State
from trepid.values.envelope import scope_of

PAGES: Final = 5
"""So many pages are looked at in one sweep."""

AT_ONCE: Final = 200
"""So many messages are on one page."""

_JITTER: Final = 0.2

_SHARE: Final = 100
"""A broker spends no more than the hundredth part of its time on the sweeps of a worker."""


class Stand(msgspec.Struct, frozen=True):
    """Where a sweep goes on.

    Attributes:
      place: which of the places, from 0.
      after: behind which message there, as the broker says it; None from the first one.
    """

    place: int = 0
    after: int | None = None


def period(spread: float, took: float) -> float:
    """Return for how long a worker is full before it sweeps: about the lease of a job nursery, or longer.

    Args:
      spread: a random number from 0 to 1, so that many workers do not sweep at once.
      took: how many seconds the last sweep took.
    """
    return max(scopes.LEASE, _SHARE * took) * (1 + _JITTER * (2 * spread - 1))


def places(queues: Iterable[str]) -> list[tuple[str, State]]:
    """Return where messages wait, in the order of the sweep."""
    return [(queue, state) for queue in queues for state in (READY, SCHEDULED)]


def onward(stand: Stand, cursor: int | None, places: int) -> Stand | None:
    """Return where to look next, or None once all is seen.

    Args:
      stand: where a page was read.
      cursor: what it says about where to go on; None at the end of its place.
      places: how many there are.
    """
    if cursor is not None:
        return Stand(stand.place, cursor)
    return Stand(stand.place + 1) if stand.place + 1 < places else None


def children(messages: Iterable[tuple[str, bytes]]) -> dict[str, str]:
    """Return of ids and payloads those that belong to job nurseries: the nursery by the id."""
    return {id: scope for id, payload in messages if (scope := scope_of(payload)) is not None}


def unseen(children: Mapping[str, str], alive: Mapping[str, bool]) -> list[str]:
    """Return the job nurseries of which it is not known yet whether they are alive, each once."""
    return [scope for scope in dict.fromkeys(children.values()) if scope not in alive]


def orphans(children: Mapping[str, str], alive: Mapping[str, bool]) -> list[str]:
    """Return the ids of those whose job nursery is known to be gone."""
    return [id for id, scope in children.items() if not alive.get(scope, True)]
