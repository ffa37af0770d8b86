"""Schedules from the terminal: those of the broker, and with an application those of its router."""

import json
from datetime import UTC, datetime

import pytest
import trio

import trepid
from tests.cli.conftest import on_broker

CLOCKWORK = """
import trepid


async def digest(n: int) -> None: ...


DIGEST = trepid.Actor(digest)
ROUTER = trepid.Router(
    DIGEST,
    schedules=[
        trepid.Schedule("nightly", trepid.Cron("0 3 * * *", "Europe/Berlin"), DIGEST.job(1), overlap="skip"),
        trepid.Schedule("wrong", trepid.Every(60), trepid.Job("digest", kwargs={"m": 1})),
        trepid.Schedule("strange", trepid.Every(60), trepid.Job("elsewhere")),
        trepid.Schedule("unheard", trepid.Every(60), DIGEST.job(1).options(queue="far")),
    ],
)
"""
MOMENT = datetime(2126, 1, 1, tzinfo=UTC)


@pytest.fixture
def url(url, place):
    (place / "clockwork.py").write_text(CLOCKWORK, encoding="utf-8")
    return url


@pytest.fixture
def once(url):
    """A schedule that the broker was given."""
    schedule = trepid.Schedule("once", trepid.At(MOMENT), trepid.Job("digest", args=[5]))
    on_broker(url, lambda connection: connection.schedule(schedule))
    return schedule


def data(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_none_are_none(run, url):
    result = run("schedule")
    assert (result.stdout, result.stderr) == ("", "no schedules; those of a router are shown with --app\n")
    assert data(run("schedule", "--json")) == {"schedules": []}


def test_schedules_as_a_table(run, once):
    header, row = run("schedule").stdout.splitlines()
    assert header.split() == ["SCHEDULE", "WHEN", "JOB", "QUEUE", "NEXT", "LAST", "KEPT", "STATE"]
    assert row.split() == [
        *("once", "at", "2126-01-01T00:00:00+00:00", "digest", "default"),
        *("2126-01-01T00:00:00.000Z", "-", "broker", "on"),
    ]


def test_schedules_as_json_have_stable_keys(run, once):
    broker, router, *_ = data(run("schedule", "list", "--app", "clockwork", "--json"))["schedules"][1::-1]
    assert broker == {
        "name": "once",
        "kept": "broker",
        "paused": False,
        "next": "2126-01-01T00:00:00.000Z",
        "last": None,
        "when": "at 2126-01-01T00:00:00+00:00",
        "actor": "digest",
        "queue": "default",
        "misfire": "once",
        "overlap": "allow",
        "jitter": 0.0,
    }
    assert (router["name"], router["kept"], router["when"]) == ("nightly", "router", "0 3 * * * Europe/Berlin")
    assert router["next"].endswith((":00:00.000Z",))


def test_a_schedule_is_run_now(run, once):
    id = run("schedule", "run", "once").stdout.strip()
    told = data(run("schedule", "run", "nightly", "--app", "clockwork", "--json"))
    assert (told["schedule"], told["queue"], told["existing"]) == ("nightly", "default", False)
    again = run("schedule", "run", "nightly", "--app", "clockwork")
    assert again.stdout.strip() == told["id"]
    assert "alive already" in again.stderr
    jobs = on_broker("sqlite:jobs.db", waiting)
    assert [(view.id, view.actor) for view in jobs] == [(id, "digest"), (told["id"], "digest")]


async def waiting(connection):
    return [view async for view in connection.messages("default", trepid.State.READY)]


def test_a_schedule_is_paused_and_resumed(run, once):
    assert run("schedule", "pause", "once").stdout == "paused once\n"
    [view] = data(run("schedule", "list", "--json"))["schedules"]
    assert (view["paused"], view["next"]) == (True, None)
    assert run("schedule").stdout.split()[-1] == "paused"
    assert data(run("schedule", "resume", "once", "--json")) == {"resumed": ["once"]}
    assert data(run("schedule", "list", "--json"))["schedules"][0]["paused"] is False


def test_one_of_a_router_is_paused_with_and_without_the_application(run, url):
    assert run("schedule", "pause", "nightly", "--app", "clockwork").stderr == ""
    [view] = data(run("schedule", "list", "--json"))["schedules"]
    assert (view["name"], view["when"], view["paused"]) == ("nightly", None, True)
    assert run("schedule", "pause", "nightly").stdout == "paused nightly\n", "twice does no harm"

    async def work(connection):
        # What a worker with that router does.
        schedule = trepid.Schedule("hourly", trepid.Every(3600), trepid.Job("digest", args=[5]))
        async with trio.open_nursery() as nursery:
            running = await nursery.start(trepid.Worker(trepid.Router(schedules=[schedule])).run, connection)
            while not await connection.session.marks("default"):
                await trio.sleep(0.01)
            running.stop()

    assert run("schedule", "pause", "hourly").exit_code == 4, "nobody has seen it"
    on_broker(url, work)
    result = run("schedule", "pause", "hourly")
    assert (result.exit_code, result.stdout) == (0, "paused hourly\n")
    assert "from a router" in result.stderr
    assert run("schedule", "resume", "nightly", "hourly").stdout == "resumed nightly, hourly\n"
    assert data(run("schedule", "list", "--json")) == {"schedules": []}


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["run", "onec"], "did you mean once?"),
        (["resume", "onec"], "did you mean once?"),
        (["pause", "nigthly", "--app", "clockwork"], "did you mean nightly?"),
        (["pause", "onec"], "did you mean once?"),
        (["pause", "nothing-alike"], "--app"),
    ],
)
def test_what_is_not_there_is_said(run, once, args, hint):
    result = run("schedule", *args)
    assert result.exit_code == 4
    assert "there is no schedule" in result.stderr
    assert hint in result.stderr
    assert [view["name"] for view in data(run("schedule", "list", "--json"))["schedules"]] == ["once"]


def test_a_name_that_is_none_is_refused(run, url):
    for command in ("run", "pause", "resume"):
        assert run("schedule", command, "no name").exit_code == 2


def test_check_looks_at_schedules(run, url):
    result = run("check", "clockwork", "--json")
    assert result.exit_code == 1
    found = {one["about"]: one for one in json.loads(result.stdout)["findings"]}
    assert set(found) == {"schedule wrong", "schedule strange", "schedule unheard"}
    assert found["schedule wrong"]["wrong"]
    assert "do not fit digest" in found["schedule wrong"]["text"]
    assert "no actor 'elsewhere'" in found["schedule strange"]["text"]
    assert "queue far" in found["schedule unheard"]["text"]


def test_run_does_not_wait_for_a_full_queue(run, once, url):
    on_broker(url, lambda connection: connection.declare(trepid.Queue("default", max_size=1)))
    assert run("schedule", "run", "once").exit_code == 0
    full = run("schedule", "run", "once")
    assert (full.exit_code, full.stdout) == (1, "")
    assert "queue 'default' has no room, and nothing was stored" in full.stderr
