"""Opening: what is refused, and in which words; what is made; what is told of the server."""

import contextlib

import psycopg
import pytest
import trio

import trepid
from tests.brokers.postgres.kit import end, message, new_broker, our_threads, put, rows, take
from tests.servers.postgres import PASSWORD
from trepid.brokers.postgres import PostgreSQLBroker, schema
from trepid.brokers.postgres.address import Address
from trepid.errors import BrokerLostError, BrokerRefusedError, BrokerURLError, UnsupportedError
from trepid.rules.life import Reply, State


async def refusal(broker, kind=BrokerRefusedError):
    with trio.fail_after(10), pytest.raises(kind) as caught:
        async with broker.open():
            pass
    assert not our_threads()
    return str(caught.value)


@pytest.fixture
async def guarded(own_postgres):
    return await trio.to_thread.run_sync(lambda: own_postgres(password=True))


async def test_nobody_is_there(ground):
    said = await refusal(PostgreSQLBroker(f"postgresql://127.0.0.1:{ground.free_port()}/x"), BrokerLostError)
    assert "refused" in said


async def test_a_wrong_password_is_refused_and_never_shown(guarded):
    async with PostgreSQLBroker(guarded.url).open() as session:
        assert session.capabilities.durability == "fsync"
        assert "synchronous_commit=on" in session.capabilities.durability_proof
    wrong = PostgreSQLBroker(f"postgresql://postgres:hunter2@127.0.0.1:{guarded.port}/postgres")
    said = await refusal(wrong)
    assert "password authentication failed" in said
    for text in (said, str(wrong), repr(wrong)):
        assert "hunter2" not in text
        assert PASSWORD not in text
    said = await refusal(PostgreSQLBroker(f"postgresql://postgres@127.0.0.1:{guarded.port}/postgres?password=hunter2"))
    assert "hunter2" not in said


async def test_a_database_that_is_not_there(postgres_server):
    said = await refusal(PostgreSQLBroker(postgres_server.url.rpartition("/")[0] + "/nowhere"))
    assert 'database "nowhere" does not exist' in said


async def test_an_option_that_is_not_there(postgres_server):
    assert "a mistake in the URL" in await refusal(PostgreSQLBroker(f"{postgres_server.url}?colour=green"))


async def test_a_server_with_another_name_is_refused(own_postgres):
    server = await trio.to_thread.run_sync(lambda: own_postgres(tls=True))
    async with PostgreSQLBroker(server.url).open() as session:
        await session.declare(["q"])
        encrypted = rows(server, "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE ssl "
                                 "AND application_name = 'trepid'")  # fmt: skip
        assert encrypted == [(3,)]
    ca = str(server.certificates.ca)
    for url, said in (
        (
            server.url.replace(f"@{server.host}:", "@wrong.example:").replace("?", f"?hostaddr={server.host}&"),
            "host name",
        ),
        (server.url.replace(ca, "/nowhere.pem"), "/nowhere.pem"),
        (server.url.partition("?")[0] + "?sslmode=disable", "pg_hba.conf"),
    ):
        assert said in await refusal(PostgreSQLBroker(url))


async def test_a_replica_is_refused(own_postgres):
    primary = await trio.to_thread.run_sync(own_postgres)
    replica = await trio.to_thread.run_sync(lambda: own_postgres(standby_of=primary))
    assert "this is a replica" in await refusal(PostgreSQLBroker(replica.url))


async def test_a_read_only_database_is_refused(own_postgres):
    server = await trio.to_thread.run_sync(lambda: own_postgres(options={"default_transaction_read_only": "on"}))
    assert "read-only" in await refusal(PostgreSQLBroker(server.url))


async def test_other_defaults_of_the_database_do_not_matter(postgres_server):
    url = postgres_server.new_database()
    name = url.rpartition("/")[2]
    postgres_server.sql(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    async with PostgreSQLBroker(url).open() as session:

        def level(transaction):
            return transaction.run("SHOW transaction_isolation").fetchone()[0]

        # A limit is counted by who has waited for the one before him, and must see what that one did.
        assert await session._write(level) == "read committed"
        assert await session._read(level) == "repeatable read"


async def test_names_in_a_database_that_knows_no_encoding(postgres_server):
    url = postgres_server.new_database("ENCODING 'SQL_ASCII' TEMPLATE template0")
    async with PostgreSQLBroker(url).open() as session:
        await session.declare(["q"])
        await put(session, "grün")
        (delivery,) = await take(session)
        assert delivery.id == "grün"
        assert await end(session, [delivery]) == [Reply.APPLIED]
        assert (await session.get("q", "grün")).state is State.DONE
        for encoding, refused in (("utf8", False), ("latin1", True)):
            said = pytest.raises(UnsupportedError, match="utf8") if refused else contextlib.nullcontext()
            with psycopg.connect(url, client_encoding=encoding) as connection, said:
                session.publish_in(connection, [message("früh")])
        assert [each.id for each in await take(session)] == ["früh"]


async def test_a_database_that_has_no_place_for_some_texts_is_refused(postgres_server):
    url = postgres_server.new_database("ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    assert "encoding LATIN1" in await refusal(PostgreSQLBroker(url))


async def test_durability_is_what_the_server_says(postgres_server):
    async with new_broker(postgres_server).open() as session:
        assert session.capabilities.durability == "process"
        assert "fsync=off" in session.capabilities.durability_proof
        assert session.capabilities.engine.startswith("PostgreSQL 1")


async def test_a_newer_schema_is_refused_and_an_older_one_says_what_to_do(postgres_server):
    broker = new_broker(postgres_server)
    async with broker.open():
        pass
    name = broker.address.schema
    for version, said in ((schema.VERSION + 1, "upgrade Trepid"), (schema.VERSION - 1, "trepid migrate")):
        postgres_server.sql(f"UPDATE {name}.meta SET version = {version}")
        if version:
            assert said in await refusal(broker)


async def test_many_sessions_may_find_nothing_at_once(postgres_server):
    broker = new_broker(postgres_server)
    opened = []

    async def open_one():
        async with broker.open() as session:
            await session.declare(["q"])
            opened.append(session)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(open_one)
    assert len(opened) == 6


async def test_a_user_who_may_not_make_the_schema_is_told_who_may(postgres_server):
    postgres_server.sql("CREATE ROLE plain LOGIN")
    broker = PostgreSQLBroker(f"{postgres_server.url.replace('postgres@', 'plain@')}?schema=forbidden")
    said = await refusal(broker)
    assert "permission denied" in said
    assert "trepid migrate" in said


async def test_a_user_with_the_least_rights_can_work(postgres_server):
    owner = new_broker(postgres_server)
    async with owner.open() as session:
        await session.declare(["q"])
    name = owner.address.schema
    postgres_server.sql(
        f"CREATE ROLE worker LOGIN; GRANT USAGE ON SCHEMA {name} TO worker;"
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {name} TO worker;"
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {name} TO worker"
    )
    broker = PostgreSQLBroker(owner.url.replace("postgres@", "worker@"))
    async with broker.open() as session:
        await session.declare(["other"])
        await put(session, "m")
        assert len(await take(session)) == 1


async def test_statements_need_not_be_prepared(postgres_server):
    async with new_broker(postgres_server, more="&prepare_threshold=none").open() as session:
        await session.declare(["q"])
        for number in range(5):
            await put(session, f"m{number}")
        assert session._writer_engine._link.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)
        assert len(await take(session)) == 5


async def test_under_a_clock_that_jumps_it_is_refused(postgres_server, autojump_clock):
    with pytest.raises(UnsupportedError, match="clock that jumps"):
        async with new_broker(postgres_server).open():
            pass


def test_addresses():
    address = Address.of(
        "postgres://u:p%40ss@h1,h2:5433/db?sslmode=require&schema=jobs&prepare_threshold=0&password=x y"
    )
    assert address.schema == "jobs"
    assert address.prepare_threshold == 0
    assert "p%40ss" not in address.shown
    assert "p@ss" not in repr(address)
    assert psycopg.conninfo.conninfo_to_dict(address.conninfo) == {
        "user": "u", "password": "x y", "host": "h1,h2", "port": ",5433", "dbname": "db", "sslmode": "require",
    }  # fmt: skip
    assert address.shown == "postgresql://h1,h2:5433/db?sslmode=require&prepare_threshold=0&schema=jobs"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:db",
        "postgresql://h/db?schema=a-b",
        "postgresql://h/db?schema=",
        "postgresql://h?prepare_threshold=-1",
    ],
)
def test_urls_that_cannot_be_used(url):
    with pytest.raises(BrokerURLError):
        trepid.open_connection(url)


async def test_by_its_url(postgres_server):
    async with trepid.open_connection(f"{postgres_server.url}?schema=by_url") as connection:
        await connection.declare("default")
        assert str(connection._broker) == f"postgresql://127.0.0.1:{postgres_server.port}/postgres?schema=by_url"
