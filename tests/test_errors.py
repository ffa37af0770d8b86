"""Every error says what is wrong, and what to do about it."""

import copy

import pytest
import trio

from trepid import errors

EXAMPLES = [
    (errors.UnknownActorError("x", frozenset("ba")), "no actor is called 'x' (known: a, b)", LookupError),
    (errors.UnknownActorError("x"), "no actor is called 'x' (known: none)", LookupError),
    (errors.DuplicateActorError("x"), "two actors are called 'x'; rename one, or write `left | right`", ValueError),
    (errors.UnknownQueueError("q"), "queue 'q' is not declared; call `await connection.declare('q')` first", KeyError),
    (errors.DuplicateScheduleError("nightly"), "two schedules are called 'nightly'", ValueError),
    (errors.UnknownScheduleError("nightly"), "no schedule is called 'nightly'", KeyError),
    (errors.UnsupportedError("delays", "tin can"), "tin can does not support delays", NotImplementedError),
    (errors.UnsupportedError("x", "tin can", "use string"), "tin can does not support x; use string", Exception),
    (errors.PayloadTooLargeError(2_000_000, 1_048_576), "2,000,000 bytes are more than the 1,048,576", ValueError),
    (errors.UniqueConflictError("k", "q", "m"), "unique key 'k' in queue 'q' is held by message 'm'", Exception),
    (errors.QueueBusyError("q", 2), "queue 'q' has 2 leased message(s)", Exception),
    (errors.QueueFullError("q"), "queue 'q' has no room; enqueue fewer at once", Exception),
    (errors.BrokerURLError("x://", "no such engine"), "broker URL 'x://': no such engine", ValueError),
    (errors.BrokerLostError("gone"), "gone", trio.BrokenResourceError),
    (errors.BrokerFullError("disk full"), "disk full", OSError),
    (errors.BrokerBusyError("busy"), "busy", TimeoutError),
    (errors.BrokerFileError("jobs.db", "not ours"), "jobs.db: not ours", Exception),
    (errors.BrokerRefusedError("redis://host", "wrong password"), "redis://host: wrong password", Exception),
    (errors.LeaseLostError("m", "expired"), "job m has no lease any more (expired)", Exception),
    (errors.IslandLostError("the loop died"), "the loop died", Exception),
    (errors.ProcessDiedError(), "the job's process died", Exception),
    (errors.ProcessDiedError(-9), "SIGKILL", Exception),
    (errors.ProcessCallError("cannot be pickled"), "cannot be pickled", Exception),
    (errors.EnvelopeError("no JSON"), "no JSON", ValueError),
    (errors.ArgumentsError("greet", "missing name"), "do not fit actor 'greet': missing name", TypeError),
    (errors.JobFailedError("m", "ValueError", "oops"), "job m failed: ValueError: oops", Exception),
    (errors.JobFailedError("m", "poison", ""), "job m failed: poison", Exception),
    (errors.JobCancelledError("m", "cancelled", "no"), "job m was cancelled: no", errors.JobFailedError),
    (errors.JobCancelledError("m", "cancelled", ""), "job m was cancelled", errors.JobFailedError),
    (errors.JobGoneError("m", "q"), "nothing is kept of job 'm' in queue 'q'", LookupError),
    (errors.JobNurseryTimeoutError(("m", "n")), "the end of 2 job(s) was not confirmed: m, n", TimeoutError),
    (errors.ResultError("m", "too large"), "job m is done, but its result cannot be read: too large", Exception),
]


@pytest.mark.parametrize(("error", "text", "kind"), EXAMPLES, ids=lambda part: type(part).__name__)
def test_an_error_is_readable_and_of_a_kind_that_is_known(error, text, kind):
    assert text in str(error)
    assert isinstance(error, errors.TrepidError)
    assert isinstance(error, kind)
    assert type(error).__doc__


def test_every_error_has_an_example():
    shown = {type(error) for error, *_ in EXAMPLES} | {errors.TrepidError}
    defined = {thing for thing in vars(errors).values() if isinstance(thing, type) and issubclass(thing, BaseException)}
    assert defined == shown


@pytest.mark.parametrize("error", [error for error, *_ in EXAMPLES], ids=lambda error: type(error).__name__)
def test_errors_differ_from_their_like_and_can_be_annotated(error):
    assert hash(error) == hash(error)
    assert error != copy.copy(error)
    error.add_note("where")
    assert error.__notes__ == ["where"]
