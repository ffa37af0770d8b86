from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trepid.values.retry import ExponentialBackoff
from trepid.values.verbs import Bury, Retry, Snooze, Verb


def test_the_default_backoff_waits_these_seconds():
    policy = ExponentialBackoff()
    waits = [policy(n) for n in range(1, 18)]
    doubling = [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 10240, 20480, 40960, 81920]
    assert waits == [*doubling, 86400, 86400, 86400]


@given(
    st.floats(0, 1000),
    st.floats(0, 1000),
    st.floats(0, 100),
    st.integers(0, 1000),
    st.integers(1, 10**9),
)
def test_the_wait_is_the_formula(least, more, multiplier, max_exponent, n):
    policy = ExponentialBackoff(least, least + more, multiplier, max_exponent)
    assert policy(n) == max(least, min(multiplier * 2.0 ** min(n, max_exponent), least + more))


@given(st.integers(1, 100), st.floats(0, 1))
def test_jitter_shortens_by_at_most_its_fraction(n, jitter):
    whole = ExponentialBackoff()(n)
    for _ in range(5):
        assert whole * (1 - jitter) <= ExponentialBackoff(jitter=jitter)(n) <= whole


def test_jitter_differs_and_its_absence_does_not():
    assert len({ExponentialBackoff(jitter=1)(5) for _ in range(20)}) > 1
    assert len({ExponentialBackoff()(5) for _ in range(20)}) == 1


@given(st.lists(st.integers(1, 2000), min_size=2))
def test_later_retries_never_wait_less(numbers):
    policy = ExponentialBackoff(max_exponent=1000)
    waits = [policy(n) for n in sorted(numbers)]
    assert waits == sorted(waits)


def test_spans_may_be_timedeltas():
    assert ExponentialBackoff(min_backoff=timedelta(minutes=1))(1) == 60


@pytest.mark.parametrize(
    ("settings", "error", "rule"),
    [
        ({"min_backoff": -1}, ValueError, "min_backoff must be zero or more, not -1"),
        ({"max_backoff": float("inf")}, ValueError, "max_backoff must be finite"),
        ({"multiplier": "5"}, TypeError, "multiplier must be seconds or a timedelta, not '5'"),
        ({"min_backoff": 10, "max_backoff": 5}, ValueError, "min_backoff 10.* is more than max_backoff 5"),
        ({"max_exponent": -1}, ValueError, "max_exponent must be a whole number from 0 to 1000, not -1"),
        ({"max_exponent": 1.5}, ValueError, "max_exponent must be a whole number"),
        ({"max_exponent": 1001}, ValueError, "max_exponent must be a whole number"),
        ({"max_exponent": True}, ValueError, "max_exponent must be a whole number from 0 to 1000, not True"),
        ({"jitter": 1.1}, ValueError, "jitter must be from 0 to 1, not 1.1"),
        ({"jitter": -0.1}, ValueError, "jitter must be from 0 to 1"),
        ({"jitter": float("nan")}, ValueError, "jitter must be from 0 to 1, not nan"),
        ({"jitter": "some"}, TypeError, "jitter must be a number from 0 to 1, not 'some'"),
    ],
)
def test_a_bad_backoff_is_told_its_rule(settings, error, rule):
    with pytest.raises(error, match=rule):
        ExponentialBackoff(**settings)


@pytest.mark.parametrize("n", [0, -1])
def test_retries_count_from_one(n):
    with pytest.raises(ValueError, match="count from 1"):
        ExponentialBackoff()(n)


def test_a_backoff_is_a_value():
    assert ExponentialBackoff() == ExponentialBackoff(10, 86_400, 5, 15, 0)
    assert hash(ExponentialBackoff()) == hash(ExponentialBackoff())


def test_verbs_are_exceptions_with_fields():
    assert (Retry().delay, Retry().reason, str(Retry())) == (None, "", "")
    assert (Retry(timedelta(minutes=1), "later").delay, str(Retry(5, "later"))) == (60.0, "later")
    assert (Retry(reason="busy").reason, Retry(0).delay) == ("busy", 0.0)
    assert (Snooze(90).delay, str(Snooze(90))) == (90.0, "90 s")
    assert (Bury().reason, Bury("bad").reason, str(Bury("bad"))) == ("", "bad", "bad")
    assert all(issubclass(verb, Verb) and issubclass(verb, Exception) for verb in (Retry, Snooze, Bury))


@pytest.mark.parametrize("verb", [Retry, Snooze])
def test_a_verb_checks_its_delay(verb):
    with pytest.raises(ValueError, match="delay must be zero or more"):
        verb(-1)
    with pytest.raises(TypeError, match="delay must be seconds or a timedelta, not 'soon'"):
        verb("soon")
