"""What is said, and with which exit code, when a command cannot do what it was asked to."""

import json
import subprocess
import sys

import pytest

import trepid
from trepid.cli.root import trepid as program


def last_words(result):
    """Return the error and the hint: all that is ever said, and on stderr."""
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert lines[0].startswith("error: "), result.stderr
    assert len(lines) <= 2, result.stderr
    return lines[0].removeprefix("error: "), lines[1].removeprefix(" hint: ") if len(lines) > 1 else ""


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (["queus"], "trepid has no command 'queus'", "did you mean queues"),
        (["queues", "lits"], "trepid queues has no command 'lits'", "did you mean list?"),
        (["queues", "--jsn"], "--jsn", "trepid queues list --help"),
        (["queues", "pause"], "Missing argument", "trepid queues pause --help"),
        (["queues", "pause", "a b"], "must match", "trepid queues pause --help"),
        (["dead", "requeue"], "which dead letters shall be requeued?", "name their ids, filter, or say --all"),
        (["dead", "purge", "x", "--all"], "ids and filters do not go together", "name ids"),
        (["enqueue", "greet", "--in", "soon"], "'soon' is no span of time", "trepid enqueue --help"),
        (["enqueue", "greet", "--in", "1s", "--at", "2027-01-01T00:00Z"], "--in and --at do not go together", ""),
        (["enqueue", "greet", "--in", "999d"], "delay must be at most 400 days", ""),
        (["enqueue", "not a name"], "must match", ""),
        (["enqueue", "greet", "--app", "shop"], "missing a required argument: 'name'", "greet takes (name: str, *"),
        (["enqueue", "greet", "--id", "a b"], "id 'a b' must match", ""),
        (["enqueue", "greet", "--unique", "x" * 300], "unique key must have 1 to 256", ""),
        (["worker", "shop", "-c", "0"], "0 is not in the range x>=1", "trepid worker --help"),
        (["worker", "shop", "--lease", "10ms"], "lease must be at least 1 second", ""),
        (["worker"], "no application is named", "name it, or set TREPID_APP"),
        (["check"], "no application is named", "name it, or set TREPID_APP"),
    ],
)
def test_a_wrong_word(words, error, hint, run, url):
    result = run(*words)
    assert result.exit_code == 2
    said, advice = last_words(result)
    assert error in said
    assert hint in advice


@pytest.mark.parametrize(
    "words",
    [["queues"], ["dead"], ["enqueue", "greet"], ["worker", "shop"], ["dead", "show", "x"], ["queues", "pause", "a"]],
)
def test_no_broker_is_named(words, run, place):
    result = run(*words)
    assert result.exit_code == 2
    assert last_words(result) == ("no broker is named", "--broker sqlite:jobs.db, or set TREPID_BROKER_URL")


@pytest.mark.parametrize(
    ("broker", "code", "error"),
    [
        ("jobs.db", 2, "no scheme"),
        ("ftp://joe:hunter2@host/jobs?password=hunter2", 2, "unknown scheme 'ftp'"),
        ("redis://joe:hunter2@127.0.0.1:1/0", 3, "redis://127.0.0.1:1: nobody answers there"),
        ("sqlite:missing.db", 3, "there is no such file"),
        ("sqlite:nowhere/jobs.db", 3, "there is no such file"),
        ("sqlite:shop.py", 3, "this is not an SQLite database"),
        ("sqlite:.", 3, "this is a directory"),
        ("memory:", 2, "lives inside of one process"),
    ],
)
@pytest.mark.parametrize("words", [["queues"], ["dead"], ["enqueue", "greet", "name=x"]])
def test_a_broker_that_cannot_be_used(broker, code, error, words, run, place):  # noqa: PLR0917 - all of them by name
    before = sorted(place.rglob("*"))
    result = run(*words, "--broker", broker)
    assert result.exit_code == code
    said, _ = last_words(result)
    assert error in said
    assert "hunter2" not in result.stderr
    assert sorted(place.rglob("*")) == before, "a mistyped name must not leave a file"


def test_a_path_as_other_libraries_write_it(run, place):
    for path in ("///jobs.db", "//jobs.db"):
        said, hint = last_words(run("queues", "--broker", f"sqlite:{path}"))
        assert said == f"sqlite:{path}: there is no such file"
        assert "sqlite:jobs.db is in this directory, and sqlite:/jobs.db is not" in hint


def test_a_damaged_file(run, url, place):
    file = place / "jobs.db"
    file.write_bytes(file.read_bytes()[:100] + b"\xff" * 8000)
    result = run("queues")
    assert result.exit_code == 3
    said, hint = last_words(result)
    assert said.startswith("jobs.db") or str(file) in said
    assert "nothing was changed" in hint


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["queues", "list", "defualt"], "defualt"),
        (["queues", "pause", "default", "defualt"], "defualt"),
        (["queues", "flush", "defualt", "-y"], "defualt"),
        (["queues", "delete", "defualt", "-y"], "defualt"),
        (["dead", "-q", "defualt"], "defualt"),
        (["dead", "requeue", "--all", "-q", "defualt"], "defualt"),
        (["enqueue", "greet", "-q", "defualt"], "defualt"),
    ],
)
def test_a_queue_that_is_not_declared(words, name, run, url):
    result = run(*words)
    assert result.exit_code == 4
    assert last_words(result) == (f"queue {name!r} is not declared", "did you mean default?")
    assert '"paused": false' in run("queues", "--json").stdout


def test_the_next_command_where_nothing_is_similar(run, url):
    run("queues", "delete", "default")
    result = run("enqueue", "greet", "-q", "emails")
    assert last_words(result)[1] == "trepid queues declare emails"


# ------------------------------------------------------------------------------------------------- applications


@pytest.mark.parametrize(
    ("app", "error", "hint"),
    [
        ("shup", "there is no module 'shup'", "did you mean shop?"),
        ("shup.jobs:ROUTER", "there is no module 'shup'", "did you mean shop?"),
        ("entirely.elsewhere:x", "there is no module 'entirely'", "start it where entirely is"),
        ("shop:ROUTR", "shop:ROUTR: there is no 'ROUTR'", "did you mean ROUTER?"),
        ("shop.py", "'shop.py' is no application", "shop:router"),
        ("shop:ROUTER[0]", "is no application", "shop.jobs:router"),
        ("shop:greet", "shop:greet is a coroutine function", "trepid.Router(trepid.Actor(greet))"),
        ("shop:hold_thread", "shop:hold_thread needs arguments", "trepid.Actor(hold_thread)"),
        ("shop:SHELF", "there is no 'SHELF'", "there are: "),
        ("shop:time", "shop:time is a module, no Worker, Router or Actor", "an application is named like"),
        ("broken:x", "importing broken failed: ZeroDivisionError: division by zero", "--traceback"),
        ("unparsed:x", "importing unparsed failed: SyntaxError", "--traceback"),
        ("needy:x", "importing needy failed: ModuleNotFoundError: No module named 'not_installed'", "--traceback"),
        ("quits:x", "importing quits failed: SystemExit: 3", "--traceback"),
        ("slip:x", "slip.py, line 3)", "--traceback"),
        ("several", "which application of several is meant?", "several:ONE, several:OTHER"),
        ("factories:fails", "calling factories:fails failed: RuntimeError: no configuration", "--traceback"),
        ("factories:ROUTER()", "ROUTER is a Router and cannot be called", "an application is named like"),
    ],
)
def test_an_application_that_cannot_be_loaded(app, error, hint, run, place):
    files = {
        "broken": "1 / 0",
        "unparsed": "def",
        "needy": "import not_installed",
        "quits": "raise SystemExit(3)",
        "slip": "import trepid\ndef grind(n): ...\ntrepid.Actor(grind)",
        "several": "import trepid\nONE = trepid.Router()\nOTHER = trepid.Router()",
        "factories": "import trepid\nROUTER = trepid.Router()\ndef fails(): raise RuntimeError('no configuration')",
    }
    for name, source in files.items():
        (place / f"{name}.py").write_text(source, encoding="utf-8")
    result = run("check", app)
    assert result.exit_code == 2
    said, advice = last_words(result)
    assert error in said
    assert hint in advice


@pytest.mark.parametrize(
    "app", ["mill", "mill:WORKER", "mill:make", "mill:make()", "mill:Box.worker", "mill:GRIND", "mill:WORKER.router"]
)
def test_an_application_that_can_be_loaded(app, run, place):
    (place / "mill.py").write_text(
        "import trepid\n"
        "async def grind(): ...\n"
        "GRIND = trepid.Actor(grind)\n"
        "WORKER = trepid.Worker(GRIND)\n"
        "def make(): return WORKER\n"
        "class Box: worker = WORKER\n",
        encoding="utf-8",
    )
    result = run("check", app, "--json")
    assert result.exit_code == 0, result.stderr
    assert [actor["name"] for actor in json.loads(result.stdout)["actors"]] == ["grind"]


def test_the_application_may_come_from_the_environment(run, place, monkeypatch):
    monkeypatch.setenv("TREPID_APP", "shop")
    assert json.loads(run("check", "--json").stdout)["app"] == "shop:ROUTER"


def test_a_traceback_is_shown_when_asked_for(run, place):
    (place / "broken.py").write_text("1 / 0", encoding="utf-8")
    assert "Traceback" not in run("check", "broken").stderr
    for words in (["--traceback", "check", "broken"], ["check", "broken", "--traceback"]):
        result = run(*words)
        assert result.exit_code == 2
        assert "Traceback" in result.stderr
        assert "ZeroDivisionError" in result.stderr
        assert "error: importing broken failed" in result.stderr


# ---------------------------------------------------------------------------------------------- the environment


def test_options_come_from_the_environment(run, url, monkeypatch):
    monkeypatch.setenv("TREPID_QUEUES_LIST_JSON", "1")
    assert json.loads(run("queues").stdout)["queues"]
    monkeypatch.setenv("TREPID_ENQUEUE_QUEUE", "elsewhere")
    assert "'elsewhere'" in run("enqueue", "greet").stderr
    monkeypatch.setenv("TREPID_ENQUEUE_QUEUE", "default")
    assert run("enqueue", "greet").exit_code == 0


def test_versions(run):
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"trepid {trepid.__version__}, Python 3.")


@pytest.mark.parametrize(
    "words", [[], ["worker"], ["enqueue"], ["queues"], ["queues", "list"], ["dead"], ["dead", "show"]]
)
def test_help(words, run):
    result = run(*words, "--help")
    assert result.exit_code == 0
    assert f"Usage: {' '.join(['trepid', *words])}" in result.stdout


def test_every_command_and_option_says_what_it_is():
    def walk(command):
        assert command.help, command.name
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert parameter.help or parameter.name == "priority", f"{command.name} {parameter.name}"
        for child in getattr(command, "commands", {}).values():
            walk(child)

    walk(program)


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "trepid", "--version"], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith("trepid ")


def test_without_the_extra():
    code = "import sys; sys.modules['rich_click'] = None; from trepid.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr == 'error: the command line needs the extra "cli"\n hint: pip install "trepid[cli]"\n'


def test_what_the_program_imports_before_it_knows_the_command():
    code = "import trepid, sys; before = set(sys.modules); import trepid.cli.root; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    rooms = {name.partition(".")[0] for name in done.stdout.split()}
    assert "click" in rooms
    assert "rich" not in rooms


# ------------------------------------------------------------------------------------------------ a second engine


@pytest.mark.parametrize("words", [["queues"], ["enqueue", "greet", "name=x"], ["worker", "shop", "--burst"]])
@pytest.mark.parametrize("by", ["option", "environment"])
def test_a_second_engine_reaches_the_broker(words, by, run, url, monkeypatch):
    if by == "environment":
        monkeypatch.setenv("TREPID_RESULTS_URL", "sqlite:results.db")
    result = run(*words, *(["--results", "sqlite:results.db"] if by == "option" else []))
    assert result.exit_code != 0
    # Which keeps its results itself, and says so.
    assert "does not support a second engine for results" in result.stderr


def test_a_second_engine_that_cannot_be_used(run, url):
    result = run("queues", "--results", "ftp://joe:hunter2@host")
    assert result.exit_code == 2
    assert "unknown scheme 'ftp'" in result.stderr
    assert "hunter2" not in result.stderr
