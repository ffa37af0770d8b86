"""A worker process is stopped past its lease (SIGSTOP) and continued: what it settles late changes nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio

import trepid
from tests.chaos.logbook import Logbook
from tests.chaos.storm_worker import LEASE
from tests.chaos.theatres import ENGINES, theatre

_LONG = 1.5
"""Seconds that the job runs: stopped in their middle, it goes on when the process does."""


async def _until(condition, seconds: float = 60.0) -> None:  # type: ignore[no-untyped-def]
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.02)


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_suspended_worker_loses_its_lease(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Another worker takes the job over and ends it; the one that was suspended can do nothing any more."""
    where = theatre(engine, tmp_path, request)
    logs = tmp_path / "logs"
    logs.mkdir()
    book = Logbook(logs)
    command = [sys.executable, "-m", "tests.chaos.suspended_worker", where.url, str(logs), str(_LONG)]
    first = subprocess.Popen(command)
    second = None
    try:
        async with trepid.open_connection(where.url) as connection:
            await connection.declare("default")
            await connection.enqueue(trepid.Job("slow", id="job", max_crashes=10))
            await _until(lambda: book.read_on() or book.starts)
            os.kill(first.pid, signal.SIGSTOP)
            stopped = time.time()
            second = subprocess.Popen(command)
            # Leases that the engine's clock ends; else its silence is noticed by the server.
            await _until(lambda: book.read_on() and {s.process for s in book.starts} == {first.pid, second.pid})
            assert book.starts[-1].process == second.pid
            assert book.starts[-1].at - stopped >= (LEASE - 1 if connection.capabilities.expiry == "lease" else 0)
            os.kill(first.pid, signal.SIGCONT)
            # It wakes, finds its lease lost, and stays a good worker.
            await connection.enqueue(trepid.Job("slow", id="next"))
            await _until(lambda: book.read_on() and "next" in book.ended)
            first.send_signal(signal.SIGTERM)
            second.send_signal(signal.SIGTERM)
            for process in (first, second):
                assert await trio.to_thread.run_sync(process.wait) == 0
            stats = await connection.stats()
            assert (stats.live, stats.dead) == (0, 0)
            if connection.capabilities.peek:
                assert stats.done == 2
                view = await connection.handle("job").status()
                assert (view.state, view.crashes, view.attempts) == (trepid.State.DONE, 1, 1)
    finally:
        for process in filter(None, (first, second)):
            if process.poll() is None:
                process.kill()
            process.wait()
    book.read_on()
    # The suspended run stopped itself when it woke, before it could end: it ended only where it had been taken over.
    assert [start.id for start in sorted(book.starts)].count("job") == 2
