"""What a session does by itself where its engine cannot tell: it looks again and again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import trio

from trepid.ports.messages import Absent, Ending, MessageView

if TYPE_CHECKING:
    from trepid.ports.broker import Session

_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 1.0


async def look_for_endings(session: Session, queue: str, ids: Sequence[str], wait: float) -> dict[str, Ending | Absent]:
    """Ask for each message, ten times a second."""
    await trio.lowlevel.checkpoint()
    give_up = trio.current_time() + wait
    while True:
        looks = {id: await session.result(queue, id) for id in ids}
        found = {id: looks[id] for id in ids if looks[id] is not Absent.PENDING}
        if found or (left := give_up - trio.current_time()) <= 0:
            return found
        await trio.sleep(min(0.1, left))


async def look_for_move(
    session: Session, queue: str, id: str, known: MessageView | None, wait: float
) -> MessageView | None:
    """Look at a message from every 20 ms to every second."""
    give_up = trio.current_time() + wait
    pause = _FIRST_PAUSE
    while True:
        view = await session.get(queue, id)
        left = give_up - trio.current_time()
        if has_moved(known, view) or left <= 0:
            return view
        await trio.sleep(min(pause, left))
        pause = min(2 * pause, _LONGEST_PAUSE)


def has_moved(before: MessageView | None, after: MessageView | None) -> bool:
    """Whether a message is not where it was: it has come, is gone, or has moved on in its life."""
    if before is None or after is None:
        return before is not after
    return _place(before) != _place(after)


def _place(view: MessageView) -> tuple[object, ...]:
    counts = (view.attempts, view.crashes, view.releases, view.requeues)
    return (view.state, *counts, view.enqueued, view.cancel, view.owner)
