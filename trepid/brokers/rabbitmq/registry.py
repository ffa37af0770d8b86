"""The registry: which queues were declared, written down in a stream that every session follows.

The protocol cannot list queues, and a stream can be read without taking anything out of it.  It says which names to ask
for; whether a queue is there, only the queue itself can say.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable
from typing import Final, final

import msgspec

from trepid.brokers.rabbitmq.topology import Names
from trepid.wire.amqp import Amqp, Batch, Channel, Delivered
from trepid.wire.amqp.frames import header_of, persistent
from trepid.wire.reply import Reply

_HEADER: Final = b"trepid-registry"
_LONG: Final = 2000
"""Entries after which a session writes down the sum of all: what is older may be dropped by the server."""


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
        self._channel: Channel
        self._me = secrets.token_hex(8)
        self._words = itertools.count()
        self._awaited: dict[str, Reply[None]] = {}
        self._seen = 0

    async def follow(self, consumer: Amqp) -> None:
        """Read everything there is, and go on reading.

        Raises:
          ChannelClosedError, BrokerLostError: if that does not work.
        """
        self._channel = await consumer.channel()
        offset = {"x-stream-offset": "first"}
        await self._channel.consume(self._stream, "registry", self._read, prefetch=500, arguments=offset).wait()
        await self.up_to_now()
        if self._seen > _LONG:
            await self.write(Entry(declared=tuple(sorted(self.queues))))

    async def up_to_now(self) -> None:
        """Wait until everything has been read that was written before.

        Raises:
          ChannelClosedError, BrokerLostError: if the connection is lost first.
        """
        word = f"{self._me}-{next(self._words)}"
        reply: Reply[None] = Reply()
        self._awaited[word] = reply
        try:
            await self.write(Entry(hello=word))
            await reply.wait()
        finally:
            del self._awaited[word]

    async def write(self, entry: Entry) -> None:
        """Write a line, and return when the server has it.

        Raises:
          ChannelClosedError, BrokerLostError: if the connection is lost first.
        """
        reply: Reply[None] = Reply()

        def done(_: Batch, error: Exception | None) -> None:
            if error is None:
                reply.set(None)
            else:
                reply.fail(error)

        batch = Batch(done)
        self._out.publish(self._to, persistent(_HEADER, _WRITE.encode(entry)), b"", batch, 0)
        batch.seal()
        await reply.wait()

    def _read(self, message: Delivered) -> None:
        self._channel.ack(message.tag)
        self._seen += 1
        text, _ = header_of(message.properties, _HEADER)
        try:
            entry = _READ.decode(text or b"")
        except (msgspec.DecodeError, ValueError):
            return  # somebody else's, or of a later version
        self.queues -= set(entry.deleted)
        self.queues |= set(entry.declared)
        if (reply := self._awaited.get(entry.hello)) is not None:
            reply.set(None)
        if entry.declared or entry.deleted:
            self._news()

    def lost(self, error: Exception) -> None:
        """The connection is lost: who waits is told."""
        for reply in self._awaited.values():
            reply.fail(error)
