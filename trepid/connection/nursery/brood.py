"""The children of one job nursery: which are live, how many have ended, and what an end means for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs
import trio

from trepid.connection.ends import failure_of
from trepid.connection.nursery.child import Child
from trepid.connection.nursery.claims import Claims
from trepid.connection.nursery.vigil import Vigil
from trepid.errors import JobGoneError
from trepid.ports.messages import Absent, Ending
from trepid.rules.attempts import Cause
from trepid.rules.life import CANCELLED, DONE

_TOO_EARLY: Final = 5.0
"""Workers count deadlines on their own clocks, and may be early by as much as a request takes.  A job that was ended so
is no failure of its own: whoever set the deadline is about to be told.  More than this is no matter of clocks."""


@attrs.define(eq=False)
class Brood:
    """Where the children are that were handed to the broker.

    Attributes:
      vigils: those whose ends are waited for, by queue.
      claims: those with unique keys, also before they are on the broker.
      done, failed, cancelled: how many ended how.
      early: how many of the cancelled ones fail the nursery if it outlives their deadline.
      closing: whether the nursery is being cancelled, so that a cancelled child is as it should be.
    """

    _fail: Callable[[Exception], None]
    """Ends the nursery with an error."""
    _fail_at: Callable[[float, int, Exception], None]
    """Likewise, at a moment on Trio's clock; told of how many children."""
    _watch: Callable[[Vigil], None]
    """Starts to wait for the ends in another queue."""
    vigils: dict[str, Vigil] = attrs.field(init=False, factory=dict)
    claims: Claims = attrs.field(init=False, factory=Claims)
    done: int = attrs.field(init=False, default=0)
    failed: int = attrs.field(init=False, default=0)
    cancelled: int = attrs.field(init=False, default=0)
    closing: bool = attrs.field(init=False, default=False)
    early: int = attrs.field(init=False, default=0)
    changed: trio.Event = attrs.field(init=False, factory=trio.Event)

    @property
    def live(self) -> int:
        """How many are on the broker and have not ended, as far as is known."""
        return sum(len(vigil.children) for vigil in self.vigils.values())

    def add(self, child: Child) -> None:
        """Wait for the end of a child that is, or may be, on the broker."""
        vigil = self.vigils.get(child.queue)
        if vigil is None:
            vigil = self.vigils[child.queue] = Vigil(child.queue, self._ended)
            self._watch(vigil)
        vigil.add(child)

    def lost(self, child: Child, reason: str) -> None:
        """A child will never be on the broker."""
        if child.never is None:
            child.give_up(reason)
        self._unclaim(child)
        self.cancelled += 1
        self.changed.set()

    def _ended(self, child: Child, ending: Ending | Absent) -> None:
        """A child has ended, or nothing is known of it any more."""
        family = child.all
        wanted = not (self.closing or any(each.disowned for each in family) or self._replaced(family, ending))
        for each in family:
            self._unclaim(each)
        if isinstance(ending, Ending) and ending.state is DONE:
            self.done += len(family)
            for each in family:
                if each.heard is not None:
                    each.heard(ending)
        elif not isinstance(ending, Ending):
            # Purged, or kept too short: it may have gone well, but nobody can say so.
            self._unhappy(child, JobGoneError(child.id, child.queue) if wanted else None)
        elif ending.state is CANCELLED:
            self._unhappy(child, failure_of(child.id, ending) if wanted else None, ending.reason)
        else:
            self._unhappy(child, failure_of(child.id, ending))
        self.changed.set()

    def _replaced(self, family: list[Child], ending: Ending | Absent) -> bool:
        """Whether a message was withdrawn because another child of this nursery has taken its unique key."""
        if not isinstance(ending, Ending) or ending.state is not CANCELLED:
            return False
        reason = ending.reason or ""
        return any(each.claim is not None and self.claims.gave_way(each.claim, reason) for each in family)

    def _unclaim(self, child: Child) -> None:
        if child.claim is not None:
            self.claims.leave(child.claim)

    def _unhappy(self, child: Child, error: Exception | None, reason: str | None = None) -> None:
        size = len(child.all)
        if error is None:
            self.cancelled += size
        elif reason == Cause.DEADLINE.value and child.deadline - trio.current_time() < _TOO_EARLY:
            self.cancelled += size
            self.early += size
            self._fail_at(child.deadline, size, error)
        else:
            self.failed += size
            self._fail(error)

    def overdue(self, size: int) -> None:
        """The nursery has outlived the deadline at which some children were stopped."""
        self.early -= size
        self.cancelled -= size
        self.failed += size
