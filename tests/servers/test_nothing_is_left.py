"""However a session ends: no process, no file of it is left."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.servers.ground import Ground
from tests.servers.keeper import follow, marked
from tests.servers.postgres import Postgres
from tests.servers.server import lives

ROOT = Path(__file__).resolve().parents[2]
SESSION = """
import time

KINDS = {kinds}


def test_that_stays(ground, request):
    servers = [request.getfixturevalue(f"own_{{kind}}")() for kind in KINDS]
    servers.append(request.getfixturevalue("postgres_server"))
    for server in servers:
        for pid in server.processes():
            print("process", pid, flush=True)
    print("folder", ground.folder, flush=True)
    time.sleep({stay})
"""
ALL = ["redis", "postgres", "nats", "rabbitmq"]


def begin(tmp_path, kinds, stay):
    """Start a session of pytest; return it with its folder and its processes, as soon as all of its servers serve."""
    (tmp_path / "test_session.py").write_text(SESSION.format(kinds=kinds, stay=stay))
    options = ["-q", "-s", "-p", "tests.servers.fixtures", "-p", "no:cacheprovider", "-c", os.devnull]
    session = subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, "--rootdir", tmp_path, tmp_path],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    pids, said = [], []
    for line in session.stdout:
        said.append(line)
        word, _, value = line.strip().rpartition(" ")
        if word.endswith("process"):
            pids.append(int(value))
        if word.endswith("folder"):
            return session, Path(value), pids
    pytest.fail("".join(said))


@pytest.mark.skipif(not Path("/proc").exists(), reason="other systems do not tell about other processes")
@pytest.mark.parametrize(
    ("kinds", "end"),
    [
        (ALL, signal.SIGKILL),
        (["redis", "nats"], signal.SIGTERM),
        (["redis", "nats"], signal.SIGINT),
        (["redis", "nats"], None),
    ],
    ids=["killed", "terminated", "interrupted", "normal"],
)
def test_nothing_outlives_a_session(tmp_path, kinds, end):
    session, folder, pids = begin(tmp_path, kinds, stay=0 if end is None else 600)
    try:
        if end is not None:
            found = set(marked(folder))
            living = {pid for pid in pids if lives(pid)}  # the connection of a readiness check may have ended
            assert found >= living
            assert len(living) > len(kinds) + 2  # PostgreSQL's children, too
            assert folder.is_dir()
            os.kill(session.pid, end)
        status = session.wait(timeout=60)
        assert (status == 0) == (end is None)
        deadline = time.monotonic() + 20
        while (folder.exists() or any(map(lives, pids))) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert [pid for pid in pids if lives(pid)] == []
        assert not folder.exists()
        # The keeper goes last.
        while (left := list(marked(folder))) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert left == []
    finally:
        session.kill()
        session.wait()
        session.stdout.close()


def test_a_server_that_nobody_has_closed_ends_with_the_ground():
    with contextlib.closing(Ground()) as ground, Postgres(ground, durable=False) as server:
        pids = server.processes()
        assert lives(server.pid)
        assert sum(map(lives, pids)) > 3
        ground.close()
        assert not any(map(lives, pids))
        assert not ground.folder.exists()


def test_the_keeper_remembers_who_is_left():
    assert follow(["12\n", "13\n", "-12\n", "14"]) == {13, 14}
    assert follow(["12\n", "-"]) == {12}


def test_a_process_of_somebody_else_is_not_marked(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, cwd=tmp_path) as inside:
        assert list(marked(tmp_path)) == [inside.pid]
        assert inside.pid not in marked(tmp_path / "elsewhere")
        inside.communicate(b"\n", timeout=20)
