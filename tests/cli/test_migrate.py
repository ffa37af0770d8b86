"""``trepid migrate``: the tables of a PostgreSQL broker, as their owner brings them up to date."""

import json

import psycopg
import pytest

from tests.cli.conftest import on_broker
from trepid.brokers.postgres import link, schema


@pytest.fixture
def empty(postgres_server):
    return postgres_server.new_database()


def test_a_new_database_gets_its_tables(run, empty):
    found = run("migrate", "--broker", empty, "--check")
    assert (found.exit_code, found.stdout) == (1, "")
    assert f"version none, and {schema.VERSION} is needed" in found.stderr
    done = run("migrate", "--broker", empty)
    assert (done.exit_code, done.stdout.rpartition(": ")[2]) == (0, f"version {schema.VERSION}, was none\n")
    again = run("migrate", "--broker", empty, "--check")
    assert again.exit_code == 0
    assert "up to date" in again.stdout
    told = json.loads(run("migrate", "--broker", empty, "--json").stdout)
    assert (told["found"], told["needed"], told["changed"]) == (schema.VERSION, schema.VERSION, False)


def test_the_sql_does_the_same(run, empty, postgres_server):
    sql = run("migrate", "--broker", f"{empty}?schema=mine", "--sql")
    assert sql.exit_code == 0
    with psycopg.connect(empty, autocommit=True) as connection:
        connection.execute(sql.stdout.encode())
    assert "up to date" in run("migrate", "--broker", f"{empty}?schema=mine", "--check").stdout
    on_broker(f"{empty}?schema=mine", lambda connection: connection.declare("default"))


def test_the_sql_is_told_without_a_server(run, ground):
    sql = run("migrate", "--broker", f"postgresql://127.0.0.1:{ground.free_port()}/x", "--sql")
    assert sql.exit_code == 0
    assert sql.stdout.startswith('BEGIN;\nCREATE SCHEMA IF NOT EXISTS "trepid";')


def test_a_newer_schema_is_left_alone(run, empty):
    run("migrate", "--broker", empty)
    with psycopg.connect(empty) as connection:
        connection.execute("UPDATE trepid.meta SET version = 99")
    refused = run("migrate", "--broker", empty)
    assert refused.exit_code == 3
    assert "upgrade Trepid" in refused.stderr


def test_nobody_is_there(run, ground):
    lost = run("migrate", "--broker", f"postgresql://u:hunter2@127.0.0.1:{ground.free_port()}/x")
    assert lost.exit_code == 3
    assert "hunter2" not in lost.stderr


@pytest.mark.parametrize("broker", ["sqlite:jobs.db", "memory:"])
def test_others_have_nothing_to_migrate(run, place, broker):
    refused = run("migrate", "--broker", broker)
    assert refused.exit_code == 2
    assert "nothing to migrate" in refused.stderr


def test_version_2_gets_what_a_new_database_has(run, empty):
    """What the last version left behind is worked off by this one, and the tables are those of a new database."""
    run("migrate", "--broker", empty)
    with psycopg.connect(empty) as connection:
        tables = connection.execute(SHAPE).fetchall()
        connection.execute(BACK_TO_2)
        connection.execute("INSERT INTO trepid.queues (name) VALUES ('default')")
        connection.execute(
            "INSERT INTO trepid.messages (due, state, queue, id, publisher, publication, priority, enqueued, payload)"
            " VALUES (1, 1, 1, 'old', 'p', 1, 5, 1, '{}')"
        )
    assert f"version {schema.VERSION}, was 2" in run("migrate", "--broker", empty).stdout
    with psycopg.connect(empty) as connection:
        assert connection.execute(SHAPE).fetchall() == tables
    assert on_broker(empty, lambda connection: connection.stats("default")).ready == 1


BACK_TO_2 = """
    UPDATE trepid.meta SET version = 2;
    DROP TABLE trepid.limits, trepid.starts, trepid.marks, trepid.holds;
    DROP INDEX trepid.messages_waiting, trepid.messages_gated, trepid.messages_gated_due, trepid.messages_inside;
    ALTER TABLE trepid.messages DROP COLUMN gate;
    ALTER TABLE trepid.ended DROP COLUMN gate;
    ALTER TABLE trepid.queues DROP COLUMN limited, DROP COLUMN max_size, DROP COLUMN weight;
    CREATE INDEX messages_waiting ON trepid.messages (queue, priority, due, seq) WHERE state < 2"""
SHAPE = """
    SELECT table_name, column_name, data_type, is_nullable, column_default, collation_name
    FROM information_schema.columns WHERE table_schema = 'trepid'
    UNION ALL SELECT tablename, indexname, indexdef, NULL, NULL, NULL FROM pg_indexes WHERE schemaname = 'trepid'
    ORDER BY 1, 2"""


def test_what_is_older_is_migrated_step_by_step(monkeypatch, empty, run):
    run("migrate", "--broker", empty)
    now, newer = schema.VERSION, schema.VERSION + 1
    monkeypatch.setattr(schema, "VERSION", newer)
    monkeypatch.setattr(schema, "MIGRATIONS", {now: ("CREATE TABLE @.novelty (id integer)",)})
    refused = run("queues", "--broker", empty)
    assert refused.exit_code == 3
    assert "trepid migrate" in refused.stderr
    assert f"version {newer}, was {now}" in run("migrate", "--broker", empty).stdout
    with psycopg.connect(empty) as connection:
        assert connection.execute("SELECT count(*) FROM trepid.novelty").fetchone() == (0,)
    assert isinstance(on_broker(empty, lambda connection: connection.queues()), list)


def test_a_migration_takes_the_time_that_it_takes(monkeypatch, empty, run):
    run("migrate", "--broker", empty)
    now, newer = schema.VERSION, schema.VERSION + 1
    monkeypatch.setattr(link, "PATIENCE", 0.1)
    monkeypatch.setattr(schema, "VERSION", newer)
    monkeypatch.setattr(schema, "MIGRATIONS", {now: ("SELECT pg_sleep(0.5)",)})
    assert f"version {newer}, was {now}" in run("migrate", "--broker", empty).stdout


def test_a_server_that_is_lost_meanwhile_is_an_error_of_ours(monkeypatch, empty, run):
    run("migrate", "--broker", empty)
    now = schema.VERSION
    monkeypatch.setattr(schema, "VERSION", now + 1)
    monkeypatch.setattr(schema, "MIGRATIONS", {now: ("SELECT pg_terminate_backend(pg_backend_pid())",)})
    lost = run("migrate", "--broker", empty)
    assert lost.exit_code == 3
    assert "terminating connection" in lost.stderr
    with psycopg.connect(empty) as connection:
        assert connection.execute("SELECT version FROM trepid.meta").fetchone() == (now,)
