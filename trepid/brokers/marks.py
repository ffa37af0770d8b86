"""Marks of schedules kept as records, for engines that cannot publish and mark in one step.

An instant is published first and marked then.  Whoever comes between the two publishes the same message again, which
the engine recognises, for a day after its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import msgspec
import trio
from msgspec.structs import replace

from trepid.ports.broker import Session
from trepid.ports.messages import Firing
from trepid.ports.records import Claim, Drop, Read, Records, Write
from trepid.rules.publishing import Published, Publishing, fired

_encode = msgspec.json.encode
_decode = msgspec.json.Decoder(dict[str, float]).decode


def _key(queue: str) -> str:
    return f"marks/{queue}"


async def marks(records: Records, queue: str) -> dict[str, float]:
    """Return the marks of a queue."""
    [value] = await records.carry_out([Read(_key(queue))])
    return {} if value is None else _decode(value)


async def forget_marks(records: Records, queue: str) -> None:
    """Forget the marks of a queue that is deleted."""
    await records.carry_out([Drop(_key(queue))])


async def fire(session: Session, records: Records, firings: Sequence[Firing]) -> list[Published]:
    """Fire instants one after the other; see :meth:`trepid.ports.broker.Session.fire`."""
    queues = frozenset(await session.queues())
    return [await _fire(session, records, firing, queues) for firing in firings]


async def _fire(session: Session, records: Records, firing: Firing, queues: frozenset[str]) -> Published:
    await trio.lowlevel.checkpoint()
    id = "" if firing.publication is None else firing.publication.id
    if firing.queue not in queues:
        return Published(Publishing.NO_QUEUE, id)
    if firing.instant is None:
        await _change(records, firing.queue, firing.mark, None)
        return Published(Publishing.ACCEPTED, id)
    if (await marks(records, firing.queue)).get(firing.mark, -inf) >= firing.instant:
        return Published(Publishing.DUPLICATE, id)
    published = Published(Publishing.ACCEPTED, id)
    if firing.publication is not None:
        [published] = await session.publish([replace(firing.publication, remembered=True)])
    if fired(published.outcome, insist=firing.insist):
        await _change(records, firing.queue, firing.mark, firing.instant)
    return published


async def _change(records: Records, queue: str, mark: str, instant: float | None) -> None:
    """Move a mark on, or forget it; it never goes back."""
    key = _key(queue)
    while True:
        [before] = await records.carry_out([Read(key)])
        all_marks = {} if before is None else _decode(before)
        if instant is None:
            if all_marks.pop(mark, None) is None:
                return
        elif all_marks.get(mark, -inf) >= instant:
            return
        else:
            all_marks[mark] = instant
        after = _encode(all_marks)
        step = Claim(key, after, None) if before is None else Write(key, after, None, before)
        [found] = await records.carry_out([step])
        if found == before:
            return
