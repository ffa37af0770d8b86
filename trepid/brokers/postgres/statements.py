"""Every statement.  ``@.`` stands for the schema; ``$1`` and so on are values, always."""

# ruff: noqa: S608 - the parts that are put together are constants; values are always parameters.

from __future__ import annotations

from typing import Final

from trepid.brokers.postgres.schema import COLUMNS, NOW, TIME
from trepid.brokers.sql.rows import LIFE_COLUMNS
from trepid.rules.publishing import REMEMBERED

_LIFE: Final = tuple(LIFE_COLUMNS.split(", "))
_TYPES: Final = {
    **dict.fromkeys(("due", "expires", "until", "stray_since", "ended", "forget", "result_ttl"), "float8"),
    **dict.fromkeys(("owner", "cancel", "verdict", "reason"), "text"),
}
_OTHERS: Final = "queue, id, publisher, publication, priority, enqueued, unique_key, gate, payload"


def _of(alias: str, columns: str) -> str:
    return ", ".join(f"{alias}.{column}" for column in columns.split(", "))


# ------------------------------------------------------------------------------------------------------- transactions

CLOCK: Final = "SELECT extract(epoch FROM clock_timestamp())::float8"
BEGIN: Final = f"BEGIN; {CLOCK}"
BEGIN_READING: Final = f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {CLOCK}"

# ------------------------------------------------------------------------------------------------------------- queues

QUEUE: Final = "SELECT key, paused FROM @.queues WHERE name = $1"
QUEUES: Final = "SELECT key, name, paused FROM @.queues WHERE name IS NOT NULL"
KEYS: Final = "SELECT name, key FROM @.queues WHERE name = ANY($1::text[])"
ADD_QUEUES: Final = """
    INSERT INTO @.queues (name) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING"""
PAUSE_QUEUE: Final = "UPDATE @.queues SET paused = $1 WHERE name = $2"
# Leases hold the key of their queue shared; who deletes it holds it alone, so he sees all leases, or they see no queue.
LOCK_QUEUE: Final = """
    SELECT pg_advisory_xact_lock('@.messages'::regclass::oid::integer, key) FROM @.queues WHERE name = $1"""
UNNAME_QUEUE: Final = "UPDATE @.queues SET name = NULL, deleted = $1 WHERE key = $2"
DELETED_QUEUES: Final = "SELECT key, deleted FROM @.queues WHERE name IS NULL"
# Its holds end with their time, since their keys are never used again.
FORGET_QUEUE: Final = """
    WITH limits AS (DELETE FROM @.limits WHERE queue = $1), starts AS (DELETE FROM @.starts WHERE queue = $1)
    DELETE FROM @.marks WHERE queue = $1"""
DROP_QUEUE: Final = "DELETE FROM @.queues WHERE key = $1"
LEASED: Final = "SELECT count(*) FROM @.messages WHERE queue = $1 AND state = 2"

# ---------------------------------------------------------------------------------------------------- single messages

# What is named is looked up name by name, in a subquery that ends in FOR UPDATE or OFFSET 0: it is planned by itself,
# with all it is asked for.  A join, or ANY beside ORDER BY, may go through a whole queue by an index's first column.


def _by_names(columns: str, source: str, end: str) -> str:
    return f"""
    SELECT m.* FROM unnest($2::text[]) AS g(name)
    CROSS JOIN LATERAL (SELECT {columns} FROM {source} {end}) AS m"""


_LIVE: Final = "@.messages WHERE queue = $1 AND id = g.name"
_ENDED: Final = "@.ended WHERE queue = $1 AND id = g.name"
LOCKED_BY_IDS: Final = _by_names(COLUMNS, _LIVE, "FOR UPDATE")
ENDED_BY_IDS: Final = _by_names(COLUMNS, _ENDED, "OFFSET 0")
BY_UNIQUE: Final = _by_names(COLUMNS, "@.messages WHERE queue = $1 AND unique_key = g.name", "FOR UPDATE")

# The lives of some messages, and what came of them: the arrays are what `Transaction.save` transposes.
_GIVEN: Final = ", ".join(
    f"${number}::{_TYPES.get(column, 'bigint')}[]" for number, column in enumerate(_LIFE, start=2)
)
_N: Final = len(_LIFE) + 1
_SAVED: Final = f"unnest($1::bigint[], {_GIVEN}, ${_N + 1}::bytea[])"
_SAVED_NAMES: Final = f"stored, {LIFE_COLUMNS}, error"
_APPENDED: Final = "CASE WHEN g.error IS NULL THEN m.errors ELSE array_append(m.errors, g.error) END"
SAVE: Final = f"""
    UPDATE @.messages m SET ({LIFE_COLUMNS}, errors) = ROW({_of("g", LIFE_COLUMNS)}, {_APPENDED})
    FROM {_SAVED} AS g({_SAVED_NAMES}) WHERE m.seq = g.stored"""
# An earlier run of the same id is not there any more, but for a guest who published it again in a transaction of
# REPEATABLE READ, and could not see that it had ended meanwhile.
_ENDED_COLUMNS: Final = f"{LIFE_COLUMNS}, {_OTHERS}, errors, result, unreadable"
_REPLACING: Final = f"""
    ON CONFLICT (queue, id) DO UPDATE SET ({_ENDED_COLUMNS}) = ROW({_of("excluded", _ENDED_COLUMNS)})"""
END: Final = f"""
    WITH g AS (
        SELECT * FROM unnest($1::bigint[], {_GIVEN}, ${_N + 1}::bytea[], ${_N + 2}::bytea[], ${_N + 3}::text[])
        AS g({_SAVED_NAMES}, result, unreadable)
    ), m AS (
        DELETE FROM @.messages m USING g WHERE m.seq = g.stored RETURNING m.seq AS place, {_of("m", _OTHERS)}, m.errors
    )
    INSERT INTO @.ended ({_ENDED_COLUMNS})
    SELECT {_of("g", LIFE_COLUMNS)}, {_of("m", _OTHERS)}, {_APPENDED}, g.result, g.unreadable
    FROM m JOIN g ON g.stored = m.place {_REPLACING}"""

RELEASE_HOLDS: Final = """
    DELETE FROM @.holds h USING unnest($1::bigint[], $2::text[], $3::text[]) AS g(queue, unique_key, id)
    WHERE h.queue = g.queue::integer AND h.unique_key = g.unique_key AND h.id = g.id"""
REGATE: Final = """
    UPDATE @.messages m SET gate = nullif(g.gate, '') FROM unnest($1::bigint[], $2::text[]) AS g(seq, gate)
    WHERE m.seq = g.seq"""

# ---------------------------------------------------------------------------------------------------------- departing

_DEPART: Final = """
    departing AS (
        INSERT INTO @.departed (publisher, page, bits, until)
        SELECT publisher, publication >> 6, bit_or(1::bigint << (publication & 63)::integer), $1
        FROM gone GROUP BY publisher, publication >> 6
    )"""
REMOVE: Final = f"""
    WITH gone AS (
        DELETE FROM @.messages WHERE seq = ANY($2::bigint[]) RETURNING publisher, publication
    ), {_DEPART}
    SELECT count(*) FROM gone"""
REMOVE_ENDED: Final = f"""
    WITH gone AS (
        DELETE FROM @.ended WHERE ctid = ANY(ARRAY(
            SELECT m.place FROM unnest($3::text[]) AS g(name) CROSS JOIN LATERAL (
                SELECT ctid AS place FROM @.ended WHERE queue = $2 AND id = g.name FOR UPDATE) AS m
        )) RETURNING publisher, publication
    ), {_DEPART}
    SELECT count(*) FROM gone"""
SWEEP: Final = f"""
    WITH gone AS (
        DELETE FROM @.ended WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM @.ended WHERE forget IS NOT NULL AND forget <= $2
            ORDER BY forget LIMIT $3 FOR UPDATE SKIP LOCKED
        )) RETURNING publisher, publication
    ), {_DEPART}
    SELECT count(*) FROM gone"""
# The same where it is only known what time is over.
SWEEP_AT_ONCE: Final = SWEEP.replace(", $1\n", f", {NOW} + {REMEMBERED}\n").replace("WITH gone", f"WITH {TIME}, gone")
CLEAR: Final = f"""
    WITH gone AS (
        DELETE FROM @.messages USING (
            SELECT seq AS place FROM @.messages WHERE queue = $2 LIMIT $3 FOR UPDATE SKIP LOCKED
        ) AS old WHERE seq = place RETURNING publisher, publication
    ), {_DEPART}
    SELECT count(*) FROM gone"""
CLEAR_ENDED: Final = f"""
    WITH gone AS (
        DELETE FROM @.ended WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM @.ended WHERE queue = $2 LIMIT $3 FOR UPDATE SKIP LOCKED
        )) RETURNING publisher, publication
    ), {_DEPART}
    SELECT count(*) FROM gone"""
DROP_DEPARTED: Final = """
    DELETE FROM @.departed WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM @.departed WHERE until <= $1 ORDER BY until LIMIT $2 FOR UPDATE SKIP LOCKED))"""
DROP_HOLDS: Final = """
    DELETE FROM @.holds WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM @.holds WHERE until <= $1 ORDER BY until LIMIT $2 FOR UPDATE SKIP LOCKED))"""

# A message that has ended is never changed, only removed; so where it is found is where it stays.

# --------------------------------------------------------------------------------------------------------- publishing

_INSERT: Final = """
    INSERT INTO @.messages (due, state, expires, max_crashes, result_ttl,
                            queue, id, publisher, publication, priority, enqueued, unique_key, gate, payload)
    SELECT @since + g.due, g.state, @since + g.expires, g.max_crashes, g.result_ttl,
           q.key, g.id, g.publisher, g.publication, g.priority, @now, g.unique_key, g.gate, g.payload
    FROM unnest($2::float8[], $3::bigint[], $4::float8[], $5::bigint[], $6::float8[],
                $7::text[], $8::text[], $9::text[], $10::bigint[], $11::bigint[],
                $12::text[], $13::text[], $14::bytea[])
         WITH ORDINALITY
         AS g(due, state, expires, max_crashes, result_ttl,
              queue, id, publisher, publication, priority, unique_key, gate, payload, number)
    JOIN @.queues q ON q.name = g.queue @unless
    ORDER BY g.number
    ON CONFLICT DO NOTHING RETURNING seq"""
INSERT_ANYWAY: Final = _INSERT.replace("@since + ", "").replace("@now", "$1").replace("@unless", "")
# The same without those of queues that take only so many.
_BOUNDED: Final = "AND q.max_size IS NULL"
INSERT: Final = _INSERT.replace("@since + ", "").replace("@now", "$1").replace("@unless", _BOUNDED)
# The same where the time is not known yet: moments are seconds from now, by the clock that `Clock.now` names.
INSERT_NOW: Final = f"WITH {TIME}" + _INSERT.replace("@since", NOW).replace("@now", NOW).replace("@unless", _BOUNDED)
# What stands against messages although their ids were free among the live ones: something of the same id has ended,
# or is left of a deleted queue, or the same publish belongs to something that is gone.  Asked after they are stored, in
# a statement of its own: whoever stored the same before has committed by then, and is seen.
_DEPARTED_PAGE: Final = """
    SELECT publisher, page, bits FROM @.departed WHERE publisher = g.publisher AND page = g.page OFFSET 0"""
OBJECTION: Final = f"""
    SELECT EXISTS (
        SELECT FROM unnest($1::text[], $2::text[]) AS g(queue, id) JOIN @.queues q ON q.name = g.queue
        CROSS JOIN LATERAL (SELECT FROM @.ended e WHERE e.queue = q.key AND e.id = g.id OFFSET 0) AS e
    ) OR EXISTS (
        SELECT FROM unnest($3::text[], $4::bigint[], $5::bigint[]) AS g(publisher, page, bits)
        CROSS JOIN LATERAL ({_DEPARTED_PAGE}) AS d WHERE d.bits & g.bits <> 0
    ) OR EXISTS (
        SELECT FROM (SELECT key FROM @.queues WHERE name IS NULL OFFSET 0) AS q CROSS JOIN LATERAL (
            SELECT FROM unnest($2::text[]) AS g(id) CROSS JOIN LATERAL (
                SELECT FROM @.messages m WHERE m.queue = q.key AND m.id = g.id
                UNION ALL
                SELECT FROM @.ended e WHERE e.queue = q.key AND e.id = g.id OFFSET 0
            ) AS r OFFSET 0
        ) AS r
    )"""
TAKE_BACK: Final = "DELETE FROM @.messages WHERE seq = ANY($1::bigint[])"
DEPARTED: Final = f"""
    SELECT d.* FROM unnest($1::text[], $2::bigint[]) AS g(publisher, page)
    CROSS JOIN LATERAL ({_DEPARTED_PAGE}) AS d"""
REMAINS: Final = """
    SELECT r.publisher, r.publication FROM @.queues q CROSS JOIN unnest($1::text[]) AS g(id) CROSS JOIN LATERAL (
        SELECT publisher, publication FROM @.messages m WHERE m.queue = q.key AND m.id = g.id
        UNION ALL
        SELECT publisher, publication FROM @.ended e WHERE e.queue = q.key AND e.id = g.id OFFSET 0
    ) AS r WHERE q.name IS NULL"""

# ----------------------------------------------------------------------------------------------------------- settling

_REFS: Final = """
    unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[]"""
# Only the place is looked up by an index: the sums keep the planner from others, which it thinks short.
_HELD: Final = f"""
    q.name = g.queue AND m.queue + 0 = q.key AND m.seq = g.seq AND m.id = g.id AND m.deliveries = g.deliveries
    AND m.state + 0 = 2 AND m.until > {NOW}"""
# The commonest step of all: `lifecycle.settle` with Done, where `lifecycle.standing` says APPLIED.  It is also told
# whether the end may let somebody else pass.
_DONE_LIFE: Final = {
    "state": "3",
    "owner": "NULL",
    "verdict": "'Done'",
    "settled": "m.deliveries",
    "ended": NOW,
    "forget": f"{NOW} + m.keep",
    "expires": "NULL",
}
DONE: Final = f"""
    WITH {TIME}, m AS (
        DELETE FROM @.messages m
        USING {_REFS}, $6::float8[], $7::bytea[], $8::text[])
              AS g(queue, id, seq, deliveries, keep, result, unreadable), @.queues q
        WHERE {_HELD}
        RETURNING {_of("m", LIFE_COLUMNS)}, {_of("m", _OTHERS)}, m.errors, g.keep, g.result, g.unreadable, q.limited
    ), kept AS (
        INSERT INTO @.ended ({_ENDED_COLUMNS})
        SELECT {", ".join(_DONE_LIFE.get(column, f"m.{column}") for column in _LIFE)}, {_of("m", _OTHERS)}, m.errors,
               m.result, m.unreadable
        FROM m {_REPLACING}
    )
    SELECT seq, limited FROM m"""
# The same for messages of which nothing is to be kept.
DONE_AND_GONE: Final = f"""
    WITH {TIME}, gone AS (
        DELETE FROM @.messages m USING {_REFS}) AS g(queue, id, seq, deliveries), @.queues q
        WHERE {_HELD} RETURNING m.seq, m.publisher, m.publication, q.limited
    ), {_DEPART.replace("$1", f"{NOW} + {REMEMBERED}")}
    SELECT seq, limited FROM gone"""

# ------------------------------------------------------------------------------------------------------------ keeping

DEAD: Final = f"""
    SELECT {COLUMNS} FROM @.ended WHERE queue = $1 AND state = 4 AND seq > $2 ORDER BY seq LIMIT $3 FOR UPDATE"""
DEAD_BY_IDS: Final = _by_names(COLUMNS, f"{_ENDED} AND state = 4", "FOR UPDATE")
PLACES: Final = "SELECT nextval('@.places') FROM generate_series(1, $1::integer)"
# Those whose id or key has been taken meanwhile stay where they are.
REVIVE: Final = f"""
    WITH g AS (
        SELECT * FROM {_SAVED} AS g({_SAVED_NAMES})
    ), back AS (
        INSERT INTO @.messages ({LIFE_COLUMNS}, {_OTHERS}, errors)
        SELECT {_of("g", LIFE_COLUMNS)}, {_of("m", _OTHERS)}, m.errors
        FROM g CROSS JOIN LATERAL (
            SELECT * FROM @.ended WHERE queue = ${_N + 2} AND state = 4 AND seq = g.stored OFFSET 0) AS m
        ORDER BY g.seq ON CONFLICT DO NOTHING RETURNING queue, id
    ), gone AS (
        DELETE FROM @.ended WHERE ctid = ANY(ARRAY(
            SELECT m.place FROM back CROSS JOIN LATERAL (
                SELECT ctid AS place FROM @.ended e WHERE e.queue = back.queue AND e.id = back.id OFFSET 0) AS m))
    )
    SELECT count(*) FROM back"""
_WAITING: Final = """
                SELECT seq AS place FROM @.messages
                WHERE queue = $2 AND state < 2 AND ($5 OR (due <= $3) = $4) AND gate IS"""
# Each branch by an index that has nothing else in it.
PURGE_WAITING: Final = f"""
    WITH gone AS (
        DELETE FROM @.messages USING (
            SELECT * FROM ({_WAITING} NULL ORDER BY priority, due, seq LIMIT $6 FOR UPDATE SKIP LOCKED) AS free
            UNION ALL
            SELECT * FROM ({_WAITING} NOT NULL ORDER BY due LIMIT $6 FOR UPDATE SKIP LOCKED) AS gated
            LIMIT $6
        ) AS old WHERE seq = place RETURNING publisher, publication
    ), {_DEPART}
    SELECT count(*) FROM gone"""
PURGE_ENDED: Final = f"""
    WITH gone AS (
        DELETE FROM @.ended WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM @.ended WHERE queue = $2 AND state = $4 AND (forget IS NULL OR forget > $3)
            ORDER BY seq LIMIT $5 FOR UPDATE SKIP LOCKED
        )) RETURNING publisher, publication
    ), {_DEPART}
    SELECT count(*) FROM gone"""

# --------------------------------------------------------------------------------------------------------------- bells

INSTANCE: Final = "SELECT instance, version FROM @.meta"
NOTIFY: Final = "SELECT pg_notify($1, $2)"
