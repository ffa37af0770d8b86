"""The pytest fixtures, in a pytest of their own, as in a project that has Trepid installed."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

STORY = """
import pytest, trio, trepid

async def greet(name: str) -> str:
    await trio.sleep(300)
    return f"Hello, {name}"

GREET = trepid.Actor(greet, retries=1)
"""


def pytest_on(folder, story, *options):
    """Run a test file in a pytest of its own."""
    (folder / "test_story.py").write_text(STORY + story, encoding="utf-8")
    plugin = [] if installed() else ["-p", "trepid.testing.pytest_plugin"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--strict-markers", *plugin, *options]
    done = subprocess.run(
        [*command, "-W", "error", "test_story.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )
    return done.stdout + done.stderr


def installed():
    from importlib.metadata import entry_points

    return any(point.name == "trepid" for point in entry_points(group="pytest11"))


GOOD = """
@pytest.mark.trepid(GREET, lease=5)
async def test_marker(trepid_desk, trepid_recorder):
    trepid_desk.fail_next(GREET)
    ran = await trepid_desk.run(GREET.job("Ann"))
    assert ran.result == "Hello, Ann"
    assert trepid_desk.worker.lease == 5
    assert trepid_desk.recorder is trepid_recorder
    assert trepid_recorder.counts() == {"retried": 1, "succeeded": 1}

class TestOverridden:
    @pytest.fixture
    def trepid_worker(self):
        return trepid.Worker(GREET)

    async def test_fixture(self, trepid_desk):
        assert (await trepid_desk.run(GREET.job("Bob"))).result == "Hello, Bob"

async def test_without_actors(trepid_desk):
    assert await trepid_desk.run_until_idle() == trepid.Report()

async def test_own_worker(trepid_broker, trepid_recorder):
    async with trepid.open_connection(trepid_broker) as connection, trio.open_nursery() as nursery:
        worker = trepid.Worker(GREET, observers=[trepid_recorder])
        running = await nursery.start(worker.run, connection)
        handle = await connection.enqueue(GREET.job("Eve"))
        await handle.result()
        running.stop()
    assert trepid_recorder.succeeded() == (handle.id,)

async def test_clock_of_the_test(trepid_broker, mock_clock):
    start = trio.current_time()
    mock_clock.jump(5)
    assert trio.current_time() - start == 5
    with pytest.raises(AttributeError):
        trio.lowlevel.current_clock().autojump

def test_sync(trepid_recorder, trepid_broker):
    assert trepid_recorder.processed == 0
"""


def test_the_fixtures_work_in_virtual_time(tmp_path):
    # Each of these jobs takes five minutes.
    assert "6 passed" in pytest_on(tmp_path, GOOD, "-o", "trio_mode=true")


def test_without_trio_mode_a_marker_does(tmp_path):
    story = """
@pytest.mark.trio
@pytest.mark.trepid(GREET)
async def test_marked(trepid_desk):
    assert (await trepid_desk.run(GREET.job("Ann"))).elapsed == 300
"""
    assert "1 passed" in pytest_on(tmp_path, story)


def test_a_runner_of_the_tests_own_is_used_with_virtual_time(tmp_path):
    story = """
ran = []

def run(*args, **options):
    ran.append(options["clock"])
    return trio.run(*args, **options)

@pytest.mark.trio(run=run)
async def test_runner(trepid_broker, trepid_recorder):
    await trio.sleep(3600)
    assert len(ran) == 1
"""
    assert "1 passed" in pytest_on(tmp_path, story)


def test_a_failing_test_fails(tmp_path):
    story = """
@pytest.mark.trepid(GREET)
async def test_fails(trepid_desk):
    assert (await trepid_desk.run(GREET.job("Ann"))).result == "Bye"
"""
    output = pytest_on(tmp_path, story, "-o", "trio_mode=true")
    assert "1 failed" in output
    assert "'Hello, Ann' == 'Bye'" in output


def test_the_plugin_imports_nothing_that_it_need_not():
    """Every pytest run of an installed environment pays for it."""
    code = (
        "import sys, trepid.testing.pytest_plugin as p; print(*(set(vars(p)) & {'trepid', 'trio'}), len(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, cwd=ROOT
    )
    assert done.stdout.split()[:-1] == []


@pytest.mark.trepid(queues=["elsewhere"])
async def test_the_marker_takes_settings_of_the_worker(trepid_desk):
    assert await trepid_desk.queues() == ["elsewhere"]
