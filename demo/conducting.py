"""One run: an ordinary Trio program with a worker in its nursery."""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

import trepid
from demo.actors import QUEUE, SUMMARISE, SURVEY, Library, worker
from demo.screen import Run, Screen
from trepid.ports.events import JobEnded


async def conduct(
    broker: str, library: Library, folders: list[Path], limit: int | None, *, second: str, screen: Screen
) -> Run:
    """Index the folders, and finish what earlier runs have left.

    SIGINT and SIGTERM stop it: the first one lets running jobs finish, the second gives them back at once.
    """
    survey, summary = None, None
    letters: list[tuple[str, str]] = []
    again = set[str]()  # Jobs that wait for another attempt: not every engine counts them.

    async def index() -> None:
        nonlocal survey, summary
        await end_of_jobs()  # What an earlier run has left comes first: it is about files that the index lacks.
        surveying = await connection.enqueue(SURVEY.job(folders, limit))
        survey = await surveying.result()
        screen.surveyed(survey)
        await end_of_jobs()
        summarising = await connection.enqueue(SUMMARISE.job())
        summary = await summarising.result()
        running.stop()

    async def end_of_jobs() -> None:
        counted = connection.capabilities.exact_stats
        while (stats := await connection.stats(QUEUE)).live or (again and not counted):
            screen.progressed(stats)
            await trio.sleep(0.1)

    def heed(event: object) -> None:
        if not isinstance(event, JobEnded):
            return
        if event.outcome == "dead":
            letters.append((event.id, (event.error or "").partition(": ")[2]))
        if event.outcome in ("retried", "released", "lost"):
            again.add(event.id)
        else:
            again.discard(event.id)

    began = trio.current_time()
    hired = worker(library).options(handle_signals=(signal.SIGINT, signal.SIGTERM), observers=[heed])
    async with _opened(broker, second) as (connection, used):
        async with trio.open_nursery() as nursery:
            running = await nursery.start(hired.run, connection)
            nursery.start_soon(index)
            report = await running.wait_stopped()
            nursery.cancel_scope.cancel()
        if connection.capabilities.peek:
            # Those of earlier runs, too.
            dead = connection.messages(QUEUE, trepid.State.DEAD)
            letters = [(view.id, view.error.message if view.error else str(view.reason)) async for view in dead]
        left = (await connection.stats(QUEUE)).live
    return Run(survey, summary, report, letters, left, trio.current_time() - began, used)


@asynccontextmanager
async def _opened(broker: str, second: str) -> AsyncGenerator[tuple[trepid.Connection, str | None]]:
    """Open the broker, together with a second engine if it keeps no results itself; say which, if so."""
    async with trepid.open_connection(broker) as connection:
        if connection.capabilities.results != "none":
            yield connection, None
            return
    async with trepid.open_connection(broker, results=second) as connection:
        yield connection, second
