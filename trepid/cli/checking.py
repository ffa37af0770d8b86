"""``trepid check``: whether an application can be imported and run, and its broker reached."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import rich_click as click

from trepid.cli import findings
from trepid.cli.failures import Exit, leave
from trepid.cli.ink import ink_for
from trepid.cli.loading import load
from trepid.cli.options import operates
from trepid.cli.tables import Column, plural, print_json, print_table, setting, span
from trepid.cli.visits import shown, visit

if TYPE_CHECKING:
    from trepid.connection import Connection
    from trepid.values.actor import Actor


@click.command()
@click.argument("app", required=False, envvar="TREPID_APP")
@operates
def check(*, app: str | None, broker: str | None, as_json: bool) -> None:
    """Import APP, list its actors, look for mistakes, and ask the broker whether it is there.

    Nothing is run, and nothing is stored.  Exit codes: 0 fine, 1 something is wrong with an actor, 2 APP cannot be
    imported, 3 the broker cannot be reached.
    """
    loaded = load(app)
    actors = list(loaded.worker.router.values())
    found = findings.of_worker(loaded.worker)
    told = _ask(broker, loaded.worker.queue_names()) if broker else None
    wrong = any(finding.wrong for finding in found)
    if as_json:
        print_json(
            {
                "app": loaded.name,
                "queues": loaded.worker.queue_names(),
                "actors": [_plain(actor) for actor in actors],
                "findings": [{"wrong": f.wrong, "about": f.about, "text": f.text} for f in found],
                "broker": told,
                "ok": not wrong,
            }
        )
    else:
        _print(loaded.name, actors, found, told)
    if wrong:
        leave(Exit.FAILED)


def _ask(url: str, queues: tuple[str, ...]) -> dict[str, Any]:
    """Open the broker, and return what it says of itself."""

    async def ping(connection: Connection) -> dict[str, Any]:
        import attrs
        import trio

        start = trio.current_time()
        await connection.session.now()
        trip = trio.current_time() - start
        declared = await connection.queues()
        return {
            "url": shown(url),
            "round_trip_seconds": round(trip, 6),
            "undeclared": [queue for queue in queues if queue not in declared],
            "capabilities": attrs.asdict(connection.capabilities),
        }

    return visit(url, ping)


def _plain(actor: Actor[..., Any]) -> dict[str, Any]:
    return {
        "name": actor.name,
        "queue": actor.queue.name,
        "signature": findings.signature(actor),
        "run_in": actor.run_in,
        "priority": None if actor.priority is None else actor.priority.name.lower(),
        "retries": actor.retries,
        "timeout": actor.timeout,
        "result_ttl": actor.result_ttl,
        "max_crashes": actor.max_crashes,
    }


def _print(
    name: str, actors: list[Actor[..., Any]], found: list[findings.Finding], told: dict[str, Any] | None
) -> None:
    print(f"{name}: {plural(len(actors), 'actor')}\n")
    if actors:
        columns = [Column("ACTOR", style="bold"), Column("QUEUE"), Column("RUNS IN"), Column("RETRIES", number=True)]
        columns += [Column("TIMEOUT", number=True), Column("SIGNATURE", whole=False)]
        print_table(columns, [_row(actor) for actor in actors])
        print()
    ink = ink_for(sys.stdout)
    for finding in found:
        word = ink("wrong:", "error") if finding.wrong else ink(" note:", "warn")
        print(f"{word} {finding.about}: {finding.text}")
    if told is None:
        print(" note: no broker was asked; name one with --broker")
    else:
        can = told["capabilities"]
        print(f"{ink('broker', 'bold')} {told['url']} answers in {span(told['round_trip_seconds'])}")
        print(f"  engine      {can['engine']}")
        print(f"  durability  {can['durability']} ({can['durability_proof']})")
        if told["undeclared"]:
            print(f"  queues not declared yet: {', '.join(told['undeclared'])}; a worker declares its own")
    print(ink("not ok", "bad") if any(finding.wrong for finding in found) else ink("ok", "good"))


def _row(actor: Actor[..., Any]) -> list[str]:
    retries = "0" if actor.retries is None else str(actor.retries)
    timeout = setting(600.0 if actor.timeout is None else actor.timeout)
    return [actor.name, actor.queue.name, actor.run_in, retries, timeout, findings.signature(actor)]
