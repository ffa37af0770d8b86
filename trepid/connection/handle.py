"""The handle: one message, seen by whoever enqueued it."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, Generic, NoReturn, final

import attrs
import outcome
import trio
from outcome import Outcome
from typing_extensions import TypeVar

from trepid.connection import following
from trepid.connection.births import Birth
from trepid.connection.ends import value_of
from trepid.connection.following import Step
from trepid.connection.patience import Patience
from trepid.connection.watching import Watch
from trepid.errors import JobGoneError, TrepidError
from trepid.ports.broker import Session
from trepid.ports.messages import Ending, MessageView
from trepid.rules.life import CancelReply
from trepid.values.words import checked_text

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
    """One message on a broker.  Made by ``connection.enqueue``, ``connection.handle`` and job nurseries.

    Several tasks may use one handle at once.  Every method is a checkpoint, and cancelling one changes nothing on the
    broker, unless it says otherwise.  While the broker is away, looking and waiting go on until it is back, unless the
    connection was opened with ``wait_for_broker=False``; :meth:`cancel` raises.  What the engine lacks (the
    capabilities ``results``, ``peek``, ``cancel_waiting`` and ``cancel_running``) raises UnsupportedError.

    The handle of a chain is that of its last message, and follows the chain: waiting begins with whatever step it has
    come to, a step that fails ends it, and :meth:`status` and :meth:`cancel` are about the step that it has come to.

    A handle from a job nursery's ``start_soon`` is there before its message: methods first wait until that is
    published, and *existing* is set when it is known.

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

    _birth: Birth | None = attrs.field(alias="birth", kw_only=True, repr=False, default=None)

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

    async def outcome(self) -> Outcome[T]:
        """Wait for the job's end and return it as a value: ``outcome.Value``, or ``outcome.Error``.

        Raises:
          JobGoneError: if nothing is kept of it.
        """
        return self._outcome(*await self._ending())

    def watch(self) -> Watch[T]:
        """Return an async iterator over what becomes of the job.

        It gives :class:`~trepid.StateChanged` (the first says where it is now), :class:`~trepid.Progressed`,
        :class:`~trepid.Emitted`, and at last :class:`~trepid.Ended`; after that it is at its end.  A watch that begins
        late gets all emitted values that are still kept.  Of a chain it tells about one step after the other.

        Raises:
          JobGoneError: out of the iteration, if nothing is kept of the job.
        """
        born = None if self._birth is None else self._born
        return Watch(self._session, self._patience, self._path, self._outcome, born)

    async def status(self) -> MessageView:
        """Return the message as it is now.

        Raises:
          JobGoneError: if nothing is kept of it.
        """
        if self._birth is not None:
            await self._born()
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
        reason = checked_text(reason, "reason")
        if self._birth is not None:
            await trio.lowlevel.checkpoint()
            if self._birth.never is not None:
                return CancelResult.FINISHED
            if self._birth.disown(reason) or await self._birth.wait() is not None:
                return CancelResult.WITHDRAWN
        reply = await following.cancelled(self._session, self._path, reason)
        if reply is CancelReply.UNKNOWN:
            self._gone()
        return CancelResult(reply.value)

    async def _ending(self) -> tuple[Step, Ending]:
        if self._birth is not None:
            never = await self._birth.wait()
            if never is not None:
                return self._path[-1], never
        return await following.followed(self._session, self._patience, self._path)

    async def _born(self) -> tuple[Step, ...]:
        """Wait until the message is on the broker; return where."""
        if self._birth is None:
            await trio.lowlevel.checkpoint()
        elif await self._birth.wait() is not None:
            self._gone()
        return self._path

    def _outcome(self, step: Step, ending: Ending) -> Outcome[T]:
        try:
            return outcome.Value(self._value(step, ending))
        except TrepidError as exc:
            return outcome.Error(exc)

    def _value(self, step: Step, ending: Ending) -> T:
        return value_of(step.id, ending, self._read_result, str(step))

    def _gone(self) -> NoReturn:
        raise JobGoneError(self.id, self.queue)


def follow(handle: JobHandle[Any], id: str) -> None:
    """Let a handle that was made before its message stand for the live one that was found instead."""
    object.__setattr__(handle, "id", id)
    object.__setattr__(handle, "existing", True)
