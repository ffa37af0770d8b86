"""One run of a worker: what it holds, what it has done, and when it stops."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from math import inf
from typing import TYPE_CHECKING, Any

import attrs
import trio

from trepid.connection import Connection
from trepid.ports.events import JobEnded, JobStarted, WorkerStopping, WorkerTroubled
from trepid.ports.messages import Delivery
from trepid.rules.attempts import Cause
from trepid.rules.life import Reply
from trepid.rules.verdicts import UNKNOWN_ACTOR, Buried, Done, Failed, Returned, Verdict, Withdrawn
from trepid.runtime.fences import Fences
from trepid.runtime.job_run import JobRun, margin
from trepid.runtime.noting import Scribe
from trepid.runtime.report import Report, WorkerStatistics
from trepid.runtime.settling import Settler
from trepid.runtime.sweeping import Sweeper
from trepid.runtime.telling import Teller
from trepid.runtime.tethers import Tethers

if TYPE_CHECKING:
    from trepid.runtime.worker import Worker


_TROUBLE = frozenset({"retried", "dead", "lost"})
"""Outcomes that are always told: the log shows them at its default level."""


@attrs.define(eq=False)
class Tally:
    """The counters behind a :class:`Report`."""

    succeeded: int = 0
    retried: int = 0
    dead: int = 0
    cancelled: int = 0
    released: int = 0
    lost: int = 0

    def report(self) -> Report:
        """Return the counters as they are."""
        return Report(self.succeeded, self.retried, self.dead, self.cancelled, self.released, self.lost)

    def count(self, outcome: str) -> None:
        """Count an outcome by its name."""
        setattr(self, outcome, getattr(self, outcome) + 1)


class Shift:
    """The live state of one worker run.  All of it is touched by one Trio thread only."""

    def __init__(self, worker: Worker, connection: Connection) -> None:
        self.worker = worker
        self.connection = connection
        self.session = connection.session
        self.owner = f"{secrets.token_hex(8)}"
        self.teller = Teller(worker.observers)
        self.settler = Settler(self.session, self.settled, self.troubled, worker.lease / 3)
        self.scribe = Scribe(worker.lease / 3)
        self.resources: Any = None
        self.signals: AsyncIterator[int] | None = None
        # What is held: from the lease until the broker has confirmed its settlement; leases are renewed for all of it.
        self.held: dict[tuple[int, int], JobRun] = {}
        self.fences = Fences(self.held)
        self.tethers = Tethers(self.session, self.held, worker.lease, self.troubled)
        self.sweeper = Sweeper(self.session, worker.queue_names(), worker.lease / 3, self.troubled)
        # What was given up although its lease may go on for a little while: its token, and until when.
        self._given_up: dict[tuple[int, int], float] = {}
        # Until when leases may be held that nobody here knows of, because a lease call failed, or was cancelled.
        self.unsure_until = -inf
        self.free = worker.tasks_limit
        self.margin = margin(worker.lease)
        self.ready = False
        self.stopping = False
        self.stopped = trio.Event()
        self.intake_scope = trio.CancelScope()
        self.schedule_scope = trio.CancelScope()
        # Ends the waiting for the last verdicts of a worker that stops softly.
        self.patience = trio.CancelScope()
        self.tally = Tally()
        self.hurry_at = inf
        self.hurry_changed = trio.Event()
        self._processed = 0
        self._room = trio.Event()
        self._holding = trio.Event()
        self._limit = inf if worker.messages_limit is None else worker.messages_limit

    # ------------------------------------------------------------------------------------------------ slots, limit

    def room(self) -> int:
        """Return how many messages may be leased now."""
        left = self._limit - self._processed - len(self.held)
        # Verdicts that do not arrive must not pile up: what would be run then would be run in vain.
        unpiled = 2 * self.worker.tasks_limit - len(self.held)
        return int(min(self.free, left, unpiled))

    @property
    def limit_reached(self) -> bool:
        """Whether as many messages are settled as the worker was to settle."""
        return self._processed >= self._limit

    async def wait_room(self) -> None:
        """Wait until :meth:`room` or :attr:`limit_reached` may have changed."""
        self._room = trio.Event()
        await self._room.wait()

    async def wait_held(self) -> None:
        """Wait until something is held; only the renewal of leases does."""
        self._holding = trio.Event()
        await self._holding.wait()

    def admit(self, delivery: Delivery) -> JobRun:
        """Take charge of a leased message."""
        run = JobRun(delivery, delivery.ref, delivery.deadline - self.margin, delivery.deadline)
        if not self.held:
            self._holding.set()
        self.held[delivery.token] = run
        self.fences.heed(run)
        self.free -= 1
        return run

    def vacate(self) -> None:
        """A job has ended; its slot is free."""
        self.free += 1
        self._room.set()

    # ------------------------------------------------------------------------------------------------- settlement

    def settled(self, run: JobRun, verdict: Verdict, reply: Reply) -> None:
        """The broker has answered a settlement."""
        if self.held.pop(run.delivery.token, None) is None:
            return  # given up meanwhile
        applied = reply is Reply.APPLIED or reply is Reply.REPEATED
        outcome = _outcome(verdict, run) if applied else "lost"
        if run.settled_inside and (reply is Reply.ENDED or reply is Reply.REPEATED):
            outcome = "succeeded"  # its own transaction was committed, whatever became of the function after that
        self.tally.count(outcome)
        if outcome not in ("released", "lost"):
            self._processed += 1
        self._room.set()
        if self.teller.jobs_heard or outcome in _TROUBLE or _is_stray(verdict):
            self._tell_ended(run, verdict, outcome, reply)

    def lost(self, run: JobRun) -> None:
        """The message is no longer ours; there is nothing to settle."""
        self.held.pop(run.delivery.token, None)
        if len(self._given_up) > 2 * self.worker.tasks_limit:
            self.known()
        # A renewal whose answer was lost, or is still under way, may have prolonged it beyond what is known.
        self._given_up[run.delivery.token] = trio.current_time() + 2 * self.worker.lease
        self.tally.lost += 1
        self._room.set()
        self._tell_ended(run, None, "lost", None)

    @property
    def unsure(self) -> bool:
        """Whether leases may be held that nobody here knows of."""
        return trio.current_time() < self.unsure_until

    def doubt(self) -> None:
        """A lease call has ended without an answer: what it was granted, if anything, lasts no longer than a lease."""
        self.unsure_until = trio.current_time() + self.worker.lease

    def known(self) -> frozenset[tuple[int, int]]:
        """Return the tokens of the leases that this worker knows to have, or to have given up."""
        now = trio.current_time()
        self._given_up = {token: ends for token, ends in self._given_up.items() if ends > now}
        return frozenset((*self.held, *self._given_up))

    # --------------------------------------------------------------------------------------------------- stopping

    def stop(self, reason: str, grace: float) -> None:
        """Take no new messages, and give what runs *grace* seconds.  Called again, the shorter time counts."""
        if not self.stopping:
            self.stopping = True
            running = self.worker.tasks_limit - self.free
            self.teller.tell(WorkerStopping(self.owner, reason, running))
            self.intake_scope.cancel(reason=reason)
            self.schedule_scope.cancel(reason=reason)
            self.sweeper.scope.cancel(reason=reason)
        at = trio.current_time() + grace
        if at < self.hurry_at:
            self.hurry_at = at
            self.hurry_changed.set()

    async def hurry(self) -> None:
        """Wait for the end of the time that stopping gives to running jobs; then stop them."""
        while True:
            with trio.CancelScope(deadline=self.hurry_at) as scope:
                await self.hurry_changed.wait()
                self.hurry_changed = trio.Event()
            if scope.cancelled_caught:
                break
        for run in list(self.held.values()):
            run.stop(Cause.SHUTDOWN, "the worker stops")
        self.patience.cancel(reason="the time that stopping gives is over")

    # ---------------------------------------------------------------------------------------------------- telling

    def troubled(self, operation: str, error: Exception) -> None:
        """The broker cannot do something at present."""
        self.teller.tell(WorkerTroubled(self.owner, operation, f"{type(error).__name__}: {error}"))

    def tell_started(self, run: JobRun) -> None:
        """An attempt begins."""
        delivery = run.delivery
        waited = max(0.0, delivery.leased - delivery.due)
        self.teller.tell(JobStarted(self.owner, delivery.queue, delivery.id, run.actor, delivery.failures + 1, waited))

    def _tell_ended(self, run: JobRun, verdict: Verdict | None, outcome: Any, reply: Reply | None) -> None:
        delivery = run.delivery
        error = getattr(verdict, "error", None)
        # What ends by itself while the worker stops was not ended by that.
        own = run.cause is Cause.SHUTDOWN and isinstance(verdict, (Done, Failed))
        cause = None if run.cause is None or own else run.cause.value
        if outcome == "lost":
            cause = Cause.LOST.value  # also where nobody was stopped for it: the broker has refused what came too late
        self.teller.tell(
            JobEnded(
                self.owner,
                delivery.queue,
                delivery.id,
                run.actor,
                delivery.failures + 1,
                outcome,
                reply,
                run.seconds,
                getattr(verdict, "delay", None),
                None if error is None else f"{error.type}: {error.message}".rstrip(": "),
                getattr(verdict, "reason", None) or cause,
            )
        )

    def statistics(self) -> WorkerStatistics:
        """Return the run as it is now."""
        now = trio.current_time()
        running = [
            (run.delivery.id, run.actor, now - run.started)
            for run in self.held.values()
            if run.started is not None and not run.ended
        ]
        return WorkerStatistics(
            owner=self.owner,
            running=tuple(running),
            unsettled=self.settler.unsettled,
            free=self.free,
            stopping=self.stopping,
            ready=self.ready and self.session.connected,
            report=self.tally.report(),
        )


def _is_stray(verdict: Verdict) -> bool:
    """Whether a message went back because the worker has not its actor: perhaps no worker has."""
    return isinstance(verdict, Returned) and verdict.reason == UNKNOWN_ACTOR


def _outcome(verdict: Verdict, run: JobRun) -> str:
    """Return how a confirmed verdict is counted."""
    match verdict:
        case Done():
            return "succeeded"
        case Buried():
            return "dead"
        case Withdrawn():
            return "cancelled"
        case _ if run.asked:
            # The broker turned it into a cancellation.
            return "cancelled"
        case Failed(delay=delay):
            return "dead" if delay is None else "retried"
        case Returned():
            return "released"
