"""``trepid schedule``: what is enqueued when, and whether it may go on."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import rich_click as click

from trepid.cli.failures import Exit, Failure, meant
from trepid.cli.groups import Listing
from trepid.cli.loading import load
from trepid.cli.options import operates, option
from trepid.cli.tables import Column, iso, print_json, print_table
from trepid.cli.visits import visit

if TYPE_CHECKING:
    from trepid.connection import Connection, ScheduleView
    from trepid.values.router import Router
    from trepid.values.schedule import Schedule


def _checked(ctx: click.Context, param: click.Parameter, value: tuple[str, ...] | str) -> tuple[str, ...] | str:
    from trepid.values.names import checked_name

    try:
        for name in (value,) if isinstance(value, str) else value:
            checked_name(name, "schedule name")
    except ValueError as exc:
        raise click.BadParameter(str(exc), ctx, param) from exc
    return value


_names = click.argument("names", metavar="SCHEDULE...", nargs=-1, required=True, callback=_checked)
_app = option(
    "--app",
    envvar="TREPID_APP",
    show_envvar=True,
    metavar="APP",
    help="Also the schedules of this application",
)


@click.group(cls=Listing)
def schedule() -> None:
    """Show schedules, run one now, and pause or resume them.

    The broker knows the schedules that it was given; those of a router are known with --app.
    """


@schedule.command("list")
@_app
@operates
def list_(*, app: str | None, broker: str | None, as_json: bool) -> None:
    """Show all schedules, with their last and next instants."""
    router = _router(app)
    found = visit(broker, lambda connection: connection.schedules(router))
    if as_json:
        print_json({"schedules": [_plain(view) for view in found]})
    elif found:
        columns = [Column("SCHEDULE", style="bold"), Column("WHEN"), Column("JOB"), Column("QUEUE")]
        columns += [Column("NEXT"), Column("LAST"), Column("KEPT"), Column("STATE")]
        print_table(columns, [_row(view) for view in found])
    else:
        hint = "" if app else "; those of a router are shown with --app"
        print(f"no schedules{hint}", file=sys.stderr)


def _router(app: str | None) -> Router | None:
    return None if app is None else load(app).worker.router


def _plain(view: ScheduleView) -> dict[str, Any]:
    known = view.schedule
    told = {
        "name": view.name,
        "kept": _kept(view),
        "paused": view.paused,
        "next": iso(view.next),
        "last": iso(view.last),
    }
    return told | _what(known)


def _what(known: Schedule | None) -> dict[str, Any]:
    if known is None:
        return dict.fromkeys(("when", "actor", "queue", "misfire", "overlap", "jitter"))
    return {
        "when": str(known.when),
        "actor": known.job.name,
        "queue": known.job.queue.name,
        "misfire": known.misfire,
        "overlap": known.overlap,
        "jitter": known.jitter,
    }


def _row(view: ScheduleView) -> list[str]:
    what = _what(view.schedule)
    texts = [what["when"], what["actor"], what["queue"], iso(view.next), iso(view.last)]
    return [view.name, *(text or "-" for text in texts), _kept(view), "paused" if view.paused else "on"]


def _kept(view: ScheduleView) -> str:
    """Say where a schedule stands."""
    return "broker" if view.stored else "router"


@schedule.command()
@click.argument("name", metavar="SCHEDULE", callback=_checked)
@_app
@operates
def run(*, name: str, app: str | None, broker: str | None, as_json: bool) -> None:
    """Enqueue the job of a schedule now, beside its instants, and print its id."""
    from trepid.errors import UnknownScheduleError

    router = _router(app)

    async def work(connection: Connection) -> dict[str, Any]:
        known = [view.name for view in await connection.schedules(router)]
        try:
            handle = await connection.run_schedule(name, router, wait=False)
        except UnknownScheduleError as exc:
            raise _unknown(name, known, router) from exc
        return {"schedule": name, "id": handle.id, "queue": handle.queue, "existing": handle.existing}

    told = visit(broker, work)
    if told["existing"]:
        print(f"{told['id']} is alive already; nothing new was enqueued", file=sys.stderr)
    if as_json:
        print_json(told)
    else:
        print(told["id"])


@schedule.command()
@_names
@_app
@operates
def pause(*, names: tuple[str, ...], app: str | None, broker: str | None, as_json: bool) -> None:
    """Let no worker fire these schedules.  Their instants pass."""
    router = _router(app)

    async def work(connection: Connection) -> None:
        known = [view.name for view in await connection.schedules(router)]
        marked = await _marked(connection, set(names) - set(known))
        _refuse_unknown(names, [*known, *marked], router)
        for name in names:
            await connection.pause_schedule(name)
            if name in marked:
                print(
                    f"the broker was not given {name}, but workers have fired it from a router; it is paused there",
                    file=sys.stderr,
                )

    visit(broker, work)
    _report("paused", names, as_json=as_json)


@schedule.command()
@_names
@_app
@operates
def resume(*, names: tuple[str, ...], app: str | None, broker: str | None, as_json: bool) -> None:
    """Undo pause.  What passed meanwhile is not made up for."""
    router = _router(app)

    async def work(connection: Connection) -> None:
        _refuse_unknown(names, [view.name for view in await connection.schedules(router)], router)
        for name in names:
            await connection.resume_schedule(name)

    visit(broker, work)
    _report("resumed", names, as_json=as_json)


async def _marked(connection: Connection, names: set[str]) -> set[str]:
    """Return those of the names that stand in routers, and have begun: their workers have left marks."""
    import trio

    from trepid.values.schedule import name_of

    await trio.lowlevel.checkpoint()
    marks = [await connection.session.marks(queue) for queue in (await connection.queues() if names else ())]
    return {name for of_queue in marks for mark in of_queue if (name := name_of(mark)) in names}


def _refuse_unknown(names: tuple[str, ...], known: list[str], router: Router | None) -> None:
    """Refuse names that nobody here knows; nothing is begun then."""
    for name in names:
        if name not in known:
            raise _unknown(name, known, router)


def _unknown(name: str, known: list[str], router: Router | None) -> Failure:
    elsewhere = "those of a router are known with --app" if router is None else ""
    hint = "; ".join(filter(None, (meant(name, known), elsewhere)))
    return Failure(f"there is no schedule {name!r}", Exit.NOTHING, hint)


def _report(done: str, names: tuple[str, ...], *, as_json: bool) -> None:
    if as_json:
        print_json({done: list(names)})
    else:
        print(f"{done} {', '.join(names)}")
