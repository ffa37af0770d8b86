"""The jobs: an async one finds the files, threads read them, processes study them, an async one sums up.

Each step enqueues the next one before it ends, so nothing is forgotten if the power goes.  A step may then be repeated,
and that is harmless: its id says which version of which file it is about, so no step is enqueued twice at once.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path

import attrs
import trio

import trepid
from demo.files import File, Store, text_files
from demo.index import Index, Summary

QUEUE = "demo"
LARGEST = 256 * 1024
"""Files with more bytes are refused: their text travels in a job, and a job has at most 1 MiB."""


@attrs.frozen
class Library:
    """What all jobs of a run work with.  It is the worker's, and does not travel with the jobs."""

    index: Index
    store: Store


@attrs.frozen
class Survey:
    """How many files there are, how many of them are going to be indexed, and how many of these fail at first."""

    files: int
    enqueued: int
    failing: int


async def survey(ctx: trepid.Context[Library], folders: list[Path], limit: int | None) -> Survey:
    """Find the text files, at most *limit* in each folder, and enqueue the reading of those that are new or changed.

    What ended as a dead letter stays one, until it is requeued or there is another version of the file.
    """
    library = ctx.resources
    found = await trio.to_thread.run_sync(lambda: [f for folder in folders for f in islice(text_files(folder), limit)])
    outdated = await trio.to_thread.run_sync(library.index.outdated, found)
    dead = set[str]()
    if ctx.connection.capabilities.peek:  # Elsewhere they are read, and refused, again.
        dead = {view.id.partition("-")[2] async for view in ctx.connection.messages(QUEUE, trepid.State.DEAD)}
    wanted = [file for file in outdated if file.version not in dead]
    await ctx.connection.enqueue_many(READ.job(file).options(id=f"read-{file.version}") for file in wanted)
    return Survey(len(found), len(wanted), sum(map(library.store.fails_for, wanted)))


def read(ctx: trepid.Context[Library], file: File) -> None:
    """Read a file and enqueue its study, or refuse it for good.  This runs in a thread, for it waits for a disk."""
    content = ctx.resources.store.read(file, ctx.attempt)
    if len(content) > LARGEST:
        raise trepid.Bury(f"{file.path.name} has {len(content):,} bytes, more than {LARGEST:,}")
    try:
        text = content.decode()
    except UnicodeDecodeError as exc:
        raise trepid.Bury(f"{file.path.name} is not UTF-8: {exc.reason} at byte {exc.start:,}") from exc
    if not ctx.resources.index.has(file):  # It has if a worker died just before the end of this, and this is repeated.
        job = STUDY.job(ctx.resources.index, file, text).options(id=f"study-{file.version}")
        trio.from_thread.run(ctx.connection.enqueue, job)


def study(index: Index, file: File, text: str) -> None:
    """Count the words of a text, collect its links, and index it.  This runs in a process, for it needs a CPU."""
    index.take_up(file, text)


async def summarise(ctx: trepid.Context[Library]) -> Summary:
    """Add up what is in the index."""
    return await trio.to_thread.run_sync(ctx.resources.index.summary)


# Waits of 0.5, 1 and 2 seconds: soon enough to watch.
SOON = trepid.ExponentialBackoff(min_backoff=0.5, max_backoff=2, multiplier=0.25)

SURVEY = trepid.Actor(survey, queue=QUEUE, retries=3, retry_policy=SOON)
READ = trepid.Actor(read, queue=QUEUE, retries=3, retry_policy=SOON)
# More urgent than reading, so that texts do not pile up; and once it is done, nothing is kept of them.
HIGH = trepid.Priority.HIGH
STUDY = trepid.Actor(study, queue=QUEUE, run_in="process", priority=HIGH, retries=3, timeout=60, result_ttl=0)
SUMMARISE = trepid.Actor(summarise, queue=QUEUE)


def worker(library: Library) -> trepid.Worker:
    """Return a worker that runs these jobs with a library."""

    @asynccontextmanager
    async def resources() -> AsyncGenerator[Library]:
        await trio.to_thread.run_sync(library.index.create)
        yield library

    router = trepid.Router(SURVEY, READ, STUDY, SUMMARISE)
    # The lease is short so that another worker, if this one is killed, soon takes over what it was doing.
    return trepid.Worker(router, resources=resources, tasks_limit=32, lease=5)
