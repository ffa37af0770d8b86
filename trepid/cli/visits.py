"""Visits to a broker: opened for one command, and closed again."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import rich_click as click

from trepid.cli.failures import Exit, Failure, unknown_queue
from trepid.cli.options import RESULTS

if TYPE_CHECKING:
    from trepid.connection import Connection

T = TypeVar("T")


def named_broker(url: str | None) -> str:
    """Return the URL that was given, or say that none was.

    Raises:
      Failure: exit code 2.
    """
    if not url:
        raise Failure("no broker is named", Exit.USAGE, "--broker sqlite:jobs.db, or set TREPID_BROKER_URL")
    return url


def second_engine() -> str | None:
    """Return the URL of the second engine, if one was named, by the command that runs now.

    Raises:
      BrokerURLError, UnsupportedError: if it cannot be used.
    """
    context = click.get_current_context(silent=True)
    url: str | None = None if context is None else context.meta.get(RESULTS)
    if not url:
        return None
    shown(url)
    return url


def shown(url: str) -> str:
    """Return the broker as it may be shown: without a password.

    Raises:
      BrokerURLError, UnsupportedError: if the URL cannot be used.
    """
    from trepid.connection.urls import broker_at

    return str(broker_at(url))


def refuse_missing_file(url: str) -> None:
    """Do not make a file only because its name was mistyped.

    Raises:
      Failure: exit code 3.
    """
    scheme, _, path = url.partition(":")
    if scheme.lower() == "sqlite" and path and not Path(path).exists():
        hint = "its first worker makes it, or: trepid queues declare default"
        if path.startswith("//"):
            name = path.lstrip("/")
            hint = f"all after the colon is the path: sqlite:{name} is in this directory, and sqlite:/{name} is not"
        raise Failure(f"{url}: there is no such file", Exit.UNREACHABLE, hint)


def visit(url: str | None, work: Callable[[Connection], Awaitable[T]], *, may_create: bool = False) -> T:
    """Open the broker, do something with it, close it, and return what came of it.

    Args:
      url: the broker.
      work: what to do.
      may_create: whether a file that is not there shall be made.

    Raises:
      Failure: if no broker is named, it cannot be used, or a queue is not declared.
    """
    import trio

    from trepid.connection import open_connection
    from trepid.errors import UnknownQueueError

    url = named_broker(url)
    shown(url)
    results = second_engine()
    if url.lower().startswith("memory:"):
        raise Failure("memory: lives inside of one process, so there is nothing to see", Exit.USAGE, "use sqlite:PATH")
    if not may_create:
        refuse_missing_file(url)

    async def main() -> T:
        # Who operates wants to know at once, and not to wait until the broker is back.
        async with open_connection(url, results=results, wait_for_broker=False) as connection:
            try:
                return await work(connection)
            except UnknownQueueError as exc:
                raise unknown_queue(exc.queue, await connection.queues()) from exc

    return trio.run(main, restrict_keyboard_interrupt_to_checkpoints=True)


@contextmanager
def progress(text: str) -> Generator[None]:
    """Show that something goes on, on a terminal and only while it does."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield
