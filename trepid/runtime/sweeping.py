"""Sweeping: what dead job nurseries have left waiting is ended, also where no worker comes to it.

A worker that comes to such a job ends it (see ``tethers``).  One whose places are all taken for long comes to nothing;
so it looks over what waits in its queues instead, a thousand messages at a time.  With a free place it does nothing.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from math import inf

import attrs
import trio

from trepid.errors import UnknownQueueError
from trepid.ports.broker import Session
from trepid.ports.capabilities import Capabilities
from trepid.ports.messages import Page
from trepid.ports.records import Read
from trepid.rules import scopes, sweeps
from trepid.rules.attempts import Cause
from trepid.rules.life import CancelReply
from trepid.runtime.settling import TROUBLE

logger = logging.getLogger("trepid.worker")


@attrs.define(eq=False)
class Sweeper:
    """Ends the waiting jobs of dead job nurseries while a worker is full.

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
    # Where the next sweep begins: long queues are seen in several.
    _stand: sweeps.Stand = attrs.field(init=False, factory=sweeps.Stand)

    def full(self) -> None:
        """The worker has no place for a message."""
        if self._full_since == inf:
            self._full_since = trio.current_time()
            self._filled.set()

    def roomy(self) -> None:
        """The worker has a free place."""
        self._full_since = inf

    async def run(self) -> None:
        """Sweep whenever the worker was full for a whole period; a task of the worker's helpers."""
        await trio.lowlevel.checkpoint()
        if not _can_sweep(self._session.capabilities):
            return
        took = 0.0
        with self.scope:
            while True:
                await self._wait_full(took)
                began = trio.current_time()
                await self._sweep()
                took = trio.current_time() - began

    async def _wait_full(self, took: float) -> None:
        """Wait until the worker was full for a period, and that has passed since the last sweep, which *took* time."""
        await trio.lowlevel.checkpoint()
        began, period = trio.current_time(), 0.0
        while True:
            # An idle worker wakes up for nothing.
            while self._full_since == inf:
                self._filled = trio.Event()
                await self._filled.wait()
            period = period or sweeps.period(random.random(), took)  # noqa: S311 - no secret
            due = max(began, self._full_since) + period
            if trio.current_time() >= due:
                return
            await trio.sleep_until(due)

    async def _sweep(self) -> None:
        """Look at some pages of what waits, from where the last sweep has ended."""
        await trio.lowlevel.checkpoint()
        places = sweeps.places(self._queues)
        alive: dict[str, bool] = {}
        for _ in range(sweeps.PAGES):
            queue, state = places[self._stand.place]
            page = Page(())
            try:
                with trio.fail_after(self._patience):
                    page = await self._session.peek(queue, state, limit=sweeps.AT_ONCE, after=self._stand.after)
                    await self._end_orphans(queue, page, alive)
            except UnknownQueueError:
                pass
            except (*TROUBLE, trio.TooSlowError) as exc:
                self._troubled("look for jobs of dead job nurseries", exc)
                # Elsewhere first, so that a place where this happens again and again hides no other.
                self._stand = sweeps.onward(self._stand, None, len(places)) or sweeps.Stand()
                return
            following = sweeps.onward(self._stand, page.cursor, len(places))
            self._stand = following or sweeps.Stand()
            if following is None:
                return

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


def _can_sweep(can: Capabilities) -> bool:
    """Whether a message that is looked at can be ended by its id."""
    # Of two engines, one may show what the other knows to be over, and whose id is somebody else's by now.
    return can.peek and can.cancel_waiting and can.records and can.results == "atomic"
