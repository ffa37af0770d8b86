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
QUEUES: Final = "SELECT key, name, paused FROM queues"
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
PAYLOAD: Final = "SELECT payload FROM payloads WHERE seq = ?"
RESULT: Final = "SELECT result, unreadable FROM messages WHERE seq = ?"
DELETE_MESSAGE: Final = "DELETE FROM messages WHERE seq = ?"
DELETE_PAYLOAD: Final = "DELETE FROM payloads WHERE seq = ?"
DELETE_FAILURES: Final = "DELETE FROM failures WHERE seq = ?"

# --------------------------------------------------------------------------------------------------------- publishing

NAMESAKES: Final = """
    SELECT id FROM messages WHERE queue = ? AND id IN (SELECT value FROM json_each(?)) LIMIT 1"""
INSERT: Final = """
    INSERT INTO messages (seq, due, state, expires, max_crashes, result_ttl,
                          queue, id, publisher, publication, priority, enqueued, unique_key)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
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
    SELECT max(priority) FROM messages INDEXED BY messages_waiting WHERE queue = ? AND state < 2"""
NEXT_LANE: Final = f"{TOP_LANE} AND priority < ?"
CLAIM: Final = """
    SELECT seq, id, deliveries + 1, payload, failures - spent_failures, crashes - spent_crashes, due, enqueued,
           stray_since, result_ttl, max_crashes
    FROM messages INDEXED BY messages_waiting JOIN payloads USING (seq)
    WHERE queue = ? AND priority = ? AND state < 2 AND due <= ? AND (expires IS NULL OR expires > ?)
    ORDER BY due, seq LIMIT ?"""
TAKE: Final = "UPDATE messages SET state = 2, deliveries = deliveries + 1, owner = ?, until = ? WHERE seq = ?"
NEXT_DUE: Final = """
    SELECT min(due) FROM messages INDEXED BY messages_waiting
    WHERE queue = ? AND priority = ? AND state < 2 AND due > ?"""
NEXT_UNTIL: Final = "SELECT min(until) FROM messages INDEXED BY messages_leased WHERE queue = ? AND state = 2"
EXTEND: Final = "UPDATE messages SET until = ? WHERE seq = ?"
HELD: Final = f"SELECT {COLUMNS} FROM messages WHERE state = 2 AND owner = ? AND until > ?"
ASKED: Final = f"""
    SELECT {COLUMNS} FROM messages INDEXED BY messages_asked
    WHERE state = 2 AND cancel IS NOT NULL AND owner = ? AND until > ? ORDER BY seq"""

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
    WHERE queue = ? AND state < 2 AND (due <= ?) = ? LIMIT ?"""
ENDED: Final = f"""
    SELECT {COLUMNS} FROM messages INDEXED BY messages_ended
    WHERE queue = ? AND state = ? AND ended IS NOT NULL AND (forget IS NULL OR forget > ?) ORDER BY seq LIMIT ?"""
OF_QUEUE: Final = f"SELECT {COLUMNS} FROM messages INDEXED BY messages_id WHERE queue = ? LIMIT ?"
LEASED: Final = "SELECT count(*) FROM messages INDEXED BY messages_leased WHERE queue = ? AND state = 2"
FORGETTABLE: Final = f"""
    SELECT {COLUMNS} FROM messages INDEXED BY messages_forget
    WHERE forget IS NOT NULL AND forget <= ? ORDER BY forget LIMIT ?"""

DEPARTED: Final = "SELECT bits FROM departed WHERE publisher = ? AND page = ?"
SET_DEPARTED: Final = """
    INSERT INTO departed VALUES (?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET bits = excluded.bits, until = excluded.until"""
DROP_DEPARTED: Final = "DELETE FROM departed WHERE until <= ?"

# ------------------------------------------------------------------------------------------------------------ looking

COUNT_WAITING: Final = """
    SELECT count(*), count(*) FILTER (WHERE due <= ?) FROM messages INDEXED BY messages_waiting
    WHERE queue = ? AND state < 2"""
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
OLDEST: Final = """
    SELECT due FROM messages INDEXED BY messages_waiting
    WHERE queue = ? AND priority = ? AND state < 2 AND due <= ? AND (expires IS NULL OR expires > ?)
    ORDER BY due LIMIT 1"""
PEEK_READY: Final = f"""
    SELECT {COLUMNS} FROM messages
    WHERE queue = ? AND state < 2 AND due <= ? AND (expires IS NULL OR expires > ?) AND seq > ? ORDER BY seq LIMIT ?"""
PEEK_SCHEDULED: Final = f"""
    SELECT {COLUMNS} FROM messages WHERE queue = ? AND state < 2 AND due > ? AND seq > ? ORDER BY seq LIMIT ?"""
PEEK_LEASED: Final = f"""
    SELECT {COLUMNS} FROM messages INDEXED BY messages_leased
    WHERE queue = ? AND state = 2 AND until > ? AND seq > ? ORDER BY seq LIMIT ?"""
PEEK_ENDED: Final = f"""
    SELECT {COLUMNS} FROM messages INDEXED BY messages_ended
    WHERE queue = ? AND state = ? AND ended IS NOT NULL AND (forget IS NULL OR forget > ?) AND seq > ?
    ORDER BY seq LIMIT ?"""

# ------------------------------------------------------------------------------------------------------------ records

RECORD: Final = "SELECT value FROM records WHERE key = ? AND (until IS NULL OR until > ?)"
SET_RECORD: Final = "INSERT OR REPLACE INTO records VALUES (?, ?, ?)"
DROP_RECORD: Final = "DELETE FROM records WHERE key = ?"
SWEEP_RECORDS: Final = """
    DELETE FROM records WHERE key IN
        (SELECT key FROM records WHERE until IS NOT NULL AND until <= ? ORDER BY until LIMIT ?)"""
