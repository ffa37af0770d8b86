"""The owner thread: one thread with one database connection, which runs the requests of many tasks in few transactions.

A commit costs a flush of the disk, whether it carries one request or a hundred.  So the thread begins a transaction as
soon as there is something to do, runs in it whatever is waiting by then, commits once, and wakes all callers by one
message to the event loop.  Under load, groups grow by themselves; an idle caller waits for nobody.

Of the database it knows only what ``Database`` says.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, Generic, TypeVar, final

import outcome
import trio
from typing_extensions import TypeVarTuple

from trepid.brokers.sql.carrying import AtOnce, Carrier, Done, Request, Together
from trepid.brokers.sql.database import Database, Remedy
from trepid.brokers.sql.tally import Tally
from trepid.errors import BrokerLostError

Tx = TypeVar("Tx")
R = TypeVar("R")
Args = TypeVarTuple("Args")

_LARGEST_GROUP: Final = 256
_LONGEST_GROUP: Final = 0.05
"""Seconds after which a group takes no further request: the first in it should not wait for ever more."""

_CLOSING: Final = 5.0
_INTERRUPTING: Final = 1.0


@final
class OwnerThread(Generic[Tx]):
    """A thread that owns a database connection.  Made by :meth:`start`.

    Args:
      database: whose connection it owns.
      name: of the thread.
      tell: called in the event loop with the news of each commit, after its callers were woken.
      abandon: whether a cancelled caller may leave a request behind that is already being run; for requests that
        change nothing.
      together: by a function, one that does the same for several requests at once; see :class:`Carrier`.
      at_once: carries what it can of a group, before the rest is carried request by request.
    """

    def __init__(
        self,
        database: Database[Tx],
        name: str,
        *,
        tell: Callable[[Any], object] | None = None,
        abandon: bool = False,
        together: Mapping[Callable[..., Any], Together[Tx]] | None = None,
        at_once: AtOnce | None = None,
    ) -> None:
        self.tally = Tally()
        self._carrier = Carrier(database, self.tally, self._post, together or {})
        self._database = database
        self._tell = tell
        self._abandon = abandon
        self._at_once = at_once
        self._token = trio.lowlevel.current_trio_token()
        # Guards everything that both threads write: the line, and who has taken or withdrawn a request.
        self._guard = threading.Condition(threading.Lock())
        self._line: deque[Request] = deque()
        self._closing = False
        self._refusal: Exception | None = None
        self._current: list[Request] = []
        self._ended = trio.Event()
        # A daemon, so that a program whose event loop has crashed can still exit.
        self._thread = threading.Thread(target=self._own, name=name, daemon=True)

    # ------------------------------------------------------------------------------------------ in the event loop

    # Ctrl-C is kept out of the steps between making a request and waiting for its answer: who left in between would be
    # woken by it later, while he waits for something else.

    @trio.lowlevel.enable_ki_protection
    async def start(self) -> None:
        """Start the thread and wait until it is connected; if it cannot be, raise why, with the thread ended."""
        # Answered once the thread is connected; in line before it runs, so that a refusal finds somebody to tell.
        hello = Request(_nothing, (), trio.lowlevel.current_task())
        self._line.append(hello)
        self._thread.start()
        try:
            await self._answer(hello)
        except BaseException:
            await self.close()
            raise

    @trio.lowlevel.enable_ki_protection
    async def run(self, function: Callable[[Tx, *Args], R], *args: *Args) -> R:
        """Run ``function(transaction, *args)`` in the thread and return what it returns, once that is committed.

        If it raises, what it changed is undone, and nobody else's request suffers.

        Raises:
          trio.ClosedResourceError: if the thread was closed.

        Cancellation: until the thread has taken the request, it is withdrawn, and nothing has happened.  After that the
        call waits for the commit, for a bounded time, and returns normally.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        request = Request(function, args, trio.lowlevel.current_task())
        with self._guard:
            if self._closing:
                raise trio.ClosedResourceError("the broker's session is closed") from self._refusal
            self._line.append(request)
            self._guard.notify()
        return await self._answer(request)  # type: ignore[no-any-return]

    async def close(self) -> None:
        """End the thread after the requests it has; waits for some seconds at most."""
        with self._guard:
            self._closing = True
            self._guard.notify()
        if self._thread.ident is None:
            return
        with trio.CancelScope(deadline=trio.current_time() + _CLOSING, shield=True) as scope:
            await self._ended.wait()
        if scope.cancelled_caught:
            self._database.interrupt()
            with trio.CancelScope(deadline=trio.current_time() + _INTERRUPTING, shield=True) as scope:
                await self._ended.wait()
        if not scope.cancelled_caught:
            # It has said its last word; what is left of it takes microseconds.
            self._thread.join()

    async def _answer(self, request: Request) -> Any:
        return await trio.lowlevel.wait_task_rescheduled(lambda _: self._withdraw(request))

    def _withdraw(self, request: Request) -> trio.lowlevel.Abort:
        with self._guard:
            if request.taken and not self._abandon:
                return trio.lowlevel.Abort.FAILED
            request.withdrawn = True
            request.task = None
            return trio.lowlevel.Abort.SUCCEEDED

    def _deliver(self, done: Done, news: object) -> None:
        for request, result in done:
            task, request.task = request.task, None
            if task is not None:
                trio.lowlevel.reschedule(task, result)
        if news and self._tell is not None:
            self._tell(news)

    # ---------------------------------------------------------------------------------------------- in the thread

    def _own(self) -> None:
        """The life of the thread."""
        refusal: Exception = trio.ClosedResourceError("the broker's session is closed")
        try:
            self._database.open()
        except Exception as exc:  # noqa: BLE001 - the answer to `start`
            refusal = exc
        else:
            self._post([(request, outcome.Value(None)) for request in self._take(1)])
            try:
                while self._something_to_do():
                    self._post(*self._group())
            except Exception as exc:  # noqa: BLE001 - a bug; nobody who waits may be left without an answer
                refusal = BrokerLostError(f"the session broke, and what was asked may or may not be stored: {exc!r}")
                refusal.__cause__ = self._refusal = exc
        with self._guard:
            self._closing = True
        with contextlib.suppress(Exception):  # as far as anybody can tell it is closed
            self._database.close()
        # Those of an unfinished group, too; whoever has an answer already gets no second one.
        self._post(self._carrier.all_failed([*self._current, *self._take(len(self._line))], refusal))
        self._call(self._ended.set)

    def _something_to_do(self) -> bool:
        with self._guard:
            while not self._line and not self._closing:
                self._guard.wait()
            return bool(self._line)

    def _take(self, most: int, taken: list[Request] | None = None) -> Iterator[Request]:
        """Take requests from the line, one by one: each can be withdrawn until its turn comes."""
        until = time.monotonic() + _LONGEST_GROUP
        for _ in range(most):
            with self._guard:
                while self._line and self._line[0].withdrawn:
                    self._line.popleft()
                if not self._line or (taken and time.monotonic() > until):
                    return
                request = self._line.popleft()
                request.taken = True
            if taken is not None:
                taken.append(request)
            yield request

    def _group(self) -> tuple[Done, object]:
        """Run what is waiting in one transaction, and return the answers and the news."""
        database = self._database
        taken = self._current = list[Request]()
        turns: Iterable[Request] = self._take(_LARGEST_GROUP, taken)
        if self._abandon:
            # Its transaction shows what was there at its begin: who joined later would miss what he has just committed.
            taken += self._take(_LARGEST_GROUP)
            turns = tuple(taken)
        if self._at_once is not None:
            taken += self._take(_LARGEST_GROUP)
            left = self._carry_at_once(self._at_once, taken)
            if not left:
                return [], None
            turns = taken = self._current = left
        try:
            transaction = database.begin()
        except Exception as exc:  # noqa: BLE001 - the answer to everybody who waits
            database.rollback()
            return self._carrier.all_failed([*taken, *self._take(len(self._line))], exc), None
        try:
            done = self._carrier.carry(transaction, turns)
            news = database.commit()
        except Exception as exc:  # noqa: BLE001 - it is found out there whose fault it is
            database.rollback()
            done, news = self._carrier.failed(taken, exc)
        self._count(taken)
        return done, news

    def _carry_at_once(self, at_once: AtOnce, taken: list[Request]) -> list[Request]:
        """Carry what can be carried together, and return the rest."""
        database = self._database
        try:
            done, news, left = at_once(taken, lambda: list(self._take(_LARGEST_GROUP, taken)))
        except Exception as exc:  # noqa: BLE001 - it is looked at below
            database.rollback()
            if (remedy := database.remedy(exc)) is not Remedy.NONE:
                self.tally.repeated += remedy is Remedy.AGAIN
                return taken  # in the other way it is found out whose fault it is
            done, news, left = self._carrier.all_failed([*taken, *self._take(len(self._line))], exc), None, []
        answered = [request for request, _ in done]
        if answered:
            self._count(answered)
        # Whoever has his answer is not to get another one, should the thread break.
        self._current = left
        self._post(done, news)
        return left

    def _count(self, requests: list[Request]) -> None:
        self.tally.transactions += bool(requests)
        self.tally.requests += len(requests)
        self.tally.largest_group = max(self.tally.largest_group, len(requests))

    def _post(self, done: Done, news: object = None) -> None:
        if done or news:
            self._call(self._deliver, done, news)
        if news:
            # After the commit has been answered for: whatever goes wrong here can no longer be taken for its failure.
            self._database.announce(news)

    def _call(self, function: Callable[..., object], *args: object) -> None:
        # If the loop has crashed, nobody is left to be told.
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(function, *args)


def _nothing(_: object) -> None:
    """The request by which a caller waits for the connection."""
