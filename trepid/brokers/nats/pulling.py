"""Pulling: a request for some messages of a consumer, which is always waited for to its end, whoever has left.

A request that does not wait should be answered at once.  NATS 2.9 leaves some without a word, when it believes that
something is there and then finds nothing to hand out: it has counted what was deleted, or comes to a message that is
gone (see :mod:`trepid.brokers.nats.mending`).  The request would stay with the server until the next message comes.  So
a silence is ended here, and what has led to it is mended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, final

import msgspec
import trio

from trepid.brokers.nats.mending import mend
from trepid.brokers.nats.parcel import Parcel, unpacked
from trepid.errors import TrepidError
from trepid.wire.nats.connection import NatsConnection
from trepid.wire.nats.protocol import Message

_ENDS: Final = (404, 408)
"""Nothing is there (any more); the time is over."""
_SILENCE: Final = 0.5
"""Seconds without a word after which no more is expected of a request; that it was patient is added."""
_encode = msgspec.json.encode


@final
class Pull:
    """One request to one consumer.

    Attributes:
      queue, place: of which consumer.
      parcels: what has come and was not taken by *arrived*.
      lost: whether the connection ended first.
      status: why it ended: 0 if everything came, 404 or 408 if that was all, another number if something is wrong.
    """

    def __init__(
        self,
        connection: NatsConnection,
        stream: str,
        queue: str,
        place: str,
        batch: int,
        *,
        now: Callable[[], float],
        wait: float | None = None,
        at_once: bool = False,
        arrived: Callable[[Parcel], bool] | None = None,
        ended: Callable[[Pull], object] | None = None,
    ) -> None:
        """Ask at once.

        Args:
          connection: over which.
          stream: of the queue.
          queue: of which consumer.
          place: as above.
          batch: for how many messages.
          now: the clock.
          wait: seconds to wait for them, or None to take what is there.
          at_once: end with the first that comes, and whatever is there with it, instead of waiting for all.
          arrived: gets each parcel as it comes, and says whether it took it.
          ended: called when no more can come.

        Raises:
          BrokerLostError: if the connection is lost.
        """
        self.queue = queue
        self.place = place
        self.parcels: list[Parcel] = []
        self.status = 0
        self._connection = connection
        self._stream = stream
        self._left = batch
        self._now = now
        self._arrived = arrived
        self._ended = ended
        self._over = trio.Event()
        self.lost = False
        body: dict[str, object] = {"batch": batch}
        self._patience = _SILENCE + (wait or 0.0)
        self._stirred = trio.current_time()
        if wait is None or at_once:
            body["no_wait"] = True
        if wait is not None:
            body["expires"] = int(max(wait, 0.001) * 1_000_000_000)
        self._token, inbox = connection.open_box(self._heard, self._gone)
        try:
            connection.say(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{place}", _encode(body), reply=inbox)
        except BaseException:
            connection.close_box(self._token)
            raise

    @property
    def over(self) -> bool:
        """Whether nothing more can come."""
        return self._over.is_set()

    @property
    def overdue(self) -> bool:
        """Whether its end should have come by now: a server that led the consumer takes what was asked with it."""
        return not self.over and trio.current_time() > self._stirred + self._patience

    @property
    def unwell(self) -> bool:
        """Whether it ended because the consumer, or JetStream, is not there."""
        return self.status not in (0, *_ENDS)

    async def wait(self) -> list[Parcel]:
        """Wait for the end of a request that does not wait itself, and return what came.

        Raises:
          BrokerLostError: if the connection is lost.

        Cancellation: what comes, or has come, is left in *parcels*; see :meth:`abandon`.
        """
        while not self.over and trio.current_time() < self._stirred + self._patience:
            with trio.move_on_at(self._stirred + self._patience):
                await self._over.wait()
        if not self.over:
            await self._break_silence()
        if self.lost:
            raise self._connection.link.gone()
        parcels, self.parcels = self.parcels, []
        return parcels

    async def withdraw(self) -> None:
        """End a request that is overdue; what is still under way arrives."""
        try:
            await self._break_silence()
        except TrepidError:
            return  # the loss of the connection has ended it, or the next one is overdue as well

    async def _break_silence(self) -> None:
        """Withdraw the request, take what was under way, and help the consumer."""
        # However slow it is, this is answered, or the connection is lost.
        await self._connection.deafen_box(self._token)
        if not self.over:
            self._finish()
        # The look at the consumer that this begins with also has the server count again, and drop the request.
        await mend(self._connection, self._stream, self.place)

    def abandon(self, arrived: Callable[[Parcel], bool]) -> None:
        """Hand what has come, and what is still to come, to somebody else."""
        parcels, self.parcels = self.parcels, []
        self._arrived = arrived
        for parcel in parcels:
            arrived(parcel)

    def _heard(self, message: Message) -> None:
        self._stirred = trio.current_time()
        # What is handed out has a subject to answer to, and may be anything else: strangers can publish a status, too.
        parcel = unpacked(self.queue, self.place, message, self._connection.server, self._now())
        if parcel is None:
            if message.status >= 400:
                self.status = message.status
                self._finish()
            return
        if self._arrived is None or not self._arrived(parcel):
            self.parcels.append(parcel)
        self._left -= 1
        if self._left == 0:
            self._finish()

    def _gone(self) -> None:
        self.lost = True
        self._finish()

    def _finish(self) -> None:
        self._connection.close_box(self._token)
        self._over.set()
        if self._ended is not None:
            self._ended(self)
