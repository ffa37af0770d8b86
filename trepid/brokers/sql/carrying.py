"""Carrying requests: many in one transaction, and what is done when that fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Final, Generic, TypeAlias, TypeVar, final

import attrs
import outcome
import trio

from trepid.brokers.sql.database import Database, Remedy
from trepid.brokers.sql.tally import Tally

Tx = TypeVar("Tx")

_ATTEMPTS: Final = 5
"""How often a group is run again because somebody else was in the way."""

Together: TypeAlias = Callable[[Tx, Sequence[tuple[Any, ...]]], Sequence[Any] | None]
"""Does for several requests, given by their arguments, what one function does for each; None if it cannot."""


@attrs.define(eq=False)
class Request:
    """A function to be run in a transaction, and the task that waits for it."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    task: trio.lowlevel.Task | None
    taken: bool = False
    withdrawn: bool = False


Done: TypeAlias = list[tuple[Request, outcome.Outcome[Any]]]

AtOnce: TypeAlias = Callable[[Sequence[Request], Callable[[], Iterable[Request]]], tuple[Done, object, list[Request]]]
"""Carries what it can of some requests, and of those that it is told have come meanwhile, in a transaction of its own.

Returns the answers, the news, and the requests that are left.  If it raises, the transaction may still stand.
"""


@final
class Carrier(Generic[Tx]):
    """Carries requests in the thread that owns the connection.

    Args:
      database: whose connection it is.
      tally: counts what is done.
      post: tells callers of answers, and everybody of news.
      together: by a function, one that does the same for several requests at once, or says that it cannot; then they
        are run one by one.
    """

    def __init__(
        self,
        database: Database[Tx],
        tally: Tally,
        post: Callable[[Done, object], None],
        together: Mapping[Callable[..., Any], Together[Tx]],
    ) -> None:
        self._database = database
        self._tally = tally
        self._post = post
        self._together = together

    def carry(self, transaction: Tx, requests: Iterable[Request]) -> Done:
        """Run requests in an open transaction; raises if it cannot be committed any more."""
        done: Done = []
        # Neighbours that can be run together have the same key; all others have one of their own.
        for _, group in groupby(requests, key=lambda each: self._together.get(each.function, each)):
            neighbours = list(group)
            results = self._run_together(transaction, neighbours) if len(neighbours) > 1 else None
            if results is None:
                done += [(request, self._run(transaction, request)) for request in neighbours]
            else:
                values = map(outcome.Value[Any], results)
                done += list(zip(neighbours, values, strict=True))
        return done

    def _run_together(self, transaction: Tx, requests: Sequence[Request]) -> Sequence[Any] | None:
        mark = self._database.mark()
        try:
            return self._together[requests[0].function](transaction, [request.args for request in requests])
        except Exception:
            if not self._database.untouched(mark):
                raise
            return None

    def _run(self, transaction: Tx, request: Request) -> outcome.Outcome[Any]:
        mark = self._database.mark()
        try:
            return outcome.Value(request.function(transaction, *request.args))
        except Exception as exc:
            if not self._database.untouched(mark):
                raise
            # A mere refusal: the others need not be run again.
            return outcome.Error(self._database.typed(exc))

    def failed(self, taken: list[Request], cause: Exception) -> tuple[Done, object]:
        """A group could not be committed, and has been rolled back."""
        database, attempts = self._database, _ATTEMPTS
        while (remedy := database.remedy(cause)) is Remedy.AGAIN and attempts:
            attempts -= 1
            self._tally.repeated += 1
            try:
                transaction = database.begin()
                done = [(request, self._run(transaction, request)) for request in taken]
                return done, database.commit()
            except Exception as exc:  # noqa: BLE001 - it is looked at above
                database.rollback()
                cause = exc
        if remedy is Remedy.NONE:
            return self.all_failed(taken, cause), None
        return self._one_failed(taken, cause)

    def _one_failed(self, taken: list[Request], cause: Exception) -> tuple[Done, object]:
        """Run a group again, with a savepoint for each request, so that only the bad one fails."""
        if len(taken) == 1:
            return self.all_failed(taken, cause), None
        self._tally.isolated += 1
        database = self._database
        try:
            transaction = database.begin()
            done = [(request, self._run_saved(transaction, request)) for request in taken]
            return done, database.commit()
        except Exception as exc:  # noqa: BLE001 - it is found out there who is refused, and why
            database.rollback()
            if database.remedy(exc) is Remedy.NONE:
                return self.all_failed(taken, exc), None
            return self._each_alone(taken)

    def _run_saved(self, transaction: Tx, request: Request) -> outcome.Outcome[Any]:
        self._database.save()
        try:
            result = outcome.Value(request.function(transaction, *request.args))
        except Exception as exc:
            if not self._database.undo():
                raise
            return outcome.Error(self._database.typed(exc))
        self._database.keep()
        return result

    def _each_alone(self, taken: list[Request]) -> tuple[Done, object]:
        """The transaction itself was lost, for want of space, say: what fits alone shall be stored."""
        for n, request in enumerate(taken):
            try:
                transaction = self._database.begin()
            except Exception as exc:  # noqa: BLE001 - nobody gets in now
                self._database.rollback()
                return self.all_failed(taken[n:], exc), None
            try:
                result: outcome.Outcome[Any] = outcome.Value(request.function(transaction, *request.args))
                news = self._database.commit()
            except Exception as exc:  # noqa: BLE001 - the answer to this request
                self._database.rollback()
                result, news = outcome.Error(self._database.typed(exc)), None
            self._post([(request, result)], news)
        return [], None

    def all_failed(self, requests: Sequence[Request], exc: Exception) -> Done:
        """Answer requests by an error."""
        return [(request, outcome.Error(self._database.typed(exc))) for request in requests]
