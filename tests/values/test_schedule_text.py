from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import trepid
from trepid.errors import UnsupportedError
from trepid.values.calendar import At, Cron, Every
from trepid.values.job import Job
from trepid.values.queue import Priority
from trepid.values.schedule import Schedule
from trepid.values.schedule_text import read, written
from trepid.values.unique import Unique

MOMENTS = st.floats(0, 4e9).map(lambda seconds: datetime.fromtimestamp(round(seconds, 3), UTC)) | st.just(
    datetime(2026, 3, 1, 12, 30, tzinfo=timezone(timedelta(hours=-3, minutes=-30)))
)
WHENS = (
    st.sampled_from([Cron("0 3 * * 1-5", "Europe/Berlin"), Cron("@hourly")])
    | st.builds(Every, st.floats(1, 1e7), start=st.none() | MOMENTS)
    | st.builds(At, MOMENTS)
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
SPANS = st.none() | st.floats(0.001, 1e6)
JOBS = st.builds(
    Job,
    st.just("digest"),
    args=st.lists(VALUES, max_size=3),
    kwargs=st.dictionaries(st.text(), VALUES, max_size=3),
    queue=st.sampled_from(["default", "mail"]),
    priority=st.none() | st.sampled_from(Priority),
    retries=st.none() | st.integers(0, 10),
    timeout=SPANS,
    ttl=SPANS,
    result_ttl=SPANS,
    headers=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
    max_crashes=st.none() | st.integers(1, 9),
    gate=st.none() | st.just("digest:5"),
)
SCHEDULES = st.builds(
    Schedule,
    st.just("nightly"),
    WHENS,
    JOBS,
    misfire=st.sampled_from(["skip", "once", "all"]),
    most=st.integers(1, 1000),
    grace=st.floats(0, 1e6),
    overlap=st.sampled_from(["allow", "skip", "replace"]),
    jitter=st.floats(0, 1e6),
)


@settings(deadline=None)
@given(SCHEDULES, st.floats(0, 4e9))
def test_what_is_written_is_read_back(schedule, created):
    again, when = read(written(schedule, created))
    assert (again, when) == (schedule, created)
    assert again.job.payload == schedule.job.payload
    assert again.mark(created) == schedule.mark(created)


def test_a_unique_key_of_its_own_comes_back():
    unique = Unique("k", "replace", for_=60)
    schedule = Schedule("s", Every(60), Job("digest", unique=unique))
    assert read(written(schedule, 0.0))[0].job.unique == unique


def test_the_text_is_plain_json():
    schedule = Schedule("nightly", Cron("0 3 * * *"), Job("digest"), misfire="all")
    assert msgspec.json.decode(written(schedule, 5.0)) == {
        "v": 1,
        "created": 5.0,
        "name": "nightly",
        "when": {"kind": "cron", "expression": "0 3 * * *", "tz": "UTC"},
        "job": {"envelope": {"v": 1, "actor": "digest"}, "queue": "default"},
        "misfire": "all",
        "grace": 60.0,
        "jitter": 0.0,
    }
    sparse = b'{"v":1,"created":5,"name":"nightly","when":{"kind":"every","period":60},\
"job":{"envelope":{"v":1,"actor":"digest"},"queue":"default"}}'
    assert read(sparse) == (Schedule("nightly", Every(60), Job("digest")), 5.0)


TEXT = written(Schedule("nightly", Cron("0 3 * * *"), Job("digest")), 5.0)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"", "not a schedule"),
        (b"[]", "not a schedule"),
        (TEXT.replace(b'"v":1,"created"', b'"v":2,"created"'), "version 2"),
        (b'{"v": 3}', "version 3"),
        (TEXT.replace(b"cron", b"moon"), "not a schedule"),
        (TEXT.replace(b"0 3 * * *", b"0 3 * *"), "five fields"),
        (TEXT.replace(b"nightly", b"no name"), "schedule name"),
        (TEXT.replace(b'"actor":"digest"', b'"actor":5'), "not a schedule"),
    ],
)
def test_what_cannot_be_read_is_refused(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        read(text)


def test_without_cronsim_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cronsim", None)
    with pytest.raises(UnsupportedError, match=r"trepid\[cron\]"):
        read(TEXT)


def test_a_chain_travels_with_its_schedule():
    def step(n: int) -> int: ...

    actor = trepid.Actor(step)
    schedule = Schedule("chain", Every(60), actor.job(1).then(actor.job(trepid.PREVIOUS)))
    found, _ = read(written(schedule, 5.0))
    assert [job.name for job in found.job.follow_ups] == ["step"]
    assert found.job.payload == schedule.job.payload
