"""Building: queues, exchanges and bindings are made on the server, each at most once over a pair of lines.

A quorum queue that is young needs care.  RabbitMQ 3.10 writes down under which name it keeps a new one up to a second
later (its Raft library does so at once since May 2024).  Killed before, it returns with an empty queue of that name
which never gets a leader: what was confirmed in it is lost, and nothing is ever confirmed again.  So

- behind what is needed a decoy is made, and removed again: what the server has not written yet it does write before it
  looks up another name;
- then follows a seal, an exchange that says that all this was done.  Nobody uses a queue without one.  Queues that are
  found without it are those of a server that was killed while it made them, and are made anew.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final, Protocol, TypeVar, final

import trio
from pamqp import base, commands

from trepid.brokers.rabbitmq import topology
from trepid.brokers.rabbitmq.topology import Names
from trepid.errors import BrokerLostError, BrokerRefusedError
from trepid.wire.amqp import Channel, ChannelClosedError

NOT_FOUND: Final = 404
_LOCKED: Final = 405
_AGAIN: Final = 0.5
_MADE_WITHIN: Final = 2.0
"""Seconds in which a server surely makes a few queues that it was asked for in one breath."""
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
        self._built: set[str] = set()
        self._at_work = trio.Lock()

    async def exist(self, queue: str) -> bool:
        """Ask whether a queue was declared.

        Raises:
          BrokerLostError: also if the server cannot say so now.
        """
        return await self._agrees(_seal(self._names.seal(queue)), *map(_looked_for, self._names.all(queue)))

    async def there(self, name: str) -> bool:
        """Ask whether there is a queue of the server, sealed or not."""
        return await self._agrees(_looked_for(name))

    async def _agrees(self, *passive: base.Frame) -> bool:
        return await self._ask(*passive) is not None

    async def _ask(self, *passive: base.Frame) -> list[Any] | None:
        """Return what the server says about some things, or None if one of them is not there."""
        try:
            return await self._apart(lambda channel: _all(channel, passive))
        except ChannelClosedError as exc:
            if exc.code != NOT_FOUND:
                raise BrokerLostError(f"{self._name}: {exc}") from None
            return None

    async def found(self) -> None:
        """Make what all queues share exist; that the server agrees proves that it has quorum queues.

        Raises:
          BrokerRefusedError: if it has none, or does not let us.
        """
        names = self._names
        rest = [
            _exchange(names.stray, "fanout"),
            commands.Queue.Bind(queue=names.stray, exchange=names.stray),
            _exchange(names.due, "topic", **{"alternate-exchange": names.stray}),
            _exchange(names.door, "direct"),
            _exchange(names.enter, "topic"),
        ]
        await self._once("floor", partial(self._erect, {names.stray: topology.straying()}, rest, names.enter))

    async def declare(self, queue: str) -> None:
        """Make a queue exist; one that exists is declared once more, so that the server compares what it is made of.

        Raises:
          BrokerRefusedError: if it is not made as we make it, such as of queues that are no quorum queues.
        """
        seal = self._names.seal(queue)
        parts = dict.fromkeys(self._names.all(queue), topology.ordinary())
        rest: list[base.Frame] = [
            commands.Queue.Bind(queue=name, exchange=exchange, routing_key=key)
            for name, exchange, key in self._names.ways_in(queue)
        ]
        async with self._at_work:
            await self._erect(parts, [*rest, _exchange(seal, "fanout")], seal)

    async def delete(self, queue: str) -> None:
        """Remove a queue with everything that waits in it.

        First nothing gets into it any more, and then it goes: see :attr:`Names.door`.
        """
        names = self._names
        shut = [
            commands.Queue.Unbind(queue=name, exchange=exchange, routing_key=key)
            for name, exchange, key in names.ways_in(queue)
        ]
        doomed = [commands.Queue.Delete(queue=name) for name in names.all(queue)]
        await self._make([commands.Exchange.Delete(exchange=names.seal(queue)), *shut, *doomed])

    def doubt(self) -> None:
        """Take nothing of the ladder for granted any more: a step that seemed to stand took no message."""
        self._built.clear()

    async def ways(self, delays: Iterable[float]) -> None:
        """Make the steps of the ladder exist that some delays take; no checkpoint if they do."""
        for delay in delays:
            way = topology.steps(delay)
            for before, step in zip((None, *way), way, strict=False):
                await self._once(f"step {step}", partial(self._step, step))
                await self._once(f"way {before} {step}", partial(self._make, self._joint(before, step)))

    async def _step(self, step: int) -> None:
        names = self._names
        rest = [
            _exchange(names.after(step), "topic"),
            commands.Exchange.Bind(destination=names.due, source=names.after(step), routing_key=f"#.+{step}.=.#"),
        ]
        await self._erect({names.wait(step): topology.stepping(names, step)}, rest, names.after(step))

    def _joint(self, before: int | None, step: int) -> list[base.Frame]:
        names = self._names
        source, key = (names.enter, f"+{step}.#") if before is None else (names.after(before), f"#.+{before}.+{step}.#")
        return [commands.Queue.Bind(queue=names.wait(step), exchange=source, routing_key=key)]

    async def _once(self, what: str, make: Callable[[], Awaitable[None]]) -> None:
        if what not in self._built:
            async with self._at_work:
                await make()
                self._built.add(what)

    async def _erect(self, queues: Mapping[str, Mapping[str, Any]], rest: Sequence[base.Frame], seal: str) -> None:
        """Make some queues and what belongs to them; the seal is the exchange in *rest* that shows that they stand."""
        parts = [queue_called(name, arguments) for name, arguments in queues.items()]
        if await self._agrees(_seal(seal), *map(_looked_for, queues)):
            await self._make([*parts, *rest])
            return
        anew = [*parts, *self._decoy(), *rest]
        if await self._agrees(_seal(seal)) or not any([await self.there(name) for name in queues]):
            await self._make(anew)
            return
        # A server was killed over them; or somebody else is making them at this moment.
        await trio.sleep(_MADE_WITHIN)
        while not await self._agrees(_seal(seal)):
            async with self._alone() as alone:
                if alone and not await self._agrees(_seal(seal)):
                    await self._clear(queues)
                    await self._make(anew)
            await trio.sleep(_AGAIN)

    @asynccontextmanager
    async def _alone(self) -> AsyncGenerator[bool]:
        """Be the only session that removes what was never sealed; whether that is so."""
        name = self._names.mending
        try:
            await self._apart(lambda channel: channel.call(commands.Queue.Declare(queue=name, exclusive=True)))
        except ChannelClosedError as exc:
            if exc.code != _LOCKED:
                raise BrokerLostError(f"{self._name}: {exc}") from None
            yield False
            return
        try:
            yield True
        finally:
            # If that comes to nothing, it ends with the connection.
            with trio.move_on_after(_AGAIN, shield=True), suppress(BrokerLostError, ChannelClosedError):
                await self._apart(lambda channel: channel.call(commands.Queue.Delete(queue=name)))

    async def _clear(self, queues: Mapping[str, Mapping[str, Any]]) -> None:
        """Remove queues that were not sealed; those that are not ours are refused."""
        doomed: list[base.Frame] = []
        for name, arguments in queues.items():
            said = await self._ask(_looked_for(name))
            if said is not None:
                await self._make([queue_called(name, arguments)])
                # Nobody publishes to what is not sealed.  If there are messages, somebody else has removed the seal.
                doomed += [] if said[0].message_count else [commands.Queue.Delete(queue=name)]
        for removal in doomed:
            await self._make([removal])

    def _decoy(self) -> list[base.Frame]:
        # Another name each time: a queue that is there already makes the server write nothing.
        name = self._names.decoy(secrets.token_hex(8))
        return [queue_called(name, topology.decoying()), commands.Queue.Delete(queue=name)]

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


def _looked_for(name: str) -> commands.Queue.Declare:
    return commands.Queue.Declare(queue=name, passive=True)


def _seal(name: str) -> commands.Exchange.Declare:
    return commands.Exchange.Declare(exchange=name, passive=True)


def _exchange(name: str, kind: str, **arguments: Any) -> commands.Exchange.Declare:
    return commands.Exchange.Declare(exchange=name, exchange_type=kind, durable=True, arguments=arguments)
