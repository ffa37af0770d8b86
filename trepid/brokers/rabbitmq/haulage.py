"""Haulage: moves that wait for their turn, and moves that are under way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, final

import attrs
import trio

from trepid.brokers.rabbitmq import moving
from trepid.brokers.rabbitmq.lines import Lines
from trepid.brokers.rabbitmq.moving import Fresh, Move
from trepid.brokers.rabbitmq.tap import Tap
from trepid.errors import BrokerLostError, BrokerRefusedError
from trepid.wire.amqp import ChannelClosedError

_AGAIN: Final = 0.5


@final
class Haulage:
    """What one session moves.

    Attributes:
      waiting: moves that nobody has started.
      refused: whether one was refused since the last time; then there is a pause before the next.
    """

    def __init__(self) -> None:
        self.waiting: list[Move] = []
        self.refused = False
        self._under_way: set[object] = set()
        self._none = trio.Event()

    def clear(self) -> None:
        """Forget everything: the lines are gone."""
        self.waiting.clear()
        self._under_way.clear()

    def drop(self, tap: Tap) -> None:
        """Forget what waits and came by this tap: its channel is gone, and the server hands it out again."""
        self.waiting = [move for move in self.waiting if move.item.tap is not tap]

    def start(
        self,
        lines: Lines,
        moves: Sequence[Move],
        done: Callable[[int, Exception | None], None],
        also: Sequence[Fresh] = (),
        now: float = 0.0,
    ) -> None:
        """Start some moves, and note that they are under way; see :func:`moving.carry`."""
        journey = object()
        self._under_way.add(journey)

        def through(refused: int, error: Exception | None) -> None:
            self._under_way.discard(journey)
            if not self._under_way:
                self._none.set()
            done(refused, error)

        try:
            moving.carry(lines, moves, through, also, now)
        except BaseException:
            self._under_way.discard(journey)  # nobody will tell of it
            raise

    async def carry(self, lines: Lines) -> None:
        """Carry out what waits.

        Raises:
          BrokerLostError, BrokerRefusedError, ChannelClosedError: if it cannot be started; then it still waits, or the
            lines are lost.
        """
        await lines.publisher.room()
        ready: list[Move] = []
        gone: set[str] = set()
        while ready != self.waiting:  # what has come meanwhile may take other steps, or go to other queues
            ready = list(self.waiting)
            await lines.builder.ways(delay for move in ready for delay in move.delays)
            gone = await lines.gone(move.item.tap.queue for move in ready)
        moves, self.waiting = self.waiting, []
        through = trio.Event()
        self.start(lines, list(without_copies(moves, gone)), lambda *_: through.set())
        await through.wait()
        if self.refused:
            # A queue without a leader takes nothing for a moment.
            self.refused = False
            await trio.sleep(_AGAIN)

    async def finish(self, lines: Lines) -> None:
        """Carry out what waits, and wait for all that is under way, also if the rest cannot be started.

        Raises:
          BrokerLostError, BrokerRefusedError, ChannelClosedError: as :meth:`carry`.
        """
        try:
            if self.waiting:
                await self.carry(lines)
        except (BrokerLostError, BrokerRefusedError, ChannelClosedError):
            await self.arrive()  # noqa: ASYNC120 - who is cancelled here has run out of time, which is what counts then
            raise
        await self.arrive()

    async def arrive(self) -> None:
        """Wait until nothing is under way any more."""
        await trio.lowlevel.checkpoint()
        while self._under_way:
            self._none = trio.Event()
            await self._none.wait()


def without_copies(moves: Iterable[Move], gone: set[str]) -> Iterable[Move]:
    """Return the moves; of queues that are gone no copies are made, for the originals have gone with them."""
    return (attrs.evolve(move, passport=None) if move.item.tap.queue in gone else move for move in moves)
