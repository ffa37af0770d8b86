"""Building: queues, exchanges and bindings are made on the server, each at most once over a pair of lines.

A quorum queue that is young needs care.  RabbitMQ 3.10 writes down under which name it keeps a new one up to a second
later (its Raft library does so at once since May 2024).  Killed before, it returns with an empty queue of that name
which never gets a leader: what was confirmed in it is lost, and nothing is ever confirmed again.  But what it has not
written yet it does write before it looks up another name; so behind what is needed a decoy is made, and removed again.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, Protocol, TypeVar, final

from pamqp import base, commands

from trepid.brokers.rabbitmq import topology
from trepid.brokers.rabbitmq.topology import LEVELS, Names
from trepid.errors import BrokerLostError, BrokerRefusedError
from trepid.wire.amqp import Channel, ChannelClosedError

NOT_FOUND: Final = 404
T = TypeVar("T")


class Apart(Protocol):
    """Does something that the server may answer by closing the channel, on a channel of its own."""

    async def __call__(self, work: Callable[[Channel], Awaitable[T]]) -> T:
        """Return what *work* returns.  Raises ChannelClosedError, BrokerLostError or BrokerRefusedError."""
        ...


@final
class Builder:
    """Makes what is needed, over one pair of lines.

    Args:
      name: of the server.
      names: what everything is called.
      apart: how to ask the server.
    """

    def __init__(self, name: str, names: Names, apart: Apart) -> None:
        self._name = name
        self._names = names
        self._apart = apart
        self._built: set[tuple[str, ...]] = set()

    async def exist(self, queues: Iterable[str]) -> bool:
        """Ask whether all of some queues of the server exist.

        Raises:
          BrokerLostError: also if it cannot say so now.
        """
        passive = [commands.Queue.Declare(queue=queue, passive=True) for queue in queues]
        try:
            await self._apart(lambda channel: _all(channel, passive))
        except ChannelClosedError as exc:
            if exc.code != NOT_FOUND:
                raise BrokerLostError(f"{self._name}: {exc}") from None
            return False
        return True

    async def found(self) -> None:
        """Make what all queues share exist; that the server agrees proves that it has quorum queues.

        Raises:
          BrokerRefusedError: if it has none, or does not let us.
        """
        names = self._names
        floor = [
            _exchange(names.stray, "fanout"),
            queue_called(names.stray, topology.straying()),
            commands.Queue.Bind(queue=names.stray, exchange=names.stray),
            _exchange(names.due, "topic", **{"alternate-exchange": names.stray}),
            _exchange(names.enter, "topic"),
        ]
        await self._build(("due",), floor, names.stray)

    async def affirm(self, queue: str) -> None:
        """Declare a queue that exists once more: the server compares what it is made of.

        Raises:
          BrokerRefusedError: if it is not made as we make it, such as of queues that are no quorum queues.
        """
        await self._make(self._parts(queue))

    async def declare(self, queue: str) -> None:
        """Make a queue exist."""
        names = self._names
        binds = [
            commands.Queue.Bind(
                queue=names.ready(queue, level), exchange=names.due, routing_key=names.bound_for(queue, level)
            )
            for level in LEVELS
        ]
        await self._make([*self._parts(queue), *self._decoy(), *binds])

    async def delete(self, queue: str) -> None:
        """Remove a queue with everything that waits in it."""
        await self._make([commands.Queue.Delete(queue=name) for name in self._names.all(queue)])

    async def ways(self, delays: Iterable[float]) -> None:
        """Make the steps of the ladder exist that some delays take; no checkpoint if they do."""
        for delay in delays:
            way = topology.steps(delay)
            for before, step in zip((None, *way), way, strict=False):
                await self._build(("step", str(step)), self._step(step), self._names.wait(step))
                await self._build(("way", str(before), str(step)), self._joint(before, step))

    def _parts(self, queue: str) -> list[base.Frame]:
        return [queue_called(name, topology.ordinary()) for name in self._names.all(queue)]

    def _step(self, step: int) -> list[base.Frame]:
        names = self._names
        return [
            _exchange(names.after(step), "topic"),
            commands.Exchange.Bind(destination=names.due, source=names.after(step), routing_key=f"#.+{step}.=.#"),
            queue_called(names.wait(step), topology.stepping(names, step)),
        ]

    def _joint(self, before: int | None, step: int) -> list[base.Frame]:
        names = self._names
        source, key = (names.enter, f"+{step}.#") if before is None else (names.after(before), f"#.+{before}.+{step}.#")
        return [commands.Queue.Bind(queue=names.wait(step), exchange=source, routing_key=key)]

    def _decoy(self) -> list[base.Frame]:
        # Another name each time: a queue that is there already makes the server write nothing.
        name = self._names.decoy(secrets.token_hex(8))
        return [queue_called(name, topology.decoying()), commands.Queue.Delete(queue=name)]

    async def _build(self, what: tuple[str, ...], methods: Sequence[base.Frame], queue: str | None = None) -> None:
        """Make something exist; *queue* is the one queue of the server that is part of it, if any."""
        if what not in self._built:
            young = queue is not None and not await self.exist((queue,))
            await self._make([*methods, *(self._decoy() if young else ())])
            self._built.add(what)

    async def _make(self, methods: Sequence[base.Frame]) -> None:
        try:
            await self._apart(lambda channel: _all(channel, methods))
        except ChannelClosedError as exc:
            raise BrokerRefusedError(self._name, f"the queues of Trepid cannot be made: {exc}") from None


async def _all(channel: Channel, methods: Sequence[base.Frame]) -> list[Any]:
    """Send methods at once, and return their answers."""
    replies = [channel.ask(method) for method in methods]
    return [await reply.wait() for reply in replies]


def queue_called(name: str, arguments: Any) -> commands.Queue.Declare:
    """Return the method that makes a durable queue."""
    return commands.Queue.Declare(queue=name, durable=True, arguments=dict(arguments))


def _exchange(name: str, kind: str, **arguments: Any) -> commands.Exchange.Declare:
    return commands.Exchange.Declare(exchange=name, exchange_type=kind, durable=True, arguments=arguments)
