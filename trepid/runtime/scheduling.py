"""The schedules that a worker fires: those of its router, and those that the broker was given for its queues.

Every worker fires every instant; the engine takes the first and calls the others duplicates.  So nobody is in charge,
nothing is agreed upon, and a worker that dies, or comes late, changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import inf
from typing import Final

import attrs
import msgspec
import trio

from trepid.connection import Connection, timetable
from trepid.connection.publishing import refuse_unsupported
from trepid.errors import PayloadTooLargeError, QueueFullError, TrepidError, UnknownQueueError, UnsupportedError
from trepid.ports.messages import Firing, Publication
from trepid.rules.firing import decide
from trepid.rules.publishing import Published, Publishing, fired
from trepid.runtime.settling import TROUBLE, pause_after
from trepid.runtime.shift import Shift
from trepid.values.calendar import At
from trepid.values.schedule import Schedule

_LONG_POLL: Final = 3600.0
_LONGEST_NAP: Final = 60.0
"""After so many seconds the broker's clock is looked at again: it may have jumped."""
_PATIENCE: Final = 30.0
"""For so many seconds may the broker think about an answer; then it is asked again, which is safe."""
_NEXT_TRY: Final = 1.0
_LEAST_NAP: Final = 1e-6
"""Sums of floats may fall short of an instant by less; without it nothing would move on."""


@attrs.define(eq=False)
class _Duty:
    """A schedule that this worker fires.

    Attributes:
      schedule: which one.
      mark: under which name the engine keeps its last instant.
      since: nothing up to this is fired; None begins when a worker first sees it.
      done: the last instant that is known to be fired, or passed over; None until the engine was asked.
      look: when there may be something to do.
      pending: an instant that waits for the end of an earlier one's job.
      waits: whether that is waited for at present.
      refused: whether the last attempt was refused, and that was told.
    """

    schedule: Schedule
    mark: str
    since: float | None
    done: float | None = None
    look: float = -inf
    pending: float | None = None
    waits: bool = False
    refused: bool = False

    @property
    def queue(self) -> str:
        """Where its jobs go."""
        return self.schedule.job.queue.name


def check_schedules(schedules: Iterable[Schedule], connection: Connection) -> None:
    """Refuse schedules of a router that the engine cannot keep.

    Raises:
      UnsupportedError: if there are any.
    """
    for schedule in schedules:
        timetable.refuse_schedules(connection.session)
        timetable.refuse_overlap(connection.session, schedule)
        connection.publisher.publication(schedule.job)
        refuse_unsupported(connection.capabilities, [schedule.job])


async def keep_schedules(shift: Shift) -> None:
    """Fire schedules until the shift takes no more messages; where the engine has none, there is nothing to do."""
    if not timetable.can_schedule(shift.session):
        return
    with shift.schedule_scope:
        async with trio.open_nursery() as nursery:
            roster = _Roster(shift, nursery)
            nursery.start_soon(roster.watch)
            nursery.start_soon(roster.run)


class _Roster:
    """What one worker has to fire, and when."""

    def __init__(self, shift: Shift, nursery: trio.Nursery) -> None:
        self._shift = shift
        self._session = shift.session
        self._nursery = nursery
        self._duties: dict[str, _Duty] = {}
        self._news = trio.Event()

    # ---------------------------------------------------------------------------------------- which there are

    async def watch(self) -> None:
        """Follow what the broker is given, and what is paused."""
        records = self._session.records
        known: bytes | None = None
        assigned, troubles = False, 0
        while True:
            try:
                # The first look does not wait: nothing is fired before it is known what is paused.
                wait = _LONG_POLL if assigned else 0.0
                with trio.fail_after(wait + _PATIENCE):
                    value = await records.changed(timetable.INDEX, known, wait=wait)
                if assigned and value == known:
                    continue
                known, index = value, timetable.read_index(value)
                with trio.fail_after(_PATIENCE):
                    stored = await timetable.load(records, index)
            except (*TROUBLE, trio.TooSlowError):
                # Whoever leases or settles tells of it.
                assigned = False
                await trio.sleep(pause_after(troubles))
                troubles += 1
            except ValueError as exc:
                assigned = False
                self._shift.troubled("read the schedules", exc)
                await trio.sleep(_LONGEST_NAP)
            else:
                self._assign(index, stored)
                assigned, troubles = True, 0

    def _assign(self, index: timetable.Index, stored: dict[str, timetable.Stored]) -> None:
        """Take on what is to be fired, and give up what is not any more; what stays goes on where it is."""
        before, self._duties = self._duties, {}
        for duty in self._assigned(index, stored):
            name = duty.schedule.name
            old = before.get(name)
            same = old is not None and (old.schedule, old.mark, old.since) == (duty.schedule, duty.mark, duty.since)
            self._duties[name] = old if same and old is not None else duty
        self._news.set()

    def _assigned(self, index: timetable.Index, stored: dict[str, timetable.Stored]) -> Iterator[_Duty]:
        queues = self._shift.worker.queue_names()
        for name, schedule in self._shift.worker.router.schedules.items():
            entry = index.entries.get(name, timetable.Entry())
            if not entry.paused and entry.record is None:
                yield _Duty(schedule, schedule.mark(), entry.since)
        for name, each in stored.items():
            entry = index.entries[name]
            if each.complaint is not None:
                self._shift.troubled(f"read schedule {name}", each.complaint)
            if each.schedule is None or entry.paused or each.schedule.job.queue.name not in queues:
                continue
            # A single moment is to come about, even one of the past; only a pause takes it away.
            created = -inf if isinstance(each.schedule.when, At) else each.created
            since = created if entry.since is None else max(created, entry.since)
            yield _Duty(each.schedule, each.schedule.mark(each.created), since)

    # ------------------------------------------------------------------------------------------------ firing them

    async def run(self) -> None:
        """Fire what is due, and sleep until the next instant."""
        troubles = 0
        while True:
            self._news = trio.Event()
            try:
                wake = await self._fire_due()
            except (*TROUBLE, trio.TooSlowError) as exc:
                self._shift.troubled("fire schedules", exc)
                await trio.sleep(pause_after(troubles))
                troubles += 1
                continue
            troubles = 0
            with trio.CancelScope(deadline=wake):
                await self._news.wait()

    async def _fire_due(self) -> float:
        """Fire what is due, and return until when nothing else is, on Trio's clock."""
        duties = list(self._duties.values())
        if not duties:
            await trio.lowlevel.checkpoint()
            return inf
        with trio.fail_after(_PATIENCE):
            now = await self._session.now()
        # The broker's clock has gone on since it was read: who sleeps from now on does not wake too early.
        read = trio.current_time()
        marks: dict[str, dict[str, float]] = {}
        for duty in duties:
            try:
                if duty.done is None:
                    await self._begin(duty, marks, now)
                if duty.look <= now and not duty.waits:
                    await self._fire(duty, now)
            except (*TROUBLE, trio.TooSlowError):
                # The others go first from now on: a queue that is away for long holds up none of them.
                if self._duties.get(duty.schedule.name) is duty:
                    self._duties[duty.schedule.name] = self._duties.pop(duty.schedule.name)
                raise
        nap = max(_LEAST_NAP, min((duty.look for duty in duties if not duty.waits), default=inf) - now)
        return read + (nap if self._session.capabilities.virtual_time else min(nap, _LONGEST_NAP))

    async def _begin(self, duty: _Duty, marks: dict[str, dict[str, float]], now: float) -> None:
        """Learn where a schedule is, by the *marks* of its queue; one in a router that is new to all begins now."""
        await trio.lowlevel.checkpoint()
        if duty.queue not in marks:
            with trio.fail_after(_PATIENCE):
                marks[duty.queue] = await self._session.marks(duty.queue)
        done = marks[duty.queue].get(duty.mark)
        if done is None and duty.since is None and not isinstance(duty.schedule.when, At):
            with trio.fail_after(_PATIENCE):
                await self._session.fire([Firing(duty.queue, duty.mark, now)])
            done = now
        duty.done = max(-inf if done is None else done, -inf if duty.since is None else duty.since)

    async def _fire(self, duty: _Duty, now: float) -> None:
        """Fire what is due of one schedule: one instant after the other, as none may pass one that was refused."""
        assert duty.done is not None
        if duty.pending is not None and not await self._fire_instant(duty, duty.pending, now):
            return
        decision = decide(duty.schedule, duty.done, now)
        for instant in decision.fire:
            if not await self._fire_instant(duty, instant, now):
                return
        if decision.passed is not None:
            with trio.fail_after(_PATIENCE):
                [published] = await self._session.fire([Firing(duty.queue, duty.mark, decision.passed)])
            if not self._fired(duty, decision.passed, published, now):
                return
        # Only now: what trouble has cut off is to be done as soon as that is over.
        duty.look = decision.look

    async def _fire_instant(self, duty: _Duty, instant: float, now: float) -> bool:
        """Fire one instant, and return whether that is done with."""
        insist = duty.schedule.overlap == "replace"
        try:
            publication = self._publication(duty, instant, now)
        except (TrepidError, ValueError) as exc:
            # Of a schedule that somebody else has stored: it is not the worker that is wrong.
            self._shift.troubled(f"fire schedule {duty.schedule.name}", exc)
            duty.look = inf
            return False
        firing = Firing(duty.queue, duty.mark, instant, publication, insist)
        try:
            with trio.fail_after(_PATIENCE):
                [published] = await self._session.fire([firing])
        except (UnsupportedError, PayloadTooLargeError) as exc:
            # Nor is it here: the engine cannot store what that schedule asks for, and never will.
            self._shift.troubled(f"fire schedule {duty.schedule.name}", exc)
            duty.look = inf
            return False
        if published.outcome is Publishing.EXISTING and insist:
            duty.pending, duty.waits = instant, True
            self._nursery.start_soon(self._displace, duty, published.id)
            return False
        return self._fired(duty, instant, published, now)

    def _publication(self, duty: _Duty, instant: float, now: float) -> Publication:
        schedule = duty.schedule
        job = schedule.job_of(instant, id=schedule.id_of(instant))
        due = instant + schedule.lag(instant)
        item = self._shift.connection.publisher.publication(job)
        # Made of name and instant, so that a repetition is known where the engine cannot mark in the same step.
        token = (f"schedule {schedule.name}", round(instant * 1_000_000))
        return msgspec.structs.replace(item, token=token, due=due if due > now else None)

    def _fired(self, duty: _Duty, instant: float, published: Published, now: float) -> bool:
        """Note what the engine has answered, and return whether the instant is done with."""
        if fired(published.outcome, insist=False):
            duty.done, duty.pending, duty.refused = instant, None, False
            return True
        if not duty.refused:
            full = published.outcome is Publishing.FULL
            error = QueueFullError(duty.queue) if full else UnknownQueueError(duty.queue)
            self._shift.troubled(f"fire schedule {duty.schedule.name}", error)
        # What was not fired in time will be a misfire, if it lasts.
        duty.refused, duty.look = True, now + _NEXT_TRY
        return False

    async def _displace(self, duty: _Duty, holder: str) -> None:
        """Stop the job of an earlier instant, and wait for its end."""
        troubles = 0
        while True:
            try:
                with trio.fail_after(_PATIENCE):
                    await self._session.cancel(duty.queue, [holder], f"replaced by schedule {duty.schedule.name}")
                with trio.fail_after(_LONG_POLL + _PATIENCE):
                    ended = await self._session.endings(duty.queue, [holder], wait=_LONG_POLL)
            except (*TROUBLE, trio.TooSlowError) as exc:
                self._shift.troubled(f"replace a job of {duty.schedule.name}", exc)
                await trio.sleep(pause_after(troubles))
                troubles += 1
                continue
            if ended:
                break
        duty.waits, duty.look = False, -inf
        self._news.set()
