"""The path of a message through a worker: decode, attempt, decide, settle, tell."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from math import inf
from typing import Any

import attrs
import msgspec
import trio

from trepid.errors import ArgumentsError, BrokerFullError, EnvelopeError, IslandLostError, LeaseLostError
from trepid.ports.capabilities import Capabilities
from trepid.ports.messages import Delivery, Settlement
from trepid.rules import attempts
from trepid.rules.attempts import Cause
from trepid.rules.life import Reply
from trepid.rules.terms import Terms, terms, unknown_actor
from trepid.rules.verdicts import Buried, Done, Failure, Returned, Verdict
from trepid.runtime import chaining
from trepid.runtime.calls import Calls
from trepid.runtime.job_run import JobRun
from trepid.runtime.live_context import LiveContext
from trepid.runtime.noting import Notes
from trepid.runtime.own_nursery import with_nursery
from trepid.runtime.places import Place
from trepid.runtime.shift import Shift
from trepid.values.actor import Actor
from trepid.values.envelope import Envelope, unseal
from trepid.values.router import Middleware
from trepid.values.words import complaint, words

Arguments = tuple[list[Any], dict[str, Any]]

_AFTER_LOST_LOOP = 5.0
"""Seconds until a job comes back that was given back because its asyncio loop died."""

_LATE = Returned(reason="lease lost")

_SEEN_AGAIN = 60.0
"""Seconds for which a message that settled itself is kept at least."""

_NO_STATE = Returned(5.0, reason="no saved state", started=False)

_UNSTARTED = Returned(reason="unstarted", started=False)


class Ready(msgspec.Struct, frozen=True):
    """A message that can be attempted: everything about it has been read and checked."""

    envelope: Envelope
    terms: Terms
    args: list[Any]
    kwargs: dict[str, Any]


@attrs.frozen(eq=False)
class Performer:
    """Performs the messages of one shift, each in a task of its own."""

    _shift: Shift
    _calls: Calls
    _middleware: tuple[Middleware, ...]

    async def perform(self, run: JobRun) -> None:
        """Bring one leased message to its settlement.  The body of its task.

        Whatever happens, a verdict is handed to the settler: there is no checkpoint between the lease and this ``try``.
        """
        verdict: Verdict | None = _UNSTARTED
        try:
            ready = self._read(run)
            verdict = await self._attempt(run, ready) if isinstance(ready, Ready) else ready
        except BaseException as exc:
            verdict = _verdict_on_base(exc, run)
            raise
        finally:
            run.ended = True
            if run.started is not None and (self._shift.teller.jobs_heard or type(verdict) is not Done):
                run.seconds = trio.current_time() - run.started
            if verdict is None and run.settled_inside:
                verdict = _LATE  # applied only if its own settlement was not committed
            if verdict is None:
                self._shift.lost(run)
            else:
                self._shift.settler.add(run, verdict)
            self._shift.vacate()

    def _read(self, run: JobRun) -> Ready | Verdict:
        """Decode a message, find its actor, and convert its arguments."""
        if self._shift.stopping:
            return _UNSTARTED
        delivery = run.delivery
        try:
            envelope = unseal(delivery.payload)
            run.actor = envelope.actor
            actor = self._shift.worker.router.find(envelope.actor)
            if actor is None:
                return unknown_actor(envelope.actor, delivery.stray_since, delivery.leased)
            if delivery.crashes >= actor.max_crashes and delivery.max_crashes is None:
                text = f"workers died over it {delivery.crashes} times"
                return Buried(Failure("PoisonError", text), "poison")
            args, kwargs = actor.parameters.read(envelope)
        except EnvelopeError as exc:
            return Buried(Failure("EnvelopeError", words(exc)), "undecodable")
        except ArgumentsError as exc:
            return Buried(Failure("ArgumentsError", words(exc)), "arguments")
        if delivery.gate is not None or actor.limited:
            try:
                gate = actor.gate(args, kwargs, envelope.headers)
            except Exception as exc:  # noqa: BLE001 - encoding may run the value's own code
                text = f"the limits of {actor.name!r} count by {actor.key!r}, and cannot by its value: {complaint(exc)}"
                return Buried(Failure("ArgumentsError", text), "arguments")
            if gate != delivery.gate:
                # Enqueued by name, or by a producer of another version: it has to wait where it counts.
                return Returned(reason="gate", started=False, gate=gate or "")
        return Ready(envelope, terms(envelope, actor, delivery.result_ttl, delivery.failures), args, kwargs)

    async def _attempt(self, run: JobRun, ready: Ready) -> Verdict | None:
        """Call the function under the message's cancel scope, and decide what its end means."""
        actor = ready.terms.actor
        run.terms = ready.terms
        refusal = await self._prepare(run, ready)
        if refusal is not None:
            return refusal
        place: Place | None = None
        if actor.run_in in {"thread", "process"}:
            place = await self._calls.place(actor)
            if place is None:
                return Returned(reason="no room", started=False)
        error: Exception | None = None
        try:
            now = trio.current_time()
            if now >= run.until:
                run.stop(Cause.DEADLINE, "deadline")
            if run.cause is not None or now >= run.fence or self._shift.stopping:
                # A function that is called in a cancelled scope does run, up to its first checkpoint.
                return _verdict_on_unstarted(run, ready.terms)
            self._shift.fences.heed(run)
            scope = run.start(now, ready.terms.timeout)
            if self._shift.teller.jobs_heard:
                self._shift.tell_started(run)
            with scope:
                value = await self._call(run, ready, place)
                return chaining.concluded(run, ready.envelope, value, ready.terms)
        except IslandLostError:
            # Uncounted, since it may be a neighbour's doing; but not at once, since it may be its own.
            return Returned(_AFTER_LOST_LOOP, "asyncio loop lost")
        except Exception as exc:  # noqa: BLE001 - whatever a job raises is its failure
            error = exc
        finally:
            if place is not None:
                place.give_back()
        return _verdict_on_end(run, ready.terms, error)

    async def _prepare(self, run: JobRun, ready: Ready) -> Verdict | None:
        """Learn from the broker what a job must know before it starts; return a verdict if it must not be started."""
        if ready.envelope.scope is not None or ready.envelope.until is not None:
            refusal = await self._shift.tethers.tie(run, ready.envelope, ready.terms.keep)
            if refusal is not None:
                return refusal
        takes_context = ready.terms.actor.parameters.takes_context
        if takes_context and _was_leased_before(run.delivery, self._shift.session.capabilities):
            try:
                await self._remember(run, ready)
            except BrokerFullError:
                return _NO_STATE
        return None  # noqa: ASYNC910 - most jobs have nothing to ask, and pay for no checkpoint

    async def _remember(self, run: JobRun, ready: Ready) -> None:
        """Read what an earlier attempt has saved: not on the job's time, but stopped by whatever stops the job."""
        run.scope = trio.CancelScope()
        if run.cause is not None:
            run.scope.cancel(reason=run.reason)
        with run.scope:
            await self._notes(run, ready).load()
        run.scope = None

    def _call(self, run: JobRun, ready: Ready, place: Place | None) -> Awaitable[object]:
        """Call the actor's function, inside what wraps it."""
        actor = ready.terms.actor
        around = (*self._middleware, *self._shift.worker.router.middleware(actor.name))
        if not around and not actor.parameters.takes_context:
            return self._call_plain(actor, place, ready.args, ready.kwargs)
        return self._call_with_context(run, ready, place, around)

    def _call_plain(
        self, actor: Actor[..., Any], place: Place | None, args: list[Any], kwargs: dict[str, Any]
    ) -> Awaitable[object]:
        if actor.run_in == "trio":
            result: Awaitable[object] = actor.fn(*args, **kwargs)
            return result
        return self._calls.call(actor, place, args, kwargs)

    async def _call_with_context(
        self, run: JobRun, ready: Ready, place: Place | None, around: tuple[Middleware, ...]
    ) -> object:
        actor = ready.terms.actor
        shift = self._shift

        async def called(nursery: trio.Nursery | None) -> object:
            context = LiveContext(
                run.delivery,
                ready.envelope,
                shift.connection,
                shift.resources,
                lambda: shift.stopping,
                nursery,
                partial(self._settle_in, run, ready),
                partial(self._notes, run, ready),
            )
            args = [context, *ready.args] if actor.parameters.takes_context else ready.args
            call: Callable[[], Awaitable[object]] = partial(self._call_plain, actor, place, args, ready.kwargs)
            for middleware in reversed(around):
                call = partial(middleware, context, call)
            return await call()

        if actor.run_in != "trio":
            return await called(None)
        return await with_nursery(called)

    def _notes(self, run: JobRun, ready: Ready) -> Notes:
        """Return what a job tells about itself; most jobs tell nothing."""
        if run.notes is None:
            run.notes = Notes(self._shift.session, run.delivery, ready.terms, self._shift.scribe.remind)
        return run.notes

    def _settle_in(self, run: JobRun, ready: Ready, connection: Any, result: object) -> None:
        """Settle a message in the transaction of its own job.  Called in the job's thread, if it has one."""
        # The worker's own verdict comes after it and must find it, even if it is not to be kept.
        verdict = attempts.succeeded(result, max(ready.terms.keep, _SEEN_AGAIN))
        following = chaining.follow_up(ready.envelope, run.delivery, result) if ready.envelope.then else None
        # From before it is settled: a renewal that comes in between would wait for the caller's transaction.
        before, run.settled_inside = run.settled_inside, True
        reply: Reply | None = None
        try:
            settlement = Settlement(run.ref, verdict)
            reply = chaining.settle_in(self._shift.session, connection, settlement, following)
        finally:
            if reply is not Reply.APPLIED:
                run.settled_inside = before
        if reply is not Reply.APPLIED:
            raise LeaseLostError(run.delivery.id, str(reply))


def _was_leased_before(delivery: Delivery, capabilities: Capabilities) -> bool:
    """Whether there may have been an attempt before this one."""
    # Where a message that comes back is a copy, its deliveries are counted anew.
    return delivery.token[1] != 1 or not capabilities.keeps_place or delivery.failures + delivery.crashes > 0


def _verdict_on_unstarted(run: JobRun, agreed: Terms) -> Verdict | None:
    """Decide about a message that was stopped, came too late or waited too long before its function began."""
    if run.cause is None or run.cause is Cause.SHUTDOWN:
        return _UNSTARTED
    return attempts.stopped(run.cause, agreed)


def _verdict_on_end(run: JobRun, agreed: Terms, error: Exception | None) -> Verdict | None:
    """Decide about an attempt that did not return a value."""
    cause = run.why_stopped()
    if cause is None and trio.current_effective_deadline() == -inf:
        # The worker is being cancelled, in this very moment: what is raised now comes of that.
        cause = Cause.SHUTDOWN
    if cause is not None:
        return attempts.stopped(cause, agreed, error)
    assert error is not None, "nobody cancelled the scope, so it cannot have swallowed the call"
    return attempts.raised(error, agreed)


def _verdict_on_base(error: BaseException, run: JobRun) -> Verdict | None:
    """Decide about an exception that is about to end the worker.

    Cancellation from outside and Ctrl-C are not the job's doing: the message goes back.  Anything else is a failure.
    """
    if run.cause is Cause.LOST:
        return None
    kinds = (trio.Cancelled, KeyboardInterrupt)
    rest = error.split(kinds)[1] if isinstance(error, BaseExceptionGroup) else error
    if rest is None or isinstance(rest, (*kinds, Exception)):
        return Returned(reason="shutdown", started=run.started is not None)
    failure = attempts.failure(rest)
    return Buried(failure) if run.terms is None else attempts.failed(failure, run.terms)
