"""Every statement on messages.  ``INDEXED BY`` fails loudly where a plan would silently become a scan."""

# ruff: noqa: S608 - the parts that are put together are constants; values are always parameters.

from __future__ import annotations

from typing import Final

from trepid.brokers.sql.rows import COLUMNS, LIFE_COLUMNS

# -------------------------------------------------------------------------------------------------- head and queues

HEAD: Final = "SELECT seq, clock FROM head"
SET_HEAD: Final = "UPDATE head SET seq = ?, clock = ?"
LOCK_HEAD: Final = "UPDATE head SET seq = seq"
QUEUE: Final = "SELECT key, paused FROM queues WHERE name = ?"
QUEUES: Final = "SELECT key, name, paused, limited, live IS NOT NULL FROM queues"
QUEUE_NAMES: Final = "SELECT key, name FROM queues"
ADD_QUEUE: Final = "INSERT INTO queues (name) VALUES (?) ON CONFLICT DO NOTHING"
PAUSE_QUEUE: Final = "UPDATE queues SET paused = ? WHERE key = ?"
UNNAME_QUEUE: Final = "UPDATE queues SET name = NULL WHERE key = ?"
DROP_QUEUE: Final = "DELETE FROM queues WHERE key = ?"

# --------------------------------------------------------------------------------------------------- single messages

BY_ID: Final = f"SELECT {COLUMNS} FROM messages WHERE queue = ? AND id = ?"
BY_UNIQUE: Final = f"SELECT {COLUMNS} FROM messages WHERE queue = ? AND unique_key = ? AND state < 3"
_MARKS: Final = ", ".join("?" * len(LIFE_COLUMNS.split(",")))
SET_LIFE: Final = f"UPDATE messages SET ({LIFE_COLUMNS}) = ({_MARKS}) WHERE seq = ?"
MOVE_PAYLOAD: Final = "UPDATE payloads SET seq = ? WHERE seq = ?"
MOVE_FAILURES: Final = "UPDATE failures SET seq = ? WHERE seq = ?"
ADD_FAILURE: Final = "INSERT INTO failures SELECT ?, coalesce(max(number), 0) + 1, ? FROM failures WHERE seq = ?"
FAILURES: Final = "SELECT failure FROM failures WHERE seq = ? ORDER BY number"
LAST_FAILURE: Final = "SELECT failure FROM failures WHERE seq = ? ORDER BY number DESC LIMIT 1"
CONTENT: Final = "SELECT payload, gate FROM messages JOIN payloads USING (seq) WHERE seq = ?"
RESULT: Final = "SELECT result, unreadable FROM messages WHERE seq = ?"
DELETE_MESSAGE: Final = "DELETE FROM messages WHERE seq = ?"
DELETE_PAYLOAD: Final = "DELETE FROM payloads WHERE seq = ?"
DELETE_FAILURES: Final = "DELETE FROM failures WHERE seq = ?"

# --------------------------------------------------------------------------------------------------------- publishing

NAMESAKES: Final = """
    SELECT id FROM messages WHERE queue = ? AND id IN (SELECT value FROM json_each(?)) LIMIT 1"""
INSERT: Final = """
    INSERT INTO messages (seq, due, state, expires, max_crashes, result_ttl,
                          queue, id, publisher, publication, priority, enqueued, unique_key, gate)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
ADD_PAYLOAD: Final = "INSERT INTO payloads VALUES (?, ?)"

# ------------------------------------------------------------------------------------------------------------ leasing

LAPSED: Final = f"""
    SELECT {COLUMNS} FROM messages INDEXED BY messages_leased
    WHERE queue = ? AND state = 2 AND until <= ? ORDER BY until LIMIT ?"""
# Who was given back unstarted may become due after its ttl; it is dead from then on, and not before.
OVERDUE: Final = f"""
    SELECT {COLUMNS} FROM messages INDEXED BY messages_ttl
    WHERE queue = ? AND state < 2 AND expires IS NOT NULL AND expires <= ?2 AND due <= ?2 ORDER BY expires LIMIT ?"""
TOP_LANE: Final = """
    SELECT max(priority) FROM messages INDEXED BY messages_waiting WHERE queue = ? AND state < 2 AND gate IS NULL"""
NEXT_LANE: Final = f"{TOP_LANE} AND priority < ?"
_DELIVERY: Final = """seq, id, deliveries + 1, payload, failures - spent_failures, crashes - spent_crashes, due,
           enqueued, stray_since, result_ttl, max_crashes"""
_IN_LANE: Final = """queue = ? AND priority = ? AND state < 2 AND gate IS NULL
          AND due <= ? AND (expires IS NULL OR expires > ?)"""
CLAIM: Final = f"""
    SELECT {_DELIVERY} FROM messages INDEXED BY messages_waiting JOIN payloads USING (seq)
    WHERE {_IN_LANE} ORDER BY due, seq LIMIT ?"""
CLAIM_ONE: Final = f"SELECT {_DELIVERY} FROM messages JOIN payloads USING (seq) WHERE seq = ?"
TAKE: Final = "UPDATE messages SET state = 2, deliveries = deliveries + 1, owner = ?, until = ? WHERE seq = ?"
NEXT_DUE: Final = """
    SELECT min(due) FROM messages INDEXED BY messages_waiting
    WHERE queue = ? AND priority = ? AND state < 2 AND gate IS NULL AND due > ?"""
NEXT_AWAITED: Final = """
    SELECT min(due) FROM messages INDEXED BY messages_awaited
    WHERE queue = ? AND state = 0 AND gate IS NOT NULL AND due > ?"""
NEXT_UNTIL: Final = "SELECT min(until) FROM messages INDEXED BY messages_leased WHERE queue = ? AND state = 2"
EXTEND: Final = "UPDATE messages SET until = ? WHERE seq = ?"
HELD: Final = f"SELECT {COLUMNS} FROM messages WHERE state = 2 AND owner = ? AND until > ?"
ASKED: Final = f"""
    SELECT {COLUMNS} FROM messages INDEXED BY messages_asked
    WHERE state = 2 AND cancel IS NOT NULL AND owner = ? AND until > ? ORDER BY seq"""

# -------------------------------------------------------------------------------------------------------------- gates

_READY_BEHIND: Final = "queue = ?1 AND state = 1 AND gate IS NOT NULL"
FIRST: Final = f"""
    SELECT (SELECT max(priority) FROM messages INDEXED BY messages_waiting
            WHERE queue = ?1 AND state < 2 AND gate IS NULL),
           (SELECT min(gate) FROM messages INDEXED BY messages_gated WHERE {_READY_BEHIND}),
           (SELECT min(due) FROM messages INDEXED BY messages_awaited
            WHERE queue = ?1 AND state = 0 AND gate IS NOT NULL)"""
MAKE_READY: Final = """
    UPDATE messages SET state = 1 WHERE seq IN
        (SELECT seq FROM messages INDEXED BY messages_awaited
         WHERE queue = ? AND state = 0 AND gate IS NOT NULL AND due <= ? ORDER BY due LIMIT ?)"""
# One look into the index for each gate, and not one for each message: from one gate straight to the next, then to how
# many are inside, and to the first that waits.
GATES: Final = f"""
    WITH RECURSIVE gates (name) AS (
        SELECT min(gate) FROM messages INDEXED BY messages_gated WHERE {_READY_BEHIND} AND gate > ?2
        UNION ALL
        SELECT (SELECT min(gate) FROM messages INDEXED BY messages_gated WHERE {_READY_BEHIND} AND gate > name)
        FROM gates WHERE name IS NOT NULL LIMIT ?4)
    SELECT name,
           (SELECT count(*) FROM messages INDEXED BY messages_inside
            WHERE queue = ?1 AND state = 2 AND gate IS NOT NULL AND gate = name AND until > ?3),
           priority, due, seq
    FROM gates LEFT JOIN messages ON seq =
        (SELECT seq FROM messages INDEXED BY messages_gated
         WHERE {_READY_BEHIND} AND gate = name AND (expires IS NULL OR expires > ?3)
         ORDER BY priority DESC, due, seq LIMIT 1)
    WHERE name IS NOT NULL"""
BEHIND: Final = f"""
    SELECT priority, due, seq FROM messages INDEXED BY messages_gated
    WHERE {_READY_BEHIND} AND gate = ?2 AND (expires IS NULL OR expires > ?3)
    ORDER BY priority DESC, due, seq LIMIT ?4"""
UNGATED: Final = f"""
    SELECT due, seq FROM messages INDEXED BY messages_waiting WHERE {_IN_LANE} ORDER BY due, seq LIMIT ?"""
SET_GATE: Final = "UPDATE messages SET gate = ? WHERE seq = ?"

ALL_LIMITS: Final = "SELECT family, concurrency, count, per, max_size, weight FROM limits WHERE queue = ?"
SET_LIMIT: Final = "INSERT OR REPLACE INTO limits VALUES (?, ?, ?, ?, ?, ?, ?)"
DROP_LIMIT: Final = "DELETE FROM limits WHERE queue = ? AND family = ?"
DROP_LIMITS: Final = "DELETE FROM limits WHERE queue = ?"

LATELY: Final = "SELECT coalesce(sum(count), 0) FROM starts WHERE queue = ? AND gate = ? AND at + ? > ?"
STARTS: Final = "SELECT at, count FROM starts WHERE queue = ? AND gate = ? ORDER BY at DESC"
ADD_STARTS: Final = """
    INSERT INTO starts VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count"""
SWEEP_STARTS: Final = """
    DELETE FROM starts WHERE (queue, gate, at) IN
        (SELECT queue, gate, at FROM starts WHERE until <= ? ORDER BY until LIMIT ?)"""

# How many messages of a queue have not ended.
_COUNT_LIVE: Final = """
    (SELECT count(*) FROM messages INDEXED BY messages_waiting WHERE queue = ?1 AND state < 2 AND gate IS NULL)
    + (SELECT count(*) FROM messages INDEXED BY messages_gated WHERE queue = ?1 AND state = 1 AND gate IS NOT NULL)
    + (SELECT count(*) FROM messages INDEXED BY messages_awaited WHERE queue = ?1 AND state = 0 AND gate IS NOT NULL)
    + (SELECT count(*) FROM messages INDEXED BY messages_leased WHERE queue = ?1 AND state = 2)"""
BOUND_QUEUE: Final = f"UPDATE queues SET live = {_COUNT_LIVE} WHERE key = ?1 AND live IS NULL"
LIMIT_QUEUE: Final = "UPDATE queues SET limited = (SELECT count(*) FROM limits WHERE queue = key) WHERE key = ?"
UNBOUND_QUEUE: Final = "UPDATE queues SET live = NULL WHERE key = ?"
ADD_LIVE: Final = "UPDATE queues SET live = live + ? WHERE key = ?"
LIVE: Final = "SELECT live FROM queues WHERE key = ?"

# ------------------------------------------------------------------------------------------- marks and held unique keys

MARK: Final = "SELECT instant FROM marks WHERE queue = ? AND mark = ?"
MARKS: Final = "SELECT mark, instant FROM marks WHERE queue = ?"
SET_MARK: Final = "INSERT OR REPLACE INTO marks VALUES (?, ?, ?)"
DROP_MARK: Final = "DELETE FROM marks WHERE queue = ? AND mark = ?"
DROP_MARKS: Final = "DELETE FROM marks WHERE queue = ?"

HOLD: Final = "SELECT id FROM holds WHERE queue = ? AND unique_key = ? AND until > ?"
SET_HOLD: Final = "INSERT OR REPLACE INTO holds VALUES (?, ?, ?, ?)"
DROP_HOLD: Final = "DELETE FROM holds WHERE queue = ? AND unique_key = ?"
RELEASE_HOLD: Final = "DELETE FROM holds WHERE queue = ? AND unique_key = ? AND id = ?"
SWEEP_HOLDS: Final = """
    DELETE FROM holds WHERE (queue, unique_key) IN
        (SELECT queue, unique_key FROM holds WHERE until <= ? ORDER BY until LIMIT ?)"""

# ----------------------------------------------------------------------------------------------------------- settling

# The commonest step of all: `lifecycle.settle` with Done, where `lifecycle.standing` says APPLIED.
DONE: Final = """
    UPDATE messages SET state = 3, owner = NULL, verdict = 'Done', settled = deliveries, ended = ?, forget = ?,
                        expires = NULL, result = ?, unreadable = ?
    WHERE seq = ? AND queue = ? AND id = ? AND deliveries = ? AND state = 2 AND until > ?"""
# The same for a message of which nothing is to be kept.
DONE_AND_GONE: Final = """
    DELETE FROM messages WHERE seq = ? AND queue = ? AND id = ? AND deliveries = ? AND state = 2 AND until > ?
    RETURNING publisher, publication"""
SET_RESULT: Final = "UPDATE messages SET result = ?, unreadable = ? WHERE seq = ?"

# ------------------------------------------------------------------------------------------------------------ keeping

DEAD: Final = f"""
    SELECT {COLUMNS} FROM messages INDEXED BY messages_ended
    WHERE queue = ? AND state = 4 AND ended IS NOT NULL AND seq > ? ORDER BY seq LIMIT ?"""
WAITING: Final = f"""
    SELECT {COLUMNS} FROM messages INDEXED BY messages_waiting
    WHERE queue = ? AND state < 2 AND gate IS NULL AND (? OR (due <= ?) = ?) LIMIT ?"""
READY_BEHIND: Final = f"SELECT {COLUMNS} FROM messages INDEXED BY messages_gated WHERE {_READY_BEHIND} LIMIT ?"
AWAITED: Final = f"""
    SELECT {COLUMNS} FROM messages INDEXED BY messages_awaited
    WHERE queue = ? AND state = 0 AND gate IS NOT NULL AND (? OR (due <= ?) = ?) LIMIT ?"""
ENDED: Final = f"""
    SELECT {COLUMNS} FROM messages INDEXED BY messages_ended
    WHERE queue = ? AND state = ? AND ended IS NOT NULL AND (forget IS NULL OR forget > ?) ORDER BY seq LIMIT ?"""
OF_QUEUE: Final = f"SELECT {COLUMNS} FROM messages INDEXED BY messages_id WHERE queue = ? LIMIT ?"
FORGETTABLE: Final = f"""
    SELECT {COLUMNS} FROM messages INDEXED BY messages_forget
    WHERE forget IS NOT NULL AND forget <= ? ORDER BY forget LIMIT ?"""

DEPARTED: Final = "SELECT bits FROM departed WHERE publisher = ? AND page = ?"
SET_DEPARTED: Final = """
    INSERT INTO departed VALUES (?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET bits = excluded.bits, until = excluded.until"""
SWEEP_DEPARTED: Final = """
    DELETE FROM departed WHERE (publisher, page) IN
        (SELECT publisher, page FROM departed WHERE until <= ? ORDER BY until LIMIT ?)"""

# ------------------------------------------------------------------------------------------------------------ looking

COUNT_WAITING: Final = """
    SELECT count(*), count(*) FILTER (WHERE due <= ?) FROM messages INDEXED BY messages_waiting
    WHERE queue = ? AND state < 2 AND gate IS NULL"""
COUNT_READY_BEHIND: Final = f"SELECT count(*) FROM messages INDEXED BY messages_gated WHERE {_READY_BEHIND}"
COUNT_AWAITED: Final = """
    SELECT count(*), count(*) FILTER (WHERE due <= ?) FROM messages INDEXED BY messages_awaited
    WHERE queue = ? AND state = 0 AND gate IS NOT NULL"""
COUNT_OVERDUE: Final = """
    SELECT count(*) FROM messages INDEXED BY messages_ttl
    WHERE queue = ? AND state < 2 AND expires IS NOT NULL AND expires <= ?2 AND due <= ?2"""
COUNT_LEASED: Final = """
    SELECT count(*) FROM messages INDEXED BY messages_leased WHERE queue = ? AND state = 2 AND until > ?"""
COUNT_ENDED: Final = """
    SELECT count(*) FROM messages INDEXED BY messages_ended
    WHERE queue = ? AND state = ? AND ended IS NOT NULL"""
COUNT_FORGOTTEN: Final = """
    SELECT state, count(*) FROM messages INDEXED BY messages_forget
    WHERE forget IS NOT NULL AND forget <= ? AND queue = ? GROUP BY state"""
OLDEST: Final = f"SELECT due FROM messages INDEXED BY messages_waiting WHERE {_IN_LANE} ORDER BY due LIMIT 1"
OLDEST_BEHIND: Final = f"SELECT min(due) FROM messages INDEXED BY messages_gated WHERE {_READY_BEHIND}"
# Only where some are overdue: what has expired is no column of the index.
OLDEST_BEHIND_NOT_OVERDUE: Final = f"{OLDEST_BEHIND} AND (expires IS NULL OR expires > ?2)"
OLDEST_AWAITED: Final = """
    SELECT min(due) FROM messages INDEXED BY messages_awaited
    WHERE queue = ?1 AND state = 0 AND gate IS NOT NULL AND due <= ?2 AND (expires IS NULL OR expires > ?2)"""
# By the indexes of what waits: what has ended, and may be much more, is not read.
_PEEK_WAITING: Final = f"""
    SELECT {COLUMNS} FROM messages WHERE seq IN (SELECT seq FROM (
        SELECT seq FROM messages INDEXED BY messages_waiting WHERE gate IS NULL AND state < 2 AND {{those}}
        UNION ALL
        SELECT seq FROM messages INDEXED BY messages_gated WHERE gate IS NOT NULL AND state = 1 AND {{those}}
        UNION ALL
        SELECT seq FROM messages INDEXED BY messages_awaited WHERE gate IS NOT NULL AND state = 0 AND {{those}}
    ) ORDER BY seq LIMIT {{most}}) ORDER BY seq"""
PEEK_READY: Final = _PEEK_WAITING.format(
    those="queue = ?1 AND due <= ?2 AND (expires IS NULL OR expires > ?3) AND seq > ?4", most="?5"
)
PEEK_SCHEDULED: Final = _PEEK_WAITING.format(those="queue = ?1 AND due > ?2 AND seq > ?3", most="?4")
PEEK_LEASED: Final = f"""
    SELECT {COLUMNS} FROM messages INDEXED BY messages_leased
    WHERE queue = ? AND state = 2 AND until > ? AND seq > ? ORDER BY seq LIMIT ?"""
PEEK_ENDED: Final = f"""
    SELECT {COLUMNS} FROM messages INDEXED BY messages_ended
    WHERE queue = ? AND state = ? AND ended IS NOT NULL AND (forget IS NULL OR forget > ?) AND seq > ?
    ORDER BY seq LIMIT ?"""

# Names are looked up all in one go, and of those that go on living nothing comes back.
_LAST_FAILURE_OF: Final = "(SELECT failure FROM failures WHERE seq = messages.seq ORDER BY number DESC LIMIT 1)"
_NAMED: Final = "(SELECT value AS name FROM json_each(?2))"
_MAY_END: Final = "CASE WHEN state = 2 THEN until WHEN state < 2 THEN max(due, expires) END"
ENDED_AMONG: Final = f"""
    SELECT name, result, unreadable, {_LAST_FAILURE_OF}, {COLUMNS}
    FROM {_NAMED} LEFT JOIN messages INDEXED BY messages_id ON queue = ?1 AND id = name
    WHERE seq IS NULL OR state > 2 OR {_MAY_END} <= ?3"""
# A lease that ran out and ended nothing: whose message waits again, though nobody has written it, time will not end.
NEXT_END: Final = f"""
    SELECT min({_MAY_END}) FROM {_NAMED} CROSS JOIN messages INDEXED BY messages_id ON queue = ?1 AND id = name
    WHERE {_MAY_END} > ?3"""

# ------------------------------------------------------------------------------------------------------------ records

RECORD: Final = "SELECT value FROM records WHERE key = ? AND (until IS NULL OR until > ?)"
SET_RECORD: Final = "INSERT OR REPLACE INTO records VALUES (?, ?, ?)"
DROP_RECORD: Final = "DELETE FROM records WHERE key = ?"
SWEEP_RECORDS: Final = """
    DELETE FROM records WHERE key IN
        (SELECT key FROM records WHERE until IS NOT NULL AND until <= ? ORDER BY until LIMIT ?)"""
