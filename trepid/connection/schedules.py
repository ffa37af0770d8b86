"""Schedules, as a program gives them to a broker, looks at them, and takes them back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from math import inf
from operator import itemgetter
from typing import Any, final

import attrs

from trepid.connection import timetable
from trepid.connection.handle import JobHandle
from trepid.connection.patience import Patience
from trepid.connection.publishing import Publisher, refuse_unsupported
from trepid.errors import UnknownQueueError, UnknownScheduleError
from trepid.ports.broker import Session
from trepid.ports.messages import Firing
from trepid.rules.instants import following, preceding
from trepid.values.calendar import At
from trepid.values.names import checked_name
from trepid.values.router import Router
from trepid.values.schedule import Schedule


@final
@attrs.frozen
class ScheduleView:
    """A schedule, looked at.  Times are in seconds since the epoch by the broker's clock.

    Attributes:
      name: what it is called.
      schedule: what it is, or None for one that stands only in routers which were not given, or cannot be read here.
      stored: whether it was given to the broker; otherwise it stands in a router.
      paused: whether none of its instants is fired at present.
      last: the last instant that was fired or passed over.
      next: the next instant, unless it is paused or has none.
    """

    name: str
    schedule: Schedule | None
    stored: bool
    paused: bool
    last: float | None = None
    next: float | None = None


class Schedules:
    """What a :class:`Connection` can do about schedules.

    They are kept by the broker, and fired by its workers, which learn of a change at once, or within a few seconds.
    Those of a router are not given to the broker: of these it knows only the last instant, and whether they are paused.
    A schedule that was given to the broker wins over one of the same name in a router, for as long as it is there.

    Every method is a checkpoint, and raises UnsupportedError on an engine without the capabilities ``firing`` and
    ``records``.
    """

    __slots__ = ()
    session: Session
    publisher: Publisher
    _patience: Patience

    async def schedule(self, schedule: Schedule) -> None:
        """Give a schedule to the broker, in place of an earlier one of its name.

        Any worker that receives from the queue of its job fires it.  It begins now; but if only something else than its
        time is changed, it goes on where it is, so a program may do this whenever it starts.  A pause stays.

        Raises:
          UnsupportedError: if the engine has no schedules, or cannot keep the overlap policy, or store such a job.
          UnknownQueueError: if the queue of its job was never declared.
        """
        if not isinstance(schedule, Schedule):
            raise TypeError(f"only schedules can be scheduled, not {schedule!r}; write Schedule(name, when, job)")
        timetable.refuse_schedules(self.session)
        timetable.refuse_overlap(self.session, schedule)
        self.publisher.publication(schedule.job)  # its limits may be unsupported
        refuse_unsupported(self.session.capabilities, [schedule.job, *schedule.job.follow_ups])
        queue = schedule.job.queue.name
        if queue not in await self._patience.repeat("queues", self.session.queues):
            raise UnknownQueueError(queue)

        async def store() -> None:
            old = await timetable.store(self.session.records, schedule, await self.session.now())
            if old is not None and old.schedule is not None:
                # It begins anew, under another mark.
                await self.session.fire([Firing(old.schedule.job.queue.name, old.schedule.mark(old.created), None)])

        await self._patience.repeat("schedule", store)

    async def unschedule(self, name: str) -> bool:
        """Take a schedule back, with its pause, and return whether there was one.  What it has fired stays.

        Raises:
          BrokerLostError: if the broker was lost; it may have been taken back, or not.
        """
        timetable.refuse_schedules(self.session)
        stored = await timetable.remove(self.session.records, checked_name(name, "schedule name"))
        if stored is None:
            return False
        if (schedule := stored.schedule) is not None:
            await self.session.fire([Firing(schedule.job.queue.name, schedule.mark(stored.created), None)])
        return True

    async def schedules(self, router: Router | None = None) -> list[ScheduleView]:
        """Return the schedules that the broker was given, and what it knows of others, by name.

        Args:
          router: whose schedules are to be shown, too.
        """
        timetable.refuse_schedules(self.session)
        standing = _standing(router)
        return await self._patience.repeat("schedules", partial(_views, self.session, standing))

    async def pause_schedule(self, name: str) -> None:
        """Let no instant of a schedule be fired until :meth:`resume_schedule`.  What was fired goes on.

        It may stand in a router that only workers know; so any name can be paused.
        """
        timetable.refuse_schedules(self.session)
        name = checked_name(name, "schedule name")
        await self._patience.repeat("pause_schedule", partial(timetable.pause, self.session.records, name))

    async def resume_schedule(self, name: str) -> None:
        """Undo :meth:`pause_schedule`.  The instants of the pause are over; they are no misfires."""
        timetable.refuse_schedules(self.session)
        name = checked_name(name, "schedule name")

        async def resume() -> None:
            await timetable.resume(self.session.records, name, await self.session.now())

        await self._patience.repeat("resume_schedule", resume)

    async def run_schedule(self, name: str, router: Router | None = None, *, wait: bool = True) -> JobHandle[Any]:
        """Enqueue the job of a schedule now, beside its instants, also while it is paused.

        Its overlap policy applies: with a message alive, the handle may be that one's.

        Args:
          name: which schedule.
          router: where it stands, if it was not given to the broker.
          wait: whether to wait for room where the queue of its job has a ``max_size`` and is full.

        Raises:
          UnknownScheduleError: if there is none.
          UnknownQueueError: if the queue of its job was never declared.
          QueueFullError: if that is full, and *wait* is false; nothing was stored.
          BrokerLostError: as ``connection.enqueue`` does.
        """
        timetable.refuse_schedules(self.session)
        name, standing = checked_name(name, "schedule name"), _standing(router)
        schedule, now = await self._patience.repeat("run_schedule", partial(_find, self.session, name))
        if schedule is None and (schedule := standing.get(name)) is None:
            raise UnknownScheduleError(name)
        timetable.refuse_overlap(self.session, schedule)
        job = schedule.job_of(now)
        item = self.publisher.publication(job)
        [published] = await self.publisher.publish([item], wait=wait)
        return self.publisher.handle(job, item, published)


def _standing(router: Router | None) -> Mapping[str, Schedule]:
    if router is None:
        return {}
    if not isinstance(router, Router):
        raise TypeError(f"router must be a trepid.Router, not {router!r}")
    return router.schedules


async def _find(session: Session, name: str) -> tuple[Schedule | None, float]:
    """Return the schedule of a name that the broker was given, if there is one, and the time."""
    stored = (await timetable.known(session.records))[2].get(name)
    if stored is not None and stored.complaint is not None:
        raise stored.complaint
    return None if stored is None else stored.schedule, await session.now()


async def _views(session: Session, standing: Mapping[str, Schedule]) -> list[ScheduleView]:
    _, index, stored = await timetable.known(session.records)
    found = dict(_all(index, stored, standing))
    queues = {schedule.job.queue.name for schedule, _ in found.values() if schedule is not None}
    marks = {queue: await session.marks(queue) for queue in sorted(queues)}
    now = await session.now()
    views: list[ScheduleView] = []
    for name, (schedule, mark) in sorted(found.items(), key=itemgetter(0)):
        entry = index.entries.get(name, timetable.Entry())
        view = ScheduleView(name, schedule, name in stored, entry.paused)
        if schedule is not None:
            last = marks[schedule.job.queue.name].get(mark)
            # A mark may also say where the schedule began.
            fired = last if last is not None and next(preceding(schedule.when, last), None) == last else None
            view = attrs.evolve(view, last=fired, next=None if entry.paused else _next(schedule, last, now))
        views.append(view)
    return views


def _all(
    index: timetable.Index, stored: Mapping[str, timetable.Stored], standing: Mapping[str, Schedule]
) -> Iterator[tuple[str, tuple[Schedule | None, str]]]:
    """Yield every name with its schedule and the name of its mark; what is stored wins over what stands in a router."""
    for name in {*index.entries, *standing}:
        if name in stored:
            schedule = stored[name].schedule
            yield name, (schedule, "" if schedule is None else schedule.mark(stored[name].created))
        elif name in standing:
            yield name, (standing[name], standing[name].mark())
        elif index.entries[name].paused:
            yield name, (None, "")


def _next(schedule: Schedule, last: float | None, now: float) -> float | None:
    # A single moment that has passed unfired is still to come.
    after = (-inf if last is None else last) if isinstance(schedule.when, At) else now
    return next(following(schedule.when, after), None)
