"""Sweeping: what dead job nurseries have left waiting is ended, also where no worker comes to it.

A worker that comes to such a job ends it (see ``tethers``).  But one whose places are all taken for long comes to
nothing, and none comes to what is not due yet.  So workers look over what waits in their queues, a thousand messages at
a time: with a free place what is due later, without one all of it.
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
from trepid.ports.messages import Page
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
    # Since when no message could be taken, on Trio's clock.
    _full_since: float = attrs.field(init=False, default=inf)
    _filled: trio.Event = attrs.field(init=False, factory=trio.Event)

    def full(self) -> None:
        """The worker has no place for a message."""
        if self._full_since == inf:
            self._full_since = trio.current_time()
            self._filled.set()

    def roomy(self) -> None:
        """The worker has a free place."""
        self._full_since = inf

    async def run(self) -> None:
        """Sweep now and then; a task of the worker's helpers."""
        await trio.lowlevel.checkpoint()
        if not _can_sweep(self._session.capabilities):
            return
        took = 0.0
        with self.scope:
            while True:
                full = await self._wait_turn(took)
                began = trio.current_time()
                await self._sweep(full=full)
                took = trio.current_time() - began

    async def _wait_turn(self, took: float) -> bool:
        """Wait until it is time to sweep, when the last time *took* that long.

        Returns whether the worker was full for a whole period; if not, one has passed since the last sweep.
        """
        await trio.lowlevel.checkpoint()
        began = trio.current_time()
        period = sweeps.period(random.random(), took)  # noqa: S311 - no secret
        # In virtual time nobody wakes up for nothing: what is in memory dies with its callers.
        idle = inf if self._session.capabilities.virtual_time else began + period
        while True:
            full = max(began, self._full_since) + period
            if trio.current_time() >= min(full, idle):
                return trio.current_time() >= full
            self._filled = trio.Event()
            with trio.CancelScope(deadline=min(full, idle)):
                await self._filled.wait()

    async def _sweep(self, *, full: bool) -> None:
        """Look at some pages of what waits in each queue that nobody has swept just now."""
        await trio.lowlevel.checkpoint()
        alive: dict[str, bool] = {}
        for queue, stand in (await self._turns(full=full)).items():
            await self._sweep_queue(queue, stand, alive)

    async def _turns(self, *, full: bool) -> Mapping[str, sweeps.Stand]:
        """Return the queues that are to be swept, and where to begin."""
        await trio.lowlevel.checkpoint()
        steps = [Read(key(queue)) for queue in self._queues for key in (sweeps.turn_key, sweeps.stand_key)]
        try:
            with trio.fail_after(self._patience):
                found = await self._session.records.carry_out(steps)
        except (*TROUBLE, trio.TooSlowError) as exc:
            self._complain(exc)
            return {}
        turns = zip(self._queues, found[::2], found[1::2], strict=True)
        return {queue: sweeps.load(kept, full=full) for queue, turn, kept in turns if turn is None}

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
    """Whether a message that is looked at can be ended by its id."""
    # Of two engines, one may show what the other knows to be over, and whose id is somebody else's by now.  There what
    # waits ends as soon as anybody looks at it (see ``brokers.assisted.orphans``).
    return can.peek and can.cancel_waiting and can.records and can.results == "atomic"
