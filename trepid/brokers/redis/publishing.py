"""Publishing: what several tasks publish at once travels together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar, final

from trepid.brokers.redis.engine import Engine
from trepid.brokers.redis.rows import unpack
from trepid.brokers.redis.scripts import PUBLISH
from trepid.ports.messages import Publication
from trepid.rules.publishing import REFUSALS, Published, Publishing

Item = TypeVar("Item")

_BYTES: Final = 8 << 20
_ITEMS: Final = 5000
OUTCOMES: Final = {
    "A": Publishing.ACCEPTED,
    "D": Publishing.DUPLICATE,
    "E": Publishing.EXISTING,
    "C": Publishing.CONFLICT,
    "Q": Publishing.NO_QUEUE,
    "F": Publishing.FULL,
    "N": Publishing.NOT_STORED,
}
"""What scripts answer who publishes."""


@final
class Parcel:
    """What a script is told of publications: the queues they are for, the items, and their payloads apart.

    Args:
      first: the place in ARGV of the first payload.
      queues: which are already named to the script, in order.
    """

    def __init__(self, first: int, queues: Sequence[str] = ()) -> None:
        self._first = first
        self._places = {queue: place for place, queue in enumerate(queues, 1)}
        self.payloads: list[bytes] = []

    @property
    def queues(self) -> list[str]:
        """The queues, in the order in which the items count them."""
        return list(self._places)

    def place(self, queue: str) -> int:
        """Return how a script counts a queue."""
        places = self._places
        return places.get(queue) or places.setdefault(queue, len(places) + 1)

    def keep(self, payload: bytes) -> int:
        """Put bytes into ARGV and return where."""
        self.payloads.append(payload)
        return self._first + len(self.payloads) - 1

    def items(self, batch: Sequence[Publication]) -> list[tuple[Any, ...]]:
        """Return publications as a script takes them."""
        return [
            (
                self.place(item.queue),
                item.id,
                *item.token,
                self.keep(item.payload),
                item.priority,
                item.delay,
                item.due,
                item.ttl,
                *((item.unique.key, item.unique.on_conflict) if item.unique is not None else (None, None)),
                item.result_ttl,
                item.max_crashes,
                item.unique.for_ if item.unique is not None else None,
                item.gate,
            )
            for item in batch
        ]


def replies(batch: Sequence[Publication], packed: Sequence[Any]) -> list[Published]:
    """Return what a script answered to a batch."""
    outcomes, ids = packed
    if not ids:
        return [Published(OUTCOMES[outcome], item.id) for outcome, item in zip(outcomes, batch, strict=True)]
    return [Published(OUTCOMES[outcome], id or item.id) for outcome, item, id in zip(outcomes, batch, ids, strict=True)]


async def publish(engine: Engine, batches: Sequence[Sequence[Publication]]) -> list[list[Published]]:
    """Store batches, each as a whole or not at all; in a cluster, each queue's part of it."""
    if not engine.keys.clustered:
        return await _publish(engine, batches)
    answers: dict[int, list[Published]] = {}
    alone: dict[str, list[int]] = {}
    for number, batch in enumerate(batches):
        if len({item.queue for item in batch}) == 1:
            alone.setdefault(batch[0].queue, []).append(number)
        else:
            answers[number] = await _scatter(engine, batch)
    for numbers in alone.values():
        found = await _publish(engine, [batches[number] for number in numbers])
        answers.update(zip(numbers, found, strict=True))
    return [answers[number] for number in range(len(batches))]


def by_queue(queues: Sequence[str]) -> dict[str, list[int]]:
    """Return the places of each queue."""
    places: dict[str, list[int]] = {}
    for place, queue in enumerate(queues):
        places.setdefault(queue, []).append(place)
    return places


def portions(batch: Sequence[Item], size: Callable[[Item], int]) -> Iterator[Sequence[Item]]:
    """Share a batch among requests of a few mebibytes and some thousand items: a script keeps all others waiting."""
    first = total = 0
    for place, item in enumerate(batch):
        total += size(item)
        if place > first and (total > _BYTES or place - first >= _ITEMS):
            yield batch[first:place]
            first, total = place, size(item)
    if first < len(batch):
        yield batch[first:]


async def _scatter(engine: Engine, batch: Sequence[Publication]) -> list[Published]:
    """Store the parts of a batch for several queues of a cluster, one after the other.

    If a queue is not there, nothing is stored; and what may be refused for its unique key is tried first.
    """
    parts = by_queue([item.queue for item in batch])
    metas = {queue: engine.keys.meta(queue) for queue in parts}
    missing = {queue for queue, key in metas.items() if not await engine.servers.call(key, "EXISTS", key)}
    if missing:
        no_queue, not_stored = Publishing.NO_QUEUE, Publishing.NOT_STORED
        return [Published(no_queue if item.queue in missing else not_stored, item.id) for item in batch]
    answers: dict[int, Published] = {}
    refused = False
    for places in sorted(parts.values(), key=lambda places: not any(batch[place].unique for place in places)):
        part = [batch[place] for place in places]
        if refused:
            found = [Published(Publishing.NOT_STORED, item.id) for item in part]
        else:
            (found,) = await _publish(engine, [part])
        refused = refused or any(each.outcome in REFUSALS for each in found)
        answers.update(zip(places, found, strict=True))
    return [answers[place] for place in range(len(batch))]


async def _publish(engine: Engine, batches: Sequence[Sequence[Publication]]) -> list[list[Published]]:
    parcel = Parcel(2)
    items = [parcel.items(batch) for batch in batches]
    packed = unpack(await engine.run(PUBLISH, parcel.queues, items, argv=parcel.payloads))
    return [replies(batch, each) for batch, each in zip(batches, packed, strict=True)]
