"""Supervision: a connection that is lost is made again, for as long as somebody wants it."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from math import inf
from typing import Final, Generic, Protocol, TypeVar, final

import trio

from trepid.errors import BrokerLostError, BrokerRefusedError
from trepid.wire.household import open_household

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
_DIALLED_WITHIN: Final = 30.0
"""Seconds for an attempt to connect; dialling has shorter limits for its steps, and this is for what they forget."""
_PATIENCE: Final = 1.0
"""Seconds that an operation waits for the server's return before it raises."""


class Lossy(Protocol):
    """What a supervisor asks of a connection."""

    async def wait_lost(self) -> BrokerLostError:
        """Wait until the connection is lost, and return why."""
        ...


C = TypeVar("C", bound=Lossy)


def pause_before(attempt: int, draw: float) -> float:
    """Return the seconds to wait before the *attempt*-th try to connect again, from 0; *draw* is from 0 to 1.

    Doubling from 50 ms to 1 s, jittered by half: many clients of one server that returns do not come all at once.
    """
    return min(_FIRST_PAUSE * 2.0 ** min(attempt, 16), _LONGEST_PAUSE) * (0.5 + draw / 2)


@final
class Supervisor(Generic[C]):
    """Keeps one connection.  Made by :func:`open_supervised`."""

    def __init__(self, dial: Callable[[], AbstractAsyncContextManager[C]]) -> None:
        self._dial = dial
        self._connection: C | None = None
        self._error = BrokerLostError("not connected yet")
        self._change = trio.Event()
        self._scope = trio.CancelScope()
        self._started = False
        self.losses = 0
        """How often the connection was lost."""

    @property
    def current(self) -> C | None:
        """The connection, or None while there is none."""
        return self._connection

    async def connection(self) -> C:
        """Return the connection; while there is none, wait a second for it.  A checkpoint only if it waits.

        Raises:
          BrokerLostError: if the server does not return in that time.
        """
        if self._connection is None:
            with trio.move_on_after(_PATIENCE):  # noqa: ASYNC912 - entered only if there is to wait
                while self._connection is None:
                    await self._change.wait()
        if self._connection is None:
            raise BrokerLostError(*self._error.args)
        return self._connection  # noqa: ASYNC910 - every use of a connection is a checkpoint, and this is on its way

    async def changed(self) -> None:
        """Wait until the connection is made or lost."""
        await self._change.wait()

    def _set(self, connection: C | None) -> None:
        self._connection = connection
        change, self._change = self._change, trio.Event()
        change.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Connect, and connect again after every loss, until dismissed; a cancellation ends it only while it begins.

        Raises:
          BrokerLostError, BrokerRefusedError: what the very first attempt raised; later ones are only tried again.
          BrokerLostError: also if it is dismissed before that attempt is over.
        """
        with self._scope:
            await self._run(task_status)
        if not self._started:
            raise BrokerLostError("the connection was let go while it was made")

    async def _run(self, task_status: trio.TaskStatus[None]) -> None:
        attempt = 0
        while True:
            try:
                async with _bounded(self._dial) as connection:
                    if not self._started:
                        # Behind the shield below nobody could end what is cancelled already, and is never told of it.
                        await trio.lowlevel.checkpoint_if_cancelled()
                        self._started = True
                        task_status.started()
                        # A block that is cancelled may have last words to say: it is served until its end.
                        self._scope.shield = True
                    self._set(connection)
                    made = trio.current_time()
                    try:
                        self._error = await connection.wait_lost()
                    finally:
                        self._set(None)
                    self.losses += 1
                    if trio.current_time() - made > _LONGEST_PAUSE:
                        attempt = 0  # else the server lets us in only to throw us out
            except (BrokerLostError, BrokerRefusedError) as exc:
                if not self._started:
                    raise
                self._error = BrokerLostError(str(exc))
            await trio.sleep(pause_before(attempt, random.random()))  # noqa: S311 - no secret
            attempt += 1

    def dismiss(self) -> None:
        """Let go of the connection, and look for it no more."""
        self._scope.cancel()


@asynccontextmanager
async def _bounded(dial: Callable[[], AbstractAsyncContextManager[C]]) -> AsyncGenerator[C, None]:
    """Dial, but not for ever: for as long as it lasts there is a deadline, and for the block there is none."""
    with trio.move_on_after(_DIALLED_WITHIN) as scope:
        async with dial() as connection:
            scope.deadline = inf
            yield connection
        return
    raise BrokerLostError(f"no connection within {_DIALLED_WITHIN:g} s")


@asynccontextmanager
async def open_supervised(
    dial: Callable[[], AbstractAsyncContextManager[C]],
) -> AsyncGenerator[Supervisor[C], None]:
    """Connect, and keep the connection for the length of the block.

    Args:
      dial: connects, shakes hands and prepares (declares topology, loads scripts), and closes in an orderly way, for a
        bounded time, when its block is left.

    Raises:
      BrokerLostError, BrokerRefusedError: if the first attempt fails; bare.

    The body's exception is never wrapped in a group.
    """
    supervisor = Supervisor(dial)
    async with open_household() as household:
        await household.start(supervisor.run)
        try:
            yield supervisor
        finally:
            supervisor.dismiss()
