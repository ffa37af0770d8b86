"""What an actor may ask of the attempt it runs in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic

from typing_extensions import TypeVar

if TYPE_CHECKING:
    import trio

    from trepid.connection import Connection
    from trepid.values.job import Job

R = TypeVar("R", default=None, covariant=True)


class Context(Generic[R]):
    """The attempt, seen from inside: an optional first parameter of an actor.

    Annotate it ``trepid.Context``, or ``trepid.Context[Resources]`` where the worker has ``resources``.  The worker
    makes it; :func:`trepid.testing.make_context` makes one for a unit test.
    """

    __slots__ = ()

    @property
    def job(self) -> Job[Any]:
        """The job, with its plain arguments, id, queue and headers."""
        raise NotImplementedError

    @property
    def attempt(self) -> int:
        """Which attempt this is: the failures so far, plus 1."""
        raise NotImplementedError

    @property
    def nursery(self) -> trio.Nursery:
        """A nursery whose children end before the message is settled."""
        raise NotImplementedError

    @property
    def connection(self) -> Connection:
        """The worker's connection, for enqueuing more jobs."""
        raise NotImplementedError

    @property
    def resources(self) -> R:
        """What the worker's ``resources`` context manager gave."""
        raise NotImplementedError

    def settle_in(self, connection: Any, result: object = None) -> None:
        """Settle the job as done in your own database transaction: both are committed, or neither is.

        So what the job has written there is written exactly once, whatever happens to the worker.  Synchronous; call it
        as the last statement of the transaction and commit within a few seconds, since the lease is not renewed from
        here on.  If the transaction is rolled back, the job is not settled; let the exception out, and it has failed.

        Args:
          connection: what ``Connection.enqueue_in`` takes.
          result: what the job returns; what the function itself returns afterwards is ignored.

        Raises:
          LeaseLostError: if somebody else has the job by now; the transaction must be rolled back.
          UnsupportedError: if the broker is no database, or the connection is none to it.
        """
        raise NotImplementedError

    async def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """Tell how far the job is, to whoever watches it.

        It may be called as often as you like: it is written ten times a second at most, and the last one before the
        job ends.  While the broker is away it is kept, and the job goes on.  In a thread, write
        ``trio.from_thread.run(ctx.progress, done, total)``.

        Args:
          done: how much is done, zero or more.
          total: how much there is to do, if that is known.
          message: what is going on, in a few words.

        Raises:
          UnsupportedError: if the engine keeps no records, and has no second one that does.
          LeaseLostError: if somebody else has the job by now.
          TypeError, ValueError: if these are no amounts, or no text.

        Cancellation: it may or may not be written now; it will be before the job's end.
        """
        raise NotImplementedError

    async def emit(self, value: object) -> None:
        """Hand a value to whoever watches the job, before it has ended.

        Every value is kept, in order, for about as long as the result; watchers that come late see all of them.  A job
        that is tried again emits again, and watchers are told by which attempt a value was.

        Raises:
          TypeError, ValueError: if the value cannot be written as JSON.
          PayloadTooLargeError: if it has more than 1 MiB.
          UnsupportedError, LeaseLostError: as :meth:`progress`.

        Cancellation: it may or may not have been emitted.  While the broker is away, it waits.
        """
        raise NotImplementedError

    async def checkpoint_state(self, value: object) -> None:
        """Keep a value for the next attempt, which finds it as :attr:`state`.

        So a job that is released, retried, or comes back from a dead worker goes on where it was.  Each call replaces
        the value of the one before.  It is kept until the job is done or cancelled, for 30 days at most; a dead letter
        that is requeued finds it too.

        Raises:
          TypeError, ValueError: if the value cannot be written as JSON.
          PayloadTooLargeError: if it has more than 1 MiB.
          UnsupportedError, LeaseLostError: as :meth:`progress`.

        Cancellation: it may or may not have been kept.  While the broker is away, it waits.
        """
        raise NotImplementedError

    @property
    def state(self) -> Any:
        """What an earlier attempt saved with :meth:`checkpoint_state`, as plain JSON values, or None."""
        raise NotImplementedError

    @property
    def stopping(self) -> bool:
        """Whether the worker is shutting down: a hint to save a cursor and return early."""
        raise NotImplementedError
