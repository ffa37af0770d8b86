"""Settlement: verdicts go to the broker in batches, each batch while the next one gathers."""

from __future__ import annotations

import random
from collections.abc import Callable

import attrs
import trio

from trepid.errors import BrokerBusyError, BrokerFullError, BrokerLostError
from trepid.ports.broker import Session
from trepid.ports.messages import Settlement
from trepid.rules.life import Reply
from trepid.rules.verdicts import Done, Verdict, Withdrawn
from trepid.runtime import chaining
from trepid.runtime.job_run import JobRun
from trepid.runtime.noting import Notes, forget, write_all
from trepid.runtime.parting import parted

TROUBLE = (BrokerLostError, BrokerBusyError, BrokerFullError)
"""What may go wrong at a broker and come right again."""

_ENDED = (Reply.APPLIED, Reply.REPEATED, Reply.ENDED)
"""Answers after which a message that was to end has surely ended."""

_COURTESY = 1.0
"""For no more seconds do verdicts wait for what may be missing: a worker that is stopped at once has five for all."""

_FIRST_PAUSE = 0.1
# A session reconnects by itself within a second; a worker shall take messages again within five.
_LONGEST_PAUSE = 2.0


def pause_after(troubles: int) -> float:
    """Return how long to wait before asking a troubled broker again: doubling, jittered, at most 2 s."""
    return min(_FIRST_PAUSE * 2.0 ** min(troubles, 16), _LONGEST_PAUSE) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


@attrs.define(eq=False)
class Settler:
    """Sends verdicts to the broker, and passes on its replies.

    A verdict that cannot be sent is kept and sent again until its lease has surely ended; after that the broker gives
    the message to somebody else, and the reply is ``EXPIRED``.
    """

    _session: Session
    _settled: Callable[[JobRun, Verdict, Reply], None]
    _troubled: Callable[[str, Exception], None]
    _patience: float
    """For how many seconds the broker may think about a batch; then it is sent again, which is safe."""
    _waiting: list[tuple[JobRun, Verdict]] = attrs.field(init=False, factory=list)
    _obsolete: list[Notes] = attrs.field(init=False, factory=list)
    _in_flight: int = attrs.field(init=False, default=0)
    _more: trio.Event = attrs.field(init=False, factory=trio.Event)
    _empty: trio.Event = attrs.field(init=False, factory=trio.Event)

    @property
    def _courtesy(self) -> float:
        return min(_COURTESY, self._patience)

    @property
    def unsettled(self) -> int:
        """How many verdicts the broker has not confirmed."""
        return len(self._waiting) + self._in_flight

    def add(self, run: JobRun, verdict: Verdict) -> None:
        """Settle a message soon.  Never waits."""
        self._waiting.append((run, verdict))
        self._more.set()
        if self._empty.is_set():
            # Here, not in the task: whoever drains right now must not find the event of an earlier emptiness.
            self._empty = trio.Event()

    async def run(self) -> None:
        """Send verdicts for ever; a task of the worker's helpers, cancelled by :meth:`drain`'s caller."""
        troubles = 0
        while True:
            if not self._waiting:
                self._empty.set()
                self._more = trio.Event()
                await self._more.wait()
            batch, self._waiting = self._waiting, []
            links = [item for item in batch if item[0].follow_up is not None and type(item[1]) is Done]
            self._in_flight = len(batch)
            try:
                await self._tell_progress(batch)
                answered = await (self._send_links(batch, links) if links else self._send(batch))
                if self._obsolete:
                    obsolete, self._obsolete = self._obsolete, []
                    await forget(self._session, obsolete, self._courtesy)
            finally:
                self._in_flight = 0
            if answered:
                troubles = 0
            else:
                await trio.sleep(pause_after(troubles))
                troubles += 1

    async def _tell_progress(self, batch: list[tuple[JobRun, Verdict]]) -> None:
        """Write the last progress of jobs, which shall be there before their end is known, unless that takes long."""
        untold = [run.notes for run, _ in batch if run.notes is not None and run.notes.pending]
        if untold:
            with trio.move_on_after(self._courtesy):
                await write_all(untold)

    def _answered(self, run: JobRun, verdict: Verdict, reply: Reply) -> None:
        """The broker has answered: pass it on, and note what is of no more use."""
        if run.notes is not None and type(verdict) in (Done, Withdrawn) and reply in _ENDED:
            # A dead letter keeps its state: it may be requeued.
            self._obsolete.append(run.notes)
        self._settled(run, verdict, reply)

    async def _send(self, batch: list[tuple[JobRun, Verdict]]) -> bool:
        """Send some verdicts, and return whether the broker has answered; if not, they wait for another time."""
        parts = parted(self._session.capabilities, batch, lambda item: item[0].ref.queue)
        if len(parts) == 1:
            return await self._send_part(batch)
        answered: list[bool] = []

        async def send(part: list[tuple[JobRun, Verdict]]) -> None:
            answered.append(await self._send_part(part))

        async with trio.open_nursery() as nursery:
            for part in parts:
                nursery.start_soon(send, part)
        return all(answered)

    async def _send_part(self, batch: list[tuple[JobRun, Verdict]]) -> bool:
        """Send some verdicts in one call; return as :meth:`_send` does."""
        try:
            with trio.fail_after(self._patience):
                replies = await self._session.settle([Settlement(run.ref, verdict) for run, verdict in batch])
        except (*TROUBLE, trio.TooSlowError) as exc:
            self._keep(batch)
            self._troubled("settle", exc)
            return False
        for (run, verdict), reply in zip(batch, replies, strict=True):
            self._answered(run, verdict, reply)
        return True

    async def _send_links(self, batch: list[tuple[JobRun, Verdict]], links: list[tuple[JobRun, Verdict]]) -> bool:
        """Send verdicts some of which have follow-ups: each of these in a call of its own, all calls at once."""
        chained = {id(run) for run, _ in links}
        rest = [item for item in batch if id(item[0]) not in chained]
        answered: list[bool] = []

        async def send(run: JobRun, verdict: Verdict) -> None:
            answered.append(await self._send_link(run, verdict))

        async with trio.open_nursery() as nursery:
            for run, verdict in links:
                nursery.start_soon(send, run, verdict)
            if rest:
                answered.append(await self._send(rest))
        return all(answered)

    async def _send_link(self, run: JobRun, verdict: Verdict) -> bool:
        """Send the verdict on one step of a chain together with the next step; return as :meth:`_send` does."""
        try:
            with trio.fail_after(self._patience):
                verdict, reply = await chaining.settle(self._session, run, verdict)
        except (*TROUBLE, trio.TooSlowError) as exc:
            self._keep([(run, verdict)])
            self._troubled("settle", exc)
            return False
        self._answered(run, verdict, reply)
        return True

    async def drain(self) -> None:
        """Wait until everything is settled."""
        if self.unsettled:
            await self._empty.wait()
        else:
            await trio.lowlevel.checkpoint()

    def _keep(self, batch: list[tuple[JobRun, Verdict]]) -> None:
        now = trio.current_time()
        for run, verdict in batch:
            if run.lease_ends <= now:
                self._settled(run, verdict, Reply.EXPIRED)
        self._waiting = [item for item in batch if item[0].lease_ends > now] + self._waiting
