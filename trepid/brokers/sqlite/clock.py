"""The broker's clock: the wall clock, kept from going back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import final


@final
class HighWater:
    """A clock that stands still where the one it reads goes back, until that has caught up.

    The mark is kept in the file, too: every transaction that writes stores the time it acted on, and starts from what
    it finds there.  So no lease and no due time is ever judged by an earlier moment than the one it was made at, in
    whichever process.
    """

    __slots__ = ("_clock", "_high", "_lock")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._high = float("-inf")
        self._lock = threading.Lock()  # the two threads of a session both read it

    def read(self, stored: float) -> float:
        """Return the time, given the mark in the file."""
        now = self._clock()
        with self._lock:
            self._high = max(self._high, stored, now)
            return self._high
