"""``trepid jobs``: single jobs, whatever state they are in."""

from __future__ import annotations

import sys
from math import inf
from typing import TYPE_CHECKING, Final

import rich_click as click

from trepid.cli.epitaphs import last_words
from trepid.cli.failures import Exit, Failure, leave, say_error
from trepid.cli.graves import where
from trepid.cli.groups import Listing
from trepid.cli.options import SPAN, operates, option, queues_option
from trepid.cli.portraits import Found, Portrait, find, plain, portray
from trepid.cli.tables import Column, plural, print_json, print_table, span
from trepid.cli.visits import visit
from trepid.cli.waiting import board, wait_for

if TYPE_CHECKING:
    from trepid.cli.waiting import Outcome
    from trepid.connection import Connection
    from trepid.ports.messages import MessageView

_LIVE: Final = ("leased", "ready", "scheduled")
_STATES: Final = (*_LIVE, "dead", "cancelled", "done")


def _of_states(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """Return states that were repeated, or separated by commas; each once."""
    names = [name.strip().lower() for item in value for name in item.split(",") if name.strip()]
    for name in names:
        if name not in (*_STATES, "all"):
            text = f"{name!r} is no state; there are {', '.join(_STATES)}, and all"
            raise click.BadParameter(text, ctx, param)
    return _STATES if "all" in names else tuple(dict.fromkeys(names)) or _LIVE


_ids = click.argument("ids", metavar="ID...", nargs=-1, required=True)


@click.group(cls=Listing)
def jobs() -> None:
    """Show jobs, cancel them, or wait for them."""


@jobs.command("list")
@queues_option
@option("--state", "states", multiple=True, callback=_of_states, metavar="STATE", help="Those in it")
@option("--actor", metavar="NAME", help="Only jobs of this actor")
@option("--limit", type=click.IntRange(1), default=50, metavar="N", show_default=True, help="At most so many")
@operates
def list_(
    *,
    queues: tuple[str, ...],
    states: tuple[str, ...],
    actor: str | None,
    limit: int,
    broker: str | None,
    as_json: bool,
) -> None:
    """Show jobs: those that run, and then those that wait, unless --state says otherwise.

    States are leased, ready, scheduled, dead, cancelled and done, or all; --state takes several, separated by commas.
    """

    async def read(connection: Connection) -> tuple[list[MessageView], float]:
        return await _listed(connection, queues, states, actor, limit + 1), await connection.session.now()

    views, now = visit(broker, read)
    more, views = len(views) > limit, views[:limit]
    if as_json:
        print_json({"jobs": [plain(view) for view in views], "more": more})
        return
    if not views:
        print(f"no jobs are {' or '.join(states)}", file=sys.stderr)
        return
    columns = [Column("ID", style="bold"), Column("QUEUE"), Column("ACTOR"), Column("STATE")]
    columns += [Column("TRIES", number=True), Column("AGE", number=True), Column("WHY", whole=False)]
    print_table(columns, [_row(view, now) for view in views])
    if more:
        print(f"there are more; --limit {limit * 10} shows some of them", file=sys.stderr)


async def _listed(
    connection: Connection, queues: tuple[str, ...], states: tuple[str, ...], actor: str | None, limit: int
) -> list[MessageView]:
    from trepid.rules.life import State

    found: list[MessageView] = []
    for queue in await where(connection, queues):
        for state in states:
            async for view in connection.messages(queue, State(state)):
                if actor is None or view.actor == actor:
                    found.append(view)
                if len(found) >= limit:
                    return found
    return found


def _row(view: MessageView, now: float) -> list[str]:
    why = last_words(view) if view.state == "dead" or view.error is not None else view.reason or ""
    if view.cancel is not None and view.ended is None:
        why = f"asked to cancel: {view.cancel}"
    elif view.state == "scheduled":
        why = f"due in {span(max(0.0, view.due - now))}" + (f", {why}" if why else "")
    if view.ended is None:
        # Nothing was raised, so no error speaks of them.
        crashes = plural(view.crashes, "crash", "crashes") if view.crashes else ""
        releases = plural(view.releases, "release") if view.releases else ""
        why = ", ".join(filter(None, (why, crashes, releases)))
    first, age = (why.splitlines() or [""])[0], span(max(0.0, now - view.enqueued))
    return [view.id, view.queue, view.actor or "?", str(view.state), str(view.attempts), age, first]


@jobs.command()
@click.argument("id")
@queues_option
@operates
def show(*, id: str, queues: tuple[str, ...], broker: str | None, as_json: bool) -> None:
    """Show one job: its arguments, its progress, its errors, and what follows it."""

    async def read(connection: Connection) -> Portrait:
        found, _ = await find(connection, queues, (id,))
        if not found:
            raise Failure(f"no job is called {id}", Exit.NOTHING, "trepid jobs list --state all")
        view = found[0].view
        if view is None:
            raise Failure(f"{connection.capabilities.engine} does not show its messages", Exit.USAGE)
        return await portray(connection, view)

    portrait = visit(broker, read)
    if as_json:
        print_json(portrait.plain())
    else:
        print("\n".join(portrait.story()))


@jobs.command()
@_ids
@queues_option
@option("--reason", default="cancelled from the command line", metavar="TEXT", help="Is kept with the job")
@operates
def cancel(*, ids: tuple[str, ...], queues: tuple[str, ...], reason: str, broker: str | None, as_json: bool) -> None:
    """Withdraw jobs that wait, and ask the workers of those that run to stop them."""

    async def work(connection: Connection) -> tuple[list[tuple[Found, str]], list[str]]:
        found, missing = await find(connection, queues, ids)
        said: list[tuple[Found, str]] = []
        for job in found:
            [reply] = await connection.session.cancel(job.queue, [job.id], reason)
            if reply == "unknown":
                missing.append(job.id)
            else:
                said.append((job, str(reply)))
        return said, missing

    said, missing = visit(broker, work)
    if as_json:
        print_json({"jobs": [{"id": j.id, "queue": j.queue, "answer": s} for j, s in said], "missing": missing})
    else:
        for job, answer in said:
            print(f"{job.id}  {answer}")
    _refuse_missing(missing)


@jobs.command()
@_ids
@queues_option
@option("--timeout", type=SPAN, help="Wait no longer than this, such as 5m")
@operates
def wait(
    *, ids: tuple[str, ...], queues: tuple[str, ...], timeout: float | None, broker: str | None, as_json: bool
) -> None:
    """Wait until jobs have ended, and say how.

    Exit codes: 0 all are done, 1 one failed, was cancelled, or has not ended in time, 4 one is not there.
    Ctrl-C leaves them to their workers.
    """
    outcomes: list[Outcome] = []

    async def work(connection: Connection) -> tuple[list[Found], list[str]]:
        import trio

        found, missing = await find(connection, queues, ids)
        with board(found, as_json=as_json) as shown, trio.move_on_after(inf if timeout is None else timeout):

            def note(outcome: Outcome) -> None:
                outcomes.append(outcome)
                shown.ended(outcome)

            await wait_for(connection, found, note, shown)
        return found, missing

    found, missing = visit(broker, work)
    ended = {outcome.job for outcome in outcomes}
    late = [job.id for job in found if job not in ended]
    if as_json:
        print_json({"jobs": [outcome.plain() for outcome in outcomes], "late": late, "missing": missing})
    elif sys.stderr.isatty():
        # Elsewhere the lines were told as they came.
        for outcome in outcomes:
            print(outcome.line)
    missing += [outcome.job.id for outcome in outcomes if outcome.state == "gone"]
    if late:
        say_error(f"{plural(len(late), 'job has', 'jobs have')} not ended: {', '.join(late[:5])}")
    _refuse_missing(missing)
    if late or any(outcome.state != "done" for outcome in outcomes):
        leave(Exit.FAILED)


def _refuse_missing(missing: list[str]) -> None:
    if missing:
        say_error(f"no job is called {', '.join(missing)}", "trepid jobs list --state all")
        leave(Exit.NOTHING)
