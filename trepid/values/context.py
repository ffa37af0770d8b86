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

    @property
    def stopping(self) -> bool:
        """Whether the worker is shutting down: a hint to save a cursor and return early."""
        raise NotImplementedError
