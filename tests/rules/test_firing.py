"""What a schedule asks for: the policies, and that however often it is looked, every instant is decided about once."""

from datetime import UTC, datetime
from itertools import takewhile
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trepid.rules.firing import Decision, decide
from trepid.rules.instants import following
from trepid.values.calendar import At, Cron, Every
from trepid.values.job import Job
from trepid.values.schedule import Schedule

HOUR = 3600.0
T = 1_000 * HOUR  # a full hour


def hourly(**options):
    return Schedule("hourly", Every(HOUR), Job("tick"), **options)


def test_before_its_instant_there_is_nothing_to_do():
    assert decide(hourly(), T, T + 10) == Decision(look=T + HOUR)


@pytest.mark.parametrize("misfire", ["skip", "once", "all"])
def test_an_instant_on_time_is_fired_whatever_the_policy(misfire):
    schedule = hourly(misfire=misfire, grace=60)
    assert decide(schedule, T, T + HOUR) == Decision((T + HOUR,), None, T + 2 * HOUR)
    assert decide(schedule, T, T + HOUR + 60) == Decision((T + HOUR,), None, T + 2 * HOUR)


@pytest.mark.parametrize(
    ("misfire", "fire", "passed"),
    [
        ("skip", (), T + 3 * HOUR),
        ("once", (T + 3 * HOUR,), None),
        ("all", (T + HOUR, T + 2 * HOUR, T + 3 * HOUR), None),
    ],
)
def test_the_policies_differ_over_what_is_late(misfire, fire, passed):
    assert decide(hourly(misfire=misfire), T, T + 3.5 * HOUR) == Decision(fire, passed, T + 4 * HOUR)


def test_one_on_time_makes_up_for_all_that_was_missed():
    now = T + 3 * HOUR + 1
    assert decide(hourly(misfire="once"), T, now).fire == (T + 3 * HOUR,)
    assert decide(hourly(misfire="skip"), T, now).fire == (T + 3 * HOUR,)
    assert decide(hourly(misfire="once", grace=1.5 * HOUR), T, now).fire == (T + 2 * HOUR, T + 3 * HOUR)


def test_all_has_a_bound_and_the_latest_count():
    assert decide(hourly(misfire="all", most=2), T, T + 5.5 * HOUR).fire == (T + 4 * HOUR, T + 5 * HOUR)


def test_a_year_of_minutes_is_decided_about_quickly():
    minutely = Schedule("minutely", Cron("* * * * *"), Job("tick"), misfire="all", most=3)
    decision = decide(minutely, T, T + 365 * 24 * HOUR)
    assert decision.fire == tuple(T + 365 * 24 * HOUR - 60 * n for n in (2, 1, 0))


def test_a_single_moment_is_fired_even_if_it_was_long_ago():
    moment = At(datetime(2026, 1, 1, tzinfo=UTC))
    t = moment.moment.timestamp()
    assert decide(Schedule("once", moment, Job("tick")), -inf, t + HOUR) == Decision((t,))
    assert decide(Schedule("once", moment, Job("tick"), misfire="skip"), -inf, t + HOUR) == Decision(passed=t)
    assert decide(Schedule("once", moment, Job("tick")), t, t + HOUR) == Decision()
    assert decide(Schedule("once", moment, Job("tick")), -inf, t - HOUR) == Decision(look=t)


WHENS = st.sampled_from(
    [Cron("*/7 * * * *", "Australia/Lord_Howe"), Cron("30 2 * * *", "Europe/Berlin"), Every(1800), Every(86_400)]
)
LOOKS = st.lists(st.floats(0.1, 3 * 86_400.0), min_size=1, max_size=20)


@settings(deadline=None)  # days of a calendar take their time, the more so beside other tests
@given(WHENS, LOOKS, st.sampled_from(["skip", "once", "all"]), st.floats(0, 86_400.0))
def test_however_often_one_looks_each_instant_is_decided_about_once(when, pauses, misfire, grace):
    schedule = Schedule("s", when, Job("tick"), misfire=misfire, most=1000, grace=grace)
    start = now = mark = datetime(2026, 10, 20, tzinfo=UTC).timestamp()
    fired = []
    for pause in pauses:
        now += pause
        decision = decide(schedule, mark, now)
        fired += decision.fire
        news = decision.fire[-1] if decision.fire else decision.passed
        assert decision.look == next(following(when, now))
        if news is not None:
            assert mark < news <= now
            mark = news
        assert next(following(when, mark)) > now
        on_time = {instant for instant in decision.fire if now - instant <= grace}
        late = set(decision.fire) - on_time
        assert not (misfire == "skip" and late)
        assert not (misfire == "once" and late and (on_time or len(late) > 1))
    everything = list(takewhile(lambda instant: instant <= now, following(when, start)))
    assert fired == sorted(set(fired))
    assert set(fired) <= set(everything)
    if misfire == "all" and len(everything) < 1000:
        assert fired == everything
