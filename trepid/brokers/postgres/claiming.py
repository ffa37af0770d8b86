"""The statements by which messages are leased, and leases are found.  ``@.`` stands for the schema."""

# ruff: noqa: S608 - the parts that are put together are constants; values are always parameters.

from __future__ import annotations

from typing import Final

from trepid.brokers.postgres.schema import COLUMNS, NOW, TIME

# What is to be known before anything is leased; the lock is shared by all that lease, and held until the commit.
LOOK: Final = """
    SELECT q.name, q.key, q.paused, q.limited, q.weight,
           (SELECT m.until FROM @.messages m WHERE m.queue = q.key AND m.state = 2 ORDER BY m.until LIMIT 1),
           (SELECT m.expires FROM @.messages m
            WHERE m.queue = q.key AND m.state < 2 AND m.expires IS NOT NULL ORDER BY m.expires LIMIT 1),
           (SELECT m.due FROM @.messages m
            WHERE m.queue = q.key AND m.state < 2 AND m.gate IS NOT NULL ORDER BY m.due LIMIT 1),
           pg_advisory_xact_lock_shared('@.messages'::regclass::oid::integer, q.key)
    FROM @.queues q WHERE q.name = ANY($1::text[])"""
LAPSED: Final = f"""
    SELECT {COLUMNS} FROM @.messages WHERE queue = $1 AND state = 2 AND until <= $2 ORDER BY until LIMIT $3"""
# Who was given back unstarted may become due after its ttl; it is dead from then on, and not before.
OVERDUE: Final = f"""
    SELECT {COLUMNS} FROM @.messages
    WHERE queue = $1 AND state < 2 AND expires IS NOT NULL AND expires <= $2 AND due <= $2 ORDER BY expires LIMIT $3"""
# Among those that lease, whoever looks at gates holds their queue alone, so that nobody is let through twice.
HOLD: Final = """
    SELECT pg_advisory_xact_lock('@.limits'::regclass::oid::integer, g.key::integer)
    FROM unnest($1::bigint[]) AS g(key)"""
HOLD_LIMITED: Final = """
    SELECT pg_advisory_xact_lock('@.limits'::regclass::oid::integer, q.key)
    FROM (SELECT key FROM @.queues WHERE name = ANY($1::text[]) AND limited ORDER BY key) AS q"""
_SKIPPING: Final = " FOR UPDATE SKIP LOCKED"
TAKE_LAPSED: Final = LAPSED + _SKIPPING
TAKE_OVERDUE: Final = OVERDUE + _SKIPPING
# The priorities of what waits without a gate, highest first: one look into the index each, however much there is of it.
LANES: Final = """
    RECURSIVE lane(priority) AS (
        (SELECT priority FROM @.messages WHERE queue = $1 AND state < 2 AND gate IS NULL ORDER BY priority DESC LIMIT 1)
        UNION ALL
        SELECT (SELECT m.priority FROM @.messages m
                WHERE m.queue = $1 AND m.state < 2 AND m.gate IS NULL AND m.priority < lane.priority
                ORDER BY m.priority DESC LIMIT 1)
        FROM lane WHERE lane.priority IS NOT NULL
    )"""


def _at_once(statement: str) -> str:
    """Return a statement on queue ``$1`` at the time ``$2`` as one on queue ``$2`` at the time of TIME."""
    moved = statement.replace("$2", NOW).replace("$1", "$2")
    return moved.replace("RECURSIVE lane", f"RECURSIVE {TIME}, lane")


# Who is claimed; whether a gate is among it, `leasing.deliveries` need not be told.
CLAIMED: Final = """m.seq, m.id, m.deliveries, m.payload, m.priority, m.failures - m.spent_failures,
              m.crashes - m.spent_crashes, m.due, m.enqueued, m.stray_since, m.result_ttl, m.max_crashes"""
_CLAIM: Final = f"""
    WITH {LANES}, chosen AS MATERIALIZED (
        SELECT m.seq FROM lane CROSS JOIN LATERAL (
            SELECT seq FROM @.messages
            WHERE queue = $1 AND priority = lane.priority AND state < 2 AND gate IS NULL AND due <= $2
                  AND (expires IS NULL OR expires > $2) AND EXISTS (
                      SELECT FROM @.queues WHERE key = $1 AND name IS NOT NULL AND NOT paused AND NOT limited @unless)
            ORDER BY due, seq LIMIT $3 FOR UPDATE OF messages SKIP LOCKED
        ) AS m LIMIT $3
    )
    UPDATE @.messages m SET state = 2, deliveries = m.deliveries + 1, owner = $4, until = $5
    FROM chosen WHERE m.seq = chosen.seq
    RETURNING {CLAIMED}"""
CLAIM: Final = _CLAIM.replace("@unless", "")
# The same by the server's time, and only if there is nothing to be observed first, neither `LAPSED` nor `OVERDUE`, and
# nobody to be let through a gate.
CLAIM_AT_ONCE: Final = (
    _at_once(_CLAIM)
    .replace("until = $5", f"until = {NOW} + $5")
    .replace(
        "@unless",
        f"""
                      AND coalesce((SELECT until > {NOW} FROM @.messages
                                    WHERE queue = $2 AND state = 2 ORDER BY until LIMIT 1), true)
                      AND coalesce((SELECT expires > {NOW} FROM @.messages
                                    WHERE queue = $2 AND state < 2 AND expires IS NOT NULL
                                    ORDER BY expires LIMIT 1), true)
                      AND coalesce((SELECT due > {NOW} FROM @.messages
                                    WHERE queue = $2 AND state < 2 AND gate IS NOT NULL ORDER BY due LIMIT 1), true)""",
    )
)
NEXT_DUE: Final = f"""
    WITH {LANES}
    SELECT (SELECT due FROM @.messages
            WHERE queue = $1 AND priority = lane.priority AND state < 2 AND gate IS NULL AND due > $2
            ORDER BY due LIMIT 1) FROM lane
    UNION ALL
    SELECT (SELECT until FROM @.messages WHERE queue = $1 AND state = 2 ORDER BY until LIMIT 1)"""
NEXT_DUE_AT_ONCE: Final = _at_once(NEXT_DUE)
EXTEND: Final = """
    UPDATE @.messages m SET until = $2 WHERE m.seq = ANY($1::bigint[])"""
HELD: Final = f"SELECT {COLUMNS} FROM @.messages WHERE state = 2 AND owner = $1 AND until > $2"
TAKE_HELD: Final = f"{HELD} FOR UPDATE"
ASKED: Final = f"""
    SELECT {COLUMNS} FROM @.messages
    WHERE state = 2 AND cancel IS NOT NULL AND owner = $1 AND until > $2"""
