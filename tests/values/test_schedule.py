from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

import trepid
from trepid.errors import PayloadTooLargeError, UnsupportedError
from trepid.values.calendar import At, Cron, Every
from trepid.values.job import Job
from trepid.values.schedule import Schedule
from trepid.values.unique import Unique

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
NIGHTLY = Schedule("nightly", Cron("0 3 * * 1-5", tz="Europe/Berlin"), Job("digest", kwargs={"n": 1}))


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("0 3 * * 1-5", "0 3 * * 1-5"),
        ("  0  3 * jan-mar  sun ", "0 3 * JAN-MAR SUN"),
        ("@daily", "0 0 * * *"),
        ("@Hourly", "0 * * * *"),
        ("0 0 L * 5#2", "0 0 L * 5#2"),
    ],
)
def test_expressions_have_one_form(written, read):
    assert Cron(written).expression == read
    assert Cron(written) == Cron(read)


@pytest.mark.parametrize("wrong", ["", "* * * *", "0 0 3 * * *", "60 * * * *", "0 0 30 2 *", "@often", "a b c d e"])
def test_a_wrong_expression_is_refused(wrong):
    with pytest.raises(ValueError, match="cron expression"):
        Cron(wrong)


def test_a_moment_lies_in_the_years_that_utc_has():
    west, east = timezone(timedelta(hours=-1)), timezone(timedelta(hours=1))
    for moment in (datetime.max.replace(tzinfo=west), datetime.min.replace(tzinfo=east)):
        with pytest.raises(ValueError, match="moment must lie in the years 1 to 9999 in UTC"):
            At(moment)


def test_a_zone_is_a_zone_or_its_name():
    assert Cron("0 3 * * *", ZoneInfo("Europe/Berlin")) == Cron("0 3 * * *", "Europe/Berlin")
    assert Cron("0 3 * * *").tz == "UTC"
    for wrong in ("Europe/Atlantis", "../etc/passwd", ""):
        with pytest.raises(ValueError, match="time zone"):
            Cron("0 3 * * *", wrong)
    with pytest.raises(TypeError):
        Cron("0 3 * * *", UTC)
    with pytest.raises(TypeError):
        Cron(3)


def test_without_cronsim_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cronsim", None)
    with pytest.raises(UnsupportedError, match=r"trepid\[cron\]"):
        Cron("0 3 * * *")


def test_periods_and_moments_are_checked():
    assert Every(timedelta(minutes=5)) == Every(300)
    for period in (0, 0.5, -1, 401 * 86_400):
        with pytest.raises(ValueError, match="period"):
            Every(period)
    naive = NOON.replace(tzinfo=None)
    for make in (lambda: Every(5, start=naive), lambda: At(naive)):
        with pytest.raises(ValueError, match="time zone"):
            make()
    for make in (lambda: Every(5, start="noon"), lambda: At("noon"), lambda: Every("hour")):
        with pytest.raises(TypeError):
            make()


def test_times_can_be_read():
    assert str(NIGHTLY.when) == "0 3 * * 1-5 Europe/Berlin"
    assert str(Every(90)) == "every 0:01:30"
    assert str(Every(86_400, start=NOON)) == "every 1 day, 0:00:00 from 2026-06-01T12:00:00+00:00"
    assert str(At(NOON)) == "at 2026-06-01T12:00:00+00:00"


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"name": "no spaces"}, ValueError),
        ({"name": 5}, TypeError),
        ({"when": "0 3 * * *"}, TypeError),
        ({"job": "digest"}, TypeError),
        ({"misfire": "maybe"}, ValueError),
        ({"overlap": "queue"}, ValueError),
        ({"most": 0}, ValueError),
        ({"most": 1001}, ValueError),
        ({"most": True}, TypeError),
        ({"grace": -1}, ValueError),
        ({"jitter": "long"}, TypeError),
        ({"job": Job("digest", id="x")}, ValueError),
        ({"job": Job("digest", delay=0)}, ValueError),
        ({"job": Job("digest", deferred_until=NOON)}, ValueError),
        ({"job": Job("digest", unique=Unique("k")), "overlap": "skip"}, ValueError),
        ({"job": Job("digest", unique=Unique("k", "raise"))}, ValueError),
        ({"job": Job("digest", headers={"trepid-instant": "x"})}, ValueError),
        ({"job": Job("digest", headers={f"h{n}": "x" for n in range(63)})}, ValueError),
        ({"job": Job("digest", args=["x" * (1024 * 1024 - 40)])}, PayloadTooLargeError),
    ],
)
def test_a_schedule_keeps_its_rules(fields, error):
    with pytest.raises(error):
        NIGHTLY.options(**fields)


def test_a_schedule_is_a_value():
    again = Schedule("nightly", Cron("0 3 * * 1-5", "Europe/Berlin"), Job("digest", kwargs={"n": 1}))
    assert again == NIGHTLY
    assert NIGHTLY.options(most=5) != NIGHTLY
    assert NIGHTLY.options(grace=timedelta(minutes=1)) == NIGHTLY
    with pytest.raises(AttributeError):
        NIGHTLY.name = "other"
    with pytest.raises(TypeError):
        hash(NIGHTLY)


def test_the_job_of_an_instant_knows_it_by_the_clocks_of_its_zone():
    job = NIGHTLY.job_of(NOON.timestamp(), id="x")
    assert dict(job.headers) == {"trepid-schedule": "nightly", "trepid-instant": "2026-06-01T14:00:00+02:00"}
    assert datetime.fromisoformat(job.headers["trepid-instant"]) == NOON
    assert (job.name, dict(job.kwargs), job.id, job.unique) == ("digest", {"n": 1}, "x", None)
    half = NIGHTLY.options(when=Every(1)).job_of(0.25)
    assert half.headers["trepid-instant"] == "1970-01-01T00:00:00.250000+00:00"
    once = NIGHTLY.options(when=At(NOON.astimezone(ZoneInfo("Asia/Tokyo"))))
    assert once.job_of(NOON.timestamp()).headers["trepid-instant"] == "2026-06-01T21:00:00+09:00"


def test_overlap_is_a_unique_key():
    assert NIGHTLY.options(overlap="skip").job_of(0).unique == Unique("schedule:nightly", "existing")
    assert NIGHTLY.options(overlap="replace").job_of(0).unique == Unique("schedule:nightly", "replace")
    own = NIGHTLY.options(job=Job("digest", unique=Unique("k")))
    assert own.job_of(0).unique == Unique("k")


def test_ids_are_readable_and_depend_on_name_and_instant_alone():
    id = NIGHTLY.id_of(NOON.timestamp())
    assert id.startswith("nightly:20260601T120000Z:")
    assert NIGHTLY.options(when=Every(5), job=Job("other")).id_of(NOON.timestamp()) == id
    assert NIGHTLY.options(name="weekly").id_of(NOON.timestamp()) != id
    assert NIGHTLY.id_of(NOON.timestamp() + 0.5) != id
    long = NIGHTLY.options(name="n" * 100)
    assert long.job_of(0, id=long.id_of(0)).id is not None
    assert long.id_of(0) != NIGHTLY.options(name="n" * 99 + "m").id_of(0)


def test_another_time_is_another_mark():
    assert NIGHTLY.mark() == NIGHTLY.options(job=Job("other"), most=5).mark()
    assert len({NIGHTLY.mark(), NIGHTLY.options(when=Every(5)).mark(), NIGHTLY.mark(1.0), NIGHTLY.mark(2.0)}) == 4
    assert len(NIGHTLY.options(name="n" * 100).mark(1e9)) <= 200


def test_jitter_is_the_same_wherever_it_is_asked_for():
    spread = NIGHTLY.options(jitter=60)
    lags = [spread.lag(float(instant)) for instant in range(200)]
    assert lags == [NIGHTLY.options(jitter=60, job=Job("other")).lag(float(instant)) for instant in range(200)]
    assert all(0 <= lag < 60 for lag in lags)
    assert min(lags) < 6
    assert max(lags) > 54
    assert NIGHTLY.lag(5.0) == 0


def test_the_public_names():
    assert (trepid.Cron, trepid.Every, trepid.At, trepid.Schedule) == (Cron, Every, At, Schedule)
