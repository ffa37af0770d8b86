"""Queues, jobs and dead letters from the terminal, on a file and without the application."""

import json
import os
import pty
import subprocess
import sys

import pytest
import trio

import trepid
from tests.cli.conftest import on_broker, work_off
from trepid.brokers.sqlite.session import SQLiteSession
from trepid.ports.messages import Settlement
from trepid.rules.verdicts import Done


async def flop(text: str, n: int = 0) -> None:
    await trio.lowlevel.checkpoint()
    raise ValueError(text)


async def sulk() -> None:
    await trio.lowlevel.checkpoint()
    raise OSError("\x1b[2Jgone")


FLOP, SULK = trepid.Actor(flop), trepid.Actor(sulk, queue="other")


@pytest.fixture
def graves(url):
    """Three dead letters: two of flop, one of sulk in another queue."""
    return work_off(url, FLOP, SULK, jobs=[FLOP.job("first"), FLOP.job("second", n=2), SULK.job()])


def data(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


# ------------------------------------------------------------------------------------------------------- queues


def test_queues_as_a_table(run, url):
    run("enqueue", "greet")
    run("enqueue", "greet", "--in", "1h")
    result = run("queues")
    header, row = result.stdout.splitlines()
    assert header.split() == [
        "QUEUE",
        "READY",
        "SCHEDULED",
        "LEASED",
        "DONE",
        "DEAD",
        "CANCELLED",
        "OLDEST",
        "STATE",
    ]
    assert row.split()[:7] == ["default", "1", "1", "0", "0", "0", "0"]
    assert row.split()[8] == "open"
    assert result.stderr == ""


def test_queues_as_json_have_stable_keys(run, url):
    assert data(run("queues", "--json")) == {
        "queues": [
            {
                "queue": "default",
                "ready": 0,
                "scheduled": 0,
                "leased": 0,
                "done": 0,
                "dead": 0,
                "cancelled": 0,
                "oldest_ready_seconds": None,
                "paused": False,
            }
        ]
    }


def test_no_queues_yet(run, url):
    run("queues", "delete", "default")
    result = run("queues")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "trepid queues declare default" in result.stderr


def test_declare_makes_a_file(run, place, monkeypatch):
    monkeypatch.setenv("TREPID_BROKER_URL", "sqlite:new.db")
    assert run("queues", "declare", "a,b", "c").stdout == "declared a, b, c\n"
    assert [one["queue"] for one in data(run("queues", "--json"))["queues"]] == ["a", "b", "c"]
    assert [one["queue"] for one in data(run("queues", "list", "c", "--json"))["queues"]] == ["c"]


def test_pause_and_resume(run, url):
    assert run("queues", "pause", "default").stdout == "paused default\n"
    assert data(run("queues", "--json"))["queues"][0]["paused"] is True
    assert "paused" in run("queues").stdout
    assert data(run("queues", "resume", "default", "--json")) == {"resumed": ["default"]}
    assert data(run("queues", "--json"))["queues"][0]["paused"] is False


def test_flush_forgets_what_waits(run, url, graves):
    for _ in range(3):
        run("enqueue", "greet")
    refused = run("queues", "flush", "default")
    assert refused.exit_code == 2
    assert "Forget 3 waiting messages of default?" in refused.stderr
    assert "say -y" in refused.stderr
    assert data(run("queues", "flush", "default", "other", "-y", "--json")) == {"flushed": {"default": 3, "other": 0}}
    stats = data(run("queues", "--json"))["queues"][0]
    assert (stats["ready"], stats["dead"]) == (0, 2)
    assert run("queues", "flush", "default").stdout == "flushed 0 messages of default\n", "nothing to ask for"


def test_delete_is_refused_while_a_job_runs(run, url):
    run("enqueue", "greet")

    async def lease(connection):
        [delivery] = await connection.session.lease(["default"], 1, 600, owner="somebody")
        return delivery

    delivery = on_broker(url, lease)
    busy = run("queues", "delete", "default", "-y")
    assert busy.exit_code == 1
    assert "stop its workers first" in busy.stderr
    on_broker(url, lambda connection: connection.session.settle([Settlement(delivery.ref, Done(None, 60.0))]))
    assert run("queues", "delete", "default").exit_code == 2, "there is a result in it"
    assert run("queues", "delete", "default", "-y").stdout == "deleted default\n"
    assert data(run("queues", "--json")) == {"queues": []}


# ----------------------------------------------------------------------------------------------------- enqueuing


def view_of(url, id, queue="default"):
    return on_broker(url, lambda connection: connection.handle(id, queue=queue).status())


def test_enqueue_prints_the_id(run, url):
    result = run("enqueue", "greet", '"Trio"', "mark=?", "--id", "hello")
    assert (result.stdout, result.stderr) == ("hello\n", "")
    view = view_of(url, "hello")
    assert view.actor == "greet"
    assert view.state is trepid.State.READY
    assert json.loads(view.payload) == {"v": 1, "actor": "greet", "args": ["Trio"], "kwargs": {"mark": "?"}}


def test_enqueue_says_how(run, url):
    words = ["--priority", "HIGH", "--retries", "2", "--timeout", "1m", "--ttl", "1h", "--in", "5m", "--unique", "k"]
    told = data(run("enqueue", "greet", *words, "--json"))
    assert told == {"id": told["id"], "queue": "default", "actor": "greet", "existing": False}
    view = view_of(url, told["id"])
    assert (view.priority, view.state, view.unique) == (9, trepid.State.SCHEDULED, "k")
    assert view.due == pytest.approx(view.enqueued + 300, abs=1)
    payload = json.loads(view.payload)
    assert (payload["retries"], payload["timeout"]) == (2, 60)
    again = run("enqueue", "greet", "--unique", "k")
    assert again.stdout == told["id"] + "\n"
    assert "nothing new was enqueued" in again.stderr


def test_enqueue_at_a_moment(run, url):
    id = run("enqueue", "greet", "--at", "2100-01-01T00:00:00+01:00").stdout.strip()
    assert view_of(url, id).due == 4102441200


def test_enqueue_with_the_application_checks_the_arguments(run, url, place):
    (place / "mill.py").write_text(
        "import trepid\n"
        "async def grind(weight: int, *, fine: bool = False) -> str: ...\n"
        "ROUTER = trepid.Router(trepid.Actor(grind, queue='mill', retries=7, priority=trepid.Priority.LOW))\n",
        encoding="utf-8",
    )
    run("queues", "declare", "mill")
    for words, reason in (
        (["three=3"], "missing a required argument: 'weight'"),
        (["weight=3"], "weight: Expected `int`, got `str`"),
        (["3", "fine:=3"], "fine: Expected `bool`, got `int`"),
        (["3", "4"], "too many positional arguments"),
    ):
        refused = run("enqueue", "grind", *words, "--app", "mill")
        assert refused.exit_code == 2
        assert reason in refused.stderr
    unknown = run("enqueue", "grnd", "--app", "mill")
    assert unknown.exit_code == 4
    assert unknown.stderr == "error: mill has no actor 'grnd'\n hint: did you mean grind?\n"
    told = data(run("enqueue", "grind", "3", "--app", "mill", "--json", env={"TREPID_APP": "mill"}))
    assert told["queue"] == "mill"
    view = view_of(url, told["id"], "mill")
    assert view.priority == trepid.Priority.LOW
    assert json.loads(view.payload)["retries"] == 7
    assert data(run("enqueue", "grind", "3", "--app", "mill", "-q", "default", "--json"))["queue"] == "default"


def test_a_full_queue_is_not_waited_for(run, url):
    on_broker(url, lambda connection: connection.declare(trepid.Queue("default", max_size=1)))
    assert run("enqueue", "greet").exit_code == 0
    full = run("enqueue", "greet", "--wait")
    assert (full.exit_code, full.stdout) == (1, "")
    assert full.stderr == (
        "error: queue 'default' has no room, and nothing was stored\n hint: try again once its workers have made some\n"
    )


def test_a_payload_that_is_too_large(run, url):
    result = run("enqueue", "greet", "name=" + "x" * 100, f"big:=[{','.join(['1'] * 600_000)}]")
    assert result.exit_code == 2
    assert "store the data elsewhere" in result.stderr


def test_waiting_for_a_result_that_is_not_kept(run, url):
    async def vanish() -> None: ...

    actor = trepid.Actor(vanish, result_ttl=0)
    work_off(url, actor, jobs=[actor.job().options(id="x", result_ttl=60)])
    result = run("dead", "show", "x")
    assert result.exit_code == 4
    assert "x in queue default is done, not dead" in result.stderr


# -------------------------------------------------------------------------------------------------- dead letters


def test_dead_letters_as_a_table(run, graves):
    result = run("dead")
    header, *rows = result.stdout.splitlines()
    assert header.split() == ["ID", "QUEUE", "ACTOR", "TRIES", "DIED", "WHY", "ERROR"]
    assert [row.split()[0] for row in rows] == graves
    assert rows[0].split()[1:4] == ["default", "flop", "1"]
    assert rows[0].endswith("failed  ValueError: first")
    assert "\x1b" not in result.stdout, "a job's text cannot clear the screen"
    assert rows[2].endswith(r"OSError: \x1b[2Jgone")


def test_dead_letters_as_json_have_stable_keys(run, graves):
    told = data(run("dead", "--json"))
    assert list(told) == ["dead", "more"]
    assert told["more"] is False
    first = told["dead"][0]
    assert {**first, "enqueued": 0, "died": 0, "error": {**first["error"], "at": 0}} == {
        "id": graves[0],
        "queue": "default",
        "actor": "flop",
        "attempts": 1,
        "crashes": 0,
        "requeues": 0,
        "priority": 5,
        "unique": None,
        "reason": "failed",
        "enqueued": 0,
        "died": 0,
        "error": {"type": "ValueError", "message": "first", "at": 0, "attempt": 1},
    }
    assert first["died"].endswith("Z")


@pytest.mark.parametrize(
    ("words", "places"),
    [
        ([], [0, 1, 2]),
        (["-q", "other"], [2]),
        (["-q", "other,default"], [2, 0, 1]),
        (["--actor", "flop"], [0, 1]),
        (["--error", "SECOND"], [1]),
        (["--error", "oserror"], [2]),
        (["--actor", "flop", "--error", "gone"], []),
        (["--limit", "2"], [0, 1]),
    ],
)
def test_dead_letters_are_filtered(words, places, run, graves):
    told = data(run("dead", "list", *words, "--json"))
    assert [one["id"] for one in told["dead"]] == [graves[place] for place in places]
    assert told["more"] is ("--limit" in words)


def test_no_dead_letters(run, url):
    result = run("dead")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "no dead letters\n")


def test_a_dead_letter_in_full(run, graves):
    text = run("dead", "show", graves[1]).stdout
    assert f"{graves[1]}  flop  queue default" in text
    assert 'arguments  ["second"]  {"n":2}' in text
    assert '"kwargs":{"n":2}' in text
    assert "Traceback (most recent call last):" in text
    assert "raise ValueError(text)" in text
    assert f"trepid dead requeue {graves[1]} -q default" in text
    told = data(run("dead", "show", graves[1], "--json"))
    assert (told["args"], told["kwargs"], told["unreadable"]) == (["second"], {"n": 2}, None)
    assert told["requeue_command"] == f"trepid dead requeue {graves[1]} -q default"
    assert [set(error) for error in told["errors"]] == [{"type", "message", "at", "attempt", "traceback"}]
    assert "\x1b" not in run("dead", "show", graves[2]).stdout


def test_a_dead_letter_that_is_not_there(run, graves):
    result = run("dead", "show", "nope")
    assert result.exit_code == 4
    assert result.stderr == "error: no dead letter is called nope\n hint: trepid dead list\n"
    assert run("dead", "show", graves[0], "-q", "other").exit_code == 4


def test_an_id_in_two_queues(run, url):
    jobs = [FLOP.job("x").options(id="twin"), FLOP.job("y").options(id="twin", queue="other")]
    work_off(url, FLOP, trepid.Actor(flop, name="unused", queue="other"), jobs=jobs)
    result = run("dead", "show", "twin")
    assert result.exit_code == 4
    assert "twin is in the queues default and other" in result.stderr
    assert "raise ValueError" in run("dead", "show", "twin", "-q", "other").stdout
    assert run("dead", "purge", "twin").exit_code == 4
    assert run("dead", "purge", "twin", "-q", "other").stdout == "purged 1, skipped 0\n"
    assert run("dead", "purge", "twin").stdout == "purged 1, skipped 0\n"


def test_the_command_that_is_shown_brings_it_back(run, graves, url):
    words = data(run("dead", "show", graves[1], "--json"))["requeue_command"].split()
    assert run(*words[1:]).stdout == "requeued 1, skipped 0\n"
    view = view_of(url, graves[1])
    assert (view.state, view.attempts, view.requeues) == (trepid.State.READY, 0, 1)
    assert len(view.errors) == 1, "what happened is kept"


def test_requeue_and_purge_by_filter(run, graves):
    assert data(run("dead", "requeue", "--actor", "flop", "--error", "first", "-y", "--json")) == {
        "matched": 1,
        "requeued": 1,
        "skipped": 0,
        "missing": [],
    }
    assert data(run("dead", "purge", "-q", "other", "-y", "--json")) == {
        "matched": 1,
        "purged": 1,
        "skipped": 0,
        "missing": [],
    }
    assert [one["id"] for one in data(run("dead", "--json"))["dead"]] == [graves[1]]
    assert run("dead", "requeue", "--all", "-y").stdout == "requeued 1, skipped 0\n"
    everything = run("dead", "requeue", "--all", "-y")
    assert (everything.exit_code, everything.stdout) == (0, "requeued 0, skipped 0\n"), "nothing to do is no failure"


def test_more_dead_letters_than_go_at_once(run, url):
    ids = work_off(url, FLOP, jobs=[FLOP.job("many")] * 620)
    told = data(run("dead", "purge", "--error", "many", "-y", "--json"))
    assert (told["matched"], told["purged"]) == (len(ids), 620)
    assert data(run("dead", "--json"))["dead"] == []


def test_nothing_matched(run, graves):
    result = run("dead", "requeue", "--error", "nothing like it", "-y")
    assert (result.exit_code, result.stdout) == (4, "requeued 0, skipped 0\n")
    partly = run("dead", "purge", "nope", graves[0])
    assert partly.exit_code == 4
    assert partly.stdout == "purged 1, skipped 0\n"
    assert "no dead letter is called nope" in partly.stderr


def test_where_single_messages_are_not_shown_dead_letters_are_looked_for(run, graves, monkeypatch):
    async def blind(self, queue, id):
        await trio.lowlevel.checkpoint()
        raise trepid.UnsupportedError("looking at single messages", "this engine")

    monkeypatch.setattr(SQLiteSession, "get", blind)
    assert "raise ValueError(text)" in run("dead", "show", graves[1]).stdout
    missing = run("dead", "show", "nope")
    assert (missing.exit_code, missing.stderr) == (4, "error: no dead letter is called nope\n hint: trepid dead list\n")
    partly = run("dead", "requeue", "nope", graves[0], graves[2], "--json")
    assert partly.exit_code == 4
    assert json.loads(partly.stdout) == {"matched": 2, "requeued": 2, "skipped": 0, "missing": ["nope"]}
    assert [one["id"] for one in data(run("dead", "--json"))["dead"]] == [graves[1]]


def test_where_dead_letters_are_not_shown_they_go_all_together(run, graves, monkeypatch):
    async def blind(self, *args, **kwargs):
        await trio.lowlevel.checkpoint()
        raise trepid.UnsupportedError("looking at messages", "this engine")

    monkeypatch.setattr(SQLiteSession, "peek", blind)
    unseen = run("dead", "requeue", "--all", input="y\n")
    assert (unseen.exit_code, unseen.stdout) == (2, "")
    assert "Requeue 3 dead letters of default, other?" in unseen.stderr
    told = data(run("dead", "requeue", "-q", "other", "-y", "--json"))
    assert told == {"matched": 1, "requeued": 1, "skipped": 0, "missing": []}
    assert run("dead", "purge", "--all", "-y").stdout == "purged 2, skipped 0\n"
    nothing = run("dead", "purge", "--all", "-y")
    assert (nothing.exit_code, nothing.stdout) == (0, "purged 0, skipped 0\n")
    for words in (["dead"], ["dead", "requeue", "--actor", "flop"]):
        refused = run(*words)
        assert refused.exit_code == 2
        assert "this engine does not support looking at messages" in refused.stderr


def test_what_cannot_come_back_is_skipped(run, url):
    work_off(url, FLOP, jobs=[FLOP.job("x").options(id="old", unique=trepid.Unique("key"))])
    run("enqueue", "flop", "--unique", "key")
    result = run("dead", "requeue", "old")
    assert result.stdout == "requeued 0, skipped 1\n"
    assert "unique key" in result.stderr


# ------------------------------------------------------------------------------------------------------- consent


def test_many_at_once_need_consent(run, graves):
    for verb in ("requeue", "purge"):
        result = run("dead", verb, "--all", input="y\n")
        assert result.exit_code == 2
        assert f"{verb.capitalize()} 3 dead letters of default, other?" in result.stderr
        assert "say -y" in result.stderr
    assert len(data(run("dead", "--json"))["dead"]) == 3


@pytest.mark.parametrize(("answer", "code", "left"), [("y", 0, 0), ("n", 1, 3), ("", 1, 3)])
def test_consent_on_a_terminal(answer, code, left, run, graves):
    ours, theirs = pty.openpty()
    try:
        os.write(ours, f"{answer}\n".encode())
        done = subprocess.run(
            [sys.executable, "-m", "trepid", "dead", "purge", "--all"],
            stdin=theirs,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == code
    assert "Purge 3 dead letters of default, other? [y/N]" in done.stderr
    assert len(data(run("dead", "--json"))["dead"]) == left


# ------------------------------------------------------------------------------------------------------ checking


def test_check_shows_actors_and_broker(run, url):
    result = run("check", "shop")
    assert result.exit_code == 0
    assert "shop:ROUTER: 7 actors" in result.stdout
    assert "(name: str, *, mark: str = '!', count: int = 1) -> str" in result.stdout
    assert "durability  fsync (journal_mode=wal, synchronous=2" in result.stdout
    assert result.stdout.endswith("ok\n")


def test_check_as_json_has_stable_keys(run, url):
    told = data(run("check", "shop", "--json"))
    assert list(told) == ["app", "queues", "actors", "findings", "broker", "ok"]
    assert list(told["actors"][0]) == [
        "name",
        "queue",
        "signature",
        "run_in",
        "priority",
        "retries",
        "timeout",
        "result_ttl",
        "max_crashes",
    ]
    assert list(told["broker"]) == ["url", "round_trip_seconds", "undeclared", "capabilities"]
    assert told["broker"]["capabilities"]["durability"] == "fsync"
    assert told["ok"] is True


def test_check_without_a_broker(run, place):
    result = run("check", "shop")
    assert result.exit_code == 0
    assert "no broker was asked" in result.stdout
    assert data(run("check", "shop", "--json"))["broker"] is None


def test_check_asks_a_broker_that_is_not_there(run, place):
    result = run("check", "shop", "--broker", "sqlite:typo.db")
    assert result.exit_code == 3
    assert "there is no such file" in result.stderr


def test_check_finds_mistakes(run, place, monkeypatch):
    (place / "odd.py").write_text(
        "import trepid\n"
        "def crunch(n: int) -> int: return n\n"
        "def shadowed(n: int) -> int: return n\n"
        "CRUNCH = trepid.Actor(crunch, run_in='process', queue='heavy')\n"
        "SHADOW = trepid.Actor(shadowed, run_in='process')\n"
        "def shadowed(): ...\n"
        "async def loose(n: int, rest, *more): ...\n"
        "def late(n):\n"
        "    if n > 2: raise RuntimeError('no third time')\n"
        "    return 1.0\n"
        "async def again(): ...\n"
        "AGAIN = trepid.Actor(again, retries=5, retry_policy=late)\n"
        "WORKER = trepid.Worker(CRUNCH, SHADOW, AGAIN, trepid.Actor(loose), queues=['default'])\n",
        encoding="utf-8",
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    result = run("check", "odd:WORKER", "--json")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert told["ok"] is False
    assert [(one["about"], one["wrong"]) for one in told["findings"]] == [
        ("actor shadowed", True),
        ("actor again", True),
        ("actor loose", False),
        ("queue heavy", False),
    ]
    texts = [one["text"] for one in told["findings"]]
    assert "fails at retry 3: no third time" in texts[1]
    assert "rest, more" in texts[2]
    assert run("check", "odd:WORKER").stdout.endswith("not ok\n")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert 'pip install "trepid[process]"' in run("check", "odd:CRUNCH").stdout


def test_check_a_worker_without_actors(run, place):
    (place / "empty.py").write_text("import trepid\nROUTER = trepid.Router()\n", encoding="utf-8")
    result = run("check", "empty")
    assert result.exit_code == 1
    assert "it has no actors" in result.stdout
