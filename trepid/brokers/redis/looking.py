"""Looking at messages: scripts read, and the rules say here what time has made of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import trio

from trepid.brokers.look import Look
from trepid.brokers.redis.engine import Engine
from trepid.brokers.redis.rows import Row, load, read_failures, unpack
from trepid.brokers.redis.scripts import AWAIT, COUNT, END, GET, HOLD, PEEK
from trepid.errors import UnknownQueueError
from trepid.ports.messages import Absent, Ending, MessageView, Page, QueueStats
from trepid.rules import lifecycle
from trepid.rules.life import ENDED, READY, SCHEDULED, State

_AT_ONCE: Final = 200
_OTHERS: Final = 1000
"""Past so many messages in another state a page ends early, and says where to go on."""
_ENDINGS_AT_ONCE: Final = 1000


def _view(row: Row, queue: str, id: str, payload: bytes | None, errors: bytes | None) -> MessageView:
    return MessageView.of(
        row.life,
        queue=queue,
        id=id,
        priority=row.priority,
        enqueued=row.enqueued,
        payload=payload or b"",
        errors=read_failures(errors),
        unique=row.unique,
        gate=row.gate,
    )


async def get(engine: Engine, queue: str, id: str) -> MessageView | None:
    """Return a message."""
    now, *found = await engine.run(GET, [queue], id)
    if not found:
        return None
    row = load(found[0], float(now))
    return None if row is None else _view(row, queue, id, found[1], found[2])


async def peek(engine: Engine, queue: str, state: State, limit: int, after: int) -> Page:
    """Return some messages in a state, in the order of publishing."""
    key = "waiting" if state in (READY, SCHEDULED) else str(state)
    # One more than is wanted says whether there is more.
    most = min(_AT_ONCE, max(limit + 1, 10))
    views: list[MessageView] = []
    places: list[int] = []
    others = 0
    while True:
        if state is State.LEASED:
            found = await engine.run(HOLD, [queue], after, most)
        else:
            found = await engine.run(PEEK, [queue], key, after, most)
        if found is None:
            raise UnknownQueueError(queue)
        now, behind, complete, ids, *columns = found
        if behind:
            continue
        for id, blob, payload, errors in zip(ids, *columns, strict=True):
            row = load(blob, float(now)) if blob is not None else None
            if row is not None:
                after = row.life.seq
            if row is not None and row.life.state is state:
                views.append(_view(row, queue, id.decode(), payload, errors))
                places.append(row.life.seq)
            else:
                others += 1
        if len(views) > limit or complete:
            cursor = places[limit - 1] if len(views) > limit > 0 else None
            return Page(tuple(views[:limit]), cursor)
        if others >= _OTHERS:
            return Page(tuple(views), after)


async def result(engine: Engine, queue: str, id: str, *, waits: bool) -> Look[Ending | Absent]:
    """Return how a message ended; with *waits* its end will be told."""
    now, *found = await engine.run(AWAIT, [queue], id, waits)
    row = load(found[0], float(now)) if found else None
    if row is None:
        return Look(Absent.GONE, True)
    life = row.life
    if life.state not in ENDED:
        moment = lifecycle.next_change(life)
        return Look(Absent.PENDING, False, None if moment is None else moment - float(now))
    return Look(_ending(row, found[1], found[2]), True)


def _ending(row: Row, result: bytes | None, errors: bytes | None) -> Ending:
    failures = read_failures(errors)
    return Ending.of(row.life.state, row.life.reason, result, row.unreadable, failures[-1] if failures else None)


async def endings(engine: Engine, queue: str, ids: Sequence[str], *, waits: bool) -> Look[dict[str, Ending | Absent]]:
    """Return how some messages ended; with *waits* the end of one that lives will be told."""
    await trio.lowlevel.checkpoint_if_cancelled()
    found: dict[str, Ending | Absent] = {}
    waiting: list[float] = []
    first = 0
    while first < len(ids):
        some = ids[first : first + _ENDINGS_AT_ONCE]
        packed, *columns = await engine.run(END, [queue], some, waits)
        answer: tuple[float, Any, int, list[int], list[int]] = unpack(packed)
        now, wait, looked, gone, ended = answer
        found |= {some[place - 1]: Absent.GONE for place in gone}
        names = [some[place - 1] for place in ended]
        for id, blob, result, errors in zip(names, *columns, strict=True):
            row = load(blob, float(now))
            found[id] = Absent.GONE if row is None else _ending(row, result, errors)
        if wait is not False:
            waiting.append(float(wait))
        first += looked
    return Look(found, bool(found), min(waiting, default=None))


async def stats(engine: Engine, queue: str) -> QueueStats:
    """Count the messages of a queue."""
    packed: Any = await engine.run(COUNT, [queue])
    while packed == -1:
        packed = await engine.run(COUNT, [queue])
    if packed is None:
        raise UnknownQueueError(queue)
    counted: Sequence[Any] = unpack(packed)
    ready, scheduled, leased, done, dead, cancelled, paused = counted[:7]
    oldest = counted[7] if len(counted) > 7 and counted[7] is not False else None
    return QueueStats(
        queue, ready, scheduled, leased, done, dead, cancelled, bool(paused), None if oldest is None else float(oldest)
    )
