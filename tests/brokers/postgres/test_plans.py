"""Every hot statement goes by an index, however many messages wait, also while the statistics say: none."""

import re
import time

import psycopg
import pytest

from tests.brokers.postgres.kit import connect, end, new_broker, put, take
from trepid.brokers.postgres import (
    claiming,
    endings,
    firing,
    holding,
    link,
    measuring,
    passing,
    queries,
    schema,
    statements,
)

MANY = 100_000

HOT = {
    "LOOK": (claiming, (["q"],)),
    "CLAIM": (claiming, (1, 2e9, 100, "me", 3e9)),
    "NEXT_DUE": (claiming, (1, 2e9)),
    "CLAIM_AT_ONCE": (claiming, (2e9, 1, 100, "me", 60.0)),
    "NEXT_DUE_AT_ONCE": (claiming, (2e9, 1)),
    "INSERT_NOW": (
        statements,
        (2e9, [0.0], [1], [None], [3], [None], ["q"], ["m"], ["p"], [1], [5], [None], [None], [b""]),
    ),
    "LAPSED": (claiming, (1, 2e9, 100)),
    "OVERDUE": (claiming, (1, 2e9, 100)),
    "LOCKED_BY_IDS": (statements, (1, ["m1", "m2"])),
    "ENDED_BY_IDS": (statements, (1, ["m1", "m2"])),
    "BY_UNIQUE": (statements, (1, ["k"])),
    "DONE_AND_GONE": (statements, (2e9, ["q"], ["m1"], [1], [1])),
    "DONE": (statements, (2e9, ["q"], ["m1"], [1], [1], [3e9], [b"1"], [None])),
    "EXTEND": (claiming, ([1, 2], 3e9)),
    "HELD": (claiming, ("me", 2e9)),
    "ASKED": (claiming, ("me", 2e9)),
    "OBJECTION": (statements, (["q"], ["m1"], ["p"], [1], [1])),
    "SWEEP": (statements, (3e9, 2e9, 100)),
    "DROP_DEPARTED": (statements, (2e9, 100)),
    "DEAD": (statements, (1, 0, 100)),
    "GET": (queries, (1, "m1")),
    "BODIES": (queries, (1, [1, 2], ["m1"])),
    "PEEK_READY": (queries, (1, 2e9, 0, 100)),
    "PEEK_ENDED": (queries, (1, 2e9, 0, 100, 4)),
    "OLDEST": (queries, (1, 2e9)),
    "DROP_HOLDS": (statements, (2e9, 100)),
    "RELEASE_HOLDS": (statements, ([1], ["k"], ["m1"])),
    "REGATE": (statements, ([1], ["a"])),
}
# Statements of other modules may have the same names.
GATED = {
    "LIMITS": (passing, (1, 2e9)),
    "INSIDE": (passing, (1, 2e9)),
    "GATES": (passing, (1, 2e9, "")),
    "FIRST": (passing, (1, 2e9, 10, ["a"], [10], [])),
    "CLAIM": (passing, ([1, 2, 3], "me", 3e9)),
    "NEXT_DUE": (passing, (1, 0.0)),
    "LIVE": (measuring, (1,)),
    "FIND": (holding, (2e9, [1], ["k"])),
    "OBJECTION": (holding, (2e9, ["q"], ["k"])),
}
MANY_ENDS = {
    "LIVE": (endings, (1, ["m1", "m2"], 2e9)),
    "ENDED": (endings, (1, ["m1", "m2"], 2e9)),
    "FIND": (firing, ([1], ["m"])),
}


def told(statement, broker):
    """Return a statement as it is sent, at a time that we choose."""
    return schema.in_schema(schema.told(statement, "$1::float8"), broker.address.schema)


@pytest.fixture
async def filled(postgres_server):
    """A queue with very many messages, of which the statistics know nothing."""
    broker = new_broker(postgres_server)
    async with broker.open() as session:
        await session.declare(["q"])
        name = schema.quoted(broker.address.schema)
        with connect(postgres_server, autocommit=True) as connection:
            for table in ("messages", "ended", "departed"):
                connection.execute(f"ALTER TABLE {name}.{table} SET (autovacuum_enabled = off)")
                connection.execute(f"ANALYZE {name}.{table}")
            connection.execute(
                f"INSERT INTO {name}.messages"
                " (due, state, queue, id, publisher, publication, priority, enqueued, payload)"
                f" SELECT 1000 + n, 1, 1, 'm' || n, 'p', n, 5, 1000, '' FROM generate_series(1, {MANY}) AS n"
            )
        yield broker, session


async def test_no_statement_looks_through_a_table(filled):
    broker, _ = filled
    connection = link.connect(broker.address)
    try:
        for name, (module, parameters) in (*HOT.items(), *GATED.items(), *MANY_ENDS.items()):
            statement = told(getattr(module, name), broker)
            connection.execute("BEGIN")
            plan = connection.execute(f"EXPLAIN {statement}".encode(), parameters).fetchall()
            connection.execute("ROLLBACK")
            text = "\n".join(line for (line,) in plan)
            scans = re.findall(r"Seq Scan on (\w+)", text)
            assert not set(scans) - {"queues"}, f"{name}\n{text}"
            if name.startswith("CLAIM") and module is claiming:
                assert "Index Scan using messages_waiting" in text
                assert not re.search(r"Sort Key: .*due", text), text
    finally:
        connection.close()


NAMES = [f"m{number}" for number in range(1, 101)]
BY_NAME = {
    "LOCKED_BY_IDS": (statements, (1, NAMES)),
    "ENDED_BY_IDS": (statements, (1, NAMES)),
    "BY_UNIQUE": (statements, (1, NAMES)),
    "DEAD_BY_IDS": (statements, (1, NAMES)),
    "REMOVE_ENDED": (statements, (3e9, 1, NAMES)),
    "CLEAR_ENDED": (statements, (3e9, 1, 100)),
    "PURGE_ENDED": (statements, (3e9, 1, 2e9, 3, 100)),
    "PURGE_WAITING": (statements, (3e9, 1, 2e9, False, True, 100)),
    "SWEEP": (statements, (3e9, 2e9, 100)),
    "DONE_AND_GONE": (statements, (2e9, ["q"] * 100, NAMES, list(range(1, 101)), [0] * 100)),
    "CLAIM_AT_ONCE": (claiming, (2e9, 1, 10, "me", 60.0)),
    "SWEEP_AT_ONCE": (statements, (2e9, 2e9, 100)),
    "OBJECTION": (statements, (["q"] * 100, NAMES, ["p"] * 2, [1, 2], [1, 1])),
    "REMAINS": (statements, (NAMES,)),
    "DEPARTED": (statements, (["p"] * 2, [1, 2])),
    "ASKED": (claiming, ("me", 2e9)),
    "BODIES": (queries, (1, list(range(1, 101)), NAMES)),
}


async def test_what_is_named_costs_the_same_beside_very_many_others(filled, postgres_server):
    """Among messages that wait, are leased, and have ended, and what is left of others: no plan goes through them."""
    broker, _ = filled
    name = schema.quoted(broker.address.schema)
    with connect(postgres_server, autocommit=True) as user:
        user.execute(f"UPDATE {name}.messages SET state = 2, until = 3e9, owner = 'other' WHERE seq <= 20000")
        user.execute(
            f"INSERT INTO {name}.ended (due, state, queue, id, publisher, publication, priority, enqueued, payload)"
            f" SELECT 1, 3, 1, 'e' || n, 'p', n, 5, 1000, '' FROM generate_series(1, {MANY // 2}) AS n"
        )
        user.execute(f"INSERT INTO {name}.departed SELECT 'p', n, n, 3e9 FROM generate_series(1, {MANY // 2}) AS n")
        user.execute(f"INSERT INTO {name}.queues (name, deleted) VALUES (NULL, 1)")
    connection = link.connect(broker.address)
    try:
        for title, (module, parameters) in BY_NAME.items():
            statement = told(getattr(module, title), broker)
            connection.execute("BEGIN")
            found = connection.execute(f"EXPLAIN (ANALYZE, BUFFERS) {statement}".encode(), parameters).fetchall()
            connection.execute("ROLLBACK")
            plan = "\n".join(line for (line,) in found)
            read = sum(map(int, re.search(r"Buffers: shared(?: hit=(\d+))?(?: read=(\d+))?", plan).groups("0")))
            looked_at = [int(number) for number in re.findall(r"Removed by \w+(?: \w+)?: (\d+)", plan)]
            assert read < 2000, f"{title}\n{plan}"
            assert max(looked_at, default=0) < 2000, f"{title}\n{plan}"
    finally:
        connection.close()


async def test_a_lease_costs_the_same_beside_very_many_others(filled, postgres_server):
    _, many = filled
    async with new_broker(postgres_server).open() as few:
        await few.declare(["q"])
        prices = {}
        for session in (few, many, few, many):
            await put(session, *(f"x{number}" for number in range(60)))
            for _ in range(50):
                start = time.perf_counter()
                deliveries = await take(session, 1)
                prices.setdefault(session, []).append(time.perf_counter() - start)
                await end(session, deliveries)
        # The quickest of many: the machine is shared.  A scan of the table would cost tens of milliseconds.
        assert min(prices[many]) < 2 * min(prices[few]) + 0.001


async def test_counts_are_exact_beside_very_many_others(filled):
    _, session = filled
    await put(session, "later", delay=1000)
    deliveries = await take(session, 7)
    await end(session, deliveries[:3])
    stats = await session.stats("q")
    assert (stats.ready, stats.scheduled, stats.leased, stats.done) == (MANY - 7, 1, 4, 3)


async def test_dead_rows_are_what_autovacuum_is_told_to_look_for(filled, postgres_server):
    broker, _ = filled
    with psycopg.connect(postgres_server.url) as connection:
        ((options,),) = connection.execute(
            "SELECT reloptions FROM pg_class WHERE oid = %s::regclass", (f"{broker.address.schema}.messages",)
        ).fetchall()
    assert {"fillfactor=85", "autovacuum_vacuum_scale_factor=0", "autovacuum_vacuum_threshold=5000"} <= set(options)
