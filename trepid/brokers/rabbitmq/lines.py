"""The lines to the server: one connection to publish on, one to consume on, and what was seen to exist at their end.

They are two because a server that runs out of memory stops reading from who publishes: settlements by acknowledgement
must still get through.  They live and die together.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final, TypeVar, final

import trio
from pamqp import commands

from trepid.brokers.rabbitmq import topology
from trepid.brokers.rabbitmq.address import Address
from trepid.brokers.rabbitmq.building import Builder, queue_called
from trepid.brokers.rabbitmq.passport import HEADER, Passport
from trepid.brokers.rabbitmq.registry import Entry, Registry
from trepid.brokers.rabbitmq.topology import Names
from trepid.errors import BrokerLostError, BrokerRefusedError
from trepid.wire.amqp import Amqp, Channel, ChannelClosedError, open_amqp
from trepid.wire.amqp.frames import persistent
from trepid.wire.household import open_household

_REFUSED: Final = 403
_REGISTRY_WITHIN: Final = 3.0
_LISTED_WITHIN: Final = 10.0
_CONFIRMED_WITHIN: Final = 5.0
_LOOKS: Final = 5
"""Into so many parts is that time divided: one in which this process slept, or the server had no room, decides nothing.
"""
YOUNG: Final = 1.5
"""Seconds after which a server has surely written down what it was the first to make: it does so twice a second."""
T = TypeVar("T")


@final
class Lines:
    """Two open connections to one server.  Made by :func:`open_lines`.

    Attributes:
      known: queues that were seen to exist; one may have been deleted since.
      builder: makes what is needed.
    """

    def __init__(self, publisher: Amqp, consumer: Amqp, out: Channel, registry: Registry, names: Names) -> None:
        self.publisher = publisher
        self.consumer = consumer
        self.out = out
        self.registry = registry
        self.names = names
        self.known: set[str] = set()
        self.builder = Builder(consumer.name, names, self.apart)
        self._lost = trio.Event()
        self._error: BrokerLostError | None = None
        out.lost = self._out_lost

    def sealed(self, passport: Passport) -> bytes:
        """Return the properties with which a message is published."""
        return persistent(HEADER, passport.written(self.publisher.frame_max))

    @property
    def error(self) -> BrokerLostError | None:
        """Why they were lost, once either was."""
        return self.publisher.link.error or self.consumer.link.error

    async def wait_lost(self) -> BrokerLostError:
        """Wait until either is lost, and return why."""
        await self._lost.wait()
        assert self._error is not None
        return self._error

    async def watch(self, amqp: Amqp) -> None:
        """Note the loss of one of the two; a task for each."""
        error = await amqp.wait_lost()
        self._error = self._error or error
        self.registry.lost(error)
        self._lost.set()

    async def watch_confirmations(self) -> None:
        """Give the lines up if the server confirms nothing any more; a task beside them.

        While a killed server boots, a quorum queue may take messages before it has a leader, and then never confirms
        them to the channel that sent them.
        """
        looks, part = 0, _CONFIRMED_WITHIN / _LOOKS
        while looks < _LOOKS:
            oldest, before = self.out.oldest, trio.current_time()
            await trio.sleep(part)
            if oldest is None or oldest != self.out.oldest or self.publisher.blocked is not None:
                looks = 0
            elif trio.current_time() - before < 2 * part:
                looks += 1
        self.publisher.link.lose(f"no confirmation for {_CONFIRMED_WITHIN:g} s")

    def _out_lost(self, error: Exception) -> None:
        # Nothing but a mistake, or somebody who deletes our exchanges, closes this channel.
        self.publisher.link.lose(f"the server closed the channel for publishing: {error}")

    # ------------------------------------------------------------------------------------------ what there is

    async def apart(self, work: Callable[[Channel], Awaitable[T]]) -> T:
        """Do something that the server may answer by closing the channel, on a channel of its own.

        Raises:
          ChannelClosedError, BrokerLostError, BrokerRefusedError: what became of it.

        Cancellation: what was under way may have been done; the channel is left to be closed by itself.
        """
        channel = await self.consumer.channel()
        try:
            result = await work(channel)
        except ChannelClosedError as exc:
            raise self._refusal(exc) from None
        except BaseException:
            # No time to wait for the answer; the close is sent, and its answer frees the number.
            channel.abandon()
            raise
        await channel.close()
        return result

    def _refusal(self, exc: ChannelClosedError) -> Exception:
        if exc.code == _REFUSED:
            return BrokerRefusedError(self.consumer.name, f"it does not let us: {exc.text.partition(' for user')[0]}")
        return exc

    @contextmanager
    def shared(self) -> Generator[None]:
        """Say what it means that a channel was closed which everybody shares: for publishing, or for the registry.

        Raises:
          BrokerLostError, BrokerRefusedError: in place of ChannelClosedError.
        """
        try:
            yield
        except ChannelClosedError as exc:
            refusal = self._refusal(exc)
            raise (refusal if refusal is not exc else BrokerLostError(f"{self.publisher.name}: {exc}")) from None

    async def exists(self, queue: str) -> bool:
        """Ask whether a queue was declared."""
        there = await self.builder.exist(queue)
        (self.known.add if there else self.known.discard)(queue)
        return there

    async def existing(self, queues: Iterable[str]) -> set[str]:
        """Return which queues exist; those that are known are not asked for again."""
        found: set[str] = set()
        for queue in dict.fromkeys(queues):
            if queue in self.known or await self.exists(queue):
                found.add(queue)
        return found  # noqa: ASYNC910 - whoever asks publishes or leases next

    async def mended(self, queue: str) -> bool:
        """Return whether a queue was declared, and not deleted since; if so, what leads into it is made once more."""
        if await self.exists(queue):
            await self.builder.declare(queue)
            return True
        return False

    async def gone(self, queues: Iterable[str]) -> set[str]:
        """Return which queues are gone with all that was in them; what leads into the others is made once more.

        One that is there without its seal may be about to go, or just be short of its seal; so it is not gone.
        """
        missing: set[str] = set()
        for queue in set(queues) - self.known:
            if not await self.mended(queue) and not any(
                [await self.builder.there(name) for name in self.names.all(queue)]
            ):
                missing.add(queue)
        return missing  # noqa: ASYNC910 - whoever asks publishes next

    async def listed(self) -> list[str]:
        """Return the names of queues that were declared, as far as the registry has them; some may be gone.

        Raises:
          BrokerLostError: if the registry cannot be read.
        """
        with trio.move_on_after(_LISTED_WITHIN), self.shared():
            await self.registry.up_to_now()
            return sorted(self.registry.queues)
        raise BrokerLostError(f"{self.consumer.name}: its stream {self.names.registry} cannot be read")

    async def declare(self, queue: str) -> None:
        """Make a queue exist."""
        await self.builder.found()
        # First the name, then the queue: whoever is interrupted leaves a name to ask for, not a queue without one.
        await self._list(Entry(declared=(queue,)))
        await self.builder.declare(queue)
        self.known.add(queue)
        # Once more: whoever waits for such a queue looks now.
        await self._list(Entry(declared=(queue,)))

    async def declare_again(self, queue: str) -> None:
        """Compare a queue that exists with what we make, and list it if it is not listed (any more)."""
        await self.builder.declare(queue)
        if queue not in self.registry.queues:
            await self._list(Entry(declared=(queue,)))

    async def delete(self, queue: str) -> None:
        """Remove a queue with everything that waits in it."""
        self.known.discard(queue)
        await self.builder.delete(queue)
        await self._list(Entry(deleted=(queue,)))

    async def _list(self, entry: Entry) -> None:
        # A queue without a name in the registry works; nobody shall wait for ever for a stream that was lost.
        with trio.move_on_after(_LISTED_WITHIN), self.shared():
            await self.registry.write(entry)


@asynccontextmanager
async def open_lines(address: Address, news: Callable[[], None]) -> AsyncGenerator[Lines, None]:
    """Connect twice, and follow the registry; closed in good order when the block is left.

    Args:
      address: where the server is.
      news: called when queues were declared or deleted.

    Raises:
      BrokerLostError, BrokerRefusedError: if that does not work.
    """
    async with (
        open_amqp(address.endpoint, address.login) as publisher,
        open_amqp(address.endpoint, address.login) as consumer,
        open_household() as household,
    ):
        out = await publisher.channel(confirming=True)
        registry = Registry(address.names, await publisher.channel(confirming=True), news)
        lines = Lines(publisher, consumer, out, registry, address.names)
        household.start_soon(lines.watch, publisher, name=f"watch the publishing connection to {publisher.name}")
        household.start_soon(lines.watch, consumer, name=f"watch the consuming connection to {consumer.name}")
        household.start_soon(lines.watch_confirmations, name=f"confirmations of {publisher.name}")
        with trio.move_on_after(_REGISTRY_WITHIN):
            await _begin_registry(lines)
        await lines.builder.found()
        household.start_soon(_follow, lines, name=f"registry of {consumer.name}")
        yield lines


async def _begin_registry(lines: Lines) -> None:
    """Make the registry, if there never was one; one that is not back yet after a crash is followed when it is."""
    if await lines.builder.there(lines.names.registry):
        return
    with suppress(ChannelClosedError):
        await lines.apart(lambda channel: channel.call(_registry(lines.names)))
        # What keeps all streams of a server begins with its first one, and a server that is killed before that is
        # written down forgets this stream for good.  No message depends on it, but no decoy helps it either.
        await trio.sleep(YOUNG)


def _registry(names: Names) -> commands.Queue.Declare:
    return queue_called(names.registry, topology.recording())


async def _follow(lines: Lines) -> None:
    """Follow the registry; where that does not work, it may a second later."""
    while True:
        try:
            await lines.apart(lambda channel: channel.call(_registry(lines.names)))
            await lines.registry.follow(lines.consumer)
        except (ChannelClosedError, BrokerRefusedError):
            await trio.sleep(1)
        except BrokerLostError:
            return  # and so is everything else
