"""``trepid queues``: what waits where, and whether it may go on."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeVar

import rich_click as click

from trepid.cli.consent import ask
from trepid.cli.failures import unknown_queue
from trepid.cli.groups import Listing
from trepid.cli.options import operates, queue_names, yes_option
from trepid.cli.tables import Column, count, plural, print_json, print_table, span
from trepid.cli.visits import visit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trepid.connection import Connection
    from trepid.ports.messages import QueueStats

T = TypeVar("T")

_COUNTS = ("ready", "scheduled", "leased", "done", "dead", "cancelled")

_names = click.argument("names", metavar="QUEUE...", nargs=-1, required=True, callback=queue_names)


@click.group(cls=Listing)
def queues() -> None:
    """Show queues, and pause, resume, flush, declare or delete them."""


@queues.command("list")
@click.argument("names", metavar="[QUEUE]...", nargs=-1, callback=queue_names)
@operates
def list_(*, names: tuple[str, ...], broker: str | None, as_json: bool) -> None:
    """Show how many messages are in which state: all queues, or those named."""
    found = _each(broker, names, lambda connection, name: connection.stats(name))
    if as_json:
        print_json({"queues": [_plain(stats) for stats in found]})
    elif found:
        columns = [Column("QUEUE", style="bold"), *(Column(name.upper(), number=True) for name in _COUNTS)]
        columns += [Column("OLDEST", number=True), Column("STATE")]
        print_table(columns, [_row(stats) for stats in found])
    else:
        print("no queues yet; a worker declares its own, or: trepid queues declare default", file=sys.stderr)


def _plain(stats: QueueStats) -> dict[str, Any]:
    counts = {name: getattr(stats, name) for name in _COUNTS}
    return {"queue": stats.queue, **counts, "oldest_ready_seconds": stats.oldest_ready, "paused": stats.paused}


def _row(stats: QueueStats) -> list[str]:
    counts = [count(getattr(stats, name)) for name in _COUNTS]
    return [stats.queue, *counts, span(stats.oldest_ready), "paused" if stats.paused else "open"]


def _each(broker: str | None, names: tuple[str, ...], act: Callable[[Connection, str], Awaitable[T]]) -> list[T]:
    """Do something with each queue, or with all there are; nothing is begun if one is not declared."""

    async def work(connection: Connection) -> list[T]:
        declared = await connection.queues()
        for name in names:
            if name not in declared:
                raise unknown_queue(name, declared)
        return [await act(connection, name) for name in names or declared]

    return visit(broker, work)


@queues.command()
@_names
@operates
def pause(*, names: tuple[str, ...], broker: str | None, as_json: bool) -> None:
    """Let no worker start anything from these queues.  What runs goes on."""
    _each(broker, names, lambda connection, name: connection.pause(name))
    _report("paused", names, as_json=as_json)


@queues.command()
@_names
@operates
def resume(*, names: tuple[str, ...], broker: str | None, as_json: bool) -> None:
    """Undo pause."""
    _each(broker, names, lambda connection, name: connection.resume(name))
    _report("resumed", names, as_json=as_json)


@queues.command()
@_names
@operates
def declare(*, names: tuple[str, ...], broker: str | None, as_json: bool) -> None:
    """Make queues exist.  Declaring again changes nothing."""
    visit(broker, lambda connection: connection.declare(*names), may_create=True)
    _report("declared", names, as_json=as_json)


def _report(done: str, names: tuple[str, ...], *, as_json: bool) -> None:
    if as_json:
        print_json({done: list(names)})
    else:
        print(f"{done} {', '.join(names)}")


@queues.command()
@_names
@yes_option
@operates
def flush(*, names: tuple[str, ...], yes: bool, broker: str | None, as_json: bool) -> None:
    """Forget the messages that wait in these queues.  Running and ended ones stay."""
    stats = _each(broker, names, lambda connection, name: connection.stats(name))
    waiting = sum(one.ready + one.scheduled for one in stats)
    if waiting:
        ask(f"Forget {plural(waiting, 'waiting message')} of {', '.join(names)}?", yes=yes)
    gone = _each(broker, names, lambda connection, name: connection.flush(name))
    if as_json:
        print_json({"flushed": dict(zip(names, gone, strict=True))})
    else:
        print(f"flushed {plural(sum(gone), 'message')} of {', '.join(names)}")


@queues.command()
@_names
@yes_option
@operates
def delete(*, names: tuple[str, ...], yes: bool, broker: str | None, as_json: bool) -> None:
    """Remove queues with everything in them, dead letters too.  Refused while a job of theirs runs."""
    stats = _each(broker, names, lambda connection, name: connection.stats(name))
    kept = sum(one.live + one.done + one.dead + one.cancelled for one in stats)
    if kept:
        ask(f"Delete {', '.join(names)} with {plural(kept, 'message')}?", yes=yes)
    _each(broker, names, lambda connection, name: connection.delete(name))
    _report("deleted", names, as_json=as_json)
