"""Sweeping: what dead job nurseries have left waiting is ended, also where no worker comes to it.

A worker that comes to such a job ends it (see ``tethers``).  But none comes to what is not due yet, and one that takes
nothing, as all its places are taken, or a limit lets nothing pass, comes to nothing.  So workers look over what waits
in their queues, a thousand messages at a time.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from math import inf

import attrs
import trio

from trepid.errors import UnknownQueueError
from trepid.ports.broker import Session
from trepid.ports.capabilities import Capabilities
from trepid.ports.messages import Delivery, Page
from trepid.ports.records import Read, Write
from trepid.rules import scopes, sweeps
from trepid.rules.attempts import Cause
from trepid.rules.life import CancelReply
from trepid.runtime.settling import TROUBLE

logger = logging.getLogger("trepid.worker")


@attrs.define(eq=False)
class Sweeper:
    """Ends the waiting jobs of dead job nurseries to which no worker comes.

    A queue is swept by one worker at a time, about: whoever has done it says so, and how far it was, for all.

    Attributes:
      scope: round all of it; cancelled when the worker takes no more messages.
    """

    _session: Session
    _queues: Sequence[str]
    _patience: float
    """For how many seconds the broker may think about a page."""
    _troubled: Callable[[str, Exception], None]
    scope: trio.CancelScope = attrs.field(init=False, factory=trio.CancelScope)
    # When a message of a queue was last taken, on Trio's clock.
    _taken: dict[str, float] = attrs.field(init=False, factory=dict)

    def taken(self, deliveries: Sequence[Delivery]) -> None:
        """The worker has taken some messages."""
        self._taken |= dict.fromkeys([delivery.queue for delivery in deliveries], trio.current_time())

    async def run(self) -> None:
        """Sweep now and then; a task of the worker's helpers."""
        await trio.lowlevel.checkpoint()
        if not _can_sweep(self._session.capabilities):
            return
        took = 0.0
        with self.scope:
            while True:
                period = sweeps.period(random.random(), took)  # noqa: S311 - no secret
                await trio.sleep(period)
                began = trio.current_time()
                await self._sweep(began - period)
                took = trio.current_time() - began

    async def _sweep(self, since: float) -> None:
        """Look at some pages of what waits in each queue that nobody has swept just now.

        Args:
          since: of a queue of which nothing was taken since this moment, also at what is due.
        """
        await trio.lowlevel.checkpoint()
        alive: dict[str, bool] = {}
        for queue, kept in (await self._turns()).items():
            stand = sweeps.load(kept, everywhere=self._taken.get(queue, -inf) <= since)
            await self._sweep_queue(queue, stand, alive)

    async def _turns(self) -> Mapping[str, bytes | None]:
        """Return the queues that are to be swept, and what is kept about where to begin."""
        await trio.lowlevel.checkpoint()
        steps = [Read(key(queue)) for queue in self._queues for key in (sweeps.turn_key, sweeps.stand_key)]
        try:
            with trio.fail_after(self._patience):
                found = await self._session.records.carry_out(steps)
        except (*TROUBLE, trio.TooSlowError) as exc:
            self._complain(exc)
            return {}
        turns = zip(self._queues, found[::2], found[1::2], strict=True)
        return {queue: kept for queue, turn, kept in turns if turn is None}

    async def _sweep_queue(self, queue: str, stand: sweeps.Stand, alive: dict[str, bool]) -> None:
        """Look at some pages of a queue, and write down that it was done; note in *alive* which nurseries are."""
        await trio.lowlevel.checkpoint()
        began, seen, midway = trio.current_time(), 0, stand.after is not None
        following: sweeps.Stand | None = stand
        for _ in range(sweeps.PAGES):
            try:
                with trio.fail_after(self._patience):
                    page = await self._session.peek(queue, stand.state, limit=sweeps.AT_ONCE, after=stand.after)
                    await self._end_orphans(queue, page, alive)
            except UnknownQueueError:
                return
            except (*TROUBLE, trio.TooSlowError) as exc:
                self._complain(exc)
                # Elsewhere first, so that a place where this happens again and again hides no other.
                following, seen = sweeps.onward(stand, None), seen + 1
                break
            seen += len(page.messages)
            following = sweeps.onward(stand, page.cursor)
            if following is None:
                break
            stand = following
        # Where nothing waits, nothing is written either.
        if seen or midway:
            await self._write_down(queue, following or sweeps.Stand(), trio.current_time() - began)

    async def _write_down(self, queue: str, stand: sweeps.Stand, took: float) -> None:
        """Let others know that a queue was swept just now, and how far."""
        await trio.lowlevel.checkpoint()
        steps = [
            Write(sweeps.turn_key(queue), b"", sweeps.period(0.0, took)),
            Write(sweeps.stand_key(queue), sweeps.dump(stand), sweeps.KEPT),
        ]
        try:
            with trio.fail_after(self._patience):
                await self._session.records.carry_out(steps)
        except (*TROUBLE, trio.TooSlowError) as exc:
            self._complain(exc)

    async def _end_orphans(self, queue: str, page: Page, alive: dict[str, bool]) -> None:
        """End the jobs on a page whose nurseries are gone; note in *alive* which are not.

        A nursery gives its first sign of life before it publishes a job, so one of which a job was seen, and after that
        no sign, is gone, and not about to begin.
        """
        await trio.lowlevel.checkpoint()
        children = sweeps.children((view.id, view.payload) for view in page.messages)
        unseen = sweeps.unseen(children, alive)
        if unseen:
            signs = await self._session.records.carry_out([Read(scopes.key(scope)) for scope in unseen])
            alive |= {scope: sign is not None for scope, sign in zip(unseen, signs, strict=True)}
        orphans = sweeps.orphans(children, alive)
        if orphans:
            replies = await self._session.cancel(queue, orphans, Cause.ORPHANED.value)
            logger.info("ended %d waiting job(s) of dead job nurseries", replies.count(CancelReply.WITHDRAWN))

    def _complain(self, exc: Exception) -> None:
        self._troubled("look for jobs of dead job nurseries", exc)


def _can_sweep(can: Capabilities) -> bool:
    """Whether a message that is looked at can be ended by its id, and whether there may be any to end."""
    # What is in memory dies with its callers, and in virtual time nobody wakes up for nothing.
    if can.virtual_time:
        return False
    # Of two engines, one may show what the other knows to be over, and whose id is somebody else's by now.  There what
    # waits ends as soon as anybody looks at it (see ``brokers.assisted.orphans``).
    return can.peek and can.cancel_waiting and can.records and can.results == "atomic"
