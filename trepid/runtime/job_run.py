"""One message in the hands of a worker, from its lease to its settlement."""

from __future__ import annotations

from math import inf

import attrs
import trio

from trepid.ports.messages import Delivery, Publication, Ref
from trepid.rules.attempts import Cause
from trepid.rules.terms import Terms
from trepid.runtime.noting import Notes

_LEAST_MARGIN = 1.0


def margin(lease: float) -> float:
    """Return how many seconds before the end of a lease its job must have stopped."""
    return min(max(_LEAST_MARGIN, lease / 10), lease / 3)


@attrs.define(eq=False)
class JobRun:
    """A leased message, its cancel scope, and why that was cancelled.

    The scope has one deadline: the earlier one of the job's timeout and of what its job nursery handed down.  Which of
    the two it is gets noted when it starts, so nobody has to guess when it fires.
    """

    delivery: Delivery
    ref: Ref
    fence: float
    """When the job must have stopped because of its lease, on Trio's clock; see :class:`Fences`."""
    lease_ends: float
    """Until when the lease surely holds, on Trio's clock."""
    scope: trio.CancelScope | None = None
    """Made when the function starts."""
    cause: Cause | None = None
    reason: str = ""
    asked: bool = False
    """Whether a cancel was asked for: then the broker cancels whatever is not done."""
    actor: str = "?"
    terms: Terms | None = None
    started: float | None = None
    ended: bool = False
    settled_inside: bool = False
    """Whether the job has settled itself in a transaction of its own, which may be committed or not."""
    follow_up: Publication | None = None
    """What its settlement as done publishes, if it is a step of a chain and not the last."""
    notes: Notes | None = None
    """What the job tells about itself, if it has a context."""
    seconds: float = 0.0
    """How long the attempt took; only kept where somebody wants to know."""
    tether: str | None = None
    """The job nursery that it belongs to."""
    until: float = inf
    """The deadline that it was handed down, on Trio's clock."""
    deadline_cause: Cause = Cause.TIMEOUT

    def start(self, now: float, timeout: float) -> trio.CancelScope:
        """The function starts now; its time begins to run.  Returns the scope to run it in."""
        self.started = now
        deadline = now + timeout
        if self.until < deadline:
            deadline, self.deadline_cause = self.until, Cause.DEADLINE
        self.scope = trio.CancelScope(deadline=deadline)
        return self.scope

    def stop(self, cause: Cause, reason: str) -> None:
        """Cancel the job.  The first cause stands."""
        self.asked = self.asked or cause is Cause.CANCEL
        if self.cause is None:
            # A deadline that has passed came first.
            self.cause, self.reason = self.why_stopped() or cause, reason
        if self.scope is not None:
            self.scope.cancel(reason=reason)

    def extended(self, deadline: float, fence: float) -> None:
        """The broker has confirmed the lease until *deadline*; the job must stop by *fence*."""
        self.lease_ends, self.fence = deadline, fence

    def why_stopped(self) -> Cause | None:
        """Return why the scope was cancelled, or None if it was not."""
        if self.cause is not None:
            return self.cause
        return self.deadline_cause if self.scope is not None and self.scope.cancel_called else None
