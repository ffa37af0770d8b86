"""The handle: one message, seen by whoever enqueued it."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, Generic, NoReturn, final

import attrs
import outcome
from typing_extensions import TypeVar

from trepid.connection import following
from trepid.connection.following import Step
from trepid.connection.patience import Patience
from trepid.errors import JobCancelledError, JobFailedError, JobGoneError, ResultError, TrepidError
from trepid.ports.broker import Session
from trepid.ports.messages import Ending, MessageView
from trepid.rules.life import CANCELLED, DONE, CancelReply
from trepid.values.words import checked_text, complaint

T = TypeVar("T", default=Any, covariant=True)


class CancelResult(enum.StrEnum):
    """What became of a request to cancel."""

    WITHDRAWN = "withdrawn"
    """It had not started, and never will."""
    REQUESTED = "requested"
    """It runs; its worker will stop it."""
    FINISHED = "finished"
    """It had ended already."""


@final
@attrs.frozen(eq=False)
class JobHandle(Generic[T]):
    """One message on a broker.  Made by ``connection.enqueue`` and ``connection.handle``.

    Several tasks may use one handle at once.  Every method is a checkpoint, and cancelling one changes nothing on the
    broker, unless it says otherwise.  While the broker is away, looking and waiting go on until it is back, unless the
    connection was opened with ``wait_for_broker=False``; :meth:`cancel` raises.

    The handle of a chain is that of its last message, and follows the chain: waiting begins with whatever step it has
    come to, a step that fails ends it, and :meth:`status` and :meth:`cancel` are about the step that it has come to.

    Attributes:
      id: the message's id.
      queue: the name of its queue.
      existing: whether the enqueue found a live message instead of storing a new one.
    """

    _session: Session = attrs.field(alias="session", repr=False)
    queue: str
    id: str
    existing: bool = False
    _read_result: Callable[[bytes], T] = attrs.field(alias="read_result", kw_only=True, repr=False)
    _patience: Patience = attrs.field(alias="patience", kw_only=True, repr=False, default=Patience(waits=False))
    # All steps of a chain, the last one too.
    _steps: tuple[Step, ...] = attrs.field(alias="steps", kw_only=True, repr=False, default=())

    @property
    def _path(self) -> tuple[Step, ...]:
        return self._steps or (Step(self.queue, self.id),)

    async def wait(self) -> None:
        """Wait until the job has ended, well or badly; retries are waited through.

        Raises:
          JobGoneError: if nothing is kept of it.
        """
        await self._ending()

    async def result(self) -> T:
        """Wait for the job's end and return its result, converted by the actor's annotation.

        Raises:
          JobFailedError: if it failed for good; of a chain, it says which step.
          JobCancelledError: if it was cancelled.
          JobGoneError: if nothing is kept of it; at once.
          ResultError: if it is done, but its result could not be stored or does not fit the annotation.
        """
        return self._value(*await self._ending())

    async def outcome(self) -> outcome.Outcome[T]:
        """Wait for the job's end and return it as a value: ``outcome.Value``, or ``outcome.Error``.

        Raises:
          JobGoneError: if nothing is kept of it.
        """
        ending = await self._ending()
        try:
            return outcome.Value(self._value(*ending))
        except TrepidError as exc:
            return outcome.Error(exc)

    async def status(self) -> MessageView:
        """Return the message as it is now.

        Raises:
          JobGoneError: if nothing is kept of it.
        """
        view = await following.viewed(self._session, self._patience, self._path)
        return view if view is not None else self._gone()

    async def cancel(self, reason: str = "cancelled") -> CancelResult:
        """Withdraw the message if it waits; ask its worker to stop it if it runs.

        Returns once that is recorded; wait for the end with :meth:`wait`.  Cancelled itself, the request may or may
        not have been recorded; repeating it is safe.

        Raises:
          BrokerLostError: if the broker was lost; the request may or may not have been recorded.  It is not repeated by
            itself, as the answer to a repetition may be another one: FINISHED for a message that was just withdrawn.
          JobGoneError: if nothing is kept of it.
          TypeError: if *reason* is no string.
          ValueError: if it is not valid Unicode.
        """
        reply = await following.cancelled(self._session, self._path, checked_text(reason, "reason"))
        if reply is CancelReply.UNKNOWN:
            self._gone()
        return CancelResult(reply.value)

    async def _ending(self) -> tuple[Step, Ending]:
        return await following.followed(self._session, self._patience, self._path)

    def _value(self, step: Step, ending: Ending) -> T:
        if ending.state is CANCELLED:
            raise JobCancelledError(step.id, "cancelled", ending.reason or "", step=str(step))
        if ending.state is not DONE:
            error = ending.error
            # Time ended these, and raised nothing: an error that is there is of an earlier attempt.
            if error is None or (ending.reason in {"expired", "poison"} and error.type != "PoisonError"):
                raise JobFailedError(step.id, ending.reason or "dead", "", step=str(step))
            raise JobFailedError(step.id, error.type, error.message, error.traceback, str(step))
        if ending.result is None:
            raise ResultError(self.id, ending.unreadable or "nothing was kept of it")
        try:
            return self._read_result(ending.result)
        except Exception as exc:
            # A type's own code (__post_init__) runs here, and may raise anything.
            raise ResultError(self.id, f"it does not fit the actor's annotation: {complaint(exc)}") from exc

    def _gone(self) -> NoReturn:
        raise JobGoneError(self.id, self.queue)
