import math
from datetime import UTC, datetime, timedelta, timezone

import pytest

from trepid.errors import PayloadTooLargeError
from trepid.values.envelope import arguments_of, unseal
from trepid.values.job import Job
from trepid.values.queue import Priority, Queue
from trepid.values.unique import Unique

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def test_what_a_job_does_not_say_is_none():
    job = Job("greet")
    assert (job.name, job.args, dict(job.kwargs), job.queue, dict(job.headers)) == ("greet", (), {}, Queue(), {})
    for field in (
        *("priority", "id", "retries", "timeout", "ttl", "delay", "deferred_until", "unique", "result_ttl"),
        "max_crashes",
    ):
        assert getattr(job, field) is None, field


def test_what_a_job_says_is_normalised():
    job = Job(
        "greet",
        args=["Trio", 1],
        queue="mail",
        priority=9,
        id="a:1",
        retries=3,
        timeout=timedelta(minutes=1),
        ttl=5,
        deferred_until=NOON,
        unique=Unique("k"),
        result_ttl=timedelta(0),
        headers={"trace": "x"},
        max_crashes=1,
    )
    assert job.args == ("Trio", 1)
    assert job.queue == Queue("mail")
    assert job.priority is Priority.HIGH
    assert (job.timeout, job.ttl, job.result_ttl) == (60.0, 5.0, 0.0)
    found = unseal(job.payload)
    assert (found.actor, found.retries, found.timeout, found.headers) == ("greet", 3, 60.0, {"trace": "x"})
    assert arguments_of(job.payload) == (["Trio", 1], {})


BAD = [
    ({"name": ""}, ValueError, "job name '' must match"),
    ({"name": 5}, TypeError, "job name must be a string, not 5"),
    ({"name": "a b"}, ValueError, "job name 'a b' must match"),
    ({"queue": "1a"}, ValueError, "queue name '1a' must match"),
    ({"queue": None}, TypeError, "queue name must be a string, not None"),
    ({"priority": 7}, ValueError, "priority must be one of Priority.HIGH, Priority.MEDIUM, Priority.LOW, not 7"),
    ({"priority": "HIGH"}, ValueError, "priority must be one of .*, not 'HIGH'"),
    ({"id": ""}, ValueError, "id '' must match"),
    ({"id": "a b"}, ValueError, "id 'a b' must match"),
    ({"id": 5}, TypeError, "id must be a string, not 5"),
    ({"retries": -1}, ValueError, "retries must be 0 or more, not -1"),
    ({"retries": 2**31}, ValueError, "retries must be at most 2,147,483,647, not 2,147,483,648"),
    ({"max_crashes": 10**30}, ValueError, "max_crashes must be at most 2,147,483,647, not 1,000,"),
    ({"retries": 1.0}, TypeError, "retries must be a whole number, not 1.0"),
    ({"retries": True}, TypeError, "retries must be a whole number, not True"),
    ({"max_crashes": 0}, ValueError, "max_crashes must be 1 or more, not 0"),
    ({"timeout": 0}, ValueError, "timeout must be more than zero, not 0"),
    ({"timeout": -1}, ValueError, "timeout must be more than zero, not -1"),
    ({"timeout": math.inf}, ValueError, "timeout must be finite, not inf"),
    ({"timeout": "30"}, TypeError, "timeout must be seconds or a timedelta, not '30'"),
    ({"ttl": 0}, ValueError, "ttl must be more than zero, not 0"),
    ({"ttl": math.nan}, ValueError, "ttl must be finite, not nan"),
    ({"delay": -1}, ValueError, "delay must be zero or more, not -1"),
    ({"delay": timedelta(days=401)}, ValueError, "delay must be at most 400 days"),
    ({"delay": NOON}, TypeError, "delay must be seconds or a timedelta"),
    ({"result_ttl": -1}, ValueError, "result_ttl must be zero or more, not -1"),
    ({"deferred_until": NOON.replace(tzinfo=None)}, ValueError, "deferred_until must know its time zone"),
    ({"deferred_until": 5}, TypeError, "deferred_until must be a datetime, not 5"),
    ({"deferred_until": NOON, "delay": 5}, ValueError, "give delay or deferred_until, not both"),
    ({"deferred_until": NOON, "delay": 0}, ValueError, "give delay or deferred_until, not both"),
    ({"unique": "k"}, TypeError, "unique must be a trepid.Unique, not 'k'"),
    ({"args": "Trio"}, TypeError, "args must be a list or tuple of arguments, not 'Trio'"),
    ({"args": {"a": 1}}, TypeError, "args must be a list or tuple of arguments"),
    ({"kwargs": {1: 2}}, TypeError, "kwargs must be named by strings, not 1"),
    ({"headers": {"a": 1}}, TypeError, "headers must map strings to strings, not 'a' to 1"),
    ({"headers": {1: "a"}}, TypeError, "headers must map strings to strings, not 1 to 'a'"),
    ({"headers": {f"h{n}": "" for n in range(65)}}, ValueError, "at most 64 headers, not 65"),
    ({"headers": {"h": "x" * 1024}}, ValueError, "header 'h' has more than 1024 characters"),
    ({"args": [object()]}, TypeError, r"job 'greet': argument 1 \(object\): .*cannot be written as JSON"),
    ({"kwargs": {"x": math.nan}}, ValueError, r"job 'greet': argument x \(float\): a number is not finite"),
    ({"args": ["\ud800"]}, ValueError, r"job 'greet': argument 1 \(str\)"),
    ({"headers": {"h": "\ud800"}}, ValueError, "job 'greet'.*surrogates"),
]


@pytest.mark.parametrize(("fields", "error", "rule"), BAD, ids=lambda part: str(part)[:30])
def test_a_bad_job_is_told_its_rule(fields, error, rule):
    with pytest.raises(error, match=rule):
        Job(**{"name": "greet", **fields})


@pytest.mark.parametrize(("fields", "error", "rule"), BAD, ids=lambda part: str(part)[:30])
def test_options_obey_the_same_rules(fields, error, rule):
    if "name" in fields:
        with pytest.raises(TypeError):
            Job("greet").options(**fields)
    else:
        with pytest.raises(error, match=rule):
            Job("greet").options(**fields)


def test_a_job_copies_what_it_is_given():
    args, kwargs, headers = [1], {"a": 1}, {"h": "1"}
    job = Job("greet", args=args, kwargs=kwargs, headers=headers)
    args.append(2)
    kwargs["b"] = 2
    headers["i"] = "2"
    assert (job.args, dict(job.kwargs), dict(job.headers)) == ((1,), {"a": 1}, {"h": "1"})


def test_a_job_travels_as_it_was_made():
    inner = [1]
    job = Job("greet", args=[inner])
    inner.append(2)
    assert arguments_of(job.payload) == ([[1]], {})


def test_a_job_is_frozen_and_unhashable():
    job = Job("greet", kwargs={"a": 1})
    with pytest.raises(AttributeError):
        job.name = "other"
    with pytest.raises(TypeError):
        job.kwargs["a"] = 2
    with pytest.raises(TypeError, match="unhashable"):
        hash(job)


def test_jobs_compare_by_value():
    assert Job("greet", args=[1], queue="a") == Job("greet", args=(1,), queue=Queue("a"))
    assert Job("greet", args=[1]) != Job("greet", args=[2])


def test_options_return_a_changed_copy():
    job = Job("greet", args=[1], retries=3, delay=5)
    other = job.options(args=(2,), delay=None, deferred_until=NOON)
    assert (job.args, job.delay) == ((1,), 5)
    assert (other.args, other.retries, other.delay, other.deferred_until) == ((2,), 3, None, NOON)
    assert arguments_of(other.payload) == ([2], {})
    assert job.options() == job
    with pytest.raises(TypeError):
        job.options(colour="red")


def test_any_time_zone_will_do():
    there = timezone(timedelta(hours=5, minutes=30))
    assert Job("greet", deferred_until=NOON.astimezone(there)) == Job("greet", deferred_until=NOON)


def test_a_mebibyte_is_the_most():
    room = 1_048_576 - len(Job("greet", args=[""]).payload)
    assert len(Job("greet", args=["x" * room]).payload) == 1_048_576
    with pytest.raises(PayloadTooLargeError) as caught:
        Job("greet", args=["x" * (room + 1)])
    assert (caught.value.size, caught.value.limit) == (1_048_577, 1_048_576)
    assert "1,048,577 bytes are more than the 1,048,576 that fit" in str(caught.value)


def test_a_repr_shows_no_payload():
    assert "payload" not in repr(Job("greet"))
    assert "read_result" not in repr(Job("greet"))
