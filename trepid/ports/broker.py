"""The broker port: what every engine promises, operation by operation.

**Batches.**  Operations take a batch and return one reply per item, in order.

**Idempotence.**  Every operation may be repeated after an unknown outcome: publishing is recognised by its token,
settling and extending by the lease's token, the rest has the same effect twice as once.

**Cancellation.**  ``Cancelled`` out of an operation means that it was not applied, where the engine can say so
(memory; SQLite until its thread has taken the request, after which the call waits, bounded, for the commit and returns
normally), and otherwise that it is safe to repeat.  A connection with an unread reply is never used for another caller.

**Time.**  Due times and expiry are decided by the broker's clock, and by nobody else's.

**Colour.**  Every operation is a checkpoint, and several tasks may call operations of one session at once.
"""

from __future__ import annotations

import abc
from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import trio

from trepid.errors import UnsupportedError
from trepid.ports.capabilities import Capabilities
from trepid.ports.looks import look_for_endings, look_for_move
from trepid.ports.messages import (
    Absent,
    Cursor,
    Delivery,
    Ending,
    Extension,
    Firing,
    MessageView,
    Page,
    Publication,
    QueueStats,
    Ref,
    Settlement,
)
from trepid.ports.records import Records
from trepid.rules.gates import Limit
from trepid.rules.life import CancelReply, Reply, State
from trepid.rules.publishing import Published


class Session(abc.ABC):
    """An open broker.  Made by :meth:`Broker.open`, never by its constructor."""

    @property
    @abc.abstractmethod
    def capabilities(self) -> Capabilities:
        """What the engine can do, read from it when it was opened."""

    @property
    def connected(self) -> bool:
        """Whether the engine can be reached at present; one that is lost is looked for until the session is closed.

        Meanwhile operations wait a little for its return and then raise BrokerLostError.
        """
        return True

    @property
    def records(self) -> Records:
        """The store of small values that this engine lends to engines without one; see ``trepid.ports.records``.

        Raises:
          UnsupportedError: if it has none (the capability ``records``).
        """
        raise self._unsupported("records for another engine")

    @abc.abstractmethod
    async def now(self) -> float:
        """Return the broker's time, in seconds since the epoch.  It never goes back."""

    # ---------------------------------------------------------------------------------------------------- queues

    @abc.abstractmethod
    async def declare(self, queues: Sequence[str]) -> None:
        """Make queues exist.  Those that do are left as they are."""

    @abc.abstractmethod
    async def queues(self) -> list[str]:
        """Return the names of all declared queues, sorted."""

    @abc.abstractmethod
    async def delete(self, queue: str) -> None:
        """Remove a queue with everything in it.  Removing one that is not there changes nothing.

        Raises:
          QueueBusyError: if a message of it is leased; nothing is removed then.
        """

    @abc.abstractmethod
    async def pause(self, queue: str) -> None:
        """Lease nothing more from the queue until :meth:`resume`.  What is leased goes on.

        Raises:
          UnknownQueueError: if it was never declared.
        """

    @abc.abstractmethod
    async def resume(self, queue: str) -> None:
        """Undo :meth:`pause`.

        Raises:
          UnknownQueueError: if it was never declared.
        """

    @abc.abstractmethod
    async def stats(self, queue: str) -> QueueStats:
        """Count the messages of a queue.

        Raises:
          UnknownQueueError: if it was never declared.
        """

    # ------------------------------------------------------------------------------------------- a message's life

    @abc.abstractmethod
    async def publish(self, batch: Sequence[Publication]) -> list[Published]:
        """Store messages, durably, all in one step.

        An undeclared queue is a reply (``NO_QUEUE``), and then nothing of the batch is stored; neither is it if one
        item conflicts (``CONFLICT``), or a queue has no room for all that would be new in it (``FULL``, for each).
        A holder that is replaced ends as cancelled, with ``rules.publishing.replaced_by`` as its reason.
        """

    def publish_in(self, connection: Any, batch: Sequence[Publication]) -> list[Published]:
        """Store messages in the caller's own database transaction, synchronously, on the caller's thread.

        Raises:
          UnsupportedError: if the engine is no database, or *connection* is not one of its kind.
        """
        raise UnsupportedError("enqueuing in a database transaction", self.capabilities.engine)

    def settle_in(self, connection: Any, settlement: Settlement) -> Reply:
        """End a lease as :meth:`publish_in` publishes: it counts only once the caller commits.

        Until then nobody else can have the message, even if its lease runs out meanwhile.
        """
        raise UnsupportedError("settling in a database transaction", self.capabilities.engine)

    @abc.abstractmethod
    async def lease(
        self, queues: Sequence[str], limit: int, lease_for: float, *, owner: str, wait: float = 0.0
    ) -> list[Delivery]:
        """Lease up to *limit* messages for *lease_for* seconds.

        Within a queue strictly by priority, then due time, then order of publishing; queues take turns by their weight.
        Messages behind a gate that lets none through are passed over.  With nothing to lease it waits up to *wait*
        seconds and then returns an empty list.  ``Cancelled`` means that no lease was taken, unless the
        capability ``certain_cancellation`` says otherwise; then the worker asks :meth:`held`.

        Args:
          queues: where to look; undeclared ones are empty.
          limit: at most so many, 1 or more.
          lease_for: seconds until the lease expires unless it is extended.
          owner: who asks; one name per worker run.
          wait: seconds to wait for a first message.
        """

    @abc.abstractmethod
    async def extend(self, refs: Sequence[Ref], lease_for: float) -> list[Extension]:
        """Let leases run for *lease_for* seconds from now.  A lease is never shortened, and never revived."""

    @abc.abstractmethod
    async def settle(self, batch: Sequence[Settlement], *, then: Sequence[Publication] = ()) -> list[Reply]:
        """End leases with verdicts; results and errors are stored in the same step.

        Args:
          batch: what to settle.
          then: follow-ups, published in the same step if the first settlement is applied; a full queue takes them.  An
            engine that takes two steps publishes first, and recognises what is ``remembered`` for a day after its end.
        """

    @abc.abstractmethod
    async def cancel(self, queue: str, ids: Sequence[str], reason: str) -> list[CancelReply]:
        """Withdraw waiting messages; ask for leased ones to be stopped.  Both are durable once this returns."""

    @abc.abstractmethod
    async def requeue(self, queue: str, ids: Sequence[str] | None = None, *, limit: int = 1000) -> int:
        """Bring dead messages back, with fresh budgets, and return how many came.

        Those whose unique key is held by another live message stay dead.

        Raises:
          UnknownQueueError: if the queue was never declared.
        """

    @abc.abstractmethod
    async def purge(
        self, queue: str, states: Sequence[State], ids: Sequence[str] | None = None, *, limit: int = 1000
    ) -> int:
        """Forget messages in these states, and return how many.  Leased ones are never purged.

        Raises:
          UnknownQueueError: if the queue was never declared.
        """

    # --------------------------------------------------------------------------------------------------- looking

    @abc.abstractmethod
    async def get(self, queue: str, id: str) -> MessageView | None:
        """Return a message as it is, or None if there is none (any more)."""

    @abc.abstractmethod
    async def peek(self, queue: str, state: State, *, limit: int = 100, after: Cursor | None = None) -> Page:
        """Return some messages in a state, in the order of publishing.

        Raises:
          UnknownQueueError: if the queue was never declared.
        """

    @abc.abstractmethod
    async def result(self, queue: str, id: str, *, wait: float = 0.0) -> Ending | Absent:
        """Return how a message ended, waiting for its end up to *wait* seconds."""

    async def moved(self, queue: str, id: str, known: MessageView | None, *, wait: float = 0.0) -> MessageView | None:
        """Return a message once it is no longer as *known*, or after *wait* seconds; the default looks for that."""
        return await look_for_move(self, queue, id, known, wait)

    # ---------------------------------------------------------------------------------------------------- owners

    @abc.abstractmethod
    async def held(self, owner: str) -> list[Ref]:
        """Return the leases that *owner* holds.

        Workers ask after a lease call that failed, and give back what they did not know of.  An engine that cannot
        say raises UnsupportedError; then such leases just expire.
        """

    async def asked(self, owner: str, known: Collection[Ref], *, wait: float = 0.0) -> list[tuple[Ref, str]]:
        """Return the leases of *owner* that somebody asked to cancel, with the reasons, except the *known* ones.

        Waits up to *wait* seconds for the first.  It is a shortcut: the same is said by :meth:`extend`, only later;
        so an engine without a push may leave this one, which just lets the time pass.
        """
        await trio.sleep(wait)
        return []

    @abc.abstractmethod
    async def expire_owner(self, owner: str) -> int:
        """Expire all leases of an owner that is known to be dead, now, and return how many there were."""

    @abc.abstractmethod
    async def reap(self, *, limit: int = 1000) -> int:
        """Carry out what time has decided (expiries, ttls, forgetting) where nobody has looked, and return how much.

        Correctness never depends on it: every operation observes the clock by itself.
        """

    # ---------------------------------------------------------------------------------- limits, schedules, many ends

    async def limit(self, limits: Sequence[Limit]) -> None:
        """Set limits, each in place of an earlier one of its queue and family; see ``trepid.rules.gates``.

        Undeclared queues are left out.
        """
        raise self._unsupported("limits")

    async def fire(self, firings: Sequence[Firing]) -> list[Published]:
        """Publish the messages of schedules, each instant once: a step for each, in order.

        An instant that is no later than its mark is a DUPLICATE.  Otherwise the answer is that of :meth:`publish`, and
        with ACCEPTED, DUPLICATE, and EXISTING unless the firing insists, the mark becomes the instant.  A mark that is
        moved on or forgotten without a message is ACCEPTED.
        """
        raise self._unsupported("schedules")

    async def marks(self, queue: str) -> dict[str, float]:
        """Return the marks of a queue: by name, the last instant that was fired; none if it was never declared."""
        raise self._unsupported("schedules")

    async def endings(self, queue: str, ids: Sequence[str], *, wait: float = 0.0) -> dict[str, Ending | Absent]:
        """Return how some messages ended: those of *ids* that have ended, or are gone.

        Waits up to *wait* seconds for a first one.  The default asks for each, ten times a second.
        """
        return await look_for_endings(self, queue, ids, wait)

    def _unsupported(self, feature: str) -> UnsupportedError:
        return UnsupportedError(feature, self.capabilities.engine)


class Broker(abc.ABC):
    """An engine that can be opened.  A value: it says where the messages are, and holds no connection."""

    @abc.abstractmethod
    def open(self) -> AbstractAsyncContextManager[Session]:
        """Open the engine.

        Leaving the block closes it, waiting at most a few seconds; the body's exception is never wrapped in a group.
        """

    @abc.abstractmethod
    def __str__(self) -> str:
        """Say where the messages are, without credentials."""
