"""A storm: worker processes on one file, killed with SIGKILL at random moments, and the account of what happened."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import attrs
import trio

import trepid
from tests.chaos.storm_worker import BRAVE

_AT_ONCE = 500


@attrs.frozen
class Account:
    """What became of a storm's jobs.

    Attributes:
      lost: jobs that are not done.
      executions: how often jobs were started, all told.
      extra: starts beyond the first of their job.
      unexplained: extra starts that no kill explains.
      kills: workers that were killed.
      integrity: what SQLite says of the file.
      seconds: how long it took.
    """

    lost: tuple[str, ...]
    executions: int
    extra: int
    unexplained: tuple[str, ...]
    kills: int
    integrity: str
    seconds: float


@attrs.define
class Crew:
    """The worker processes of a storm."""

    database: Path
    logs: Path
    processes: list[subprocess.Popen[bytes]] = attrs.Factory(list)
    killed: set[int] = attrs.Factory(set)

    def hire(self) -> None:
        """Start a worker process."""
        command = [sys.executable, "-m", "tests.chaos.storm_worker", str(self.database), str(self.logs)]
        self.processes.append(subprocess.Popen(command))

    def kill(self, rng: random.Random) -> None:
        """Kill one at random, and hire another."""
        victim = rng.choice(self.processes)
        self.processes.remove(victim)
        assert victim.poll() is None, f"a worker ended by itself with {victim.returncode}"
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        self.killed.add(victim.pid)
        self.hire()

    def dismiss(self) -> None:
        """End them all."""
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise

    def starts(self) -> dict[str, list[int]]:
        """Return which processes started each job, in no order."""
        starts: dict[str, list[int]] = {}
        for log in self.logs.iterdir():
            for line in log.read_text().splitlines():
                starts.setdefault(line, []).append(int(log.name))
        return starts


async def storm(folder: Path, *, jobs: int, workers: int, kills: int, seed: int) -> Account:
    """Run *jobs* jobs on *workers* processes, and kill *kills* of them while they work."""
    rng = random.Random(seed)
    logs = folder / "starts"
    logs.mkdir()
    crew = Crew(folder / "jobs.db", logs)
    began = trio.current_time()
    async with trepid.open_connection(f"sqlite:{crew.database}") as connection:
        await connection.declare("default")
        handles = []
        for first in range(0, jobs, _AT_ONCE):
            numbers = range(first, min(first + _AT_ONCE, jobs))
            handles += await connection.enqueue_many([BRAVE.job(number) for number in numbers])
        try:
            for _ in range(workers):
                crew.hire()
            for n in range(kills):
                # The kills are spread over the work, wherever that has got to, at moments that nobody chose.
                await _until_done(connection, jobs * n // (kills + 1))
                await trio.sleep(rng.uniform(0.0, 0.4))
                crew.kill(rng)
            await _until_done(connection, jobs)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 90):
                await trio.to_thread.run_sync(crew.dismiss)
        lost = [handle.id for handle in handles if (await handle.status()).state is not trepid.State.DONE]
    return _account(crew, lost, trio.current_time() - began)


async def _until_done(connection: trepid.Connection, number: int) -> None:
    with trio.fail_after(240):
        while (stats := await connection.stats()).done < number:
            assert stats.dead == 0, "a job was given up"
            await trio.sleep(0.02)


def _account(crew: Crew, lost: list[str], seconds: float) -> Account:
    starts = crew.starts()
    counts = Counter({id: len(pids) for id, pids in starts.items()})
    unexplained = []
    for id, pids in starts.items():
        survivors = [pid for pid in pids if pid not in crew.killed]
        # A start is repeated only because its worker was killed; a process that lives repeats nothing.
        if len(survivors) > 1 or max(Counter(pids).values()) > 1:
            unexplained.append(id)
    database = sqlite3.connect(crew.database)
    try:
        [integrity] = database.execute("PRAGMA integrity_check").fetchone()
    finally:
        database.close()
    return Account(
        tuple(lost),
        counts.total(),
        counts.total() - len(starts),
        tuple(unexplained),
        len(crew.killed),
        integrity,
        seconds,
    )
