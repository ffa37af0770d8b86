"""Publishing: what several tasks publish at once travels together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, final

from trepid.brokers.redis.engine import Engine
from trepid.brokers.redis.rows import unpack
from trepid.brokers.redis.scripts import PUBLISH
from trepid.ports.messages import Publication
from trepid.rules.publishing import Published, Publishing

_OUTCOMES: Final = {
    "A": Publishing.ACCEPTED,
    "D": Publishing.DUPLICATE,
    "E": Publishing.EXISTING,
    "C": Publishing.CONFLICT,
    "Q": Publishing.NO_QUEUE,
    "N": Publishing.NOT_STORED,
}


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
            )
            for item in batch
        ]


def replies(batch: Sequence[Publication], packed: Sequence[Any]) -> list[Published]:
    """Return what a script answered to a batch."""
    outcomes, ids = packed
    if not ids:
        return [Published(_OUTCOMES[outcome], item.id) for outcome, item in zip(outcomes, batch, strict=True)]
    return [
        Published(_OUTCOMES[outcome], id or item.id) for outcome, item, id in zip(outcomes, batch, ids, strict=True)
    ]


async def publish(engine: Engine, batches: Sequence[Sequence[Publication]]) -> list[list[Published]]:
    """Store batches, each as a whole or not at all."""
    parcel = Parcel(2)
    items = [parcel.items(batch) for batch in batches]
    packed = unpack(await engine.run(PUBLISH, parcel.queues, items, argv=parcel.payloads))
    return [replies(batch, each) for batch, each in zip(batches, packed, strict=True)]
