"""A channel: calls that are answered in order, messages that are confirmed, and messages that arrive."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias, final

import trio
from pamqp import base, commands

from trepid.errors import BrokerLostError
from trepid.wire.amqp import frames
from trepid.wire.amqp.carrier import Carrier
from trepid.wire.amqp.confirming import Batch, ChannelClosedError, Confirmations, anew
from trepid.wire.amqp.consumers import Consumers, Take
from trepid.wire.amqp.frames import Delivered
from trepid.wire.link import ProtocolError
from trepid.wire.reply import Reply

Target: TypeAlias = tuple[str, str]
"""An exchange and a routing key."""


@final
class Channel:
    """An open channel.  Made by :meth:`Amqp.channel`.

    Attributes:
      error: why it is closed, once it is.
      lost: called once when it is closed, unless we closed it ourselves.
      cancelled: called with the tag of a consumer that the server has ended.
      late: takes messages for consumers that have ended; without it they go back to their queue.
    """

    def __init__(self, carrier: Carrier, number: int) -> None:
        self.number = number
        self.error: Exception | None = None
        self.lost: Callable[[Exception], None] | None = None
        self.cancelled: Callable[[str], None] | None = None
        self.late: Take | None = None
        self._carrier = carrier
        self._asked: deque[Reply[Any]] = deque()
        self._takers: deque[Take] = deque()
        self._consumers = Consumers()
        self._confirmations = Confirmations()
        self._coming: Delivered | None = None
        self._then: Take = self._unwanted
        self._closing = False
        self._addresses: dict[Target, bytes] = {}

    # ------------------------------------------------------------------------------------------------- asking

    def ask(self, method: base.Frame) -> Reply[Any]:
        """Send a method that is answered; the answer can be waited for, or left alone.

        Raises:
          ChannelClosedError, BrokerLostError: if the channel, or the connection, is lost.
        """
        self._check()
        self._carrier.write(frames.marshal(method, self.number))
        reply: Reply[Any] = Reply()
        self._asked.append(reply)
        return reply

    async def call(self, method: base.Frame) -> Any:
        """Send a method and return its answer.

        Raises:
          ChannelClosedError, BrokerLostError: as :meth:`ask`; also if it is lost meanwhile.

        Cancellation: the method was sent; its answer is dropped when it comes.
        """
        return await self.ask(method).wait()

    def tell(self, method: base.Frame) -> None:
        """Send a method that is not answered.

        Raises:
          ChannelClosedError, BrokerLostError: as :meth:`ask`.
        """
        self._check()
        self._carrier.write(frames.marshal(method, self.number))

    async def close(self) -> None:
        """Close the channel; what it holds unacknowledged goes back to its queues.  Nothing, if it is closed."""
        if self.error is None and not self._closing:
            farewell = self.ask(commands.Channel.Close(200, "bye", 0, 0))
            self._closing = True
            try:
                await farewell.wait()
            except (ChannelClosedError, BrokerLostError):
                return
        else:
            await trio.lowlevel.checkpoint()

    def abandon(self) -> None:
        """Close the channel soon, without waiting for it; nothing, if it is closed."""
        if self.error is None and not self._closing:
            self._closing = True
            self._asked.append(Reply())
            with suppress(BrokerLostError):
                self._carrier.write(frames.marshal(commands.Channel.Close(200, "bye", 0, 0), self.number))

    @property
    def closed(self) -> bool:
        """Whether it is closed, or about to be: nothing can be said on it any more."""
        return self.error is not None or self._closing

    def _check(self) -> None:
        if self.error is not None:
            raise anew(self.error)
        if self._closing:
            raise ChannelClosedError(200, "closed by us")

    # --------------------------------------------------------------------------------------------- publishing

    def publish(self, to: Target, properties: bytes, body: bytes, batch: Batch, index: int) -> None:
        """Publish a message, mandatory, and note that *batch* waits for its confirmation.  Never waits.

        The channel must be in the mode of confirmation.

        Raises:
          ChannelClosedError, BrokerLostError: as :meth:`ask`.
        """
        self._check()
        head = self._addresses.get(to)
        if head is None:
            if len(self._addresses) > 1000:
                self._addresses.clear()
            head = self._addresses[to] = frames.address(self.number, *to)
        self._carrier.write(head, *frames.contents(self.number, properties, body, self._carrier.frame_max))
        self._confirmations.expect(batch, index, properties)

    @property
    def oldest(self) -> int | None:
        """The number of the first message that is not confirmed, or None if all are."""
        return self._confirmations.oldest

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        """Acknowledge a message, or all up to it.  Never waits."""
        self._check()
        self._carrier.write(frames.acknowledgement(self.number, tag, multiple=multiple))

    def nack(self, tag: int, *, requeue: bool = True) -> None:
        """Give a message back, or let the server drop it.  Never waits."""
        self._check()
        self._carrier.write(frames.rejection(self.number, tag, requeue=requeue))

    # ---------------------------------------------------------------------------------------------- consuming

    def consume(
        self,
        queue: str,
        tag: str,
        take: Take,
        *,
        prefetch: int,
        arguments: Mapping[str, Any] | None = None,
        opened: Callable[[], None] | None = None,
    ) -> Reply[Any]:
        """Let the messages of a queue be handed to *take*, at most *prefetch* of them unacknowledged.

        It must not be cancelled before it is *opened*: that kills the channel of a RabbitMQ 3.10.

        Raises:
          ChannelClosedError, BrokerLostError: as :meth:`ask`.
        """
        self.ask(commands.Basic.Qos(prefetch_count=min(prefetch, 65_535)))
        self.tell(commands.Basic.Consume(queue=queue, consumer_tag=tag, arguments=dict(arguments or {})))
        return self._consumers.begin(tag, take, opened)

    def cancel(self, tag: str, closed: Callable[[], None] | None = None) -> Reply[Any]:
        """End a consumer; until it is *closed*, messages may still come.

        Raises:
          ChannelClosedError, BrokerLostError: as :meth:`ask`.
        """
        self.tell(commands.Basic.Cancel(consumer_tag=tag))
        return self._consumers.end(tag, closed)

    def get(self, queue: str, take: Take) -> Reply[bool]:
        """Ask for one message, which is handed to *take*, whoever waits; the answer is whether there was one.

        Raises:
          ChannelClosedError, BrokerLostError: as :meth:`ask`.
        """
        reply = self.ask(commands.Basic.Get(queue=queue))
        self._takers.append(take)
        return reply

    # ------------------------------------------------------------------------------------------------ reading

    def received(self, kind: int, payload: bytes) -> None:
        """Read a frame of this channel.  Called by the connection.

        Raises:
          ProtocolError: if it makes no sense.
        """
        if kind == frames.METHOD:
            self._method(payload)
        elif self._coming is None:
            raise ProtocolError("a message that nobody announced")
        elif kind == frames.HEADER:
            if frames.begin_content(self._coming, payload):
                self._arrived(self._coming)
        elif frames.more_content(self._coming, payload):
            self._arrived(self._coming)

    def _arrived(self, message: Delivered) -> None:
        self._coming = None
        self._then(message)

    def _method(self, payload: bytes) -> None:
        if self._coming is not None:
            raise ProtocolError("a method in the middle of a message")
        match frames.number_of(payload):
            case frames.DELIVER:
                self._coming = coming = frames.delivered(payload)
                self._then = self._consumers.taker(coming.consumer, self._unwanted)
            case frames.ACK:
                self._confirmations.confirm(*frames.confirmed(payload), refused=False)
            case frames.NACK:
                self._confirmations.confirm(*frames.confirmed(payload), refused=True)
            case frames.GET_OK:
                self._coming = frames.got(payload)
                self._then = partial(self._got, self._next_taker(), self._next_asked())
            case frames.GET_EMPTY:
                self._next_taker()
                self._next_asked().set(False)
            case frames.RETURN:
                self._coming = frames.returned(payload)
                self._then = self._confirmations.came_back
            case _:
                self._seldom(frames.method_of(payload))

    def _got(self, take: Take, reply: Reply[bool], message: Delivered) -> None:
        take(message)
        reply.set(True)

    def _next_taker(self) -> Take:
        if not self._takers:
            raise ProtocolError("a message that nobody asked for")
        return self._takers.popleft()

    def _next_asked(self) -> Reply[Any]:
        if not self._asked:
            raise ProtocolError("an answer that nobody asked for")
        return self._asked.popleft()

    def _seldom(self, method: base.Frame) -> None:
        match method:
            case commands.Channel.Close():
                self._carrier.write(frames.marshal(commands.Channel.CloseOk(), self.number))
                if not self._closing:
                    self._carrier.left(self.number)  # else our own close is still to be answered
                self.fail(ChannelClosedError(int(method.reply_code or 0), str(method.reply_text)))
            case commands.Basic.Cancel():
                tag = str(method.consumer_tag)
                self._consumers.drop(tag)
                if self.cancelled is not None:
                    self.cancelled(tag)
            case commands.Channel.CloseOk():
                self._carrier.left(self.number)
                asked = self._asked.pop() if self._asked else None
                self._end(ChannelClosedError(200, "closed by us"))
                if asked is not None:
                    asked.set(method)
            case commands.Basic.ConsumeOk() | commands.Basic.CancelOk():
                self._consumers.answered(method)
            case _:
                self._next_asked().set(method)

    def _unwanted(self, message: Delivered) -> None:
        if self.late is not None:
            self.late(message)
        elif not self.closed and message.tag:
            self.nack(message.tag)

    # ------------------------------------------------------------------------------------------------- ending

    def fail(self, error: Exception) -> None:
        """The channel is lost: everybody who waits is told.  Idempotent."""
        if self._end(error) and self.lost is not None and not self._closing:
            self.lost(error)

    def _end(self, error: Exception) -> bool:
        if self.error is not None:
            return False
        self.error = error
        asked, self._asked = self._asked, deque()
        for reply in (*asked, *self._consumers.abandoned()):
            reply.fail(anew(error))
        for batch in self._confirmations.abandoned():
            batch.fail(anew(error))
        return True
