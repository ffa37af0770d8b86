"""Workers as processes of their own: what they log, how signals stop them, and what they end with."""

import json
import os
import pty
import signal
import subprocess
import sys
import threading

import pytest

import trepid
from tests.cli.conftest import on_broker

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

DEADLINE = 60.0


class Process:
    """A ``trepid worker``, whose log is read line by line; it is killed if it takes too long."""

    def __init__(self, *words, **environment):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "trepid", "worker", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )
        self.lines = []
        self._deadline = threading.Timer(DEADLINE, self.process.kill)
        self._deadline.start()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.process.kill()
        self.process.communicate()
        self._deadline.cancel()

    def until(self, *texts):
        """Read lines until one has all these texts."""
        for line in self.process.stderr:
            self.lines.append(line)
            if all(text in line for text in texts):
                return line
        raise AssertionError(f"no line with {texts}:\n{''.join(self.lines)}")

    def signal(self, number=signal.SIGINT):
        self.process.send_signal(number)

    def end(self):
        """Wait for its end, and return the exit code."""
        self.stdout, rest = self.process.communicate()
        self.lines += rest.splitlines(keepends=True)
        return self.process.returncode

    @property
    def log(self):
        return "".join(self.lines)


def enqueue(run, *words):
    return run("enqueue", *words).stdout.strip()


def view_of(url, id):
    return on_broker(url, lambda connection: connection.handle(id).status())


# ----------------------------------------------------------------------------------------------- signal steps


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_lets_jobs_finish(number, run, url, place):
    held, waiting = enqueue(run, "hold", "path=go"), enqueue(run, "hold", "path=go", "--in", "1h")
    with Process("shop", "-v") as worker:
        worker.until("started hold", held)
        worker.signal(number)
        line = worker.until(f"received {number.name}: draining, 1 still running (longest hold")
        assert "for at most 25s; once more cancels it" in line
        (place / "go").touch()
        assert worker.end() == 0
    assert "stopped: 1 succeeded" in worker.log
    assert view_of(url, held).state is trepid.State.DONE
    assert view_of(url, waiting).state is trepid.State.SCHEDULED


def test_when_the_grace_is_over_jobs_are_handed_back(run, url):
    held = enqueue(run, "hold", "path=never")
    with Process("shop", "-v", "--grace", "50ms") as worker:
        worker.until("started hold")
        worker.signal(signal.SIGTERM)
        assert worker.end() == 75
    assert "the grace is over: 1 running job cancelled, to be handed back uncounted" in worker.log
    assert "stopped: 1 released; 1 job cancelled and handed back" in worker.log
    view = view_of(url, held)
    assert (view.state, view.attempts, view.releases, view.crashes) == (trepid.State.READY, 0, 1, 0)


def test_the_second_signal_hands_jobs_back_at_once(run, url):
    held = enqueue(run, "hold", "path=never")
    with Process("shop", "-v") as worker:
        worker.until("started hold")
        worker.signal(signal.SIGTERM)
        worker.until("received SIGTERM: draining")
        worker.signal(signal.SIGINT)
        worker.until("received SIGINT again: cancelling 1 running job")
        assert worker.end() == 75
    view = view_of(url, held)
    assert (view.state, view.attempts, view.releases, view.crashes) == (trepid.State.READY, 0, 1, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_third_signal_ends_the_process(number, run, url):
    held = enqueue(run, "hold_thread", "path=never")
    with Process("shop", "-v") as worker:
        worker.until("started hold_thread")
        worker.signal()
        worker.until("draining")
        worker.signal()
        worker.until("received SIGINT again")
        worker.until("still waiting for jobs that do not stop", f"hold_thread {held}")
        worker.signal(number)
        assert worker.end() == 128 + number
    assert "third signal: ended at once" in worker.log
    assert view_of(url, held).state is trepid.State.LEASED, "its lease will expire"


def test_the_third_signal_ends_a_process_whose_loop_is_stuck(run, url):
    enqueue(run, "hold_loop", "path=never")
    with Process("shop", "-v") as worker:
        worker.until("started hold_loop")
        while worker.process.poll() is None:
            # Signals may merge into one; three must have been seen when it ends.
            worker.signal()
            try:
                worker.process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
        assert worker.end() == 130, worker.log
    assert "third signal" in worker.log


def test_an_idle_worker_is_drained_at_once(url, place):
    with Process("shop") as worker:
        worker.until("receives from default")
        worker.signal()
        assert worker.end() == 0
    assert "draining, 0 still running\n" in worker.log
    assert "stopped: nothing done" in worker.log


def test_a_worker_says_which_signals_stop_it(url, place):
    (place / "polite.py").write_text(
        "import signal, trepid\n"
        "async def rest(): ...\n"
        "WORKER = trepid.Worker(trepid.Actor(rest), handle_signals=[signal.SIGUSR1])\n",
        encoding="utf-8",
    )
    with Process("polite") as worker:
        worker.until("receives from")
        worker.signal(signal.SIGUSR1)
        worker.until("received SIGUSR1: draining")
        assert worker.end() == 0
    with Process("polite") as worker:
        worker.until("receives from")
        worker.signal(signal.SIGINT)
        assert worker.end() == 130, worker.log
    assert "Traceback" not in worker.log


# --------------------------------------------------------------------------------------------- how it ends


def test_a_job_that_ends_the_worker(run, url):
    enqueue(run, "leave")
    with Process("shop") as worker:
        assert worker.end() == 1
    assert "error: the worker crashed: SystemExit: a job left" in worker.log
    assert "Traceback" not in worker.log
    enqueue(run, "leave")
    with Process("shop", "--traceback") as worker:
        assert worker.end() == 1
    assert "Traceback" in worker.log


def test_resources_that_cannot_be_had(url, place):
    (place / "poor.py").write_text(
        "import contextlib, trepid\n"
        "@contextlib.asynccontextmanager\n"
        "async def resources():\n"
        "    raise ConnectionError('no database')\n"
        "    yield\n"
        "async def rest(): ...\n"
        "WORKER = trepid.Worker(trepid.Actor(rest), resources=resources)\n",
        encoding="utf-8",
    )
    with Process("poor") as worker:
        assert worker.end() == 1
    assert "error: the worker crashed: ConnectionError: no database" in worker.log
    assert "Traceback" not in worker.log


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (["shup"], 2, "there is no module 'shup'"),
        (["shop", "--broker", "redis://joe:hunter2@127.0.0.1:1"], 3, "redis://127.0.0.1:1: nobody answers there"),
        (["shop", "--broker", "sqlite:nowhere/jobs.db"], 3, "nowhere' does not exist; create it first"),
        (["shop", "--broker", "sqlite:shop.py"], 3, "this is not an SQLite database"),
    ],
)
def test_a_worker_that_cannot_start(words, code, error, url):
    with Process(*words) as worker:
        assert worker.end() == code
    assert error in worker.log
    assert "Traceback" not in worker.log
    assert "hunter2" not in worker.log


def test_a_worker_that_nobody_can_reach(place):
    with Process("shop", "--broker", "memory:", "--burst") as worker:
        assert worker.end() == 0
    assert "nobody else can enqueue to it" in worker.log


def test_a_worker_makes_its_file(run, place, monkeypatch):
    monkeypatch.setenv("TREPID_BROKER_URL", "sqlite:fresh.db")
    with Process("shop", "--burst") as worker:
        assert worker.end() == 0
    assert json.loads(run("queues", "--json").stdout)["queues"][0]["queue"] == "default"


# ------------------------------------------------------------------------------------------ burst and limits


def test_burst_ends_when_nothing_is_ready(run, url):
    enqueue(run, "chain", "length:=5")
    for number in range(20):
        enqueue(run, "greet", f"name={number}")
    later = enqueue(run, "greet", "name=later", "--in", "1h")
    dead = enqueue(run, "flop", "text=no")
    with Process("shop", "--burst", "--json", "-c", "3") as worker:
        assert worker.end() == 0
    assert json.loads(worker.stdout) == {
        "processed": 27,
        "succeeded": 26,
        "retried": 0,
        "dead": 1,
        "cancelled": 0,
        "released": 0,
        "lost": 0,
        "handed_back": 0,
        "exit_code": 0,
    }
    assert view_of(url, later).state is trepid.State.SCHEDULED
    assert view_of(url, dead).state is trepid.State.DEAD


def test_burst_leaves_a_paused_queue_alone(run, url):
    run("queues", "pause", "default")
    enqueue(run, "greet", "name=x")
    with Process("shop", "-b", "--json") as worker:
        assert worker.end() == 0
    assert json.loads(worker.stdout)["processed"] == 0


def test_a_limit_of_messages(run, url):
    for number in range(5):
        enqueue(run, "greet", f"name={number}")
    with Process("shop", "--max-jobs", "2", "--json") as worker:
        assert worker.end() == 0
    assert json.loads(worker.stdout)["processed"] == 2
    assert json.loads(run("queues", "--json").stdout)["queues"][0]["ready"] == 3


def test_queues_of_the_command_line(run, url):
    enqueue(run, "greet", "name=here")
    with Process("shop", "-b", "-q", "defualt", "--json") as worker:
        assert worker.end() == 0
    assert json.loads(worker.stdout)["processed"] == 0
    assert "no actor here belongs to queue defualt; did you mean default?" in worker.log
    with Process("shop", "-b", "--no-declare", "-q", "more,default", "--json") as worker:
        assert worker.end() == 0
    assert json.loads(worker.stdout)["processed"] == 1
    assert "queue more is not declared" in worker.log


def test_options_of_a_worker_come_from_the_environment(run, url):
    enqueue(run, "greet", "name=here")
    with Process(TREPID_APP="shop", TREPID_WORKER_BURST="1", TREPID_WORKER_LOG_FORMAT="json") as worker:
        assert worker.end() == 0
    assert [json.loads(line) for line in worker.lines]


# ----------------------------------------------------------------------------------------- waiting for results


def test_enqueue_waits_for_the_result(run, url):
    with Process("shop") as worker:
        worker.until("receives from")
        waited = run("enqueue", "greet", "name=Trio", "--wait")
        assert (waited.exit_code, waited.stdout) == (0, '"Hello, Trio!"\n')
        assert "enqueued " in waited.stderr
        told = json.loads(run("enqueue", "greet", "name=Trio", "--wait", "--json", "--app", "shop").stdout)
        assert (told["actor"], told["result"]) == ("greet", "Hello, Trio!")
        failed = run("enqueue", "flop", "text=broken", "--wait", "--id", "bad")
        assert (failed.exit_code, failed.stdout) == (1, "")
        assert "error: job bad failed: ValueError: broken\n hint: trepid dead show bad\n" in failed.stderr


# -------------------------------------------------------------------------------------------------- log lines


def test_log_lines_as_json(run, url):
    greeted, dead = enqueue(run, "greet", "name=x"), enqueue(run, "flop", "text=a\nb")
    with Process("shop", "--burst", "--log-format", "json", "-v") as worker:
        assert worker.end() == 0
    records = [json.loads(line) for line in worker.lines]
    assert all(record["time"].endswith("Z") and record["level"] and record["logger"] for record in records)
    assert (records[0]["event"], records[0]["app"], records[0]["broker"]) == (
        "Greeting",
        "shop:ROUTER",
        "sqlite:jobs.db",
    )
    ended = {record["id"]: record for record in records if record.get("event") == "JobEnded"}
    assert (ended[greeted]["outcome"], ended[greeted]["reply"]) == ("succeeded", "applied")
    assert (ended[dead]["outcome"], ended[dead]["level"], ended[dead]["error"]) == ("dead", "error", "ValueError: a\nb")
    assert (records[-1]["event"], records[-1]["exit_code"], records[-1]["dead"]) == ("Ended", 0, 1)


def test_log_lines_for_files(run, url):
    enqueue(run, "flop", "text=a\nb\x1b[2J")
    with Process("shop", "--burst") as worker:
        assert worker.end() == 0
    line = next(line for line in worker.lines if "dead flop" in line)
    assert line.split()[1:3] == ["error", "trepid.worker:"]
    assert line.endswith("ValueError: a\\nb\\x1b[2J\n")


def test_the_least_that_is_logged(run, url):
    enqueue(run, "greet", "name=x")
    with Process("shop", "--burst", "--log-level", "warning") as worker:
        assert worker.end() == 0
    assert worker.log == ""


def test_an_application_that_sets_up_the_log_itself_has_the_last_word(run, url, place):
    (place / "loud.py").write_text(
        "import logging, logging.config, shop\n"
        "logging.config.dictConfig({'version': 1, 'disable_existing_loggers': False,\n"
        "    'formatters': {'own': {'format': 'OWN %(message)s'}},\n"
        "    'handlers': {'own': {'class': 'logging.StreamHandler', 'formatter': 'own'}},\n"
        "    'root': {'handlers': ['own'], 'level': 'INFO'}})\n"
        "ROUTER = shop.ROUTER\n",
        encoding="utf-8",
    )
    enqueue(run, "greet", "name=x")
    with Process("loud", "--burst") as worker:
        assert worker.end() == 0
    assert all(line.startswith("OWN ") for line in worker.lines)
    assert "succeeded greet" in worker.log


def on_a_terminal(*words):
    """Run a worker whose stderr is a terminal, and return what it writes there."""
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-m", "trepid", "worker", *words], stdout=subprocess.PIPE, stderr=theirs, env=environment
    )
    os.close(theirs)
    deadline = threading.Timer(DEADLINE, process.kill)
    deadline.start()
    text = b""
    try:
        while data := os.read(ours, 4096):
            text += data
    except OSError:
        pass  # the end, where nobody holds the other side any more
    finally:
        deadline.cancel()
        os.close(ours)
        process.communicate()
    assert process.returncode == 0
    return text.decode()


def test_log_lines_for_people(run, url):
    greeted, dead, stray = enqueue(run, "greet", "name=x"), enqueue(run, "flop", "text=a\x1b[2J"), enqueue(run, "who")
    text = on_a_terminal("shop", "--burst")
    assert f"\x1b[1mtrepid {trepid.__version__}\x1b[0m  shop:ROUTER  sqlite:jobs.db" in text
    assert "queues default  7 actors  at most 1,000 jobs at once  grace 25s  Ctrl-C stops it" in text
    lines = {id: next(line for line in text.splitlines() if id in line) for id in (greeted, dead, stray)}
    assert "\x1b[32m✓\x1b[0m greet" in lines[greeted]
    assert f"\x1b[36mtrepid dead show {dead}\x1b[0m" in lines[dead]
    assert r"ValueError: a\x1b[2J" in lines[dead]
    assert "released: unknown actor  again in 5s" in lines[stray]
    assert "stopped: 1 succeeded, 1 dead, 1 released" in text


def test_json_on_a_terminal_has_no_colours_and_no_banner(run, url):
    text = on_a_terminal("shop", "--burst", "--log-format", "json")
    assert [json.loads(line)["level"] for line in text.splitlines()]
