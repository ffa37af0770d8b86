"""``trepid enqueue``: one job, from the shell."""

from __future__ import annotations

import re
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

import rich_click as click

from trepid.cli.failures import Exit, Failure, meant, usage
from trepid.cli.options import MOMENT, SPAN, operates, option
from trepid.cli.tables import print_json
from trepid.cli.visits import progress, visit

if TYPE_CHECKING:
    from trepid.connection import Connection
    from trepid.values.actor import Actor
    from trepid.values.job import Job

_KEYWORD = re.compile(r"([A-Za-z_]\w*)(:?=)(.*)", re.DOTALL)


@click.command()
@click.argument("actor")
@click.argument("arguments", nargs=-1, metavar="[JSON | KEY=TEXT | KEY:=JSON]...")
@option("-q", "--queue", metavar="NAME", help="Its queue  [default: the actor's with --app, else default]")
@option(
    "--app",
    envvar="TREPID_APP",
    show_envvar=True,
    metavar="APP",
    help="Check the arguments, and take the actor's settings",
)
@option("--priority", type=click.Choice(["high", "medium", "low"], case_sensitive=False))
@option("--retries", type=click.IntRange(0), metavar="N", help="How often to try again after a failure")
@option("--timeout", type=SPAN, help="The longest an attempt may take, such as 30s")
@option("--ttl", type=SPAN, help="The longest it may wait for its start once due")
@option("--in", "delay", type=SPAN, help="Due in so long, such as 5m")
@option("--at", "due", type=MOMENT, help="Due at this moment, such as 2027-01-31T09:00Z")
@option("--unique", metavar="KEY", help="At most one live message may hold this key")
@option("--id", "id_", metavar="ID", help="The message's id; generated otherwise")
@option("--wait", is_flag=True, help="Wait for its end, and print its result")
@operates
def enqueue(
    *,
    actor: str,
    arguments: tuple[str, ...],
    queue: str | None,
    app: str | None,
    wait: bool,
    broker: str | None,
    as_json: bool,
    **said: Any,
) -> None:
    """Enqueue a job of ACTOR, and print its id.

    Arguments are JSON by position (3, '"text"', '[1, 2]'), texts by name (name=Trio), or JSON by name (count:=3).
    Without --app nobody checks them before a worker does.  A negative number goes by name, or after `--`.
    """
    args, kwargs = parsed(arguments)
    job = _job(actor, args, kwargs, queue=queue, app=app, options=_options(**said))

    async def work(connection: Connection) -> dict[str, Any]:
        handle = await connection.enqueue(job, wait=False)
        told = {"id": handle.id, "queue": handle.queue, "actor": job.name, "existing": handle.existing}
        if handle.existing:
            print(f"{handle.id} is alive already; nothing new was enqueued", file=sys.stderr)
        if not wait:
            return told
        if not as_json:
            print(f"enqueued {handle.id} in {handle.queue}", file=sys.stderr, flush=True)
        with progress(f"waiting for {job.name} (Ctrl-C leaves it to its worker)"):
            # As the broker keeps it: what is printed is JSON, so it need not become the actor's types first.
            return {**told, "result": await connection.handle(handle.id, queue=handle.queue).result()}

    told = visit(broker, work)
    if as_json:
        print_json(told)
    elif wait:
        print_json(told["result"])
    else:
        print(told["id"])


def parsed(arguments: tuple[str, ...]) -> tuple[list[Any], dict[str, Any]]:
    """Return what the words of a command line say: arguments by position, and by name.

    Raises:
      Failure: exit code 2, if one is not JSON where it has to be, or a name comes twice.
    """
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for word in arguments:
        keyword = _KEYWORD.fullmatch(word)
        if keyword is None:
            args.append(_json(word, f"for a text write '\"{word}\"', or name it: key={word}"))
            continue
        name, mark, text = keyword.groups()
        if name in kwargs:
            raise Failure(f"argument {name} is given twice", Exit.USAGE)
        kwargs[name] = text if mark == "=" else _json(text, f"for a text write {name}={text}")
    return args, kwargs


def _json(text: str, hint: str) -> Any:
    from trepid.values import codec

    try:
        return codec.decode(text.encode("utf-8", "surrogateescape"))
    except ValueError as exc:
        raise Failure(f"{text} is not JSON", Exit.USAGE, hint) from exc


def _options(
    *,
    priority: str | None,
    retries: int | None,
    timeout: float | None,
    ttl: float | None,
    delay: float | None,
    due: datetime | None,
    unique: str | None,
    id_: str | None,
) -> dict[str, Any]:
    """Return what was said of the job, in the words of its constructor."""
    from trepid.values.queue import Priority
    from trepid.values.unique import Unique

    try:
        said = {
            "priority": None if priority is None else Priority[priority.upper()],
            "retries": retries,
            "timeout": timeout,
            "ttl": ttl,
            "delay": delay,
            "deferred_until": due,
            "unique": None if unique is None else Unique(unique),
            "id": id_,
        }
    except (TypeError, ValueError) as exc:
        raise usage(exc) from exc
    return {key: value for key, value in said.items() if value is not None}


def _job(
    name: str, args: list[Any], kwargs: dict[str, Any], *, queue: str | None, app: str | None, options: dict[str, Any]
) -> Job[Any]:
    from trepid.errors import ArgumentsError
    from trepid.values.job import Job

    if "delay" in options and "deferred_until" in options:
        raise Failure("--in and --at do not go together", Exit.USAGE)
    if queue is not None:
        options["queue"] = queue
    actor = None if app is None else _actor(app, name)
    try:
        job = Job(name, args=tuple(args), kwargs=kwargs) if actor is None else _checked(actor, args, kwargs)
        return job.options(**options)
    except ArgumentsError as exc:
        takes = "" if actor is None else str(actor.parameters.signature)
        hint = "KEY=TEXT gives a text, KEY:=JSON anything else"
        raise usage(f"arguments do not fit {name}{takes}: {exc.reason}", hint) from exc
    except (TypeError, ValueError) as exc:
        raise usage(exc) from exc


def _actor(app: str, name: str) -> Actor[..., Any]:
    from trepid.cli.loading import load

    router = load(app).worker.router
    found = router.find(name)
    if found is None:
        raise Failure(f"{app} has no actor {name!r}", Exit.NOTHING, meant(name, router))
    return found


def _checked(actor: Actor[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Job[Any]:
    """Return a job of an actor, whose arguments were converted as its worker will."""
    from trepid.values.envelope import unseal

    try:
        job = actor.job(*args, **kwargs)
    except TypeError as exc:
        raise usage(exc, f"{actor.name} takes {actor.parameters.signature}") from exc
    actor.parameters.read(unseal(job.payload))
    return job
