"""What a worker says of itself: events, log records, statistics."""

import json
import logging

import pytest
import trio
import trio.testing

import trepid
from tests.runtime.stage import TroubledBroker, idle, working
from trepid.ports.events import (
    JobEnded,
    JobEvent,
    JobStarted,
    WorkerStarted,
    WorkerStopped,
    WorkerStopping,
    WorkerTroubled,
)
from trepid.ports.messages import Publication
from trepid.rules.life import Reply

SECRET = "hunter2"  # stands for what must not be seen


async def job(what: str) -> str:
    await trio.sleep(2)
    if what == "fail":
        raise ValueError("oops")
    if what == "snooze":
        raise trepid.Snooze(9)
    if what == "bury":
        raise trepid.Bury("no hope")
    return what


JOB = trepid.Actor(job)


async def test_the_story_of_a_worker(connection, autojump_clock):
    story = []
    worker = trepid.Worker(JOB, observers=[story.append], messages_limit=1)
    handle = await connection.enqueue(JOB.job("well").options(delay=3))
    await worker.run(connection)
    started, begun, ended, stopping, stopped = story
    assert started == WorkerStarted(started.worker, ("default",), ("job",))
    assert begun == JobStarted(started.worker, "default", handle.id, "job", 1, 0.0)
    assert ended == JobEnded(started.worker, "default", handle.id, "job", 1, "succeeded", Reply.APPLIED, 2.0)
    assert stopping == WorkerStopping(started.worker, "messages_limit reached", 0)
    assert stopped == WorkerStopped(started.worker, 1)


@pytest.mark.parametrize(
    ("what", "settings", "expected"),
    [
        ("fail", {}, ("dead", "ValueError: oops", None, None)),
        ("fail", {"retries": 1}, ("retried", "ValueError: oops", 10.0, None)),
        ("snooze", {}, ("released", None, 9.0, "snooze")),
        ("bury", {"retries": 9}, ("dead", "Bury: no hope", None, "buried")),
        ("slow", {"timeout": 1}, ("dead", "TimeoutError: still running after 1 s", None, None)),
    ],
)
async def test_how_an_attempt_ended(connection, autojump_clock, what, settings, expected):
    story = []
    await connection.enqueue(JOB.job(what).options(**settings))
    async with working(trepid.Worker(JOB, observers=[story.append]), connection):
        await trio.sleep(3)
    [ended] = [event for event in story if isinstance(event, JobEnded)]
    assert (ended.outcome, ended.error, ended.delay, ended.reason) == expected
    assert ended.seconds == (1.0 if what == "slow" else 2.0)


async def test_stops_and_cancels_are_told(connection, autojump_clock):
    story = []
    cancelled, released = await connection.enqueue_many([JOB.job("a"), JOB.job("b")])
    async with working(trepid.Worker(JOB, observers=[story.append]), connection) as running:
        await idle()
        await cancelled.cancel("not needed")
        await trio.sleep(1)
        running.stop(grace=0)
        running.stop(grace=0)
    ends = {event.id: (event.outcome, event.reason) for event in story if isinstance(event, JobEnded)}
    assert ends == {cancelled.id: ("cancelled", "cancelled"), released.id: ("released", "shutdown")}
    [stopping] = [event for event in story if isinstance(event, WorkerStopping)]
    assert (stopping.reason, stopping.running) == ("stop was called", 1)
    assert isinstance(story[-1], WorkerStopped)


async def test_a_cancelled_worker_tells_its_end(connection, autojump_clock):
    story = []
    with trio.move_on_after(1):
        await trepid.Worker(JOB, observers=[story.append]).run(connection)
    assert [type(event) for event in story] == [WorkerStarted, WorkerStopping, WorkerStopped]
    assert story[1].reason == "cancelled"


async def test_each_attempt_has_a_beginning_and_an_end_in_order(connection, autojump_clock):
    story = []
    handle = await connection.enqueue(JOB.job("fail").options(retries=3))
    async with working(trepid.Worker(JOB, observers=[story.append]), connection):
        await handle.wait()
    told = [(type(event), event.attempt) for event in story if isinstance(event, JobEvent)]
    assert told == [(kind, n) for n in (1, 2, 3, 4) for kind in (JobStarted, JobEnded)]
    assert len({event.worker for event in story}) == 1


async def test_what_ends_by_itself_while_the_worker_stops_was_not_ended_by_that(connection, autojump_clock):
    async def last():
        await trio.lowlevel.checkpoint()
        raise SystemExit

    actor, told = trepid.Actor(last), []
    await connection.enqueue(actor.job())
    with pytest.RaisesGroup(SystemExit, flatten_subgroups=True):
        await trepid.Worker(actor, observers=[told.append]).run(connection)
    [ended] = [event for event in told if isinstance(event, JobEnded)]
    assert (ended.outcome, ended.error, ended.reason) == ("dead", "SystemExit", None)


async def test_an_observer_that_raises_stops_nobody(connection, autojump_clock, caplog):
    def broken(event):
        raise ZeroDivisionError

    seen = []
    handle = await connection.enqueue(JOB.job("well"))
    await trepid.Worker(JOB, observers=[broken, seen.append], messages_limit=1).run(connection)
    assert await handle.result() == "well"
    assert len(seen) == 5
    complaints = [record for record in caplog.records if record.exc_info]
    assert len(complaints) == 5
    assert all(record.name == "trepid.worker" for record in complaints)


async def test_trouble_is_told(autojump_clock):
    broker, story = TroubledBroker(), []
    async with trepid.open_connection(broker) as connection:
        await connection.declare("default")
        broker.trouble.fail["lease"] = trepid.BrokerBusyError("locked")
        async with working(trepid.Worker(JOB, observers=[story.append]), connection):
            await trio.sleep(1)
    [trouble, *_] = [event for event in story if isinstance(event, WorkerTroubled)]
    assert (trouble.operation, trouble.error) == ("receive", "BrokerBusyError: locked")


async def test_log_records_are_structured_and_hold_no_arguments(connection, autojump_clock, caplog):
    async def actor(password: str, *, token: str) -> str:
        await trio.sleep(1)
        if password != SECRET:
            raise ValueError("wrong")
        return password + token

    caplog.set_level(logging.DEBUG)
    fine = trepid.Actor(actor)
    await connection.enqueue(fine.job(SECRET, token=SECRET))
    await connection.enqueue(trepid.Job("actor", args=(SECRET, SECRET)))
    await connection.enqueue(trepid.Job("actor", args=(5,), kwargs={"token": SECRET}))
    await connection.enqueue(trepid.Job("nobody", args=(SECRET,), headers={"password": SECRET}))
    async with working(trepid.Worker(fine), connection):
        await trio.sleep(6)
    assert len(caplog.records) >= 6
    for record in caplog.records:
        assert record.name == "trepid.worker"
        assert SECRET not in record.getMessage()
        assert SECRET not in json.dumps(record.trepid)
    ended = [record for record in caplog.records if record.trepid["event"] == "JobEnded"]
    assert {record.trepid["outcome"]: record.levelno for record in ended} == {
        "succeeded": logging.INFO,
        "dead": logging.ERROR,
        "released": logging.WARNING,  # for want of an actor
    }
    assert {"queue", "id", "actor", "attempt", "seconds", "worker"} <= set(ended[0].trepid)


async def test_a_log_line_is_one_line(connection, autojump_clock, caplog):
    caplog.set_level(logging.INFO)
    payload = b'{"v":1,"actor":"evil\\n2026 ERROR root: pay me\\u001b[31m"}'
    await connection.session.publish([Publication("default", "x", ("p", 1), payload)])
    broker = TroubledBroker()
    async with trepid.open_connection(broker) as other:
        broker.trouble.fail["lease"] = trepid.BrokerLostError("gone\nbadly")
        async with working(trepid.Worker(JOB, auto_declare=False), other):
            await trio.sleep(1)
    async with working(trepid.Worker(JOB), connection):
        await trio.sleep(1)
    assert any("evil" in record.getMessage() for record in caplog.records)
    assert any("gone" in record.getMessage() for record in caplog.records)
    for record in caplog.records:
        assert record.getMessage().isprintable()


async def test_statistics_show_what_runs(connection, autojump_clock):
    handle = await connection.enqueue(JOB.job("well"))
    await connection.enqueue(JOB.job("fail"))
    async with working(trepid.Worker(JOB, tasks_limit=3), connection) as running:
        with trio.testing.assert_no_checkpoints():
            running.statistics()
        await trio.sleep(1.5)
        now = running.statistics()
        assert min(now.running)[1:] == ("job", 1.5)
        assert handle.id in {id for id, _, _ in now.running}
        assert (now.unsettled, now.free, now.stopping, now.ready) == (0, 1, False, True)
        await trio.sleep(1)
        now = running.statistics()
        assert (now.running, now.free) == ((), 3)
        assert now.report == trepid.Report(succeeded=1, dead=1)
    assert running.statistics().stopping


async def test_tasks_are_named_after_their_jobs(connection, autojump_clock):
    names = []

    async def named():
        await trio.lowlevel.checkpoint()
        names.append(trio.lowlevel.current_task().name)

    actor = trepid.Actor(named)
    handle = await connection.enqueue(actor.job())
    await trepid.Worker(actor, messages_limit=1).run(connection)
    assert names == [f"job {handle.id}"]


async def test_a_job_that_no_actor_takes_is_warned_of_and_a_snooze_is_not(connection, autojump_clock, caplog):
    async def later() -> None:
        await trio.lowlevel.checkpoint()
        raise trepid.Snooze(3600)

    caplog.set_level("WARNING", logger="trepid.worker")
    actor = trepid.Actor(later)
    await connection.enqueue(actor.job())
    stray = await connection.enqueue(trepid.Job("nobody"))
    async with working(trepid.Worker(actor), connection):
        await trio.sleep(1)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(f"released nobody {stray.id} attempt 1")
    assert record.getMessage().endswith("unknown actor, again in 5 s")


async def test_trouble_is_logged_at_the_level_that_nobody_has_changed(connection, autojump_clock, caplog):
    async def fail() -> None:
        raise OSError("no disk")

    caplog.set_level("WARNING", logger="trepid.worker")
    actor = trepid.Actor(fail, retries=1)
    handle = await connection.enqueue(actor.job())
    await trepid.Worker(actor, messages_limit=2).run(connection)
    outcomes = [record.trepid["outcome"] for record in caplog.records if record.name == "trepid.worker"]
    assert outcomes == ["retried", "dead"]
    assert handle.id in caplog.text
