"""Queues, dead letters and removal."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import trio

from trepid.brokers.redis.engine import Engine
from trepid.brokers.redis.rows import unpack
from trepid.brokers.redis.scripts import CANCEL, DECLARE, DELETE, EXPIRE, PAUSE, PURGE, REQUEUE, SWEEP
from trepid.errors import BrokerLostError, QueueBusyError, UnknownQueueError
from trepid.rules.life import CancelReply, State

_AT_ONCE: Final = 500
_WHOLE_WITHIN: Final = 5.0
_CANCELS: Final = {
    ord("W"): CancelReply.WITHDRAWN,
    ord("R"): CancelReply.REQUESTED,
    ord("F"): CancelReply.FINISHED,
    ord("U"): CancelReply.UNKNOWN,
}


async def names(engine: Engine) -> list[str]:
    """Return the names of all queues, sorted."""
    listed = await engine.servers.call(engine.keys.queues, "SMEMBERS", engine.keys.queues)
    return sorted(name.decode() for name in listed)


async def declare(engine: Engine, queues: Sequence[str]) -> None:
    """Make queues exist."""
    if engine.keys.clustered:
        async with _whole("declaring queues"):
            for queue in queues:
                await _declare_apart(engine, queue)
        return
    await engine.run(DECLARE, queues, list(queues), engine.keys.queues)


async def _declare_apart(engine: Engine, queue: str) -> None:
    """Declare a queue of a cluster: it is in one place, and the list of queues in another."""
    keys, call = engine.keys, engine.servers.call
    meta = keys.meta(queue)
    if await call(meta, "HGET", meta, "number") is None:
        number = await call(keys.numbers, "INCR", keys.numbers)
        await engine.run(DECLARE, [queue], [queue], None, number % 65536)
    # Not written again if it is there, which a full server would refuse.
    if not await call(keys.queues, "SISMEMBER", keys.queues, queue):
        await call(keys.queues, "SADD", keys.queues, queue)


async def delete(engine: Engine, queue: str) -> None:
    """Remove a queue with everything in it, unless a message of it is leased."""
    listed = engine.keys.queues
    if engine.keys.clustered:
        async with _whole("deleting a queue"):
            leased = await _delete(engine, queue, None)
            if not leased:
                await engine.servers.call(listed, "SREM", listed, queue)
    else:
        leased = await _delete(engine, queue, listed)
    if leased:
        raise QueueBusyError(queue, leased)


async def _delete(engine: Engine, queue: str, listed: str | None) -> int:
    leased: int = await engine.run(DELETE, [queue], queue, listed)
    while leased < 0:
        leased = await engine.run(DELETE, [queue], queue, listed)
    return leased


@asynccontextmanager
async def _whole(what: str) -> AsyncGenerator[None, None]:
    """Do what takes several steps on a cluster to its end, also for who is cancelled meanwhile; bounded."""
    await trio.lowlevel.checkpoint_if_cancelled()
    with trio.move_on_after(_WHOLE_WITHIN, shield=True) as scope:  # noqa: ASYNC100 - around the body of the block
        yield
    if scope.cancelled_caught:
        raise BrokerLostError(f"{what} took more than {_WHOLE_WITHIN:g} s, and may be done by half; repeat it")


async def pause(engine: Engine, queue: str, *, paused: bool) -> None:
    """Pause or resume a queue."""
    if await engine.run(PAUSE, [queue], paused) is None:
        raise UnknownQueueError(queue)


async def cancel(engine: Engine, queue: str, ids: Sequence[str], reason: str) -> list[CancelReply]:
    """Withdraw waiting messages, and ask for leased ones to be stopped."""
    replies: list[CancelReply] = []
    for chosen in _shares(ids):
        answer = await engine.run(CANCEL, [queue], chosen, reason, engine.keys.asked)
        replies += [_CANCELS[letter] for letter in answer]
    return replies


async def settle_the_past(engine: Engine, queue: str) -> int:
    """Carry out all that time has decided in a queue, in steps that keep nobody waiting, and return how much it was."""
    total: int = max(0, await engine.run(SWEEP, [queue], 100))
    moved = total
    while moved >= 100:
        moved = await engine.run(SWEEP, [queue], 100)
        total += max(moved, 0)
    return total


async def requeue(engine: Engine, queue: str, ids: Sequence[str] | None, limit: int) -> int:
    """Bring dead messages back; those whose unique key is taken stay dead."""
    await settle_the_past(engine, queue)
    came = after = 0
    for chosen in _shares(ids):
        last: Any = None
        while came < limit and last is not False:
            packed: Any = await engine.run(REQUEUE, [queue], chosen, after, min(limit - came, _AT_ONCE))
            if packed is None:
                raise UnknownQueueError(queue)
            more, last = unpack(packed)
            came += more
            after = last or 0
    return came


def _shares(ids: Sequence[str] | None) -> list[list[str] | None]:
    """Return ids as scripts take them, some at once; None, which is all, as it is."""
    if ids is None:
        return [None]
    return [list(ids[first : first + _AT_ONCE]) for first in range(0, len(ids) or 1, _AT_ONCE)]


async def purge(engine: Engine, queue: str, states: Sequence[State], ids: Sequence[str] | None, limit: int) -> int:
    """Forget messages in some states, leased ones never."""
    await settle_the_past(engine, queue)
    gone: int = 0
    for chosen in _shares(ids):
        more: int | None = _AT_ONCE
        while more == _AT_ONCE and gone < limit:
            most = min(limit - gone, _AT_ONCE)
            more = await engine.run(PURGE, [queue], [str(state) for state in states], chosen, most)
            if more is None:
                raise UnknownQueueError(queue)
            gone += more
    return gone


async def expire_owner(engine: Engine, queues: Sequence[str], owner: str) -> int:
    """Expire all leases of an owner."""
    if engine.keys.clustered and len(queues) != 1:
        total = 0
        for queue in queues:
            total += await expire_owner(engine, [queue], owner)
        return total
    ended: int = await engine.run(EXPIRE, queues, owner, _AT_ONCE)
    total = ended
    while ended >= _AT_ONCE:
        ended = await engine.run(EXPIRE, queues, owner, _AT_ONCE)
        total += ended
    return total
