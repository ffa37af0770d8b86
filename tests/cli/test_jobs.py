"""Single jobs from the terminal: what is known of them, cancelling them, and waiting for many."""

import json
import os
import pty
import re
import subprocess
import sys
import threading

import attrs
import pytest
import trio

import trepid
from tests.cli.conftest import on_broker, work_off
from trepid.brokers.sqlite.session import SQLiteSession
from trepid.ports.messages import Settlement
from trepid.rules.verdicts import Returned


async def flop(text: str) -> None:
    await trio.lowlevel.checkpoint()
    raise ValueError(text)


async def index(ctx: trepid.Context, n: int, fail: bool = False) -> int:
    for number in range(n):
        await ctx.emit(number)
        await ctx.checkpoint_state({"next": number + 1})
        await ctx.progress(number + 1, n, f"file {number}")
    if fail:
        raise ValueError("oops")
    return n


FLOP, INDEX = trepid.Actor(flop), trepid.Actor(index)


def data(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def enqueue(run, *words):
    return run("enqueue", *words).stdout.strip()


def fail_in(queue, text, id):
    return trepid.Actor(flop, queue=queue), [trepid.Actor(flop, queue=queue).job(text).options(id=id)]


# -------------------------------------------------------------------------------------------------------- listing


def test_jobs_as_a_table(run, url):
    first = enqueue(run, "greet")
    later = enqueue(run, "greet", "--in", "1h")
    actor, jobs = fail_in("other", "\x1b[2Joops", "dead-one")
    work_off(url, actor, jobs=jobs)
    header, *rows = run("jobs").stdout.splitlines()
    assert header.split() == ["ID", "QUEUE", "ACTOR", "STATE", "TRIES", "AGE", "WHY"]
    assert [row.split()[:5] for row in rows] == [
        [first, "default", "greet", "ready", "0"],
        [later, "default", "greet", "scheduled", "0"],
    ]
    assert "due in 60m" in rows[1]
    everything = run("jobs", "list", "--state", "all").stdout
    assert "dead-one" in everything
    assert "\x1b" not in everything


def test_a_job_that_came_back_from_a_dead_worker_says_so(run, url):
    enqueue(run, "greet", "--id", "a")

    async def kill_a_worker(connection):
        await connection.session.lease(["default"], 1, 30.0, owner="mortal")
        await connection.session.expire_owner("mortal")

    on_broker(url, kill_a_worker)
    assert run("jobs").stdout.splitlines()[1].endswith(", 1 crash")


def test_a_job_that_was_given_back_says_so(run, url):
    enqueue(run, "unheard-of")

    async def give_back(connection):
        [delivery] = await connection.session.lease(["default"], 1, 30.0, owner="a worker without this actor")
        await connection.session.settle([Settlement(delivery.ref, Returned(5.0, "unknown actor"))])

    on_broker(url, give_back)
    assert run("jobs").stdout.splitlines()[1].endswith(", 1 release")


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        ([], ["a", "b"]),
        (["--state", "dead"], ["c"]),
        (["--state", "dead", "--state", "scheduled"], ["c", "b"]),
        (["--state", "dead,scheduled"], ["c", "b"]),
        (["--state", "dead", "--state", "Ready, dead"], ["a", "c"]),
        (["--state", "all"], ["a", "b", "c"]),
        (["--state", "all", "-q", "other"], ["c"]),
        (["--state", "all", "--actor", "flop"], ["c"]),
        (["--limit", "1"], ["a"]),
    ],
)
def test_jobs_are_filtered(words, ids, run, url):
    enqueue(run, "greet", "--id", "a")
    enqueue(run, "greet", "--in", "1h", "--id", "b")
    actor, jobs = fail_in("other", "oops", "c")
    work_off(url, actor, jobs=jobs)
    told = data(run("jobs", "list", *words, "--json"))
    assert sorted(job["id"] for job in told["jobs"]) == sorted(ids)
    assert told["more"] is ("--limit" in words)


def test_a_state_that_is_none_is_refused(run, url):
    result = run("jobs", "list", "--state", "dead,gone")
    assert result.exit_code == 2
    assert "'gone' is no state; there are leased, ready, scheduled, dead, cancelled, done, and all" in result.stderr


def test_no_jobs(run, url):
    result = run("jobs")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "no jobs are leased or ready or scheduled\n"


# -------------------------------------------------------------------------------------------------------- showing


def test_a_job_in_full(run, url):
    work_off(url, INDEX, jobs=[INDEX.job(3, fail=True).options(id="x").then(FLOP.job(trepid.PREVIOUS))])
    told = data(run("jobs", "show", "x", "--json"))
    assert {key: told[key] for key in ("id", "queue", "actor", "state", "attempts", "reason")} == {
        "id": "x",
        "queue": "default",
        "actor": "index",
        "state": "dead",
        "attempts": 1,
        "reason": "failed",
    }
    assert told["progress"] == {"done": 3, "total": 3, "message": "file 2", "attempt": 1}
    assert (told["emitted"], told["saved"], told["result"]) == (3, {"next": 3}, None)
    assert (told["args"], told["kwargs"]) == ([3], {"fail": True})
    assert told["chain"] == {"id": "x", "step": 1, "of": 2}
    assert told["then"] == [{"actor": "flop", "queue": "default"}]
    assert "Traceback" in told["errors"][0]["traceback"]
    text = run("jobs", "show", "x").stdout
    for line in ("dead, failed", "step 1 of 2 of the chain x", "then       flop  queue default", "progress   3 of 3"):
        assert line in text
    assert 'saved      {"next":3}' in text


def test_a_job_that_is_done_shows_its_result(run, url):
    work_off(url, INDEX, jobs=[INDEX.job(2).options(id="x")])
    told = data(run("jobs", "show", "x", "--json"))
    assert (told["state"], told["result"], told["saved"]) == ("done", 2, None)
    assert "result     2" in run("jobs", "show", "x").stdout


def test_a_job_that_is_not_there(run, url):
    result = run("jobs", "show", "nope")
    assert result.exit_code == 4
    assert result.stderr == "error: no job is called nope\n hint: trepid jobs list --state all\n"


def test_a_job_in_two_queues(run, url):
    run("queues", "declare", "other")
    enqueue(run, "greet", "--id", "x")
    enqueue(run, "greet", "--id", "x", "-q", "other")
    for words in (["show", "x"], ["cancel", "x"], ["wait", "x"]):
        result = run("jobs", *words)
        assert result.exit_code == 4
        assert "x is in the queues default and other" in result.stderr
    assert data(run("jobs", "show", "x", "-q", "other", "--json"))["queue"] == "other"


# ----------------------------------------------------------------------------------------------------- cancelling


def test_cancelling(run, url):
    work_off(url, FLOP, jobs=[FLOP.job("oops").options(id="b")])
    enqueue(run, "greet", "--id", "c", "--in", "1h")
    assert run("jobs", "cancel", "c", "b", "--reason", "enough").stdout == "c  withdrawn\nb  finished\n"
    assert data(run("jobs", "show", "c", "--json"))["reason"] == "enough"
    result = run("jobs", "cancel", "c", "nope", "--json")
    assert result.exit_code == 4
    assert json.loads(result.stdout) == {
        "jobs": [{"id": "c", "queue": "default", "answer": "finished"}],
        "missing": ["nope"],
    }


# -------------------------------------------------------------------------------------------------------- waiting


def test_waiting_for_what_has_ended(run, url):
    work_off(url, INDEX, FLOP, jobs=[INDEX.job(2).options(id="a"), FLOP.job("oops").options(id="b")])
    done = run("jobs", "wait", "a")
    assert (done.exit_code, done.stdout) == (0, "a  done\n")
    mixed = run("jobs", "wait", "a", "b", "nope")
    assert mixed.exit_code == 4
    assert sorted(mixed.stdout.splitlines()) == ["a  done", "b  dead  job b failed: ValueError: oops"]
    assert "no job is called nope" in mixed.stderr
    failed = run("jobs", "wait", "b", "a", "--json")
    assert failed.exit_code == 1
    told = json.loads(failed.stdout)
    assert sorted(told["jobs"], key=lambda job: job["id"]) == [
        {"id": "a", "queue": "default", "state": "done", "result": 2, "error": None},
        {"id": "b", "queue": "default", "state": "dead", "result": None, "error": "job b failed: ValueError: oops"},
    ]
    assert (told["late"], told["missing"]) == ([], [])


@pytest.mark.parametrize("many", [1, 30], ids=["watched", "counted"])
def test_how_an_end_is_told_does_not_depend_on_how_many_there_are(run, url, many):
    async def odd() -> object:
        return object()

    actor = trepid.Actor(odd)
    jobs = [FLOP.job("oops").options(id=f"b{n}") for n in range(many)] + [actor.job().options(id="odd")]
    work_off(url, FLOP, actor, jobs=jobs)
    told = json.loads(run("jobs", "wait", *(job.id for job in jobs), "--json").stdout)
    told = {job["id"]: (job["state"], job["error"]) for job in told["jobs"]}
    assert told["b0"] == ("dead", "job b0 failed: ValueError: oops")
    assert told["odd"][0] == "done"
    assert "object cannot be stored" in told["odd"][1]


def test_waiting_no_longer_than_said(run, url):
    enqueue(run, "greet", "--id", "a")
    result = run("jobs", "wait", "a", "--timeout", "100ms")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "1 job has not ended: a" in result.stderr


@pytest.fixture
def worker(url):
    """A function that starts a worker beside the command, which runs in the test's own thread."""
    stop = threading.Event()

    async def main():
        async with trepid.open_connection(url) as connection, trio.open_nursery() as nursery:
            running = await nursery.start(trepid.Worker(INDEX, FLOP).run, connection)
            while not stop.is_set():
                await trio.sleep(0.01)
            running.stop()

    thread = threading.Thread(target=trio.run, args=(main,))
    yield thread.start
    stop.set()
    thread.join(20)


@pytest.mark.parametrize("many", [3, 30], ids=["watched", "counted"])
def test_waiting_for_many(run, url, worker, many):
    async def put(connection):
        return [(await connection.enqueue(INDEX.job(3))).id for _ in range(many)]

    ids = on_broker(url, put)
    worker()
    result = run("jobs", "wait", *ids, "--timeout", "30s")
    assert result.exit_code == 0
    assert sorted(result.stdout.splitlines()) == sorted(f"{id}  done" for id in ids)
    if many == 3:
        assert f"{ids[0]}  3 of 3  file 2\n" in result.stderr
    told = data(run("jobs", "wait", *ids, "--json"))
    assert [job["result"] for job in told["jobs"]] == [3] * many


def test_waiting_on_a_terminal_draws_bars(url, place):
    ids = ["job-0", "job-1"]
    work_off(url, INDEX, jobs=[INDEX.job(3).options(id=id) for id in ids])
    ours, theirs = pty.openpty()
    env = {**os.environ, "TREPID_BROKER_URL": url, "TERM": "xterm", "COLUMNS": "100"}
    command = [sys.executable, "-m", "trepid", "jobs", "wait", *ids, "--timeout", "20s"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=env, cwd=place)
    os.close(theirs)
    output = b""
    try:
        while chunk := os.read(ours, 4096):
            output += chunk
    except OSError:  # the other side has closed it
        pass
    finally:
        os.close(ours)
    stdout, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert sorted(stdout.decode().splitlines()) == ["job-0  done", "job-1  done"]
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.decode())
    assert "2 jobs" in text
    assert "job-0" in text
    assert "100%" in text


def test_waiting_where_messages_are_not_shown(run, url, monkeypatch):
    work_off(url, INDEX, jobs=[INDEX.job(2).options(id="a")])
    capabilities = SQLiteSession.capabilities.fget
    blind = property(lambda self: attrs.evolve(capabilities(self), peek=False))
    monkeypatch.setattr(SQLiteSession, "capabilities", blind)
    assert run("jobs", "wait", "a").stdout == "a  done\n"
    gone = run("jobs", "wait", "nope")
    assert gone.exit_code == 4
    assert gone.stdout == "nope  gone\n"
    assert "does not show its messages" in run("jobs", "show", "a").stderr
    run("queues", "declare", "other")
    refused = run("jobs", "wait", "a")
    assert refused.exit_code == 2
    assert "say which: -q default" in refused.stderr
