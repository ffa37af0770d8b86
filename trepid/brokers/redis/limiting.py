"""Limits and schedules: what is kept with a queue besides its messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import trio

from trepid.brokers.redis.engine import Engine
from trepid.brokers.redis.publishing import OUTCOMES, Parcel, by_queue, portions
from trepid.brokers.redis.rows import unpack
from trepid.brokers.redis.scripts import FIRE, LIMIT
from trepid.ports.messages import Firing
from trepid.rules.gates import Limit
from trepid.rules.publishing import Published


async def limit(engine: Engine, limits: Sequence[Limit]) -> None:
    """Set limits."""
    await trio.lowlevel.checkpoint_if_cancelled()
    places = by_queue([limit.queue for limit in limits])
    for queues in [[queue] for queue in places] if engine.keys.clustered else [list(places)]:
        told = [
            (number, limits[place].family, _said(limits[place]))
            for number, queue in enumerate(queues, 1)
            for place in places[queue]
        ]
        await engine.run(LIMIT, queues, told)


def _said(limit: Limit) -> tuple[Any, ...] | None:
    if limit.void:
        return None
    return (limit.concurrency or False, limit.count or False, limit.per, limit.max_size or False, limit.weight)


async def fire(engine: Engine, firings: Sequence[Firing]) -> list[Published]:
    """Publish the messages of schedules, each instant once."""
    await trio.lowlevel.checkpoint_if_cancelled()
    if not engine.keys.clustered:
        return [each for portion in portions(firings, _size) for each in await _fire(engine, portion)]
    replies: dict[int, Published] = {}
    for places in by_queue([firing.queue for firing in firings]).values():
        found = [
            each
            for portion in portions([firings[place] for place in places], _size)
            for each in await _fire(engine, portion)
        ]
        replies.update(zip(places, found, strict=True))
    return [replies[place] for place in range(len(firings))]


def _size(firing: Firing) -> int:
    return 0 if firing.publication is None else len(firing.publication.payload)


async def _fire(engine: Engine, firings: Sequence[Firing]) -> list[Published]:
    parcel = Parcel(2)
    told: list[tuple[Any, ...]] = []
    for firing in firings:
        publication = firing.publication
        item = None if publication is None else parcel.items([publication])[0]
        told.append((parcel.place(firing.queue), firing.mark, firing.instant, item, firing.insist))
    outcomes, ids = unpack(await engine.run(FIRE, parcel.queues, told, argv=parcel.payloads))
    return [
        Published(OUTCOMES[outcome], id or ("" if firing.publication is None else firing.publication.id))
        for outcome, id, firing in zip(outcomes, ids, firings, strict=True)
    ]


async def marks(engine: Engine, queue: str) -> dict[str, float]:
    """Return the marks of a queue."""
    key = engine.keys.marks(queue)
    found: dict[bytes, bytes] = await engine.servers.call(key, "HGETALL", key)
    return {name.decode(): float(instant) for name, instant in found.items()}
