"""The tables, and how a file gets them."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Final

from trepid.errors import BrokerFileError

APPLICATION_ID: Final = 0x54726570
"""``Trep``: what `file` and SQLite's tools find in the header of our files."""

VERSION: Final = 4

_RECORDS: Final = (
    # What a broker that lacks results keeps here; it has nothing to do with the messages of this file.
    """CREATE TABLE records (
        key TEXT PRIMARY KEY,
        value BLOB NOT NULL,
        until REAL
    ) STRICT""",
    "CREATE INDEX records_until ON records (until) WHERE until IS NOT NULL",
)

_DEPARTED_UNTIL: Final = "CREATE INDEX departed_until ON departed (until)"

_LIMITS: Final = (
    # What the gates of a family let through, in one queue; see `rules.gates`.
    """CREATE TABLE limits (
        queue INTEGER NOT NULL,
        family TEXT NOT NULL,
        concurrency INTEGER,
        count INTEGER,
        per REAL NOT NULL,
        max_size INTEGER,
        weight INTEGER NOT NULL,
        PRIMARY KEY (queue, family)
    ) STRICT, WITHOUT ROWID""",
    # How many messages behind a gate with a rate were leased at one moment, until no rate asks for it any more.
    """CREATE TABLE starts (
        queue INTEGER NOT NULL,
        gate TEXT NOT NULL,
        at REAL NOT NULL,
        count INTEGER NOT NULL,
        until REAL NOT NULL,
        PRIMARY KEY (queue, gate, at)
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX starts_until ON starts (until)",
    # The last instants that schedules have fired.
    """CREATE TABLE marks (
        queue INTEGER NOT NULL,
        mark TEXT NOT NULL,
        instant REAL NOT NULL,
        PRIMARY KEY (queue, mark)
    ) STRICT, WITHOUT ROWID""",
    # Unique keys that outlive their message.
    """CREATE TABLE holds (
        queue INTEGER NOT NULL,
        unique_key TEXT NOT NULL,
        id TEXT NOT NULL,
        until REAL NOT NULL,
        PRIMARY KEY (queue, unique_key)
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX holds_until ON holds (until)",
)

# Each of these holds only the rows that it is asked about, so that a claim costs the same beside a million others.
# An index of a table ends with the table's key: equal entries are in the order of `seq`.
_WAITING: Final = (
    "CREATE INDEX messages_waiting ON messages (queue, priority, due) WHERE gate IS NULL AND state < 2",
    # Messages with a gate wait apart, ready ones gate by gate in the order of leasing: however many stand before one
    # that is shut, they are in nobody's way.  What is due is made ready before a claim, so that this is all it reads.
    """CREATE INDEX messages_gated ON messages (queue, gate, priority DESC, due)
        WHERE gate IS NOT NULL AND state = 1""",
    "CREATE INDEX messages_awaited ON messages (queue, due) WHERE gate IS NOT NULL AND state = 0",
    "CREATE INDEX messages_inside ON messages (queue, gate, until) WHERE gate IS NOT NULL AND state = 2",
)

TABLES: Final = (
    # The last place given in the order of publishing, and the latest moment anybody acted on.
    """CREATE TABLE head (
        only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
        seq INTEGER NOT NULL,
        clock REAL NOT NULL
    ) STRICT""",
    "INSERT INTO head VALUES (1, 0, 0.0)",
    # A queue without a name was deleted; its messages are removed a few at a time.  Keys are never used again.
    # `limited` is how many limits it has; `live` counts the messages that have not ended, and is NULL unless there is a
    # `max_size`.
    """CREATE TABLE queues (
        key INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT UNIQUE,
        paused INTEGER NOT NULL DEFAULT 0,
        limited INTEGER NOT NULL DEFAULT 0,
        live INTEGER
    ) STRICT""",
    # The columns from `seq` to `result_ttl` are the fields of a Life; states are numbered as State lists them:
    # 0 scheduled, 1 ready, 2 leased, 3 done, 4 dead, 5 cancelled.  What time has decided need not be written here yet.
    """CREATE TABLE messages (
        seq INTEGER PRIMARY KEY,
        due REAL NOT NULL,
        state INTEGER NOT NULL CHECK (state BETWEEN 0 AND 5),
        expires REAL,
        deliveries INTEGER NOT NULL DEFAULT 0,
        owner TEXT,
        until REAL NOT NULL DEFAULT 0.0,
        cancel TEXT,
        failures INTEGER NOT NULL DEFAULT 0,
        crashes INTEGER NOT NULL DEFAULT 0,
        returns INTEGER NOT NULL DEFAULT 0,
        withdrawals INTEGER NOT NULL DEFAULT 0,
        spent_failures INTEGER NOT NULL DEFAULT 0,
        spent_crashes INTEGER NOT NULL DEFAULT 0,
        requeues INTEGER NOT NULL DEFAULT 0,
        stray_since REAL,
        verdict TEXT,
        settled INTEGER NOT NULL DEFAULT 0,
        ended REAL,
        reason TEXT,
        forget REAL,
        max_crashes INTEGER,
        result_ttl REAL,
        queue INTEGER NOT NULL,
        id TEXT NOT NULL,
        publisher TEXT NOT NULL,
        publication INTEGER NOT NULL,
        priority INTEGER NOT NULL,
        enqueued REAL NOT NULL,
        unique_key TEXT,
        result BLOB,
        unreadable TEXT,
        gate TEXT
    ) STRICT""",
    "CREATE UNIQUE INDEX messages_id ON messages (queue, id)",
    "CREATE UNIQUE INDEX messages_unique ON messages (queue, unique_key) WHERE unique_key IS NOT NULL AND state < 3",
    *_WAITING,
    "CREATE INDEX messages_ttl ON messages (queue, expires) WHERE state < 2 AND expires IS NOT NULL",
    "CREATE INDEX messages_leased ON messages (queue, until) WHERE state = 2",
    "CREATE INDEX messages_asked ON messages (owner) WHERE state = 2 AND cancel IS NOT NULL",
    "CREATE INDEX messages_ended ON messages (queue, state) WHERE ended IS NOT NULL",
    "CREATE INDEX messages_forget ON messages (forget) WHERE forget IS NOT NULL",
    # Apart from the row, which is rewritten with every step of a message's life.
    "CREATE TABLE payloads (seq INTEGER PRIMARY KEY, payload BLOB NOT NULL) STRICT",
    """CREATE TABLE failures (
        seq INTEGER NOT NULL,
        number INTEGER NOT NULL,
        failure BLOB NOT NULL,
        PRIMARY KEY (seq, number)
    ) STRICT, WITHOUT ROWID""",
    # The publishes of messages that are gone, as bits; see departed.py.
    """CREATE TABLE departed (
        publisher TEXT NOT NULL,
        page INTEGER NOT NULL,
        bits BLOB NOT NULL,
        until REAL NOT NULL,
        PRIMARY KEY (publisher, page)
    ) STRICT, WITHOUT ROWID""",
    _DEPARTED_UNTIL,
    *_RECORDS,
    *_LIMITS,
)

MIGRATIONS: Final[Mapping[int, tuple[str, ...]]] = {
    1: _RECORDS,
    2: (
        "ALTER TABLE queues ADD COLUMN limited INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE queues ADD COLUMN live INTEGER",
        "ALTER TABLE messages ADD COLUMN gate TEXT",
        "DROP INDEX messages_waiting",
        *_WAITING,
        *_LIMITS,
    ),
    3: (_DEPARTED_UNTIL,),
}
"""From a version, the statements that make the next one of it."""


def refuse_newer(path: str, version: int) -> None:
    """Raise unless this code knows the schema's version."""
    if version > VERSION:
        raise BrokerFileError(
            path, f"it has schema version {version}, and this Trepid knows {VERSION}; upgrade Trepid to use it"
        )


def prepare(connection: sqlite3.Connection, path: str) -> None:
    """Bring the schema of an open file up to date, in one transaction.

    Raises:
      BrokerFileError: if the file is not ours, or newer.
      sqlite3.OperationalError: if another process is just doing the same; try again.
    """
    if _version(connection, path) == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Looked at again, now that nobody else can change it: two processes may create one file at once.
        version = _version(connection, path)
        if version == 0:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            _apply(connection, TABLES)
        else:
            for step in range(version, VERSION):
                _apply(connection, MIGRATIONS[step])
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _apply(connection: sqlite3.Connection, statements: tuple[str, ...]) -> None:
    for statement in statements:
        connection.execute(statement)


def _version(connection: sqlite3.Connection, path: str) -> int:
    """Return the version of the schema, 0 for a file with nothing in it."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    application: int = connection.execute("PRAGMA application_id").fetchone()[0]
    empty = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
    if empty and not version and not application:
        return 0
    if application != APPLICATION_ID or empty or not version:
        raise BrokerFileError(path, "this is an SQLite database of another application")
    refuse_newer(path, version)
    return version
