"""The demonstration, run as its visitors run it: in a process of its own, with SQLite."""

import hashlib
import json
import shlex
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
import trio

import trepid

ROOT = Path(__file__).resolve().parent.parent.parent
DEADLINE = 60
ALWAYS_DEAD = {"large.txt", "latin-1.txt"}

FILES = {
    "README.md": "# Ships\n\nSee [the log](log/first.txt#top), [nothing](log/second.txt?plain) and [Trio](https://trio.invalid).\n"
    "`[code](no-link)`\n",
    "log/first.txt": "Sailing, sailing!  SAILING again; [no link](no-file) in a text file.\n",
    "log/naïve.txt": "Übermut 42\n",
    "empty.txt": "",
}
# Counted in another way than the demonstration does, and by hand.
WORDS = [
    word
    for text in FILES.values()
    for word in "".join(character if character.isalpha() else " " for character in text).casefold().split()
]
assert len(WORDS) == 21 + 12 + 1


@pytest.fixture
def harbour(tmp_path):
    folder = tmp_path / "harbour"
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for name, content in {"photo.jpg": b"\xff\xd8\0", ".git/HEAD": b"ref", "build/made.txt": b"by a tool"}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def fleet(tmp_path):
    """So many files that a run can be stopped in the middle."""
    folder = tmp_path / "fleet"
    folder.mkdir()
    for number in range(300):
        (folder / f"ship-{number}.txt").write_text(f"ship {number} sails\n", encoding="utf-8")
    return folder


def command(directory, tmp_path, *options):
    return [sys.executable, "-m", "demo", str(directory), "--broker", f"sqlite:{tmp_path / 'jobs.db'}", *options]


def demonstrate(directory, tmp_path, *options, status=0):
    done = subprocess.run(
        command(directory, tmp_path, *options), cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert done.returncode == status, done.stderr
    return done


def run_of(directory, tmp_path, *options, status=0):
    return json.loads(demonstrate(directory, tmp_path, "--json", *options, status=status).stdout)


def rows(tmp_path):
    """What is in the index, by name; nothing as long as it is not there."""
    path = tmp_path / "jobs-index.db"
    if not path.exists():
        return {}
    with closing(sqlite3.connect(path, timeout=DEADLINE)) as connection:
        connection.row_factory = sqlite3.Row
        try:
            return {Path(row["path"]).name: row for row in connection.execute("SELECT * FROM files")}
        except sqlite3.OperationalError:  # its table is not there yet
            return {}


# ---------------------------------------------------------------------------------------- the index


def test_the_numbers_agree_with_an_independent_count(harbour, tmp_path):
    run = run_of(harbour, tmp_path, "--fail-fraction", "0")
    summary = run["summary"]
    assert summary["files"] == len(FILES)
    assert summary["bytes"] == sum(len(text.encode()) for text in FILES.values())
    assert summary["words"] == len(WORDS)
    assert summary["links"] == 3
    assert summary["broken_links"] == [[str(harbour / "README.md"), "log/second.txt?plain"]]
    assert summary["largest"][0] == [str(harbour / "README.md"), len(FILES["README.md"])]
    long = Counter(word for word in WORDS if len(word) > 4)
    assert dict(summary["frequent"]).items() <= long.items()
    assert [count for _, count in summary["frequent"]] == sorted(long.values(), reverse=True)[:8]
    assert run["report"]["retried"] == 0
    for name, text in FILES.items():
        row = rows(tmp_path)[Path(name).name]
        assert row["checksum"] == hashlib.sha256(text.encode()).hexdigest()
        assert row["bytes"] == len(text.encode())
    assert json.loads(rows(tmp_path)["naïve.txt"]["counts"]) == {"übermut": 1}


def test_what_fails_on_purpose_is_retried(harbour, tmp_path):
    done = demonstrate(harbour, tmp_path, "--json", "--fail-fraction", "1")
    run = json.loads(done.stdout)
    count = len(FILES) + len(ALWAYS_DEAD)
    assert f"{count} jobs fail on purpose" in done.stderr
    assert run["survey"] == {"files": count, "enqueued": count, "failing": count}
    assert run["report"]["retried"] == count
    assert run["report"]["dead"] == len(ALWAYS_DEAD)
    assert run["report"]["succeeded"] == 2 * len(FILES) + 2  # each is read and studied; a survey, and a summary
    assert run["summary"]["files"] == len(FILES)
    assert run["left"] == 0


def test_the_limit_leaves_files_out(harbour, tmp_path):
    assert run_of(harbour, tmp_path, "--limit", "2")["summary"]["files"] == 2


def test_only_what_changed_is_indexed_again(harbour, tmp_path):
    run_of(harbour, tmp_path)
    first = rows(tmp_path)
    assert run_of(harbour, tmp_path)["survey"]["enqueued"] == 0
    (harbour / "empty.txt").write_text("no more\n", encoding="utf-8")
    (harbour / "log" / "first.txt").unlink()
    run = run_of(harbour, tmp_path)
    assert run["survey"]["enqueued"] == 1
    second = rows(tmp_path)
    assert second.keys() == first.keys() - {"first.txt"}
    assert {name for name, row in second.items() if tuple(row) != tuple(first[name])} == {"empty.txt"}


# ---------------------------------------------------------------------------------------- dead letters


def test_a_dead_letter_is_requeued_by_the_command_that_is_shown(harbour, tmp_path):
    shown = demonstrate(harbour, tmp_path).stdout
    assert "large.txt has" in shown
    assert "latin-1.txt is not UTF-8" in shown
    requeue, again = (
        shlex.split(next(line for line in shown.splitlines() if line.startswith("  ") and word in line))
        for word in (" dead requeue ", " -m demo ")
    )
    assert Path(requeue[0]).name == "trepid"
    if not (ROOT / requeue[0]).exists():  # run from a checkout that is not installed
        requeue[:1] = [sys.executable, "-c", "from trepid.cli import main; main()"]
    subprocess.run(requeue, cwd=ROOT, stdin=subprocess.DEVNULL, timeout=DEADLINE, check=True)
    done = subprocess.run([*again, "--json"], cwd=ROOT, capture_output=True, timeout=DEADLINE, check=True)
    run = json.loads(done.stdout)
    assert run["report"]["dead"] == 1, "the requeued one is tried, and the other one is left alone"
    assert requeue[-1] in [id for id, _ in run["dead"]]
    assert {error.partition(" ")[0] for _, error in run["dead"]} == ALWAYS_DEAD


def test_a_mended_file_is_indexed(harbour, tmp_path):
    run_of(harbour, tmp_path)
    (tmp_path / "jobs-specimens" / "latin-1.txt").write_text("a naïve café\n", encoding="utf-8")
    run_of(harbour, tmp_path)
    assert rows(tmp_path).keys() == {*(Path(name).name for name in FILES), "latin-1.txt"}


# ---------------------------------------------------------------------------------------- stopping


# Trio's own receiver gets the signal, at a moment when all files wait to be retried: nothing can have ended by then.
CTRL_C = """
import os, signal
from demo.__main__ import main
from demo.screen import Screen
Screen.surveyed = lambda self, survey: os.kill(os.getpid(), signal.SIGINT)
main()
"""


def test_ctrl_c_stops_it_and_the_next_run_goes_on(fleet, tmp_path):
    options = command(fleet, tmp_path, "--json", "--fail-fraction", "1")[3:]
    done = subprocess.run(
        [sys.executable, "-c", CTRL_C, *options], cwd=ROOT, capture_output=True, timeout=DEADLINE, check=False
    )
    assert done.returncode == 130, done.stderr
    first = json.loads(done.stdout)
    assert first["summary"] is None
    assert first["left"] > 0
    second = run_of(fleet, tmp_path)
    assert second["left"] == 0
    assert second["summary"]["files"] == 300
    assert len(second["dead"]) == len(ALWAYS_DEAD)


# Trio's own handler gets the signal, while the worker is being started in the nursery of the run.
TOO_EARLY = """
import os, signal
import trepid
from demo.__main__ import main
async def run(self, connection, *, task_status):
    os.kill(os.getpid(), signal.SIGINT)
    await connection.queues()
trepid.Worker.run = run
main()
"""


def test_ctrl_c_before_it_has_begun_is_no_crash(fleet, tmp_path):
    options = command(fleet, tmp_path)[3:]
    done = subprocess.run(
        [sys.executable, "-c", TOO_EARLY, *options], cwd=ROOT, capture_output=True, timeout=DEADLINE, check=False
    )
    assert done.returncode == 1, done.stderr
    assert b"Aborted" in done.stdout + done.stderr
    assert b"Traceback" not in done.stderr


async def studies_in_flight(tmp_path):
    async with trepid.open_connection(f"sqlite:{tmp_path / 'jobs.db'}") as connection:
        ids = [view.id async for view in connection.messages("demo", trepid.State.LEASED)]
    return {id.removeprefix("study-") for id in ids if id.startswith("study-")}


def test_after_a_sudden_death_nothing_is_indexed_twice(fleet, tmp_path):
    with subprocess.Popen(
        command(fleet, tmp_path, "--fail-fraction", "0"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as running:
        deadline = time.monotonic() + DEADLINE
        while len(rows(tmp_path)) < 20 and time.monotonic() < deadline:
            assert running.poll() is None, running.stdout.read()
            time.sleep(0.01)
        running.kill()
        running.communicate(timeout=DEADLINE)  # Its processes hold the pipe, too: now they have noticed.
    before = {row["version"] for row in rows(tmp_path).values()}
    assert 20 <= len(before) < 300
    in_flight = trio.run(studies_in_flight, tmp_path)
    with closing(sqlite3.connect(tmp_path / "jobs-index.db", timeout=DEADLINE)) as index:
        index.execute("CREATE TABLE log (version TEXT)")
        index.execute("CREATE TRIGGER log AFTER INSERT ON files BEGIN INSERT INTO log VALUES (new.version); END")
        index.commit()
        second = run_of(fleet, tmp_path, "--fail-fraction", "0")
        written = Counter(version for (version,) in index.execute("SELECT version FROM log"))
    assert second["summary"]["files"] == 300
    assert second["left"] == 0
    assert set(written.values()) == {1}
    # What was in the hands of the dead worker may have been done, and is done once more: at least once is the promise.
    assert before & written.keys() <= in_flight
