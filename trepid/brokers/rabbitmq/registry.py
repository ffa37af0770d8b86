"""The registry: which queues were declared, written down in a stream that every session follows.

The protocol cannot list queues, and a stream can be read without taking anything out of it.  It says which names to ask
for; whether a queue is there, only the queue itself can say.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable
from functools import partial
from typing import Final, final

import msgspec

from trepid.brokers.rabbitmq.building import NOT_FOUND
from trepid.brokers.rabbitmq.topology import Names
from trepid.wire.amqp import Amqp, Batch, Channel, ChannelClosedError, Delivered
from trepid.wire.amqp.confirming import anew
from trepid.wire.amqp.frames import header_of, persistent
from trepid.wire.link import ProtocolError
from trepid.wire.reply import Reply

_HEADER: Final = b"trepid-registry"
_LONG: Final = 2000
"""Lines after which a session that asks writes down the sum of all: what is older may be dropped by the server."""


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the registry.

    Attributes:
      declared: names of queues that were declared.
      deleted: names of queues that were deleted.
      hello: a word that is never said twice; who sees it has read all that was written before.
    """

    declared: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    hello: str = ""


_READ = msgspec.json.Decoder(Entry)
_WRITE = msgspec.json.Encoder()


@final
class Registry:
    """One session's view of the registry, on one connection."""

    def __init__(self, names: Names, out: Channel, news: Callable[[], None]) -> None:
        self.queues: set[str] = set()
        self._to = ("", names.registry)
        self._stream = names.registry
        self._out = out
        self._news = news
        self._me = secrets.token_hex(8)
        self._words = itertools.count()
        self._awaited: dict[str, Reply[None]] = {}
        self._seen = 0

    async def follow(self, consumer: Amqp) -> None:
        """Read everything there is, and go on reading for as long as there is a stream.

        Raises:
          ChannelClosedError, BrokerLostError: once that does not work, or not any more.
        """
        known = bool(self.queues)
        channel = await consumer.channel()
        over: Reply[None] = Reply()

        def ended(error: Exception) -> None:
            over.fail(error)
            self.lost(error)

        channel.lost = ended
        channel.cancelled = lambda _: ended(ChannelClosedError(NOT_FOUND, "the stream was removed, or has moved"))
        take = partial(self._read, channel)
        try:
            offset = {"x-stream-offset": "first"}
            await channel.consume(self._stream, "registry", take, prefetch=500, arguments=offset).wait()
            await self.up_to_now()
            if known:
                await self._sum_up()  # it may be another stream by now
            await over.wait()
        finally:
            channel.abandon()

    async def _sum_up(self) -> None:
        self._seen = 0
        await self.write(Entry(declared=tuple(sorted(self.queues))))

    async def up_to_now(self) -> None:
        """Wait until everything has been read that was written before; what has become long is summed up.

        Raises:
          ChannelClosedError, BrokerLostError: if there is no stream, or the connection is lost first.
        """
        word = f"{self._me}-{next(self._words)}"
        reply: Reply[None] = Reply()
        self._awaited[word] = reply
        try:
            await self.write(Entry(hello=word))
            await reply.wait()
        finally:
            del self._awaited[word]
        if self._seen > _LONG:
            await self._sum_up()

    async def write(self, entry: Entry) -> None:
        """Write a line, and return when the server has it, or has no stream for it.

        Raises:
          ChannelClosedError, BrokerLostError: if the connection is lost first.
        """
        reply: Reply[None] = Reply()

        def done(batch: Batch, error: Exception | None) -> None:
            if error is None:
                if batch.returned:
                    self._note(entry)  # it gets into the next stream with everything else
                    if (asked := self._awaited.get(entry.hello)) is not None:
                        asked.fail(ChannelClosedError(NOT_FOUND, "there is no stream"))
                reply.set(None)
            else:
                reply.fail(error)

        batch = Batch(done)
        self._out.publish(self._to, persistent(_HEADER, _WRITE.encode(entry)), b"", batch, 0)
        batch.seal()
        await reply.wait()

    def _read(self, channel: Channel, message: Delivered) -> None:
        if channel.closed:
            return
        channel.ack(message.tag)
        self._seen += 1
        try:
            text, _ = header_of(message.properties, _HEADER)
            entry = _READ.decode(text or b"")
        except (ProtocolError, ValueError):
            return  # somebody else's, or of a later version
        self._note(entry)
        if (reply := self._awaited.get(entry.hello)) is not None:
            reply.set(None)
        if entry.declared or entry.deleted:
            self._news()

    def _note(self, entry: Entry) -> None:
        self.queues -= set(entry.deleted)
        self.queues |= set(entry.declared)

    def lost(self, error: Exception) -> None:
        """The connection, or the stream, is lost: who waits is told."""
        for reply in self._awaited.values():
            reply.fail(anew(error))
