"""``trepid migrate``: the tables of a database broker, brought up to date by its owner."""

from __future__ import annotations

import sys

import rich_click as click

from trepid.cli.failures import Exit, Failure, leave
from trepid.cli.options import operates, option
from trepid.cli.tables import print_json
from trepid.cli.visits import named_broker, shown


@click.command()
@option("--check", is_flag=True, help="Change nothing; exit code 1 if there is something to do")
@option("--sql", is_flag=True, help="Change nothing; print the SQL, for a migration tool of your own")
@operates
def migrate(*, check: bool, sql: bool, broker: str | None, as_json: bool) -> None:
    """Bring the tables of a PostgreSQL broker to the version that this Trepid needs.

    A database without our tables gets them from the first program that opens it, if it may; this command is for the
    others, and for a new version of Trepid.  Stop the workers of the old version first.
    """
    url = named_broker(broker)
    where = shown(url)
    if url.partition(":")[0].lower() not in ("postgresql", "postgres"):
        raise Failure(f"{where} has nothing to migrate", Exit.USAGE, "a file is brought up to date when it is opened")
    from trepid.brokers.postgres import migrating

    if sql:
        print(migrating.script(url, _there(url)))
        return
    before, now = migrating.version(url) if check else migrating.migrate(url)
    if as_json:
        print_json({"broker": where, "found": before, "needed": now, "changed": not check and before != now})
    elif before == now:
        print(f"{where}: up to date (version {now})")
    elif check:
        print(f"{where}: version {before or 'none'}, and {now} is needed", file=sys.stderr)
    else:
        print(f"{where}: version {now}, was {before or 'none'}")
    if check and before != now:
        leave(Exit.FAILED)


def _there(url: str) -> int:
    """Return the version that is there; where there is no database yet, none is."""
    from trepid.brokers.postgres import migrating
    from trepid.errors import BrokerLostError, BrokerRefusedError

    try:
        return migrating.version(url)[0]
    except (BrokerLostError, BrokerRefusedError):
        return 0
