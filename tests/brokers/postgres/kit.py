"""What these tests share, beside the short ways of SQLite's."""

import itertools

import psycopg

from tests.brokers.sqlite.kit import end, message, our_threads, put, take
from trepid.brokers.postgres import PostgreSQLBroker

__all__ = ["connect", "end", "message", "new_broker", "our_threads", "put", "put_done", "schema_of", "take"]

SCHEMAS = itertools.count()


def new_broker(server, *, url=None, more="", **options):
    """Return a broker in a schema that nobody else uses."""
    return PostgreSQLBroker(f"{url or server.url}?schema=own_{next(SCHEMAS)}{more}", **options)


def schema_of(broker):
    return broker.address.schema


def connect(server, **options):
    """Return a connection of the user's own."""
    return psycopg.connect(server.url, **options)


async def put_done(session, *ids):
    await put(session, *ids)
    return await end(session, await take(session))


def rows(server, query):
    with psycopg.connect(server.url) as connection:
        return connection.execute(query).fetchall()
