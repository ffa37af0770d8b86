"""The recorder: what became of each message, as plain data."""

import pytest
import trio

import trepid
from trepid.ports.events import JobEnded, JobStarted
from trepid.rules.life import Reply
from trepid.testing import History, Recorder, open_test_connection


async def flaky(ctx: trepid.Context, good_at: int) -> int:
    await trio.sleep(1)
    if ctx.attempt < good_at:
        raise ValueError(f"attempt {ctx.attempt}")
    return ctx.attempt


async def plain() -> None:
    pass


FLAKY = trepid.Actor(flaky, retries=2, retry_policy=lambda n: 10 * n)
PLAIN = trepid.Actor(plain, queue="other")


async def test_a_history_tells_attempt_by_attempt(autojump_clock):
    recorder = Recorder()
    async with open_test_connection() as desk, trio.open_nursery() as nursery:
        running = await nursery.start(trepid.Worker(FLAKY, PLAIN, observers=[recorder]).run, desk)
        good = await desk.enqueue(FLAKY.job(3))
        bad = await desk.enqueue(FLAKY.job(9))
        other = await desk.enqueue(PLAIN.job())
        assert await good.result() == 3
        await bad.wait()
        await other.wait()
        running.stop()

    history = recorder.of(good)
    assert history == recorder.of(good.id) == recorder.of(good.id, queue="default")
    assert history.outcomes == ("retried", "retried", "succeeded")
    assert history.delays == (10, 20)
    assert history.errors == ("ValueError: attempt 1", "ValueError: attempt 2")
    assert [(a.number, a.started, a.ended, a.seconds) for a in history.attempts] == [
        (1, 0, 1, 1),
        (2, 11, 12, 1),
        (3, 32, 33, 1),
    ]
    assert (history.started, history.ended, history.elapsed) == (0, 33, 33)
    assert (history.actor, history.outcome) == ("flaky", "succeeded")

    assert recorder.of(bad).outcomes == ("retried", "retried", "dead")
    assert recorder.succeeded() == (other.id, good.id) or set(recorder.succeeded()) == {other.id, good.id}
    assert recorder.succeeded(FLAKY) == (good.id,)
    assert recorder.succeeded("plain") == (other.id,)
    assert recorder.dead() == (bad.id,)
    assert recorder.cancelled() == ()
    assert recorder.counts() == {"retried": 4, "succeeded": 2, "dead": 1}
    assert recorder.counts(PLAIN) == {"succeeded": 1}
    assert recorder.processed == 7
    assert len(recorder.histories()) == 3
    assert len(recorder.histories(FLAKY)) == 2
    assert "2 succeeded" in repr(recorder)


async def test_what_no_worker_has_seen_has_an_empty_history(autojump_clock):
    recorder = Recorder()
    assert recorder.of("nothing") == History("?", "nothing")
    history = recorder.of("nothing", queue="default")
    assert history == History("default", "nothing")
    assert (history.actor, history.outcome, history.started, history.ended, history.elapsed) == (None,) * 5
    assert recorder.processed == 0
    assert repr(recorder) == "<trepid.testing.Recorder empty>"


async def test_a_message_that_never_starts_has_an_attempt_without_a_start(autojump_clock):
    async with open_test_connection(PLAIN) as desk:
        ran = await desk.run(trepid.Job("plain", args=(1, 2), queue="other"))
        [attempt] = ran.attempts
        assert (attempt.started, attempt.outcome, attempt.reason) == (None, "dead", "arguments")
        assert ran.elapsed is None


async def test_an_id_in_two_queues_needs_its_queue(autojump_clock):
    async with open_test_connection(PLAIN, PLAIN.options(name="again", queue="default")) as desk:
        await desk.run(trepid.Job("plain", id="x", queue="other"))
        await desk.run(trepid.Job("again", id="x"))
        with pytest.raises(LookupError, match="default, other"):
            desk.recorder.of("x")
        assert desk.recorder.of("x", queue="other").actor == "plain"
        assert desk.recorder.of(desk.handle("x")).actor == "again"


async def test_cancelled_jobs_are_told_apart(autojump_clock):
    async with open_test_connection(FLAKY) as desk, trio.open_nursery() as nursery:
        handle = await desk.enqueue(FLAKY.job(1))
        nursery.start_soon(desk.run_until_idle)
        await trio.sleep(0.5)
        assert await handle.cancel("not needed") == "requested"
    assert desk.recorder.cancelled() == (handle.id,)
    assert desk.recorder.of(handle).attempts[0].reason == "cancelled"


async def test_an_attempt_of_a_dead_worker_is_not_ended_by_another(autojump_clock):
    recorder = Recorder()
    recorder(JobStarted("dead", "default", "x", "flaky", 1, 0.0))
    recorder(JobEnded("other", "default", "x", "flaky", 1, "released", Reply.APPLIED, 0.0))
    attempts = recorder.of("x").attempts
    assert [(attempt.worker, attempt.outcome) for attempt in attempts] == [("dead", None), ("other", "released")]
