"""Instants, against a clerk who looks at the clock every minute and asks whether the expression matches."""

import itertools
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trepid.rules.instants import following, preceding
from trepid.values.calendar import At, Cron, Every

# A day on which the clocks of each zone change: by an hour at night, at midnight, by half an hour, by two, by a day.
CHANGES = [
    ("Europe/Berlin", (2026, 3, 29)),
    ("Europe/Berlin", (2026, 10, 25)),
    ("America/New_York", (2026, 3, 8)),
    ("America/New_York", (2026, 11, 1)),
    ("America/St_Johns", (2010, 3, 14)),  # at one minute past midnight
    ("America/St_Johns", (2010, 11, 7)),
    ("America/Sao_Paulo", (2018, 11, 4)),  # from midnight
    ("America/Sao_Paulo", (2019, 2, 17)),
    ("Africa/Cairo", (2026, 4, 24)),
    ("Africa/Casablanca", (2026, 2, 15)),
    ("Africa/Casablanca", (2026, 3, 22)),
    ("Asia/Gaza", (2011, 8, 1)),
    ("Australia/Lord_Howe", (2026, 10, 4)),  # by half an hour
    ("Australia/Lord_Howe", (2026, 4, 5)),
    ("Antarctica/Troll", (2026, 3, 29)),  # by two hours
    ("Antarctica/Troll", (2026, 10, 25)),
    ("Pacific/Apia", (2011, 12, 30)),  # a day that never was
    ("Pacific/Chatham", (2026, 9, 27)),
    ("Asia/Pyongyang", (2018, 5, 4)),
    ("Asia/Kolkata", (2026, 6, 1)),  # no change at all
    ("UTC", (2026, 3, 29)),
]
RANGES = {"minute": (0, 59), "hour": (0, 23), "day": (1, 31), "month": (1, 12), "weekday": (0, 6)}


@st.composite
def fields(draw, name):
    """A field as its text, and the set of numbers that it means."""
    least, most = RANGES[name]
    kind = draw(st.sampled_from(["*", "*", "step", "range", "list"]))
    if kind == "*":
        return "*", set(range(least, most + 1))
    if kind == "step":
        step = draw(st.integers(1, most))
        numbers = sorted(range(8) if name == "weekday" else range(least, most + 1))[::step]
        return f"*/{step}", {number % 7 for number in numbers} if name == "weekday" else set(numbers)
    if kind == "range":
        first, last = sorted(draw(st.tuples(st.integers(least, most), st.integers(least, most))))
        return f"{first}-{last}", set(range(first, last + 1))
    chosen = draw(st.sets(st.integers(least, most), min_size=1, max_size=4))
    return ",".join(map(str, sorted(chosen))), chosen


@st.composite
def expressions(draw):
    drawn = [draw(fields(name)) for name in ("minute", "hour")]
    # Mostly every day, so that something happens in the days that are looked at.
    for name in ("day", "month", "weekday"):
        everything = st.just(("*", set(range(RANGES[name][0], RANGES[name][1] + 1))))
        drawn.append(draw(everything | everything | fields(name)))
    return " ".join(text for text, _ in drawn), [numbers for _, numbers in drawn]


EXPRESSIONS = expressions()
EVERY_DAY = [set(range(1, 32)), set(range(1, 13)), set(range(7))]


def matches(local, text, sets):
    minutes, hours, days, months, weekdays = sets
    if local.minute not in minutes or local.hour not in hours or local.month not in months:
        return False
    day, weekday = local.day in days, local.isoweekday() % 7 in weekdays
    _, _, day_text, _, weekday_text = text.split()
    return (day and weekday) if day_text.startswith("*") or weekday_text.startswith("*") else (day or weekday)


def walked(zone, start, end, text, sets):
    """Yield what a clerk sees who looks every minute from *start* to *end*."""
    fixed = not text.split()[0].startswith("*") and not text.split()[1].startswith("*")
    for instant in range(start, end, 60):
        now = datetime.fromtimestamp(instant, zone)
        before = datetime.fromtimestamp(instant - 60, zone).replace(tzinfo=None) + timedelta(minutes=1)
        shown = now.replace(tzinfo=None)
        skipped = [before + timedelta(minutes=n) for n in range(int((shown - before) / timedelta(minutes=1)))]
        again = fixed and now.fold
        if (matches(now, text, sets) and not again) or (fixed and any(matches(time, text, sets) for time in skipped)):
            yield float(instant)


@settings(deadline=None)
@example(CHANGES[0], ("30 2 * * *", [{30}, {2}, *EVERY_DAY]), 0, 3)
@example(CHANGES[0], ("0,20,40 2,3 * * *", [{0, 20, 40}, {2, 3}, *EVERY_DAY]), 0, 3)
@example(CHANGES[12], ("*/15 5 * * *", [{0, 15, 30, 45}, {5}, *EVERY_DAY]), 0, 3)
@given(st.sampled_from(CHANGES), EXPRESSIONS, st.integers(-1500, 1500), st.integers(2, 4))
def test_instants_are_those_that_a_clerk_would_see(change, expression, minutes, days):
    (name, day), (text, sets) = change, expression
    zone = ZoneInfo(name)
    # In whole minutes of real time, half of the time from the middle of one.
    start = int(datetime(*day, tzinfo=zone).timestamp()) // 60 * 60 + 60 * minutes - 86_400
    end = start + days * 86_400
    seen = list(walked(zone, start, end, text, sets))
    try:
        cron = Cron(text, name)
    except ValueError:
        assert not seen  # the 30th of February
        return
    found = itertools.takewhile(lambda instant: instant < end, following(cron, start - 1))
    assert list(found) == seen
    backwards = itertools.takewhile(lambda instant: instant >= start, preceding(cron, end - 1))
    assert list(backwards) == seen[::-1]


def told(cron, year, month, day, *, days=1):
    """Return what happens on some days, as clocks show it, with their distance to UTC."""
    start = datetime(year, month, day, tzinfo=cron.zone)
    end = (start + timedelta(days=days)).timestamp()
    instants = itertools.takewhile(lambda instant: instant < end, following(cron, start.timestamp() - 1))
    return [datetime.fromtimestamp(instant, cron.zone).strftime("%H:%M%z") for instant in instants]


def test_a_fixed_time_that_is_skipped_happens_after_the_gap():
    nightly = Cron("30 2 * * *", "Europe/Berlin")
    assert told(nightly, 2026, 3, 28) == ["02:30+0100"]
    assert told(nightly, 2026, 3, 29) == ["03:00+0200"]
    assert told(nightly, 2026, 3, 30) == ["02:30+0200"]


def test_several_times_in_one_gap_are_one_instant():
    assert told(Cron("0,20,40 2,3 * * *", "Europe/Berlin"), 2026, 3, 29) == ["03:00+0200", "03:20+0200", "03:40+0200"]


def test_a_fixed_time_that_comes_twice_happens_the_first_time():
    assert told(Cron("30 2 * * *", "Europe/Berlin"), 2026, 10, 25) == ["02:30+0200"]


def test_steps_are_steps_of_real_time():
    hourly = Cron("0 * * * *", "Europe/Berlin")
    assert told(hourly, 2026, 3, 29)[:4] == ["00:00+0100", "01:00+0100", "03:00+0200", "04:00+0200"]
    assert told(hourly, 2026, 10, 25)[1:5] == ["01:00+0200", "02:00+0200", "02:00+0100", "03:00+0100"]


def test_a_day_that_never_was():
    assert told(Cron("0 12 30 12 *", "Pacific/Apia"), 2011, 12, 31) == ["00:00+1400"]
    assert told(Cron("*/30 12 30 12 *", "Pacific/Apia"), 2011, 12, 31) == []


def test_months_without_the_day_are_passed_over():
    leap = following(Cron("0 0 29 2 *"), datetime(2026, 1, 1, tzinfo=UTC).timestamp())
    assert [datetime.fromtimestamp(instant, UTC).year for instant in itertools.islice(leap, 3)] == [2028, 2032, 2036]
    last = following(Cron("0 12 L * *"), datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp())
    assert datetime.fromtimestamp(next(last), UTC) == datetime(2026, 2, 28, 12, tzinfo=UTC)


def test_a_year_is_found_from_both_ends():
    cron = Cron("15 3 * * 1-5", "America/New_York")
    start, end = (datetime(year, 1, 1, tzinfo=UTC).timestamp() for year in (2026, 2027))
    forwards = list(itertools.takewhile(lambda instant: instant <= end, following(cron, start)))
    assert len(forwards) == 261
    assert forwards[::-1] == list(itertools.takewhile(lambda instant: instant > start, preceding(cron, end)))


MOMENTS = st.floats(0, 4e9, allow_nan=False)
PERIODS = st.floats(1, 400 * 86_400.0) | st.integers(1, 86_400).map(float)
STARTS = st.none() | st.floats(6e8, 2.5e9).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))


@given(PERIODS, STARTS, MOMENTS)
def test_regular_instants_meet_at_every_moment(period, start, moment):
    every = Every(period, start=start)
    after = list(itertools.islice(following(every, moment), 5))
    until = list(itertools.islice(preceding(every, moment), 5))
    assert after == sorted(after)
    assert all(instant > moment for instant in after)
    assert until == sorted(until, reverse=True)
    assert all(instant <= moment for instant in until)
    assert len(after) == 5
    first = start is not None and start.timestamp()
    if start is None:
        assert len(until) == 5
    elif len(until) < 5:
        assert (until or after)[-1 if until else 0] == pytest.approx(first, abs=1e-6)
    if until:
        # The same numbers, wherever they are counted from; and nothing between.
        assert next(following(every, until[0])) == after[0]
        assert next(preceding(every, after[0])) == after[0]
        assert after[0] - until[0] == pytest.approx(period, abs=1e-5)


def test_hours_are_full_hours_unless_a_start_says_otherwise():
    noon = datetime(2026, 6, 1, 12, 10, tzinfo=UTC)
    assert next(following(Every(timedelta(hours=1)), noon.timestamp())) == noon.timestamp() + 3000
    quarter = Every(timedelta(hours=1), start=noon + timedelta(minutes=5))
    assert list(preceding(quarter, noon.timestamp())) == []
    assert next(following(quarter, 0)) == noon.timestamp() + 300


def test_once_is_once():
    noon = datetime(2026, 6, 1, 12, tzinfo=UTC)
    at, t = At(noon), noon.timestamp()
    assert list(following(at, t - 1)) == list(preceding(at, t)) == [t]
    assert list(following(at, t)) == list(preceding(at, t - 1)) == []
