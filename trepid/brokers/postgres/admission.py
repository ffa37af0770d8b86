"""What a server must be to be ours, and the tables in it: made where there are none, checked where there are."""

from __future__ import annotations

import contextlib
from typing import Any, Final

import psycopg

from trepid.brokers.postgres import schema
from trepid.brokers.postgres.address import Address
from trepid.brokers.postgres.faults import is_loss, said_by
from trepid.brokers.postgres.link import Link
from trepid.errors import BrokerRefusedError

OLDEST: Final = 120_000
"""PostgreSQL 12 brought `plan_cache_mode`, without which plans may change with the statistics."""

_ENCODINGS: Final = ("UTF8", "SQL_ASCII")
"""The second takes any bytes for a text, so ours, too."""


def admit(link: Link, address: Address) -> None:
    """Make sure that this is a server that can keep our promises, and make or check the schema.

    Raises:
      BrokerRefusedError: if it is not, and why.
    """
    version = link.info.server_version
    if version < OLDEST:
        raise BrokerRefusedError(address.shown, f"PostgreSQL {version // 10000} is too old; 12 or newer is needed")
    # Asked for, since a pooler in between need not pass on what the server says of itself.
    asked = b"SELECT pg_is_in_recovery(), current_setting('transaction_read_only'), current_setting('server_encoding')"
    row = link.execute(asked).fetchone()
    assert row is not None
    if row[0]:
        raise BrokerRefusedError(address.shown, "this is a replica; name the primary (target_session_attrs=read-write)")
    if row[1] == "on":
        raise BrokerRefusedError(address.shown, "the database is read-only (default_transaction_read_only)")
    if row[2] not in _ENCODINGS:
        raise BrokerRefusedError(
            address.shown,
            f"its encoding {row[2]} has no place for some texts; make the database with ENCODING 'UTF8'",
        )
    found = version_of(link, address.schema)
    if found == 0:
        migrate(link, address)
    else:
        refuse_other(address, found)


def refuse_other(address: Address, version: int) -> None:
    """Raise unless the schema is of the version that this code knows."""
    if version > schema.VERSION:
        raise BrokerRefusedError(
            address.shown,
            f"schema {address.schema!r} has version {version}, and this Trepid knows {schema.VERSION}; upgrade Trepid",
        )
    if version < schema.VERSION:
        raise BrokerRefusedError(
            address.shown,
            f"schema {address.schema!r} has version {version}, this Trepid needs {schema.VERSION}; stop the workers of "
            "older versions, then run: trepid migrate",
        )


_IS_THERE: Final = b"""
    SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                   WHERE n.nspname = $1 AND c.relname = 'meta')"""


def version_of(link: psycopg.Connection[Any], name: str) -> int:
    """Return the version of the schema, 0 if it is not there."""
    # The catalogue itself is read: `to_regclass` may answer from memory what was so before we waited for a lock.
    there = link.execute(_IS_THERE, (name,)).fetchone()
    if there is None or not there[0]:
        return 0
    row = link.execute(schema.in_schema("SELECT version FROM @.meta", name).encode()).fetchone()
    return 0 if row is None else int(row[0])


def migrate(link: psycopg.Connection[Any], address: Address) -> int:
    """Bring the schema up to date, in one transaction, and return the version that was there.

    Raises:
      BrokerRefusedError: if it is newer, or we may not make it.
    """
    link.execute("BEGIN")
    try:
        # One at a time: two programs may come to an empty database at once.
        link.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", (f"trepid {address.schema}",))
        version = version_of(link, address.schema)
        if version > schema.VERSION:
            refuse_other(address, version)
        for statement in schema.script(address.schema, version):
            link.execute(statement.encode(), prepare=False)
        link.execute("COMMIT")
    except psycopg.Error as exc:
        with contextlib.suppress(psycopg.Error):
            link.execute("ROLLBACK")
        if is_loss(exc):
            raise
        hint = "grant CREATE on the database, or let its owner run: trepid migrate"
        raise BrokerRefusedError(
            address.shown, f"schema {address.schema!r} cannot be made: {said_by(exc)}; {hint}"
        ) from exc
    except BaseException:
        with contextlib.suppress(psycopg.Error):
            link.execute("ROLLBACK")
        raise
    return version


def proof_of_durability(link: psycopg.Connection[Any]) -> tuple[bool, str]:
    """Return whether what is committed survives the loss of power, and the settings that say so."""
    names = ("fsync", "synchronous_commit", "full_page_writes")
    query = "SELECT " + ", ".join(f"current_setting('{name}')" for name in names)
    values = link.execute(query.encode()).fetchone()
    assert values is not None
    safe = values[0] == "on" and values[1] != "off" and values[2] == "on"
    return safe, ", ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))
