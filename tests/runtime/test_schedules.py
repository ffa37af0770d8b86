"""Stories of schedules: who fires what, when, and what becomes of instants that come amiss.  All in virtual time."""

from datetime import UTC, datetime, timedelta
from functools import partial

import attrs
import pytest
import trio

import trepid
from tests.runtime.stage import TroubledBroker, idle, working
from trepid.brokers.memory import MemoryBroker
from trepid.brokers.memory.records import MemoryRecords
from trepid.connection import timetable
from trepid.errors import BrokerLostError, UnknownScheduleError, UnsupportedError
from trepid.ports.events import WorkerTroubled
from trepid.ports.records import Drop, Read, Write
from trepid.values.unique import Unique

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
HOUR = 3600.0


class Diary:
    """An actor that writes down which instants it runs for, and when it does."""

    def __init__(self, *, takes=0.0, name="tick", **settings):
        self.instants = []
        self.begun = []
        self.ended = []
        self.takes = takes
        self.actor = trepid.Actor(self.tick, name=name, **settings)

    async def tick(self, ctx: trepid.Context) -> None:
        instant = ctx.job.headers["trepid-instant"]
        self.instants.append(hours(instant))
        self.begun.append(trio.current_time() / HOUR)
        await trio.sleep(self.takes)
        self.ended.append(hours(instant))


def hours(instant):
    """Return an instant in hours since the beginning of the story."""
    return (datetime.fromisoformat(instant) - NOON) / timedelta(hours=1)


def at(hours):
    return NOON + timedelta(hours=hours)


@pytest.fixture
def broker():
    return MemoryBroker(wall_clock=NOON.timestamp)


@pytest.fixture
async def connection(broker):
    async with trepid.open_connection(broker) as connection:
        await connection.declare("default")
        yield connection


@pytest.fixture
def diary():
    return Diary()


def hourly(diary, **options):
    return trepid.Schedule("hourly", trepid.Every(HOUR), diary.actor.job(), **options)


def worker_of(diary, *schedules, **options):
    return trepid.Worker(trepid.Router(diary.actor, schedules=schedules), **options)


# ---------------------------------------------------------------------------------------------------- in a router


async def test_a_schedule_of_a_router_is_fired_by_its_worker(autojump_clock, connection, diary):
    daily = trepid.Schedule("nightly", trepid.Cron("0 3 * * *", "Europe/Berlin"), diary.actor.job())
    async with working(worker_of(diary, hourly(diary), daily), connection):
        await trio.sleep(26.5 * HOUR)
    assert diary.instants == [*(float(n) for n in range(1, 14)), 13, *(float(n) for n in range(14, 27))]
    assert diary.begun == pytest.approx(diary.instants, abs=1e-6)


async def test_any_number_of_workers_fire_an_instant_once(autojump_clock, broker, diary):
    worker = worker_of(diary, hourly(diary))
    async with trio.open_nursery() as nursery:
        for _ in range(3):

            async def one():
                async with trepid.open_connection(broker) as connection, working(worker, connection):
                    await trio.sleep(5.5 * HOUR)

            nursery.start_soon(one)
    assert sorted(diary.instants) == [1, 2, 3, 4, 5]


async def test_whoever_fires_an_instant_publishes_the_same(autojump_clock, diary):
    """An engine that cannot mark in the same step knows the second publish by its id and token alone."""
    broker = TroubledBroker()
    broker.memory = MemoryBroker(wall_clock=NOON.timestamp)
    async with trepid.open_connection(broker) as connection:
        await connection.declare("default")
        worker = worker_of(diary, hourly(diary))
        async with working(worker, connection), working(worker, connection):
            await trio.sleep(3.5 * HOUR)
    published = {}
    for _, name, args, _ in broker.trouble.log:
        for firing in args[0] if name == "fire" else ():
            if firing.publication is not None:
                published.setdefault(firing.instant, []).append((firing.publication.id, firing.publication.token))
    assert [len(each) for each in published.values()] == [2, 2, 2], "by both workers"
    assert all(first == second for first, second in published.values())
    assert len({token for (_, token), _ in published.values()}) == 3, "and another one at each instant"


async def test_the_message_of_an_instant_has_a_readable_id(autojump_clock, connection, diary):
    async with working(worker_of(diary, hourly(diary)), connection):
        await trio.sleep(HOUR + 1)
    [view] = [view async for view in connection.messages("default", trepid.State.DONE)]
    assert view.id.startswith("hourly:20260601T130000Z:")


async def test_a_schedule_that_is_removed_from_the_code_stops(autojump_clock, connection, diary):
    async with working(worker_of(diary, hourly(diary)), connection):
        await trio.sleep(1.5 * HOUR)
    async with working(worker_of(diary), connection):
        await trio.sleep(5 * HOUR)
    assert diary.instants == [1]


async def test_a_schedule_that_is_changed_begins_anew(autojump_clock, connection, diary):
    async with working(worker_of(diary, hourly(diary, misfire="all")), connection):
        await trio.sleep(1.5 * HOUR)
    await trio.sleep(10 * HOUR)
    other = hourly(diary, misfire="all").options(when=trepid.Every(2 * HOUR))
    async with working(worker_of(diary, other), connection):
        await trio.sleep(2 * HOUR)
    assert diary.instants == [1, 12]


@pytest.mark.parametrize(("misfire", "instants"), [("skip", [1, 6]), ("once", [1, 5, 6]), ("all", [1, 2, 3, 4, 5, 6])])
async def test_what_nobody_fired_is_a_misfire(autojump_clock, connection, diary, misfire, instants):
    worker = worker_of(diary, hourly(diary, misfire=misfire))
    async with working(worker, connection):
        await trio.sleep(1.5 * HOUR)
    await trio.sleep(4 * HOUR)
    async with working(worker, connection):
        await trio.sleep(1 * HOUR)
    assert sorted(diary.instants) == instants


async def test_a_single_moment_is_fired_once_even_if_it_is_over(autojump_clock, connection, diary):
    past = trepid.Schedule("past", trepid.At(at(-5)), diary.actor.job())
    soon = trepid.Schedule("soon", trepid.At(at(2)), diary.actor.job())
    skipped = trepid.Schedule("skipped", trepid.At(at(-5)), diary.actor.job(), misfire="skip")
    for _ in range(2):
        async with working(worker_of(diary, past, soon, skipped), connection):
            await trio.sleep(3 * HOUR)
    assert diary.instants == [-5, 2]


async def test_a_worker_declares_the_queues_of_its_schedules(autojump_clock, connection, diary):
    far = trepid.Schedule("far", trepid.Every(HOUR), trepid.Job("elsewhere", queue="far"))
    async with working(trepid.Worker(trepid.Router(schedules=[far])), connection):
        await trio.sleep(2.5 * HOUR)
    assert (await connection.stats("far")).ready == 2


async def test_jitter_is_how_much_later_a_message_is_due(autojump_clock, connection, diary):
    schedule = hourly(diary, jitter=600)
    async with working(worker_of(diary, schedule), connection):
        await trio.sleep(10 * HOUR)
    begun = [n + schedule.lag(at(n).timestamp()) / HOUR for n in range(1, 10)]
    assert diary.begun == pytest.approx(begun, abs=1e-6)
    assert len({round(b % 1, 3) for b in diary.begun}) > 5


async def test_a_worker_that_stops_fires_nothing_any_more(autojump_clock, connection):
    diary = Diary(takes=5 * HOUR, timeout=10 * HOUR)
    async with working(worker_of(diary, hourly(diary), graceful_shutdown_time=10 * HOUR), connection) as running:
        await trio.sleep(1.5 * HOUR)
        running.stop()
    assert diary.ended == [1]
    assert (await connection.stats()).done == 1
    assert (await connection.stats()).ready == 0


async def test_nothing_is_looked_at_between_the_instants(autojump_clock, diary):
    broker = TroubledBroker()
    async with trepid.open_connection(broker) as connection:
        await connection.declare("default")
        yearly = trepid.Schedule("yearly", trepid.Every(300 * 86_400), diary.actor.job())
        async with working(worker_of(diary, yearly), connection):
            await trio.sleep(100 * 86_400)
            assert broker.trouble.calls["now"] <= 4


# -------------------------------------------------------------------------------------------------------- overlap


async def test_overlapping_jobs_run_side_by_side(autojump_clock, connection):
    diary = Diary(takes=2.5 * HOUR, timeout=10 * HOUR)
    async with working(worker_of(diary, hourly(diary, overlap="allow"), graceful_shutdown_time=9 * HOUR), connection):
        await trio.sleep(4.5 * HOUR)
    assert diary.begun == pytest.approx([1, 2, 3, 4], abs=1e-6)
    assert diary.ended == [1, 2, 3, 4]


async def test_an_instant_is_skipped_while_an_earlier_one_lives(autojump_clock, connection):
    diary = Diary(takes=2.5 * HOUR, timeout=10 * HOUR)
    async with working(worker_of(diary, hourly(diary, overlap="skip"), graceful_shutdown_time=9 * HOUR), connection):
        await trio.sleep(8.5 * HOUR)
    assert diary.ended == diary.instants == [1, 4, 7]


async def test_an_instant_replaces_an_earlier_one_that_runs(autojump_clock, broker):
    diary = Diary(takes=2.5 * HOUR, timeout=10 * HOUR)
    worker = worker_of(diary, hourly(diary, overlap="replace"), graceful_shutdown_time=9 * HOUR)
    async with trepid.open_connection(broker) as one, trepid.open_connection(broker) as other:
        async with working(worker, one) as first, working(worker, other) as second:
            await trio.sleep(4.5 * HOUR)
            first.stop()
            second.stop()
        assert diary.begun == pytest.approx([1, 2, 3, 4], abs=1e-4)
        assert diary.ended == [4]
        cancelled = [view async for view in one.messages("default", trepid.State.CANCELLED)]
    assert [view.reason for view in cancelled] == ["replaced by schedule hourly"] * 3


async def test_an_instant_replaces_an_earlier_one_that_waits(autojump_clock, connection, diary):
    await connection.pause("default")
    async with working(worker_of(diary, hourly(diary, overlap="replace")), connection):
        await trio.sleep(3.5 * HOUR)
        assert (await connection.stats()).ready == 1
        await connection.resume("default")
        await trio.sleep(0.1 * HOUR)
    assert diary.instants == [3]


async def test_who_replaces_waits_until_the_other_one_has_ended(autojump_clock, connection):
    begun, ended = [], []

    async def stubborn() -> None:
        begun.append(trio.current_time() / HOUR)
        with trio.CancelScope(shield=True):
            await trio.sleep(0.5 * HOUR)
        await trio.sleep(HOUR)
        ended.append(trio.current_time() / HOUR)

    actor = trepid.Actor(stubborn, timeout=10 * HOUR)
    # Late by a quarter, which is more than its grace: but it was on time when it asked for the place.
    schedule = trepid.Schedule("s", trepid.Every(0.25 * HOUR), actor.job(), overlap="replace", misfire="skip", grace=1)
    async with working(trepid.Worker(trepid.Router(actor, schedules=[schedule])), connection):
        await trio.sleep(1.3 * HOUR)
    assert begun == pytest.approx([0.25, 0.75, 1.25], abs=1e-3)
    assert ended == []


async def test_an_instant_that_waited_for_its_place_is_no_misfire(autojump_clock, connection):
    """Nor is it forgotten when another schedule is given meanwhile."""
    begun = []

    async def slow_to_stop(ctx: trepid.Context) -> None:
        begun.append((hours(ctx.job.headers["trepid-instant"]), trio.current_time() / HOUR))
        try:
            await trio.sleep(5 * HOUR)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + HOUR / 6):
                await trio.sleep_forever()

    actor = trepid.Actor(slow_to_stop, timeout=10 * HOUR)
    schedule = trepid.Schedule("s", trepid.Every(HOUR), actor.job(), overlap="replace", misfire="skip", grace=60)
    worker = trepid.Worker(trepid.Router(actor, schedules=[schedule]), graceful_shutdown_time=0)
    async with working(worker, connection):
        await trio.sleep(2.1 * HOUR)
        await connection.schedule(trepid.Schedule("other", trepid.Every(300 * 86_400), actor.job()))
        await trio.sleep(0.4 * HOUR)
    assert begun == [(1, pytest.approx(1)), (2, pytest.approx(2 + 1 / 6, abs=1e-3))]


async def test_a_job_may_bring_its_own_unique_key(autojump_clock, connection):
    diary = Diary(takes=1.5 * HOUR, timeout=10 * HOUR)
    schedule = hourly(diary).options(job=diary.actor.job().options(unique=Unique("k")))
    async with working(worker_of(diary, schedule, graceful_shutdown_time=9 * HOUR), connection):
        await trio.sleep(4.2 * HOUR)
    assert diary.instants == [1, 3]


# -------------------------------------------------------------------------------------------------- given to the broker


async def test_a_schedule_that_the_broker_was_given_is_fired_by_whoever_receives_from_its_queue(
    autojump_clock, connection, diary
):
    deaf = Diary(name="deaf", queue="other")
    async with working(worker_of(deaf), connection), working(worker_of(diary), connection):
        await trio.sleep(0.5 * HOUR)
        await connection.schedule(hourly(diary))
        await trio.sleep(2 * HOUR)
        assert await connection.unschedule("hourly") is True
        await trio.sleep(3 * HOUR)
        assert await connection.unschedule("hourly") is False
    assert diary.instants == [1, 2]
    assert await connection.session.marks("default") == {}


async def test_it_begins_when_it_is_given_and_misses_nothing_without_a_worker(autojump_clock, connection, diary):
    await trio.sleep(1.5 * HOUR)
    await connection.schedule(hourly(diary, misfire="all"))
    await trio.sleep(3 * HOUR)
    async with working(worker_of(diary), connection):
        await trio.sleep(HOUR)
    assert sorted(diary.instants) == [2, 3, 4, 5]


async def test_giving_it_again_goes_on_where_it_is_unless_its_time_is_another(autojump_clock, connection, diary):
    await connection.schedule(hourly(diary))
    async with working(worker_of(diary), connection):
        await trio.sleep(1.5 * HOUR)
    await trio.sleep(2 * HOUR)
    await connection.schedule(hourly(diary, misfire="all"))
    async with working(worker_of(diary), connection):
        await idle()
        assert sorted(diary.instants) == [1, 2, 3]
        await connection.schedule(hourly(diary, misfire="all").options(when=trepid.Every(5 * HOUR)))
        await trio.sleep(8 * HOUR)
    # Each fifth hour since 1970: 3 and 8 hours after that noon.
    assert sorted(diary.instants) == [1, 2, 3, 8]


@pytest.fixture
def overtaken(monkeypatch):
    """Return a function that lets something happen right after the next step of a kind on the records of schedules."""
    meanwhile = {}
    carry_out = MemoryRecords.carry_out

    async def slow(self, steps):
        found = await carry_out(self, steps)
        if len(steps) == 1 and type(steps[0]) in meanwhile and steps[0].key.startswith("trepid:schedule"):
            await meanwhile.pop(type(steps[0]))()
        return found

    monkeypatch.setattr(MemoryRecords, "carry_out", slow)
    return meanwhile.__setitem__


async def test_programs_that_give_it_again_at_the_same_time_go_on_where_it_is(
    autojump_clock, connection, diary, overtaken
):
    schedule = hourly(diary, misfire="all")
    await connection.schedule(schedule)
    async with working(worker_of(diary), connection):
        await trio.sleep(1.5 * HOUR)
    await trio.sleep(2 * HOUR)
    overtaken(Read, partial(connection.schedule, schedule))
    await connection.schedule(schedule)
    async with working(worker_of(diary), connection):
        await idle()
    assert sorted(diary.instants) == [1, 2, 3]


async def test_where_it_goes_on_is_decided_by_what_it_takes_the_place_of(autojump_clock, connection, diary, overtaken):
    await connection.schedule(hourly(diary, misfire="all"))
    async with working(worker_of(diary), connection):
        await trio.sleep(1.5 * HOUR)
    await trio.sleep(2 * HOUR)
    other = hourly(diary).options(when=trepid.Every(2 * HOUR))
    overtaken(Write, partial(connection.schedule, other))
    await connection.schedule(hourly(diary, misfire="all"))
    async with working(worker_of(diary), connection):
        await idle()
    assert diary.instants == [1], "the other one has forgotten what was fired; so it begins anew"
    assert await connection.session.marks("default") == {}


async def test_a_schedule_that_is_given_again_meanwhile_is_there(autojump_clock, connection, diary, overtaken):
    again = partial(connection.schedule, hourly(diary))
    await again()
    overtaken(Read, again)
    assert [view.stored for view in await connection.schedules()] == [True]
    overtaken(Read, again)
    await connection.run_schedule("hourly")
    overtaken(Read, again)
    assert await connection.unschedule("hourly") is True
    assert await connection.schedules() == []


async def test_a_record_that_is_lost_is_not_waited_for(autojump_clock, connection, diary):
    await connection.schedule(hourly(diary))
    records = connection.session.records
    _, index = await timetable.look(records)
    await records.carry_out([Drop(f"trepid:schedule:hourly:{index.entries['hourly'].record}")])
    with pytest.raises(UnknownScheduleError):
        await connection.run_schedule("hourly")
    assert await connection.unschedule("hourly") is True
    assert await connection.unschedule("hourly") is False


async def test_a_change_is_noticed_while_the_worker_sleeps(autojump_clock, connection, diary):
    await connection.schedule(trepid.Schedule("s", trepid.Every(300 * 86_400), diary.actor.job()))
    async with working(worker_of(diary), connection):
        await trio.sleep(HOUR / 2)
        await connection.schedule(trepid.Schedule("s", trepid.Every(HOUR), diary.actor.job()))
        await trio.sleep(HOUR)
    assert diary.instants == [1]


async def test_what_the_broker_was_given_wins_over_the_router(autojump_clock, connection, diary):
    worker = worker_of(diary, hourly(diary))
    async with working(worker, connection):
        await trio.sleep(1.5 * HOUR)
        await connection.schedule(hourly(diary).options(when=trepid.Every(12 * HOUR)))
        await trio.sleep(12 * HOUR)
        await connection.unschedule("hourly")
        await trio.sleep(HOUR)
    # When it is taken back, the router's goes on: it has missed some instants, and makes up for them.
    assert diary.instants == [1, 12, 13, 14]


async def test_it_wins_also_where_only_others_fire_it(autojump_clock, connection, diary):
    """The broker's is for a queue from which this worker does not receive; its router's own is not fired instead."""
    await connection.declare("other")
    async with working(worker_of(diary, hourly(diary)), connection):
        await trio.sleep(1.5 * HOUR)
        await connection.schedule(hourly(diary).options(job=diary.actor.job().options(queue="other")))
        await trio.sleep(2 * HOUR)
    assert diary.instants == [1]
    assert (await connection.stats("other")).live == 0


async def test_arguments_and_settings_survive_the_broker(autojump_clock, connection):
    seen = []

    async def take(ctx: trepid.Context, n: int, *, when: datetime) -> None:
        seen.append((n, when, ctx.job.retries, ctx.job.timeout, dict(ctx.job.headers)["trace"], ctx.job.priority))

    actor = trepid.Actor(take, retries=2, timeout=50, priority=trepid.Priority.HIGH)
    job = actor.job(5, when=NOON).options(headers={"trace": "x"})
    await connection.schedule(trepid.Schedule("s", trepid.Every(HOUR), job))
    [view] = await connection.schedules()
    plain = job.options(kwargs={"when": "2026-06-01T12:00:00Z"})
    assert view.schedule == trepid.Schedule("s", trepid.Every(HOUR), plain)
    async with working(trepid.Worker(actor), connection):
        await trio.sleep(HOUR + 1)
    assert seen == [(5, NOON, 2, 50, "x", trepid.Priority.HIGH)]


async def test_an_unknown_actor_is_handled_as_always(autojump_clock, connection, diary):
    await connection.schedule(trepid.Schedule("s", trepid.Every(HOUR), trepid.Job("nobody")))
    async with working(worker_of(diary), connection):
        await trio.sleep(HOUR + 1)
    assert (await connection.stats()).live == 1


# ---------------------------------------------------------------------------------------------- pause, run, look


@pytest.mark.parametrize("stored", [True, False])
async def test_a_pause_lets_instants_pass(autojump_clock, connection, diary, stored):
    schedule = hourly(diary, misfire="all")
    if stored:
        await connection.schedule(schedule)
    async with working(worker_of(diary, *(() if stored else (schedule,))), connection):
        await trio.sleep(1.5 * HOUR)
        await connection.pause_schedule("hourly")
        await connection.pause_schedule("hourly")
        await trio.sleep(3 * HOUR)
        assert [view.paused for view in await connection.schedules()] == [True]
        await connection.resume_schedule("hourly")
        await trio.sleep(HOUR)
    assert diary.instants == [1, 5]


async def test_a_pause_stays_when_the_schedule_is_given_again_and_goes_with_it(autojump_clock, connection, diary):
    await connection.schedule(hourly(diary))
    await connection.pause_schedule("hourly")
    for when in (trepid.Every(HOUR), trepid.Every(2 * HOUR)):
        await connection.schedule(hourly(diary).options(when=when))
        assert [view.paused for view in await connection.schedules()] == [True]
    assert await connection.unschedule("hourly")
    assert await connection.schedules() == []
    await connection.schedule(hourly(diary))
    assert [view.paused for view in await connection.schedules()] == [False]


async def test_a_pause_lasts_while_no_worker_runs(autojump_clock, connection, diary):
    schedule = hourly(diary, misfire="all")
    await connection.pause_schedule("hourly")
    async with working(worker_of(diary, schedule), connection):
        await trio.sleep(2.5 * HOUR)
    await connection.resume_schedule("hourly")
    await trio.sleep(2 * HOUR)
    async with working(worker_of(diary, schedule), connection):
        await idle()
    assert sorted(diary.instants) == [3, 4]


async def test_a_schedule_is_run_now_beside_its_instants(autojump_clock, connection, diary):
    standing = hourly(diary).options(name="standing")
    await connection.schedule(hourly(diary))
    await connection.pause_schedule("hourly")
    router = trepid.Router(diary.actor, schedules=[standing])
    async with working(trepid.Worker(router), connection):
        await trio.sleep(0.25 * HOUR)
        handle = await connection.run_schedule("hourly")
        await handle.wait()
        await (await connection.run_schedule("standing", router)).wait()
        with pytest.raises(UnknownScheduleError, match="nothing"):
            await connection.run_schedule("nothing")
        await trio.sleep(HOUR)
    assert diary.instants == [0.25, 0.25, 1]


async def test_a_schedule_is_run_now_once_its_queue_has_room(autojump_clock, connection, diary):
    await connection.declare(trepid.Queue("default", max_size=1))
    await connection.schedule(hourly(diary))
    first = await connection.run_schedule("hourly")
    with pytest.raises(trepid.QueueFullError, match="default"):
        await connection.run_schedule("hourly", wait=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run_schedule, "hourly")
        await trio.testing.wait_all_tasks_blocked()
        await first.cancel()
    assert (await connection.stats()).ready == 1


@pytest.mark.parametrize("wrong", [{}, "router", trepid.Cron("0 3 * * *")])
async def test_schedules_stand_in_routers_and_nowhere_else(connection, wrong):
    for look in (connection.schedules, partial(connection.run_schedule, "standing")):
        with pytest.raises(TypeError, match=r"router must be a trepid\.Router, not "):
            await look(wrong)


async def test_running_now_keeps_the_overlap_policy(autojump_clock, connection):
    diary = Diary(takes=HOUR)
    await connection.schedule(hourly(diary, overlap="skip"))
    first, second = [await connection.run_schedule("hourly") for _ in range(2)]
    assert (second.id, second.existing) == (first.id, True)


async def test_schedules_can_be_looked_at(autojump_clock, connection, diary):
    assert await connection.schedules() == []
    standing, other = hourly(diary).options(name="standing"), hourly(diary).options(name="other")
    router = trepid.Router(diary.actor, schedules=[standing])
    moment = trepid.Schedule("moment", trepid.At(at(-1)), diary.actor.job())
    await connection.schedule(hourly(diary))
    await connection.schedule(moment)
    await connection.pause_schedule("other")
    t = NOON.timestamp()
    views = {view.name: view for view in await connection.schedules(router)}
    assert list(views) == ["hourly", "moment", "other", "standing"]
    assert views["moment"] == trepid.ScheduleView("moment", moment, True, False, None, t - HOUR)
    assert views["other"] == trepid.ScheduleView("other", None, False, True)
    async with working(trepid.Worker(router), connection):
        await trio.sleep(1.5 * HOUR)
    views = {view.name: view for view in await connection.schedules(router | trepid.Router(schedules=[other]))}
    assert views["hourly"] == trepid.ScheduleView("hourly", hourly(diary), True, False, t + HOUR, t + 2 * HOUR)
    assert views["moment"] == trepid.ScheduleView("moment", moment, True, False, t - HOUR, None)
    assert views["standing"] == trepid.ScheduleView("standing", standing, False, False, t + HOUR, t + 2 * HOUR)
    assert views["other"] == trepid.ScheduleView("other", other, False, True)


# -------------------------------------------------------------------------------------------------------- trouble


async def test_trouble_is_told_and_survived(autojump_clock, diary):
    broker, told = TroubledBroker(), []
    broker.memory = MemoryBroker(wall_clock=NOON.timestamp)
    async with trepid.open_connection(broker) as connection:
        await connection.declare("default")
        async with working(worker_of(diary, hourly(diary, misfire="all"), observers=[told.append]), connection):
            await trio.sleep(0.5 * HOUR)
            broker.trouble.fail["fire"] = BrokerLostError("gone")
            await trio.sleep(2 * HOUR)
            broker.trouble.fail.clear()
            broker.trouble.hang.add("now")
            await trio.sleep(HOUR)
            broker.trouble.hang.clear()
            await trio.sleep(0.1 * HOUR)
    assert sorted(diary.instants) == [1, 2, 3]
    operations = {event.operation for event in told if isinstance(event, WorkerTroubled)}
    assert operations == {"fire schedules"}


@pytest.mark.parametrize("when", [trepid.Every(HOUR), trepid.At(at(1))], ids=["every hour", "once"])
@pytest.mark.parametrize("silent", [False, True])
async def test_trouble_holds_an_instant_up_only_while_it_lasts(autojump_clock, diary, when, silent):
    """It does not wait for the next instant, as there may be none for a year."""
    broker = TroubledBroker()
    broker.memory = MemoryBroker(wall_clock=NOON.timestamp)
    schedule = trepid.Schedule("s", when, diary.actor.job(), misfire="skip")
    async with trepid.open_connection(broker) as connection:
        await connection.declare("default")
        async with working(worker_of(diary, schedule), connection):
            await trio.sleep(HOUR - 1)
            if silent:
                broker.trouble.hang.add("fire")
            else:
                broker.trouble.fail["fire"] = BrokerLostError("gone")
            await trio.sleep(10)
            assert broker.trouble.calls["fire"] > (isinstance(when, trepid.Every))
            broker.trouble.hang.clear()
            broker.trouble.fail.clear()
            await trio.sleep(40)
    assert diary.instants == [1]


@pytest.mark.parametrize("operation", ["marks", "fire"])
async def test_a_queue_that_is_away_holds_up_the_schedules_of_no_other(
    autojump_clock, connection, diary, monkeypatch, operation
):
    """As a part of a cluster may be."""
    await connection.declare("far", "farther")
    real = getattr(type(connection.session), operation)

    async def in_part(self, what):
        if (what if operation == "marks" else what[0].queue).startswith("far"):
            await trio.lowlevel.checkpoint()
            raise BrokerLostError("its part is down")
        return await real(self, what)

    far = [hourly(diary).options(name=name, job=diary.actor.job().options(queue=name)) for name in ("far", "farther")]
    async with working(worker_of(diary, *far, hourly(diary)), connection):
        if operation == "fire":
            await trio.sleep(HOUR / 2)
        monkeypatch.setattr(type(connection.session), operation, in_part)
        await trio.sleep(2.3 * HOUR)
    assert diary.instants == [1, 2]
    assert diary.begun == pytest.approx(diary.instants, abs=0.01)


async def test_a_cancel_that_gets_no_answer_is_asked_again(autojump_clock):
    diary, broker, told = Diary(takes=9 * HOUR, timeout=10 * HOUR), TroubledBroker(), []
    broker.memory = MemoryBroker(wall_clock=NOON.timestamp)
    worker = worker_of(diary, hourly(diary, overlap="replace"), observers=[told.append])
    async with trepid.open_connection(broker) as connection:
        await connection.declare("default")
        async with working(worker, connection):
            broker.trouble.hang.add("cancel")
            await trio.sleep(2.1 * HOUR)
            assert diary.instants == [1]
            broker.trouble.hang.clear()
            await trio.sleep(0.1 * HOUR)
            assert diary.instants == [1, 2]
    assert {event.operation for event in told if isinstance(event, WorkerTroubled)} == {"replace a job of hourly"}


@pytest.mark.parametrize("step", ["changed", "carry_out"])
async def test_a_look_at_the_schedules_that_gets_no_answer_is_repeated(
    autojump_clock, connection, diary, monkeypatch, step
):
    records, asked = type(connection.session.records), []
    real = getattr(records, step)

    async def silent_once(self, *args, **rest):
        asked.append(args)
        if len(asked) == 1:
            await trio.sleep_forever()
        return await real(self, *args, **rest)

    await connection.schedule(hourly(diary))
    monkeypatch.setattr(records, step, silent_once)
    async with working(worker_of(diary), connection):
        await trio.sleep(1.5 * HOUR)
    assert len(asked) > 1
    assert diary.instants == [1]


async def test_a_change_that_could_not_be_read_is_read_again(autojump_clock, connection, diary, monkeypatch):
    """The worker has heard of it, and lost what it was."""
    lost, real = [], MemoryRecords.carry_out

    async def carry_out(self, steps):
        if not lost and any(
            isinstance(step, Read) and step.key.startswith("trepid:schedule:hourly:") for step in steps
        ):
            lost.append(steps)
            raise BrokerLostError
        return await real(self, steps)

    async with working(worker_of(diary), connection):
        await trio.sleep(HOUR / 2)
        monkeypatch.setattr(MemoryRecords, "carry_out", carry_out)
        await connection.schedule(hourly(diary))
        await trio.sleep(HOUR)
    assert len(lost) == 1
    assert diary.instants == [1]


async def test_a_queue_without_room_holds_an_instant_up(autojump_clock, connection, diary):
    told = []
    await connection.declare(trepid.Queue("default", max_size=1))
    await connection.enqueue(diary.actor.job().options(delay=1.5 * HOUR, headers={"trepid-instant": at(0).isoformat()}))
    async with working(worker_of(diary, hourly(diary), observers=[told.append]), connection):
        await trio.sleep(2.5 * HOUR)
    assert diary.instants == [0, 1, 2]
    assert diary.begun[1] == pytest.approx(1.5, abs=0.001)
    assert [event.operation for event in told if isinstance(event, WorkerTroubled)] == ["fire schedule hourly"]


async def test_a_queue_that_is_not_there_is_told(autojump_clock, connection, diary):
    told = []
    far = trepid.Schedule("far", trepid.Every(HOUR), diary.actor.job().options(queue="far"))
    worker = worker_of(diary, far, hourly(diary), auto_declare=False, observers=[told.append])
    async with working(worker, connection):
        await trio.sleep(1.5 * HOUR)
        await connection.declare("far")
        await trio.sleep(2)
    assert diary.instants == [1]
    assert (await connection.stats("far")).ready == 1
    [event] = [event for event in told if isinstance(event, WorkerTroubled)]
    assert "far" in event.error


async def test_a_stored_schedule_that_cannot_be_read_harms_nobody(autojump_clock, connection, diary):
    told = []
    await connection.schedule(hourly(diary))
    await connection.schedule(hourly(diary).options(name="broken"))
    _, index = await timetable.look(connection.session.records)
    key = f"trepid:schedule:broken:{index.entries['broken'].record}"
    await connection.session.records.carry_out([Write(key, b'{"v": 9}', None)])
    async with working(worker_of(diary, observers=[told.append]), connection):
        await trio.sleep(1.5 * HOUR)
    assert diary.instants == [1]
    assert [event.operation for event in told if isinstance(event, WorkerTroubled)] == ["read schedule broken"]
    assert [view.schedule for view in await connection.schedules()] == [None, hourly(diary)]
    with pytest.raises(ValueError, match="version 9"):
        await connection.run_schedule("broken")
    assert await connection.unschedule("broken")


async def test_an_index_of_another_version_stops_schedules_only(autojump_clock, connection, diary):
    told = []
    await connection.session.records.carry_out([Write(timetable.INDEX, b'{"v": 9}', None)])
    async with working(worker_of(diary, hourly(diary), observers=[told.append]), connection):
        await trio.sleep(1.5 * HOUR)
        await (
            await connection.enqueue(diary.actor.job().options(headers={"trepid-instant": at(0).isoformat()}))
        ).wait()
    assert diary.instants == [0]
    assert all("version 9" in event.error for event in told if isinstance(event, WorkerTroubled))


# ------------------------------------------------------------------------------------------------ engines without


@pytest.mark.parametrize(
    ("lacks", "overlap"),
    [
        ({"firing": "none"}, "allow"),
        ({"records": False}, "allow"),
        ({"unique": False}, "skip"),
        ({"cancel_running": False}, "replace"),
        ({"limits": False}, "allow"),
    ],
)
async def test_an_engine_that_lacks_it_refuses(autojump_clock, monkeypatch, connection, lacks, overlap):
    capabilities = attrs.evolve(connection.capabilities, **lacks)
    monkeypatch.setattr(type(connection.session), "capabilities", property(lambda _: capabilities))
    diary = Diary(concurrency=None if "limits" not in lacks else 1)
    schedule = hourly(diary, overlap=overlap)
    with pytest.raises(UnsupportedError):
        await connection.schedule(schedule)
    with pytest.raises(UnsupportedError):
        await worker_of(diary, schedule).run(connection)
    if "limits" not in lacks:
        async with working(worker_of(diary), connection):
            await trio.sleep(HOUR)


async def test_a_schedule_for_a_queue_that_is_not_there_is_refused(connection, autojump_clock):
    """It is nearly always a typing mistake, and would be fired into nowhere."""
    diary = Diary()
    lost = trepid.Schedule("lost", trepid.Every(60), diary.actor.job().options(queue="nowhere"))
    with pytest.raises(trepid.UnknownQueueError, match="'nowhere'"):
        await connection.schedule(lost)
    assert await connection.schedules() == []


async def test_a_worker_says_that_it_does_not_take_what_it_fires(connection, autojump_clock, caplog):
    diary = Diary()
    other = trepid.Schedule("other", trepid.Every(60), diary.actor.job().options(queue="elsewhere"))
    async with working(trepid.Worker(trepid.Router(diary.actor, schedules=[other])), connection):
        await idle()
    assert "fires schedules into queue 'elsewhere', and takes no messages from it" in caplog.text


async def test_another_time_leaves_no_mark_behind(connection, autojump_clock):
    diary = Diary()
    for period in (60, 120, 180):
        await connection.schedule(trepid.Schedule("s", trepid.Every(period), diary.actor.job()))
        async with working(trepid.Worker(diary.actor), connection):
            await trio.sleep(200)
    assert len(await connection.session.marks("default")) == 1
    await connection.unschedule("s")
    assert await connection.session.marks("default") == {}


async def test_the_last_instant_is_one_that_was_due(connection, autojump_clock):
    """The moment at which a worker first saw a schedule is none."""
    diary = Diary()
    await trio.sleep(7)
    router = trepid.Router(diary.actor, schedules=[trepid.Schedule("s", trepid.Every(60), diary.actor.job())])
    async with working(trepid.Worker(router), connection):
        await idle()
        [view] = await connection.schedules(router)
        assert view.last is None
        await trio.sleep(60)
        [view] = await connection.schedules(router)
        assert view.last is not None
        assert view.last % 60 == 0


async def test_what_the_engine_cannot_store_stops_no_worker(autojump_clock):
    """Another program has given it to the broker; the worker tells of it, and goes on."""

    async def plain() -> str:
        await trio.lowlevel.checkpoint()
        return "done"

    actor, told, broker = trepid.Actor(plain), [], TroubledBroker()
    async with trepid.open_connection(broker) as connection:
        await connection.declare("default")
        await connection.schedule(trepid.Schedule("s", trepid.Every(60), actor.job()))
        async with working(trepid.Worker(actor, observers=[told.append]), connection):
            await idle()
            broker.trouble.fail["fire"] = UnsupportedError("unique keys", "tin can")
            await trio.sleep(300)
            handle = await connection.enqueue(actor.job())
            assert await handle.result() == "done"
    assert any(isinstance(event, WorkerTroubled) and "tin can" in event.error for event in told)
