"""Following a chain: which of its messages has to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

import attrs

from trepid.connection.patience import Patience
from trepid.errors import JobGoneError
from trepid.ports.broker import Session
from trepid.ports.messages import Absent, Ending, MessageView
from trepid.rules.life import DONE, CancelReply

# Long enough to cost nothing, also in virtual time.  An engine that must look more often does so by itself.
LONG_POLL: Final = 3600.0


@attrs.frozen
class Step:
    """One message of a chain; a message by itself is a chain of one.

    Attributes:
      queue, id: which message.
      number: which step it is, from 1.
      of: how many there are.
      actor: whom it calls.
    """

    queue: str
    id: str
    number: int = 1
    of: int = 1
    actor: str = ""

    def __str__(self) -> str:
        return f"step {self.number} of {self.of}, {self.actor}" if self.of > 1 else ""


async def followed(session: Session, patience: Patience, steps: Sequence[Step]) -> tuple[Step, Ending]:
    """Wait until a chain has ended, and return with which step and how.

    A step is published before the one before it counts as done.  So what comes after a step that is done is there, or
    it was there and is forgotten; and what comes after one that is not done has not been published.

    Raises:
      JobGoneError: if nothing is kept of it.
    """
    last = steps[-1]
    done = 0  # how many steps are known to be done
    while True:
        for step in reversed(steps[done:]):
            found = await _ending(session, patience, step, 0.0 if len(steps) > 1 else LONG_POLL)
            if found is not Absent.GONE:
                break
        else:
            raise JobGoneError(last.id, last.queue)
        if found is Absent.PENDING and len(steps) > 1:
            # What comes of it is seen in the next round: it may have gone without a trace, and left a follow-up.
            found = await _ending(session, patience, step, LONG_POLL)
        if isinstance(found, Ending):
            if step is last or found.state is not DONE:
                return step, found
            done = step.number


async def _ending(session: Session, patience: Patience, step: Step, wait: float) -> Ending | Absent:
    return await patience.repeat("result", partial(session.result, step.queue, step.id, wait=wait))


async def viewed(session: Session, patience: Patience, steps: Sequence[Step]) -> MessageView | None:
    """Return the message that a chain has come to, or None if nothing is kept of any."""
    # Twice, since a step that leaves no trace may end, and publish the next, just before it is looked at.
    for step in [*reversed(steps)] * min(2, len(steps)):
        view = await patience.repeat("status", partial(session.get, step.queue, step.id))
        if view is not None:
            return view
    return None  # noqa: ASYNC910 - there is at least one step


async def cancelled(session: Session, steps: Sequence[Step], reason: str) -> CancelReply:
    """Cancel the message that a chain has come to.

    Between two looks the chain may go on: so what has ended as done sends us back to what comes after it.
    """
    last = steps[-1]
    done = 0
    while True:
        for step in reversed(steps[done:]):
            [reply] = await session.cancel(step.queue, [step.id], reason)
            if reply is not CancelReply.UNKNOWN:
                break
        else:
            return CancelReply.FINISHED if done else CancelReply.UNKNOWN  # noqa: ASYNC910 - as below
        if reply is not CancelReply.FINISHED or step is last:
            return reply  # noqa: ASYNC910 - there is at least one step
        ending = await session.result(step.queue, step.id)
        if not isinstance(ending, Ending) or ending.state is not DONE:
            return reply
        done = step.number
