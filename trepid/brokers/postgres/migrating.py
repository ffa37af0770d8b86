"""The schema as an operator sees it: which version is there, what would be done, and doing it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import psycopg

from trepid.brokers.postgres import admission, link, schema
from trepid.brokers.postgres.address import Address
from trepid.brokers.postgres.faults import typed
from trepid.brokers.postgres.link import Link


def script(url: str, version: int = 0) -> str:
    """Return the SQL that brings a schema from a version, 0 for none, to this one, for tools of one's own.

    Args:
      url: of the broker; nothing is opened.
      version: what is there.

    Raises:
      BrokerURLError: if the URL cannot be used.
    """
    statements = schema.script(Address.of(url).schema, version)
    return "\n".join(["BEGIN;", *(f"{statement};" for statement in statements), "COMMIT;"])


def version(url: str) -> tuple[int, int]:
    """Return the version of the schema, 0 if it is not there, and the one that this Trepid needs.

    Raises:
      BrokerRefusedError, BrokerLostError: if the database cannot be opened.
    """
    with _opened(url) as (connection, address):
        return admission.version_of(connection, address.schema), schema.VERSION


def migrate(url: str) -> tuple[int, int]:
    """Bring the schema up to date, and return the version that was there and the one that is there now.

    Raises:
      BrokerRefusedError: if it is newer, or we may not change it; nothing was done then.
      BrokerLostError: if the database cannot be reached.
    """
    with _opened(url) as (connection, address):
        return admission.migrate(connection, address), schema.VERSION


@contextmanager
def _opened(url: str) -> Generator[tuple[Link, Address]]:
    address = Address.of(url)
    connection = link.connect(address, settings=("lock_timeout = '10s'",))
    # An index on a large table takes its time; whoever waits here is a person.
    connection.patient = True
    try:
        yield connection, address
    except psycopg.Error as exc:
        raise typed(exc, address.shown) from exc
    finally:
        connection.close()
