"""The PostgreSQL broker, durable to the loss of power, and what the database does by itself: the floor.

    python -m benchmarks.postgres [--jobs N] [--rounds N]

The raw measures use psycopg alone, on one connection and a table of the barest: a claim of 100 with SKIP LOCKED and
their deletion, each in a transaction of its own, and an INSERT of 1000 rows by arrays.
"""

from __future__ import annotations

from functools import partial

import psycopg

from benchmarks.engine import RAW, measure
from benchmarks.harness import Stopwatch
from benchmarks.places import Fresh, places

PAYLOAD = b'{"v":1,"actor":"noop"}'
BATCH = 100

_TABLE = """
    CREATE TABLE raw (id bigserial PRIMARY KEY, queue int, priority int, due float8, state int DEFAULT 0, owner text,
                      until float8, payload bytea) WITH (fillfactor = 85);
    CREATE INDEX raw_ready ON raw (queue, priority, due, id) WHERE state = 0"""
_INSERT = """
    INSERT INTO raw (queue, priority, due, payload)
    SELECT 1, 5, 0, payload FROM unnest(%s::bytea[]) AS payload"""
_CLAIM = """
    UPDATE raw SET state = 1, owner = 'me', until = 30
    FROM (SELECT id AS its FROM raw WHERE queue = 1 AND priority = 5 AND due <= 1 AND state = 0
          ORDER BY due, id LIMIT %s FOR UPDATE SKIP LOCKED) AS chosen
    WHERE id = its RETURNING id, payload"""
_ACK = "DELETE FROM raw WHERE id = ANY(%s) AND owner = 'me' AND state = 1"


def _opened(fresh: Fresh) -> psycopg.Connection[tuple[object, ...]]:
    connection = psycopg.connect(fresh(), autocommit=True, prepare_threshold=0)
    connection.execute(_TABLE, prepare=False)
    return connection


def raw_drain(fresh: Fresh, jobs: int) -> float:
    """Return messages per second, claimed and deleted in batches of 100."""
    with _opened(fresh) as connection:
        for _ in range(0, jobs, 1000):
            connection.execute(_INSERT, ([PAYLOAD] * 1000,))
        watch = Stopwatch()
        while claimed := connection.execute(_CLAIM, (BATCH,), binary=True).fetchall():
            connection.execute(_ACK, ([row[0] for row in claimed],))
        return watch.rate(jobs)


def raw_enqueue(fresh: Fresh, jobs: int) -> float:
    """Return messages per second, inserted 1000 at a time."""
    with _opened(fresh) as connection:
        watch = Stopwatch()
        for _ in range(0, jobs, 1000):
            connection.execute(_INSERT, ([PAYLOAD] * 1000,))
        return watch.rate(jobs)


def main() -> None:
    """Measure and print."""
    with places("postgres") as fresh:
        measure(
            "PostgreSQL",
            fresh,
            {RAW: partial(raw_drain, fresh, 20_000)},
            {"raw, 1000 at a time": partial(raw_enqueue, fresh, 20_000)},
        )


if __name__ == "__main__":
    main()
