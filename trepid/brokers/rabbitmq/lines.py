"""The lines to the server: one connection to publish on, one to consume on, and what was seen to exist at their end.

They are two because a server that runs out of memory stops reading from who publishes: settlements by acknowledgement
must still get through.  They live and die together.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, TypeVar, final

import trio
from pamqp import base, commands

from trepid.brokers.rabbitmq import topology
from trepid.brokers.rabbitmq.address import Address
from trepid.brokers.rabbitmq.registry import Entry, Registry
from trepid.brokers.rabbitmq.topology import LEVELS, Names
from trepid.errors import BrokerLostError, BrokerRefusedError
from trepid.wire.amqp import Amqp, Channel, ChannelClosedError, open_amqp
from trepid.wire.household import open_household

NOT_FOUND: Final = 404
_REFUSED: Final = 403
_REGISTRY_WITHIN: Final = 1.0
_CONFIRMED_WITHIN: Final = 5.0
T = TypeVar("T")


@final
class Lines:
    """Two open connections to one server.  Made by :func:`open_lines`.

    Attributes:
      known: queues that were seen to exist; one may have been deleted since.
    """

    def __init__(self, publisher: Amqp, consumer: Amqp, out: Channel, registry: Registry, names: Names) -> None:
        self.publisher = publisher
        self.consumer = consumer
        self.out = out
        self.registry = registry
        self.names = names
        self.known: set[str] = set()
        self._built: set[tuple[str, ...]] = set()
        self._building = trio.Lock()
        self._lost = trio.Event()
        self._error: BrokerLostError | None = None
        out.lost = self._out_lost

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
        while True:
            oldest = self.out.oldest
            await trio.sleep(_CONFIRMED_WITHIN)
            if oldest is not None and oldest == self.out.oldest and self.publisher.blocked is None:
                self.publisher.link.lose(f"no confirmation for {_CONFIRMED_WITHIN:g} s")
                return

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

    async def exists(self, queue: str) -> bool:
        """Ask whether a queue was declared."""
        passive = [commands.Queue.Declare(queue=name, passive=True) for name in self.names.all(queue)]
        try:
            await self.apart(lambda channel: _all(channel, passive))
        except ChannelClosedError as exc:
            self.known.discard(queue)
            if exc.code != NOT_FOUND:
                raise BrokerLostError(f"{self.consumer.name}: {exc}") from None
            return False
        self.known.add(queue)
        return True

    async def existing(self, queues: Iterable[str]) -> set[str]:
        """Return which queues exist; those that are known are not asked for again."""
        found: set[str] = set()
        for queue in dict.fromkeys(queues):
            if queue in self.known or await self.exists(queue):
                found.add(queue)
        return found  # noqa: ASYNC910 - whoever asks publishes or leases next

    # ------------------------------------------------------------------------------------------ making things

    async def found(self) -> None:
        """Make what all queues share exist; that the server agrees proves that it has quorum queues.

        Raises:
          BrokerRefusedError: if it has none, or does not let us.
        """
        await self._build(("due",), self._floor())

    async def affirm(self, queue: str) -> None:
        """Declare a queue that exists once more: the server compares what it is made of.

        Raises:
          BrokerRefusedError: if it is not made as we make it, such as of queues that are no quorum queues.
        """
        await self._make(self._parts(queue))

    def _parts(self, queue: str) -> list[base.Frame]:
        return [_queue(name, topology.ordinary()) for name in self.names.all(queue)]

    async def declare(self, queue: str) -> None:
        """Make a queue exist."""
        names = self.names
        await self.found()
        # First the name, then the queue: whoever is interrupted leaves a name to ask for, not a queue without one.
        await self.registry.write(Entry(declared=(queue,)))
        methods = self._parts(queue)
        methods += [
            commands.Queue.Bind(
                queue=names.ready(queue, level), exchange=names.due, routing_key=names.bound_for(queue, level)
            )
            for level in LEVELS
        ]
        await self._make(methods)
        self.known.add(queue)
        # Once more: whoever waits for such a queue looks now.
        await self.registry.write(Entry(declared=(queue,)))

    async def delete(self, queue: str) -> None:
        """Remove a queue with everything that waits in it."""
        self.known.discard(queue)
        await self._make([commands.Queue.Delete(queue=name) for name in self.names.all(queue)])
        await self.registry.write(Entry(deleted=(queue,)))

    async def ways(self, delays: Iterable[float]) -> None:
        """Make the steps of the ladder exist that some delays take; no checkpoint if they do."""
        for delay in delays:
            way = topology.steps(delay)
            for before, step in zip((None, *way), way, strict=False):
                await self._build(("step", str(step)), self._step(step))
                await self._build(("way", str(before), str(step)), self._joint(before, step))

    def _floor(self) -> list[base.Frame]:
        names = self.names
        return [
            _exchange(names.stray, "fanout"),
            _queue(names.stray, topology.straying()),
            commands.Queue.Bind(queue=names.stray, exchange=names.stray),
            _exchange(names.due, "topic", **{"alternate-exchange": names.stray}),
            _exchange(names.enter, "topic"),
        ]

    def _step(self, step: int) -> list[base.Frame]:
        names = self.names
        return [
            _exchange(names.after(step), "topic"),
            commands.Exchange.Bind(destination=names.due, source=names.after(step), routing_key=f"#.+{step}.=.#"),
            _queue(names.wait(step), topology.stepping(names, step)),
        ]

    def _joint(self, before: int | None, step: int) -> list[base.Frame]:
        names = self.names
        source, key = (names.enter, f"+{step}.#") if before is None else (names.after(before), f"#.+{before}.+{step}.#")
        return [commands.Queue.Bind(queue=names.wait(step), exchange=source, routing_key=key)]

    async def _build(self, what: tuple[str, ...], methods: Sequence[base.Frame]) -> None:
        if what not in self._built:
            await self._make(methods)
            self._built.add(what)

    async def _make(self, methods: Sequence[base.Frame]) -> None:
        try:
            await self.apart(lambda channel: _all(channel, methods))
        except ChannelClosedError as exc:
            raise BrokerRefusedError(self.consumer.name, f"the queues of Trepid cannot be made: {exc}") from None


async def _all(channel: Channel, methods: Sequence[base.Frame]) -> list[Any]:
    """Send methods at once, and return their answers."""
    replies = [channel.ask(method) for method in methods]
    return [await reply.wait() for reply in replies]


def _queue(name: str, arguments: Any) -> commands.Queue.Declare:
    return commands.Queue.Declare(queue=name, durable=True, arguments=dict(arguments))


def _exchange(name: str, kind: str, **arguments: Any) -> commands.Exchange.Declare:
    return commands.Exchange.Declare(exchange=name, exchange_type=kind, durable=True, arguments=arguments)


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
        # A server that was killed takes seconds to find its streams again; nobody needs to wait for that.
        with trio.move_on_after(_REGISTRY_WITHIN), suppress(ChannelClosedError):
            await lines.apart(lambda channel: channel.call(_registry(address.names)))
        await lines.found()
        household.start_soon(_follow, lines, name=f"registry of {consumer.name}")
        yield lines


def _registry(names: Names) -> commands.Queue.Declare:
    return _queue(names.registry, topology.recording())


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
        else:
            return
