"""The tables, and how a database gets them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from trepid.brokers.sql.rows import LIFE_COLUMNS

VERSION: Final = 3

# The columns of a message.  Those up to `result_ttl` are the fields of a Life, in its order; states are numbered as
# State lists them: 0 scheduled, 1 ready, 2 leased, 3 done, 4 dead, 5 cancelled.  What time has decided need not be
# written yet.  Collation C: names are compared byte by byte, whatever the database's language is.
_MESSAGE: Final = """
    seq bigint NOT NULL DEFAULT nextval('@.places'),
    due double precision NOT NULL,
    state smallint NOT NULL,
    expires double precision,
    deliveries integer NOT NULL DEFAULT 0,
    owner text COLLATE "C",
    until double precision NOT NULL DEFAULT 0,
    cancel text,
    failures integer NOT NULL DEFAULT 0,
    crashes integer NOT NULL DEFAULT 0,
    returns integer NOT NULL DEFAULT 0,
    withdrawals integer NOT NULL DEFAULT 0,
    spent_failures integer NOT NULL DEFAULT 0,
    spent_crashes integer NOT NULL DEFAULT 0,
    requeues integer NOT NULL DEFAULT 0,
    stray_since double precision,
    verdict text,
    settled integer NOT NULL DEFAULT 0,
    ended double precision,
    reason text,
    forget double precision,
    max_crashes integer,
    result_ttl double precision,
    queue integer NOT NULL,
    id text COLLATE "C" NOT NULL,
    publisher text COLLATE "C" NOT NULL,
    publication bigint NOT NULL,
    priority integer NOT NULL,
    enqueued double precision NOT NULL,
    unique_key text COLLATE "C",
    gate text COLLATE "C",
    payload bytea NOT NULL,
    errors bytea[]"""

_RECORDS: Final = (
    # What a broker that lacks results keeps here; it has nothing to do with our messages.  Keys are digests.
    """CREATE TABLE @.records (
    key bytea PRIMARY KEY,
    value bytea NOT NULL,
    until double precision
)""",
    "CREATE INDEX records_until ON @.records (until) WHERE until IS NOT NULL",
)

_WAITING: Final = (
    # What waits before a gate is apart, so that nobody else has to pass it by; whoever has none is known by one look.
    "CREATE INDEX messages_waiting ON @.messages (queue, priority, due, seq) WHERE state < 2 AND gate IS NULL",
    """CREATE INDEX messages_gated ON @.messages (queue, gate, priority DESC, due, seq)
    WHERE gate IS NOT NULL AND state < 2""",
    "CREATE INDEX messages_gated_due ON @.messages (queue, due) WHERE gate IS NOT NULL AND state < 2",
    # Only what is leased has an owner.  No other index begins with the gate, so there is none to be taken by mistake.
    "CREATE INDEX messages_inside ON @.messages (gate, until) WHERE gate IS NOT NULL AND owner IS NOT NULL",
)

_LIMITS: Final = (
    # What the gates of a family let through; the family '' is the queue itself.
    """CREATE TABLE @.limits (
    queue integer NOT NULL,
    family text COLLATE "C" NOT NULL,
    concurrency integer,
    count integer,
    per double precision NOT NULL,
    PRIMARY KEY (queue, family)
)""",
    # How many leases were granted together behind a gate that has a rate, and until when they count.
    """CREATE TABLE @.starts (
    queue integer NOT NULL,
    gate text COLLATE "C" NOT NULL,
    at double precision NOT NULL,
    until double precision NOT NULL,
    number integer NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0)""",
    "CREATE INDEX starts_gate ON @.starts (queue, gate, until)",
    "CREATE INDEX starts_until ON @.starts (queue, until)",
    # The last instants that schedules have fired.
    """CREATE TABLE @.marks (
    queue integer NOT NULL,
    mark text COLLATE "C" NOT NULL,
    instant double precision NOT NULL,
    PRIMARY KEY (queue, mark)
)""",
    # Unique keys that outlive their message: whose they are, and until when.
    """CREATE TABLE @.holds (
    queue integer NOT NULL,
    unique_key text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    until double precision NOT NULL,
    PRIMARY KEY (queue, unique_key)
)""",
    "CREATE INDEX holds_until ON @.holds (until)",
)

TABLES: Final = (
    # One row: which schema this is, and a name by which a guest's connection proves to be one to the same database.
    """CREATE TABLE @.meta (
    only_row boolean PRIMARY KEY CHECK (only_row),
    version integer NOT NULL,
    instance text NOT NULL
)""",
    f"""INSERT INTO @.meta
VALUES (true, {VERSION}, md5(random()::text || clock_timestamp()::text || pg_backend_pid()::text))""",  # noqa: S608
    # The places in the order of publishing; none is ever given twice, whatever is rolled back.
    "CREATE SEQUENCE @.places",
    # A queue without a name was deleted; its messages are removed a few at a time.  Keys are never used again.  Limited
    # is one of which something is in `limits`, or was lately: its leases are granted one call after the other.
    """CREATE TABLE @.queues (
    key integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" UNIQUE,
    paused boolean NOT NULL DEFAULT false,
    deleted double precision,
    limited boolean NOT NULL DEFAULT false,
    max_size bigint,
    weight integer NOT NULL DEFAULT 1
)""",
    # Live messages only: the table stays as small as the work at hand.  Each step of a life changes an indexed column,
    # so updates are never heap-only; the room that fillfactor leaves keeps the new version on the old one's page.
    f"""CREATE TABLE @.messages ({_MESSAGE},
    PRIMARY KEY (seq)
) WITH (
    fillfactor = 85,
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000,
    autovacuum_vacuum_cost_delay = 0
)""",
    "CREATE UNIQUE INDEX messages_id ON @.messages (queue, id)",
    "CREATE UNIQUE INDEX messages_unique ON @.messages (queue, unique_key) WHERE unique_key IS NOT NULL",
    # Each of these holds only the rows that it is asked about, so that a claim costs the same beside a million others.
    *_WAITING,
    "CREATE INDEX messages_ttl ON @.messages (queue, expires) WHERE state < 2 AND expires IS NOT NULL",
    "CREATE INDEX messages_leased ON @.messages (queue, until) WHERE state = 2",
    "CREATE INDEX messages_asked ON @.messages (owner) WHERE state = 2 AND cancel IS NOT NULL",
    # What has ended and is still to be read.
    f"""CREATE TABLE @.ended ({_MESSAGE},
    result bytea,
    unreadable text,
    PRIMARY KEY (queue, id)
) WITH (
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000
)""",
    "CREATE INDEX ended_state ON @.ended (queue, state, seq)",
    "CREATE INDEX ended_forget ON @.ended (forget, queue, state) WHERE forget IS NOT NULL",
    # The publishes of messages that are gone, as bits, 64 to a row.  Rows are only ever added: workers that end
    # messages of one publisher do not wait for one another.
    """CREATE TABLE @.departed (
    publisher text COLLATE "C" NOT NULL,
    page bigint NOT NULL,
    bits bigint NOT NULL,
    until double precision NOT NULL
)""",
    "CREATE INDEX departed_publisher ON @.departed (publisher, page)",
    "CREATE INDEX departed_until ON @.departed (until)",
    *_RECORDS,
    *_LIMITS,
)

MIGRATIONS: Final[Mapping[int, tuple[str, ...]]] = {
    1: _RECORDS,
    2: (
        'ALTER TABLE @.messages ADD COLUMN gate text COLLATE "C"',
        'ALTER TABLE @.ended ADD COLUMN gate text COLLATE "C"',
        """ALTER TABLE @.queues
    ADD COLUMN limited boolean NOT NULL DEFAULT false,
    ADD COLUMN max_size bigint,
    ADD COLUMN weight integer NOT NULL DEFAULT 1""",
        "DROP INDEX @.messages_waiting",
        *_WAITING,
        *_LIMITS,
    ),
}
"""From a version, the statements that make the next one of it."""

TIME: Final = "t AS MATERIALIZED (SELECT @now AS now)"
"""What a statement begins WITH that is sent before the time is known; ``$1`` is a time that is over, see ``told``."""

NOW: Final = "(SELECT now FROM t)"
"""The time in such a statement."""

COLUMNS: Final = f"{LIFE_COLUMNS}, queue, id, publisher, publication, priority, enqueued, unique_key"
"""What is loaded as a row."""


def script(schema: str, version: int) -> tuple[str, ...]:
    """Return the statements that bring a schema from a version, 0 for none, to this one.

    Args:
      schema: its name.
      version: what is there.
    """
    statements: list[str] = []
    if version == 0:
        statements += [f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)}", *TABLES]
    else:
        for step in range(version, VERSION):
            statements += [*MIGRATIONS[step], f"UPDATE @.meta SET version = {step + 1}"]  # noqa: S608 - a number of ours
    return tuple(in_schema(statement, schema) for statement in statements)


def told(statement: str, clock: str) -> str:
    """Return a statement that knows the broker's time: an expression, of what ``$1`` may be a part."""
    return statement.replace("@now", clock)


def in_schema(statement: str, schema: str) -> str:
    """Return a statement with the schema's name at its place."""
    return statement.replace("@.", f"{quoted(schema)}.")


def quoted(name: str) -> str:
    """Return an identifier as SQL takes it."""
    return '"' + name.replace('"', '""') + '"'
