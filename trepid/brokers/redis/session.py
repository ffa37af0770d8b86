"""The session: what the port promises, as scripts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Final, TypeVar, final

import attrs
import trio
from typing_extensions import override

from trepid.brokers.look import Look
from trepid.brokers.redis import keeping, leasing, limiting, looking
from trepid.brokers.redis.bells import Bells
from trepid.brokers.redis.engine import Engine
from trepid.brokers.redis.joining import Joiner
from trepid.brokers.redis.records import RedisRecords
from trepid.brokers.redis.scripts import CLOCK
from trepid.brokers.redis.settling import settle
from trepid.errors import TrepidError
from trepid.ports.broker import Session
from trepid.ports.capabilities import Capabilities
from trepid.ports.messages import (
    Absent,
    Cursor,
    Delivery,
    Ending,
    Extension,
    Firing,
    MessageView,
    Page,
    Publication,
    QueueStats,
    Ref,
    Settlement,
)
from trepid.rules.gates import Limit
from trepid.rules.life import CancelReply, Reply, State
from trepid.rules.publishing import Published

R = TypeVar("R")

_POLL: Final = 2.0
"""Seconds between looks while somebody waits: the net under the bells."""


@final
@attrs.define(eq=False)
class RedisSession(Session):
    """An open Redis broker.  Made by :meth:`RedisBroker.open`."""

    _engine: Engine
    _bells: Bells
    _capabilities: Capabilities
    _joiner: Joiner = attrs.field(init=False)
    _records: RedisRecords = attrs.field(init=False)
    _turn: int = attrs.field(init=False, default=0)
    _weights: dict[str, int] = attrs.field(init=False, factory=dict)
    # By owner: why one queue of a cluster failed in a call that returned what others had granted.
    _unheard: dict[str, TrepidError] = attrs.field(init=False, factory=dict)
    _latest: float = attrs.field(init=False, default=0.0)

    def __attrs_post_init__(self) -> None:
        self._joiner = Joiner(self._engine)
        self._records = RedisRecords(self._engine, self._bells)

    async def run(self) -> None:
        """Serve the session's tasks, until cancelled."""
        await self._joiner.run()

    @property
    @override
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    @override
    def connected(self) -> bool:
        return self._engine.servers.connected

    @property
    @override
    def records(self) -> RedisRecords:
        return self._records

    @override
    async def now(self) -> float:
        self._latest = max(self._latest, float(await self._engine.run(CLOCK, [])))
        return self._latest

    # ---------------------------------------------------------------------------------------------------- queues

    @override
    async def declare(self, queues: Sequence[str]) -> None:
        if not queues:
            await trio.lowlevel.checkpoint()
            return
        await keeping.declare(self._engine, queues)

    @override
    async def queues(self) -> list[str]:
        return await keeping.names(self._engine)

    @override
    async def delete(self, queue: str) -> None:
        await keeping.delete(self._engine, queue)

    @override
    async def pause(self, queue: str) -> None:
        await keeping.pause(self._engine, queue, paused=True)

    @override
    async def resume(self, queue: str) -> None:
        await keeping.pause(self._engine, queue, paused=False)

    @override
    async def stats(self, queue: str) -> QueueStats:
        return await looking.stats(self._engine, queue)

    # ------------------------------------------------------------------------------------------- a message's life

    @override
    async def publish(self, batch: Sequence[Publication]) -> list[Published]:
        if not batch:
            await trio.lowlevel.checkpoint()
            return []
        return await self._joiner.publish(batch)

    @override
    async def lease(
        self, queues: Sequence[str], limit: int, lease_for: float, *, owner: str, wait: float = 0.0
    ) -> list[Delivery]:
        if limit < 1:
            raise ValueError(f"limit must be 1 or more, not {limit}")
        if not queues:
            await trio.sleep(wait)
            return []
        wish = leasing.Wish(list(dict.fromkeys(queues)), limit, lease_for, owner)

        async def look(*, waits: bool) -> Look[list[Delivery]]:
            turned = True  # also if it fails: then another queue, on another server, is asked first the next time
            try:
                if owner in self._unheard:
                    # That server may have granted what nobody knows of: a worker looks for it once it hears of trouble.
                    raise self._unheard.pop(owner)
                claim = await leasing.lease(self._engine, wish, self._turn + 1, self._weights, waits=waits)
                turned = claim.turned
            finally:
                self._turn += turned
            if claim.trouble is not None:
                self._unheard[owner] = claim.trouble
            return Look(claim.deliveries, bool(claim.deliveries), claim.wait)

        return await self._listened(look, wait, *map(self._engine.keys.work, wish.queues))

    async def _listened(
        self,
        look: Callable[..., Awaitable[Look[R]]],
        wait: float,
        *channels: str,
        about: Sequence[str | None] = (None,),
    ) -> R:
        """Look until there is enough; from the second time on with bells, for which *look* is given ``waits=True``."""
        give_up = trio.current_time() + wait
        looked = await look(waits=False)
        # From each look to the return there is no checkpoint: what was leased is handed over.
        if looked.enough or wait <= 0:
            return looked.found
        with self._bells.ear(*channels, about=about) as ear:
            while True:
                ear.forget()
                for channel in channels:
                    await self._engine.servers.listen(channel)
                looked = await look(waits=True)
                if looked.enough or trio.current_time() >= give_up:
                    return looked.found
                await ear.wait(min(give_up, _alarm(looked.wait)))

    @override
    async def extend(self, refs: Sequence[Ref], lease_for: float) -> list[Extension]:
        if not refs:
            await trio.lowlevel.checkpoint()
            return []
        return await leasing.extend(self._engine, refs, lease_for)

    @override
    async def settle(self, batch: Sequence[Settlement], *, then: Sequence[Publication] = ()) -> list[Reply]:
        if not batch:
            await trio.lowlevel.checkpoint()
            return []
        return await settle(self._engine, batch, then)

    @override
    async def cancel(self, queue: str, ids: Sequence[str], reason: str) -> list[CancelReply]:
        return await keeping.cancel(self._engine, queue, ids, reason)

    @override
    async def requeue(self, queue: str, ids: Sequence[str] | None = None, *, limit: int = 1000) -> int:
        return await keeping.requeue(self._engine, queue, ids, limit)

    @override
    async def purge(
        self, queue: str, states: Sequence[State], ids: Sequence[str] | None = None, *, limit: int = 1000
    ) -> int:
        return await keeping.purge(self._engine, queue, states, ids, limit)

    # --------------------------------------------------------------------------------------------------- looking

    @override
    async def get(self, queue: str, id: str) -> MessageView | None:
        return await looking.get(self._engine, queue, id)

    @override
    async def peek(self, queue: str, state: State, *, limit: int = 100, after: Cursor | None = None) -> Page:
        return await looking.peek(self._engine, queue, state, limit, after or 0)

    @override
    async def result(self, queue: str, id: str, *, wait: float = 0.0) -> Ending | Absent:
        look = partial(looking.result, self._engine, queue, id)
        return await self._listened(look, wait, self._engine.keys.ended(queue), about=[id])

    @override
    async def endings(self, queue: str, ids: Sequence[str], *, wait: float = 0.0) -> dict[str, Ending | Absent]:
        ids = list(dict.fromkeys(ids))
        if not ids:
            await trio.sleep(wait)
            return {}

        look = partial(looking.endings, self._engine, queue, ids)
        return await self._listened(look, wait, self._engine.keys.ended(queue), about=ids)

    # ---------------------------------------------------------------------------------------------------- owners

    @override
    async def held(self, owner: str) -> list[Ref]:
        queues = await keeping.names(self._engine)
        return [ref for ref, _ in await leasing.owned(self._engine, queues, owner, asked=False)]

    @override
    async def asked(self, owner: str, known: Collection[Ref], *, wait: float = 0.0) -> list[tuple[Ref, str]]:
        give_up = trio.current_time() + wait
        with self._bells.ear(self._engine.keys.asked) as ear:
            while True:
                ear.forget()
                if wait > 0:
                    await self._engine.servers.listen(self._engine.keys.asked)
                queues = await keeping.names(self._engine)
                found = await leasing.owned(self._engine, queues, owner, asked=True)
                asked = [each for each in found if each[0] not in known]
                if asked or trio.current_time() >= give_up:
                    return asked
                await ear.wait(min(give_up, _alarm(None)))

    @override
    async def expire_owner(self, owner: str) -> int:
        return await keeping.expire_owner(self._engine, await keeping.names(self._engine), owner)

    @override
    async def reap(self, *, limit: int = 1000) -> int:
        moved = 0
        for queue in await keeping.names(self._engine):
            if moved < limit:
                moved += await keeping.settle_the_past(self._engine, queue)
        return moved

    # ------------------------------------------------------------------------------------------ limits, schedules

    @override
    async def limit(self, limits: Sequence[Limit]) -> None:
        if not limits:
            await trio.lowlevel.checkpoint()
            return
        await limiting.limit(self._engine, limits)

    @override
    async def fire(self, firings: Sequence[Firing]) -> list[Published]:
        if not firings:
            await trio.lowlevel.checkpoint()
            return []
        return await limiting.fire(self._engine, firings)

    @override
    async def marks(self, queue: str) -> dict[str, float]:
        return await limiting.marks(self._engine, queue)


def _alarm(wait: float | None) -> float:
    """Return the moment on Trio's clock to look again: when time may change something, and now and then anyway."""
    seconds = _POLL if wait is None else min(max(wait, 0.001), _POLL)
    return trio.current_time() + seconds
