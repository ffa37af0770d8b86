"""A storm: worker processes, and their server, killed at random moments, and the account of what happened."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import trio

import trepid
from tests.chaos.logbook import Logbook, are_twins
from tests.chaos.storm_worker import ABSENT, BRAVE

_AT_ONCE = 250


@attrs.frozen
class Theatre:
    """Where a storm takes place.

    Attributes:
      url: of the broker.
      server: what can be killed and started again, or None for an engine without one.
      audit: looks for damage when all is over, and returns what it found.
      copies: whether the engine brings a message back by storing a copy before it acknowledges the original.
    """

    url: str
    server: Any = None
    audit: Callable[[], str] = lambda: "ok"
    copies: bool = False


@attrs.frozen
class Account:
    """What became of a storm's jobs.

    Attributes:
      lost: jobs that never came to their end.
      left: messages that are still waiting or leased when all is over.
      dead: messages that were given up.
      executions: how often jobs were started, all told.
      extra: starts beyond the first of their job.
      unexplained: extra starts that no kill and no outage explains.
      twins: extra starts of a second copy of a message, on an engine where a kill may leave one.
      republished: jobs whose publish had to be repeated, on an engine that cannot recognise that.
      workers_killed, servers_killed: how many.
      audit: what the audit found.
      resumed: seconds from the server's return to the next end of a job, for each outage.
      seconds: how long it took.
    """

    lost: tuple[str, ...]
    left: int
    dead: int
    executions: int
    extra: int
    unexplained: tuple[str, ...]
    twins: int
    republished: int
    workers_killed: int
    servers_killed: int
    audit: str
    resumed: tuple[float, ...]
    seconds: float


@attrs.define
class Crew:
    """The worker processes of a storm."""

    url: str
    logs: Path
    program: str = "tests.chaos.storm_worker"
    processes: list[subprocess.Popen[bytes]] = attrs.Factory(list)
    killed: dict[int, float] = attrs.Factory(dict)

    def hire(self) -> None:
        """Start a worker process."""
        command = [sys.executable, "-m", self.program, self.url, str(self.logs)]
        self.processes.append(subprocess.Popen(command))

    def tend(self) -> None:
        """Start again, as any service manager does, those that found the broker away when they were started."""
        for process in [process for process in self.processes if process.poll() is not None]:
            assert process.returncode == ABSENT, f"a worker ended by itself with {process.returncode}"
            self.processes.remove(process)
            self.hire()

    def kill(self, rng: random.Random) -> None:
        """Kill one at random, and hire another."""
        self.tend()
        victim = rng.choice(self.processes)
        self.processes.remove(victim)
        self.killed[victim.pid] = time.time()
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        self.hire()

    def dismiss(self) -> None:
        """End them all."""
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 60
        codes = []
        for process in self.processes:
            try:
                codes.append(process.wait(max(0.0, deadline - time.monotonic())))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                codes.append("nothing: it had to be killed")
        # The signal itself ends one that was only just started, and does not listen for it yet.
        assert set(codes) <= {0, ABSENT, -signal.SIGTERM}, f"workers ended by themselves, or not at all: {codes}"


@attrs.define
class Storm:
    """One storm, while it blows."""

    theatre: Theatre
    crew: Crew
    book: Logbook
    ids: list[str]
    rng: random.Random
    outages: list[tuple[float, float]] = attrs.Factory(list)
    resumed: list[float] = attrs.Factory(list)
    republished: set[str] = attrs.Factory(set)

    async def publish(self, connection: trepid.Connection, ids: list[str]) -> None:
        """Enqueue, whatever happens to the server."""
        for first in range(0, len(ids), _AT_ONCE):
            batch = ids[first : first + _AT_ONCE]
            jobs = [BRAVE.job(number).options(id=id) for number, id in enumerate(batch)]
            while True:
                try:
                    await connection.enqueue_many(jobs)
                except trepid.BrokerLostError:
                    # Nobody knows what of it was stored; where the engine cannot tell, it is stored again.
                    self.republished |= set(batch)
                    await trio.sleep(0.2)
                else:
                    break

    async def until(self, number: int) -> None:
        """Wait until so many jobs have ended."""
        with trio.fail_after(240):
            while self.book.read_on() < number:
                self.crew.tend()
                await trio.sleep(0.02)

    async def kill_server(self) -> None:
        """Kill the server, leave it dead for a moment, start it again, and see that work goes on."""
        server = self.theatre.server
        gone = time.time()
        await trio.to_thread.run_sync(server.kill)
        await trio.sleep(self.rng.uniform(0.0, 1.0))
        await trio.to_thread.run_sync(server.start)
        back = time.time()
        # What was in flight when it went may come to light until the leases of that time have ended.
        self.outages.append((gone, back))
        with trio.fail_after(60):
            while self.book.read_on() < len(self.ids) and self.book.last_end <= back:
                self.crew.tend()
                await trio.sleep(0.01)
        self.resumed.append(max(0.0, self.book.last_end - back))


async def storm(
    folder: Path, theatre: Theatre, *, jobs: int, workers: int, kills: int, server_kills: int = 0, seed: int
) -> Account:
    """Run *jobs* jobs on *workers* processes; kill *kills* of them, and *server_kills* times the server, meanwhile.

    Half of the jobs are there before anybody works; the others are enqueued during the storm.
    """
    rng = random.Random(seed)
    logs = folder / "logs"
    logs.mkdir()
    ids = [f"job-{number}" for number in range(jobs)]
    blow = Storm(theatre, Crew(theatre.url, logs), Logbook(logs), ids, rng)
    began = trio.current_time()
    async with trepid.open_connection(theatre.url) as connection:
        await connection.declare("default")
        await blow.publish(connection, ids[: jobs // 2])
        strokes = [blow.crew.kill] * kills + [blow.kill_server] * server_kills
        rng.shuffle(strokes)
        try:
            for _ in range(workers):
                blow.crew.hire()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(blow.publish, connection, ids[jobs // 2 :])
                for n, stroke in enumerate(strokes):
                    # Spread over the work, wherever that has got to, at moments that nobody chose.
                    await blow.until(jobs * n // (len(strokes) + 1))
                    await trio.sleep(rng.uniform(0.0, 0.4))
                    await (stroke() if stroke == blow.kill_server else _soon(stroke, rng))
            await blow.until(jobs)
            left = await _left(connection)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 90):
                await trio.to_thread.run_sync(blow.crew.dismiss)
        stats = await connection.stats()
    return _account(blow, left, stats.dead, trio.current_time() - began)


async def _soon(stroke: Callable[[random.Random], None], rng: random.Random) -> None:
    stroke(rng)
    await trio.lowlevel.checkpoint()


async def _left(connection: trepid.Connection) -> int:
    """Wait until every verdict has reached the broker, and return what is left if some never do."""
    with trio.move_on_after(30):
        while (await connection.stats()).live:
            await trio.sleep(0.05)
    return (await connection.stats()).live


def _account(blow: Storm, left: int, dead: int, seconds: float) -> Account:
    blow.book.read_on()
    started = {start.id for start in blow.book.starts}
    unexplained = blow.book.unexplained(blow.crew.killed, blow.outages, blow.republished)
    twins = [pair for pair in unexplained if blow.theatre.copies and are_twins(*pair)]
    unexplained = [pair for pair in unexplained if pair not in twins]
    if unexplained:
        print("unexplained:", unexplained, "workers killed:", blow.crew.killed, "outages:", blow.outages)
    return Account(
        lost=tuple(sorted(set(blow.ids) - blow.book.ended)),
        left=left,
        dead=dead,
        executions=len(blow.book.starts),
        extra=len(blow.book.starts) - len(started),
        unexplained=tuple(sorted({after.id for _, after in unexplained})),
        twins=len(twins),
        republished=len(blow.republished),
        workers_killed=len(blow.crew.killed),
        servers_killed=len(blow.outages),
        audit=blow.theatre.audit(),
        resumed=tuple(round(each, 2) for each in blow.resumed),
        seconds=round(seconds, 1),
    )
