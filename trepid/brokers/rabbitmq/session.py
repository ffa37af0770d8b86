"""The session: what the port promises, as far as RabbitMQ can keep it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final, final

import trio
from typing_extensions import override

from trepid.brokers.rabbitmq import keeping, settling
from trepid.brokers.rabbitmq.address import Address
from trepid.brokers.rabbitmq.claims import capabilities_of
from trepid.brokers.rabbitmq.clock import CLOCK
from trepid.brokers.rabbitmq.depot import Depot
from trepid.brokers.rabbitmq.drawing import draw
from trepid.brokers.rabbitmq.lines import Lines, open_lines
from trepid.brokers.rabbitmq.publishing import publish
from trepid.brokers.rabbitmq.tap import FLOW, Tap, waiting
from trepid.errors import BrokerLostError, BrokerRefusedError, UnsupportedError
from trepid.ports.broker import Session
from trepid.ports.capabilities import Capabilities
from trepid.ports.messages import (
    Absent,
    Cursor,
    Delivery,
    Ending,
    Extension,
    MessageView,
    Page,
    Publication,
    QueueStats,
    Ref,
    Settlement,
)
from trepid.rules.life import CancelReply, Reply, State
from trepid.rules.publishing import Published
from trepid.wire.amqp import ChannelClosedError
from trepid.wire.supervision import Supervisor

_GIVE_BACK_WITHIN: Final = 2.0
_REFUSED: Final = 403
_SECOND: Final = "open_connection('amqp://...', results='redis://...') takes them from a second engine"


@final
class RabbitMQSession(Session):
    """An open RabbitMQ broker.  Made by :meth:`RabbitMQBroker.open`."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._depot = Depot()
        self._supervisor: Supervisor[Lines]
        self._capabilities: Capabilities

    @asynccontextmanager
    async def dial(self) -> AsyncGenerator[Lines, None]:
        """Open the lines, and work over them for the length of the block; for a supervisor."""
        async with open_lines(self._address, self._depot.stir) as lines:
            self._capabilities = capabilities_of(str(lines.consumer.server.get("version", "?")))
            self._depot.connect(lines)
            try:
                yield lines
                # Left in good order, or cancelled: what nobody has started goes to others.
            finally:
                with trio.move_on_after(_GIVE_BACK_WITHIN, shield=True):
                    if lines.error is None:
                        with suppress(BrokerLostError, BrokerRefusedError, ChannelClosedError):
                            # If that does not work, the server gives it to others by itself, as a crash.
                            await self._depot.give_back(lines)
                self._depot.disconnect()

    def attach(self, supervisor: Supervisor[Lines]) -> None:
        """Use the lines that somebody keeps up."""
        self._supervisor = supervisor

    async def run(self) -> None:
        """Carry out what need not wait for a caller, until cancelled."""
        await self._depot.run()

    @property
    @override
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    @override
    def connected(self) -> bool:
        return self._supervisor.current is not None

    async def _lines(self) -> Lines:
        await trio.lowlevel.checkpoint()
        return await self._supervisor.connection()

    @override
    async def now(self) -> float:
        await trio.lowlevel.checkpoint()
        return CLOCK.now()

    # ---------------------------------------------------------------------------------------------------- queues

    @override
    async def declare(self, queues: Sequence[str]) -> None:
        lines = await self._lines()
        for queue in dict.fromkeys(queues):
            await (lines.declare_again(queue) if await lines.exists(queue) else lines.declare(queue))

    @override
    async def queues(self) -> list[str]:
        lines = await self._lines()
        return [queue for queue in await lines.listed() if await lines.exists(queue)]

    @override
    async def delete(self, queue: str) -> None:
        await keeping.delete(await self._lines(), self._depot, queue)

    @override
    async def pause(self, queue: str) -> None:
        await trio.lowlevel.checkpoint()
        raise UnsupportedError("pausing a queue for all workers", self.capabilities.engine, "stop its workers")

    @override
    async def resume(self, queue: str) -> None:
        await trio.lowlevel.checkpoint()
        raise UnsupportedError("pausing a queue for all workers", self.capabilities.engine, "stop its workers")

    @override
    async def stats(self, queue: str) -> QueueStats:
        return await keeping.stats(await self._lines(), self._depot, queue)

    # ------------------------------------------------------------------------------------------- a message's life

    @override
    async def publish(self, batch: Sequence[Publication]) -> list[Published]:
        self._check(batch)
        lines = await self._lines()
        return await publish(lines, batch) if batch else []

    def _check(self, batch: Sequence[Publication]) -> None:
        if any(each.unique is not None for each in batch):
            raise UnsupportedError("unique keys", self.capabilities.engine, _SECOND)

    @override
    async def lease(
        self, queues: Sequence[str], limit: int, lease_for: float, *, owner: str, wait: float = 0.0
    ) -> list[Delivery]:
        if limit < 1:
            raise ValueError(f"limit must be 1 or more, not {limit}")
        give_up = trio.current_time() + wait
        found: list[Delivery] = []
        try:
            while not found:
                found, over = await self._try_to_lease(queues, limit, lease_for, owner, give_up)
                if over:
                    break
            return found
        finally:
            if not found:
                self._depot.stir()  # should nobody ask again, it ends what is pushed

    async def _try_to_lease(
        self, queues: Sequence[str], limit: int, lease_for: float, owner: str, give_up: float
    ) -> tuple[list[Delivery], bool]:
        """Look once, wait until there may be something if there is nothing; return also whether the time is over."""
        while True:
            # Counted from before anything is asked for, so that it never ends later here than there.
            began = trio.current_time()
            deadline, over = began + lease_for, began >= give_up
            lines = await self._lines()
            found = [await self._depot.tap(lines, queue) for queue in dict.fromkeys(queues)]
            taps = self._depot.in_turn([tap for tap in found if tap is not None])
            try:
                await draw(self._depot, taps, limit, over=over)
                # From here to the return there is no checkpoint: what was leased is handed over.
                share = self._share(taps, limit)
                taken = self._depot.take(taps, share, lease_for, owner, deadline)
                if not taken and not over:
                    await self._await(taps, limit, give_up)
                return taken, over
            except ChannelClosedError as exc:
                if exc.code == _REFUSED:
                    text = exc.text.partition(" for user")[0]
                    raise BrokerRefusedError(lines.consumer.name, f"it does not let us: {text}") from None
                continue  # a queue was deleted, or a message held too long; the tap is gone, and the rest stays

    def _share(self, taps: Sequence[Tap], limit: int) -> int:
        """Return how many one caller may take: those who wait get theirs, too."""
        callers = max((tap.callers for tap in taps), default=0)
        if not callers:
            return limit
        return max(1, min(limit, -(-self._depot.ready(taps) // (callers + 1))))

    async def _await(self, taps: Sequence[Tap], limit: int, give_up: float) -> None:
        """Let the server push, and wait until there may be something."""
        with waiting(taps, limit):
            for tap in taps:
                tap.listen(tap.waiting, warily=tap.flowing)
                if tap.unheard:
                    give_up = min(give_up, trio.current_time() + FLOW)  # then they are fetched
            stirred = self._depot.to_wait()
            with trio.move_on_at(give_up):
                await stirred.wait()

    @override
    async def extend(self, refs: Sequence[Ref], lease_for: float) -> list[Extension]:
        deadline = trio.current_time() + lease_for
        now = CLOCK.now()
        replies = [self._depot.book.extend(ref, now + lease_for, now) for ref in refs]
        await trio.lowlevel.checkpoint()
        return [Extension(reply, None, deadline if reply is Reply.APPLIED else 0.0) for reply in replies]

    @override
    async def settle(self, batch: Sequence[Settlement], *, then: Sequence[Publication] = ()) -> list[Reply]:
        self._check(then)
        await trio.lowlevel.checkpoint()
        if (replies := settling.refusals(self._depot, batch)) is not None:
            return replies
        return await settling.settle(self._depot, await self._lines(), batch, then)

    @override
    async def cancel(self, queue: str, ids: Sequence[str], reason: str) -> list[CancelReply]:
        await trio.lowlevel.checkpoint()
        if ids:
            raise UnsupportedError("cancelling messages", self.capabilities.engine, _SECOND)
        return []

    @override
    async def requeue(self, queue: str, ids: Sequence[str] | None = None, *, limit: int = 1000) -> int:
        came = await keeping.requeue(await self._lines(), queue, ids, limit)
        self._depot.book.forget(queue)
        return came

    @override
    async def purge(
        self, queue: str, states: Sequence[State], ids: Sequence[str] | None = None, *, limit: int = 1000
    ) -> int:
        gone = await keeping.purge(await self._lines(), self._depot, queue, states, ids, limit=limit)
        self._depot.book.forget(queue)
        return gone

    @override
    async def get(self, queue: str, id: str) -> MessageView | None:
        await trio.lowlevel.checkpoint()
        raise UnsupportedError("looking at messages", self.capabilities.engine, _SECOND)

    @override
    async def peek(self, queue: str, state: State, *, limit: int = 100, after: Cursor | None = None) -> Page:
        await trio.lowlevel.checkpoint()
        raise UnsupportedError("looking at messages", self.capabilities.engine, _SECOND)

    @override
    async def result(self, queue: str, id: str, *, wait: float = 0.0) -> Ending | Absent:
        await trio.lowlevel.checkpoint()
        raise UnsupportedError("results", self.capabilities.engine, _SECOND)

    # ---------------------------------------------------------------------------------------------------- owners

    @override
    async def held(self, owner: str) -> list[Ref]:
        """Return the leases that *owner* holds in this session; of others, the server does not tell."""
        await trio.lowlevel.checkpoint()
        return [lease.ref for lease in self._depot.book.held(owner, CLOCK.now())]

    @override
    async def expire_owner(self, owner: str) -> int:
        """Expire the leases that *owner* holds in this session; those of a dead session the server takes back."""
        leases = self._depot.book.held(owner, CLOCK.now())
        await self._depot.expire(leases)
        return len(leases)

    @override
    async def reap(self, *, limit: int = 1000) -> int:
        await trio.lowlevel.checkpoint()
        return 0
