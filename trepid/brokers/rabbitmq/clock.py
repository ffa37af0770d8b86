"""The clock that due times and leases are told by: the host's, for the server lends none."""

from __future__ import annotations

import time
from typing import final


@final
class HostClock:
    """Seconds since the epoch, and numbers that grow; neither goes back."""

    def __init__(self) -> None:
        self._latest = 0.0
        self._number = 0

    def now(self) -> float:
        """Return the time.  If the host's clock is set back, it stands still meanwhile."""
        self._latest = max(self._latest, time.time())
        return self._latest

    def number(self) -> int:
        """Return a number greater than all before it, also of earlier sessions: microseconds, roughly."""
        self._number = max(self._number + 1, int(self.now() * 1e6))
        return self._number


CLOCK = HostClock()
"""One for the process: several sessions of it agree."""
