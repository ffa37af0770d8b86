"""The tenure: one worker run of a simulation, and what befell it."""

from __future__ import annotations

from typing import final

import attrs

from trepid.testing.mortality import Life
from trepid.testing.simulation.plan import Post

_REACH = 0.5
"""A fault reaches so many seconds beyond itself: the pauses of those who try again."""


@final
@attrs.define(eq=False)
class Tenure:
    """One worker run at a post, from its start to its stop or death.

    Attributes:
      leaving: whether it was told to stop, softly or by cancellation.
      died: when it was killed.
      running: how many functions it runs.
    """

    name: str
    post: Post
    life: Life | None = None
    leaving: bool = False
    died: float | None = None
    running: int = 0
    _faults: list[float] = attrs.field(init=False, factory=list)
    _stalls: list[tuple[float, float]] = attrs.field(init=False, factory=list)

    def __str__(self) -> str:
        return self.name

    @property
    def dead(self) -> bool:
        """Whether it was killed."""
        return self.died is not None

    def hindered(self, at: float) -> None:
        """An operation failed, or took too long, at this moment."""
        self._faults.append(at)

    def stalled(self, start: float, end: float) -> None:
        """It did not run between these moments."""
        self._stalls.append((start, end))

    def stalled_since(self, at: float) -> bool:
        """Whether it did not run for a while after a moment."""
        return any(end >= at for _, end in self._stalls)

    def explains(self, start: float, end: float) -> bool:
        """Whether something befell it between two moments that could make it lose a lease."""
        if self.died is not None and self.died <= end:
            return True
        if any(s <= end and e >= start for s, e in self._stalls):
            return True
        return any(start - _REACH <= at <= end + _REACH for at in self._faults)
