"""A server dies and returns, again and again: every time workers go on within seconds, and nothing is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

import trepid
from tests.chaos.theatres import SERVERS, theatre

RESUME_WITHIN = 5.0
"""Seconds."""


class Pulse:
    """Counts executions, and wakes who waits for the next one."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._beat = trio.Event()

    async def beat(self, ctx: trepid.Context) -> None:
        """Run once more."""
        self.seen.add(ctx.job.id)
        beat, self._beat = self._beat, trio.Event()
        beat.set()
        await trio.lowlevel.checkpoint()

    async def until_seen(self, id: str) -> None:
        """Wait for a job to have run."""
        while id not in self.seen:
            await self._beat.wait()


async def _cycles(where: Any, cycles: int) -> list[float]:
    """Kill the server and start it again, *cycles* times; return how long each job took that was enqueued after."""
    pulse = Pulse()
    actor = trepid.Actor(pulse.beat, name="beat", max_crashes=1000)
    seconds = []
    async with (
        trepid.open_connection(where.url) as connection,
        trepid.open_connection(where.url) as producer,
        trio.open_nursery() as nursery,
    ):
        running = await nursery.start(trepid.Worker(actor, lease=5.0).run, connection)
        for n in range(cycles):
            await _enqueue(producer, actor.job().options(id=f"before-{n}"))
            await trio.to_thread.run_sync(where.server.kill)
            await trio.to_thread.run_sync(where.server.start)
            back = trio.current_time()
            with trio.fail_after(60):
                await _enqueue(producer, actor.job().options(id=f"after-{n}"))
                await pulse.until_seen(f"after-{n}")
            seconds.append(trio.current_time() - back)
        with trio.fail_after(60):
            for n in range(cycles):
                await pulse.until_seen(f"before-{n}")
            while not running.statistics().ready:
                await trio.sleep(0.05)
        running.stop()
    assert len(pulse.seen) == 2 * cycles
    return seconds


async def _enqueue(producer: trepid.Connection, job: trepid.Job[Any]) -> None:
    """Enqueue, again if need be: an engine that does not recognise repeats leaves them to the program."""
    while True:
        try:
            await producer.enqueue(job)
        except trepid.BrokerLostError:
            await trio.sleep(0.1)
        else:
            break


# RabbitMQ needs longer to boot than all others together: in the short form, the storm alone kills it.
@pytest.mark.parametrize("engine", [engine for engine in SERVERS if engine != "rabbitmq"])
async def test_workers_go_on_when_the_server_returns(
    engine: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The short form: a few cycles."""
    seconds = await _cycles(theatre(engine, tmp_path, request), 2)
    assert max(seconds) <= RESUME_WITHIN


@pytest.mark.chaos
@pytest.mark.parametrize("engine", SERVERS)
async def test_workers_go_on_every_time(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A hundred cycles of a hundred."""
    seconds = await _cycles(theatre(engine, tmp_path, request), 100)
    print(engine, "slowest:", round(max(seconds), 2), "median:", round(sorted(seconds)[50], 2))
    assert len(seconds) == 100
    assert max(seconds) <= RESUME_WITHIN
