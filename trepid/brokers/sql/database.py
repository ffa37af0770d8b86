"""What an owner thread knows of its database, so that another engine can have one, too."""

from __future__ import annotations

import enum
from typing import Protocol, TypeVar

Tx_co = TypeVar("Tx_co", covariant=True)


class Remedy(enum.Enum):
    """What to do about a group of requests that could not be committed."""

    ALONE = "find out whose fault it is"
    AGAIN = "run the same group again: somebody else was in the way"
    NONE = "nothing: whether it was committed may not even be known"


class Database(Protocol[Tx_co]):
    """What an owner thread asks of a database.  Only that thread calls it."""

    def open(self) -> None:
        """Connect."""
        ...

    def begin(self) -> Tx_co:
        """Begin a transaction, waiting a bounded time for others, and return what requests are given.

        If it raises, half a transaction may stand, and is rolled back.
        """
        ...

    def commit(self) -> object:
        """Commit, and return news for the event loop; false news are not told."""
        ...

    def announce(self, news: object) -> None:
        """Tell others of news that are committed, once the callers have been told."""
        ...

    def rollback(self) -> None:
        """Undo the transaction, if it still stands."""
        ...

    def mark(self) -> object:
        """Return a mark of what the transaction has changed so far."""
        ...

    def untouched(self, mark: object) -> bool:
        """Whether the transaction stands, and nothing has changed since the mark."""
        ...

    def save(self) -> None:
        """Set a savepoint."""
        ...

    def undo(self) -> bool:
        """Return to the savepoint and drop it; false if the whole transaction is lost."""
        ...

    def keep(self) -> None:
        """Drop the savepoint."""
        ...

    def remedy(self, exc: Exception) -> Remedy:
        """Return what to do about a group that failed by *exc*; it has been rolled back."""
        ...

    def typed(self, exc: Exception) -> Exception:
        """Return a new exception, of Trepid's, that says what *exc* says."""
        ...

    def close(self) -> None:
        """Disconnect."""
        ...

    def interrupt(self) -> None:
        """End what the thread is waiting for, as far as that can be done; called by another thread."""
        ...
