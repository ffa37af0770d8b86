"""In the user's own transaction: committed with his rows, or gone with them."""

import itertools

import psycopg
import pytest
import sqlalchemy
import trio
from sqlalchemy.orm import Session as ORMSession

from tests.brokers.postgres.kit import connect, end, message, new_broker, put, rows, take
from trepid.errors import UnsupportedError
from trepid.ports.messages import Settlement
from trepid.rules.life import CancelReply, Reply, State
from trepid.rules.publishing import Publishing
from trepid.rules.verdicts import Buried, Done, Failed, Failure
from trepid.values.unique import Unique

TABLES = itertools.count()
OOPS = Failure("ValueError", "oops")


@pytest.fixture
async def session(postgres_server):
    async with new_broker(postgres_server).open() as session:
        await session.declare(["q"])
        yield session


@pytest.fixture
def connection(postgres_server):
    with connect(postgres_server) as connection:
        yield connection


@pytest.fixture
def orders(postgres_server):
    """A table of the user's."""
    name = f"orders_{next(TABLES)}"
    with connect(postgres_server) as connection:
        connection.execute(f"CREATE TABLE {name} (id int)")
    return name


def count(server, table):
    return rows(server, f"SELECT count(*) FROM {table}")[0][0]


async def test_a_job_is_committed_with_the_rows(session, connection, orders, postgres_server):
    connection.execute(f"INSERT INTO {orders} VALUES (1)")
    (published,) = session.publish_in(connection, [message("m")])
    assert published.outcome is Publishing.ACCEPTED
    assert await take(session) == []
    connection.commit()
    (delivery,) = await take(session)
    assert delivery.id == "m"
    assert count(postgres_server, orders) == 1


async def test_a_job_is_gone_with_the_rows(session, connection, orders, postgres_server):
    connection.execute(f"INSERT INTO {orders} VALUES (1)")
    session.publish_in(connection, [message("m")])
    connection.rollback()
    assert await session.get("q", "m") is None
    assert count(postgres_server, orders) == 0


async def test_a_commit_wakes_a_worker(session, connection):
    got = []

    async def work():
        got.extend(await take(session, wait=30))

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            await trio.testing.wait_all_tasks_blocked(0.02)
            session.publish_in(connection, [message("m")])
            connection.commit()
    assert [each.id for each in got] == ["m"]


async def test_what_is_refused_leaves_the_transaction_usable(session, connection, orders, postgres_server):
    connection.execute(f"INSERT INTO {orders} VALUES (1)")
    (published,) = session.publish_in(connection, [message("m", queue="nowhere")])
    assert published.outcome is Publishing.NO_QUEUE
    with pytest.raises(psycopg.errors.NumericValueOutOfRange):
        session.publish_in(connection, [message("m", priority=2**40)])
    session.publish_in(connection, [message("n", unique=Unique("k"))])
    session.publish_in(connection, [message("o", unique=Unique("k"))])
    connection.commit()
    assert count(postgres_server, orders) == 1
    assert [each.id for each in await take(session)] == ["n"]


async def test_the_callers_settings_do_not_matter(session, postgres_server):
    with connect(postgres_server, row_factory=psycopg.rows.dict_row, prepare_threshold=None) as connection:
        connection.execute("SET search_path = pg_catalog")
        session.publish_in(connection, [message("m", payload=b"\x00\xff")])
    (delivery,) = await take(session)
    assert delivery.payload == b"\x00\xff"


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("verdict", [Done(b"2", 60.0), Buried(OOPS)])
async def test_who_cannot_see_that_an_id_has_ended_replaces_it_in_the_end(session, connection, level, verdict):
    await put(session, "m")
    connection.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
    connection.execute("SELECT count(*) FROM pg_class")
    assert await end(session, await take(session)) == [Reply.APPLIED]
    (published,) = session.publish_in(connection, [message("m")])
    assert published.outcome is Publishing.ACCEPTED
    connection.commit()
    assert await end(session, await take(session), verdict) == [Reply.APPLIED]
    stats = await session.stats("q")
    assert (stats.done, stats.dead) == ((1, 0) if isinstance(verdict, Done) else (0, 1))
    assert (await session.result("q", "m")).result == getattr(verdict, "result", None)


async def test_autocommit_needs_a_transaction(session, postgres_server):
    with connect(postgres_server, autocommit=True) as connection:
        with pytest.raises(RuntimeError, match="no transaction is open"):
            session.publish_in(connection, [message("m")])
        with connection.transaction():
            session.publish_in(connection, [message("m")])
        (delivery,) = await take(session)
        assert delivery.id == "m"


async def test_another_database_is_refused(session, postgres_server):
    empty = new_broker(postgres_server, url=postgres_server.new_database())
    async with empty.open() as elsewhere:
        await elsewhere.declare(["q"])
        for owner, stranger in ((session, empty.url), (elsewhere, postgres_server.url)):
            with (
                psycopg.connect(stranger.partition("?")[0]) as other,
                pytest.raises(UnsupportedError, match="cannot span two databases"),
            ):
                owner.publish_in(other, [message("m")])


async def test_what_is_no_connection_of_psycopg_is_refused(session, postgres_server):
    for wrong in (None, "postgresql://", object()):
        with pytest.raises(UnsupportedError, match=r"psycopg\.Connection"):
            session.publish_in(wrong, [message("m")])
    with connect(postgres_server) as connection:
        theirs = psycopg.AsyncConnection(connection.pgconn)
        with pytest.raises(UnsupportedError, match="asyncio"):
            session.publish_in(theirs, [message("m")])
    assert theirs.closed


# --------------------------------------------------------------------------------------------------------- SQLAlchemy


@pytest.fixture
def engine(postgres_server):
    engine = sqlalchemy.create_engine(postgres_server.url.replace("postgresql:", "postgresql+psycopg:"))
    yield engine
    engine.dispose()


async def test_sqlalchemys_connection(session, engine):
    with engine.connect() as connection:
        session.publish_in(connection, [message("lost")])
    with engine.begin() as connection:
        session.publish_in(connection, [message("m")])
    with engine.connect() as connection:
        session.publish_in(connection, [message("n")])
        connection.commit()
    assert [each.id for each in await take(session)] == ["m", "n"]


async def test_sqlalchemys_session(session, engine):
    with ORMSession(engine) as orm:
        session.publish_in(orm, [message("m")])
        orm.commit()
        session.publish_in(orm, [message("lost")])
        orm.rollback()
    assert [each.id for each in await take(session)] == ["m"]


async def test_sqlalchemys_autocommit_is_refused(session, engine):
    with (
        engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        pytest.raises(RuntimeError, match="no transaction is open"),
    ):
        session.publish_in(connection, [message("m")])


async def test_another_driver_is_refused(session):
    engine = sqlalchemy.create_engine("sqlite://")
    with engine.connect() as connection, pytest.raises(UnsupportedError, match="SQLAlchemy on sqlite3"):
        session.publish_in(connection, [message("m")])
    engine.dispose()


# ----------------------------------------------------------------------------------------------------------- settling


async def taken(session, lease_for=60.0, **fields):
    await put(session, "m", **fields)
    (delivery,) = await take(session, lease_for=lease_for)
    return delivery


def done(delivery, keep=60.0):
    return Settlement(delivery.ref, Done(b"7", keep))


async def test_a_settlement_is_committed_with_the_rows(session, connection, orders, postgres_server):
    delivery = await taken(session)
    connection.execute(f"INSERT INTO {orders} VALUES (1)")
    assert session.settle_in(connection, done(delivery)) is Reply.APPLIED
    assert (await session.get("q", "m")).state is State.LEASED
    connection.commit()
    assert (await session.result("q", "m")).result == b"7"
    assert await session.settle([done(delivery)]) == [Reply.REPEATED]
    assert count(postgres_server, orders) == 1


async def test_a_settlement_is_gone_with_the_rows(session, connection, orders, postgres_server):
    delivery = await taken(session)
    connection.execute(f"INSERT INTO {orders} VALUES (1)")
    session.settle_in(connection, done(delivery))
    connection.rollback()
    assert (await session.get("q", "m")).state is State.LEASED
    assert await session.settle([Settlement(delivery.ref, Failed(OOPS))]) == [Reply.APPLIED]
    assert count(postgres_server, orders) == 0


async def test_a_late_settlement_is_refused(session, connection):
    delivery = await taken(session)
    await session.expire_owner("w")
    assert session.settle_in(connection, done(delivery)) is Reply.SUPERSEDED
    connection.commit()
    assert (await session.get("q", "m")).crashes == 1


async def test_a_message_that_is_being_settled_is_nobody_elses(session, connection):
    delivery = await taken(session, lease_for=0.2)
    session.settle_in(connection, done(delivery))
    await trio.sleep(0.4)
    assert await take(session) == []
    assert await session.reap() == 0
    connection.commit()
    assert (await session.get("q", "m")).state is State.DONE


async def test_a_long_transaction_does_not_keep_those_busy_who_wait_for_work(session, connection):
    """The lease runs out meanwhile, and nobody can say so before its row is free."""
    await put(session, "m")
    (delivery,) = await take(session, lease_for=0.2)
    assert session.settle_in(connection, Settlement(delivery.ref, Done(b"1", 60.0))) is Reply.APPLIED
    before = session.statistics().requests
    assert await take(session, wait=1.0) == []
    assert session.statistics().requests - before < 15
    connection.rollback()
    assert [each.id for each in await take(session, wait=5.0)] == ["m"]


async def test_a_settlement_that_is_committed_wakes_who_waits_for_the_result(session, connection):
    delivery = await taken(session)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def wait():
                assert (await session.result("q", "m", wait=30)).result == b"7"

            await trio.testing.wait_all_tasks_blocked(0.02)
            session.settle_in(connection, done(delivery))
            connection.commit()


async def test_a_killed_client_has_done_neither(session, postgres_server, orders):
    delivery = await taken(session)
    connection = connect(postgres_server)
    connection.execute(f"INSERT INTO {orders} VALUES (1)")
    session.settle_in(connection, done(delivery))
    postgres_server.sql(f"SELECT pg_terminate_backend({connection.info.backend_pid})")
    with pytest.raises(psycopg.OperationalError):
        connection.commit()
    connection.close()
    with trio.fail_after(5):
        assert await session.settle([done(delivery)]) == [Reply.APPLIED]
    assert count(postgres_server, orders) == 0


async def test_enqueuing_on_a_transaction_that_failed_is_said(session, connection):
    with pytest.raises(psycopg.errors.UndefinedTable):
        connection.execute("SELECT * FROM nothing_of_this_name")
    with pytest.raises(RuntimeError, match="roll it back first"):
        session.publish_in(connection, [message("m")])
    connection.rollback()
    session.publish_in(connection, [message("m")])
    connection.commit()
    assert await session.cancel("q", ["m"], "enough") == [CancelReply.WITHDRAWN]
    await end(session, await take(session))
