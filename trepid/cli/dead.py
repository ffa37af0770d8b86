"""``trepid dead``: the dead letters, why they died, and what becomes of them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import rich_click as click

from trepid.cli import epitaphs, graves
from trepid.cli.consent import ask
from trepid.cli.failures import Exit, Failure, leave, say_error
from trepid.cli.graves import Choice
from trepid.cli.groups import Listing
from trepid.cli.options import operates, option, queues_option, yes_option
from trepid.cli.tables import Column, plural, print_json, print_table, span
from trepid.cli.visits import progress, visit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trepid.connection import Connection
    from trepid.ports.messages import MessageView

_actor = option("--actor", metavar="NAME", help="Only jobs of this actor")
_error = option("--error", metavar="TEXT", help="Only those whose last error has this in its type or message")


def _chooses(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command what says which dead letters it is about."""
    for extra in (
        _error,
        _actor,
        queues_option,
        option("--all", "everything", is_flag=True, help="All of them"),
        yes_option,
        click.argument("ids", metavar="[ID]...", nargs=-1),
    ):
        command = extra(command)
    return operates(command)


@click.group(cls=Listing)
def dead() -> None:
    """Show dead letters, bring them back, or forget them."""


@dead.command("list")
@queues_option
@_actor
@_error
@option("--limit", type=click.IntRange(1), default=50, metavar="N", show_default=True, help="At most so many")
@operates
def list_(
    *, queues: tuple[str, ...], actor: str | None, error: str | None, limit: int, broker: str | None, as_json: bool
) -> None:
    """Show dead letters, those published first on top."""
    choice = Choice(queues=queues, actor=actor, error=error)

    async def read(connection: Connection) -> tuple[list[MessageView], float]:
        return await graves.matching(connection, choice, limit + 1), await connection.session.now()

    views, now = visit(broker, read)
    more, views = len(views) > limit, views[:limit]
    if as_json:
        print_json({"dead": [epitaphs.plain(view) for view in views], "more": more})
        return
    if not views:
        print("no dead letters" + (" match" if choice.filters else ""), file=sys.stderr)
        return
    columns = [Column("ID", style="bold"), Column("QUEUE"), Column("ACTOR"), Column("TRIES", number=True)]
    columns += [Column("DIED", number=True), Column("WHY"), Column("ERROR", whole=False)]
    print_table(columns, [_row(view, now) for view in views])
    if more:
        print(f"there are more; --limit {limit * 10} shows some of them", file=sys.stderr)


def _row(view: MessageView, now: float) -> list[str]:
    age = "-" if view.ended is None else f"{span(max(0.0, now - view.ended))} ago"
    return [
        view.id,
        view.queue,
        view.actor or "?",
        str(view.attempts),
        age,
        view.reason or "-",
        (epitaphs.last_words(view).splitlines() or [""])[0],
    ]


@dead.command()
@click.argument("id")
@queues_option
@operates
def show(*, id: str, queues: tuple[str, ...], broker: str | None, as_json: bool) -> None:
    """Show one dead letter: its arguments, all its errors, and how to bring it back."""

    async def read(connection: Connection) -> MessageView:
        return await graves.one(connection, queues, id)

    view = visit(broker, read)
    if as_json:
        print_json(epitaphs.plain(view, whole=True))
    else:
        print("\n".join(epitaphs.story(view)))


@dead.command()
@_chooses
def requeue(**chosen: Any) -> None:
    """Bring dead letters back, with fresh retries: those named, those that match, or --all."""
    _act("requeue", "requeued", graves.requeue, **chosen)


@dead.command()
@_chooses
def purge(**chosen: Any) -> None:
    """Forget dead letters for good: those named, those that match, or --all."""
    _act("purge", "purged", graves.purge, **chosen)


def _act(
    verb: str,
    done: str,
    action: Callable[[Connection, graves.Chosen], Awaitable[int]],
    *,
    ids: tuple[str, ...],
    everything: bool,
    queues: tuple[str, ...],
    actor: str | None,
    error: str | None,
    yes: bool,
    broker: str | None,
    as_json: bool,
) -> None:
    choice = Choice(queues=queues, ids=ids, actor=actor, error=error)
    if not (ids or everything or choice.filters):
        raise Failure(f"which dead letters shall be {done}?", Exit.USAGE, "name their ids, filter, or say --all")
    if ids and (everything or actor or error):
        raise Failure("ids and filters do not go together", Exit.USAGE, "name ids, or filter, or say --all")

    chosen = visit(broker, lambda connection: graves.choose(connection, choice))
    views, total = chosen.views or [], chosen.total
    if ids:
        graves.refuse_twins(views)
    missing = sorted(set(ids) - {view.id for view in views})
    if total and not ids:
        ask(f"{verb.capitalize()} {plural(total, 'dead letter')} of {', '.join(chosen.numbers)}?", yes=yes)

    with progress(f"{verb} {plural(total, 'dead letter')}"):
        number = visit(broker, lambda connection: action(connection, chosen)) if total else 0
    # Of those that were only counted, more may have come meanwhile.
    skipped = max(0, total - number)
    if as_json:
        print_json({"matched": total, done: number, "skipped": skipped, "missing": missing})
    else:
        print(f"{done} {number}, skipped {skipped}")
    if skipped:
        print(f"skipped: {graves.SKIPPED[verb]}", file=sys.stderr)
    if missing:
        say_error(f"no dead letter is called {', '.join(missing)}", "trepid dead list")
    if missing or (not total and choice.filters):
        leave(Exit.NOTHING)
