"""One message in the hands of a worker, from its lease to its settlement."""

from __future__ import annotations

from math import inf

import attrs
import trio

from trepid.ports.messages import Delivery, Ref
from trepid.rules.attempts import Cause
from trepid.rules.terms import Terms

_LEAST_MARGIN = 1.0


def margin(lease: float) -> float:
    """Return how many seconds before the end of a lease its job must have stopped."""
    return min(max(_LEAST_MARGIN, lease / 10), lease / 3)


@attrs.define(eq=False)
class JobRun:
    """A leased message, its cancel scope, and why that was cancelled.

    The scope has one deadline: the earlier one of the job's timeout and the end of the lease.  Which of the two it is
    gets noted whenever it is set, so nobody has to guess when it fires.
    """

    delivery: Delivery
    ref: Ref
    fence: float
    """When the job must have stopped because of its lease, on Trio's clock."""
    lease_ends: float
    """Until when the lease surely holds, on Trio's clock."""
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    cause: Cause | None = None
    actor: str = "?"
    terms: Terms | None = None
    started: float | None = None
    ended: float | None = None
    timeout_at: float = inf
    deadline_cause: Cause = Cause.LOST

    def start(self, now: float, timeout: float) -> None:
        """The function starts now; its time begins to run."""
        self.started = now
        self.timeout_at = now + timeout
        self._set_deadline()

    def stop(self, cause: Cause, reason: str) -> None:
        """Cancel the job.  The first cause stands."""
        if self.cause is None:
            self.cause = cause
        self.scope.cancel(reason=reason)

    def extended(self, deadline: float, lease: float) -> None:
        """The broker has confirmed the lease until *deadline*."""
        self.lease_ends = deadline
        self.fence = deadline - margin(lease)
        self._set_deadline()

    def why_stopped(self) -> Cause | None:
        """Return why the scope was cancelled, or None if it was not."""
        if self.cause is not None:
            return self.cause
        return self.deadline_cause if self.scope.cancel_called else None

    def _set_deadline(self) -> None:
        if self.timeout_at <= self.fence:
            self.deadline_cause, self.scope.deadline = Cause.TIMEOUT, self.timeout_at
        else:
            self.deadline_cause, self.scope.deadline = Cause.LOST, self.fence
