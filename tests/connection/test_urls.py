"""From a URL to a connection; what cannot be opened says why, and never shows a password."""

import subprocess
import sys

import pytest
import trio

import trepid


async def test_memory_is_fresh_and_private_each_time():
    async with trepid.open_connection("memory:") as one, trepid.open_connection("memory:") as two:
        await one.declare("mine")
        assert await two.queues() == []
        assert one.capabilities.engine == "memory"


async def test_a_broker_keeps_its_messages_between_connections():
    broker = trepid.MemoryBroker()
    async with trepid.open_connection(broker) as connection:
        await connection.declare("mine")
    async with trepid.open_connection(broker) as connection:
        assert await connection.queues() == ["mine"]


@pytest.mark.parametrize("name", ["jobs.db", "a b?c=d#e%20.db", "ünï.db", "x:y@z.db"])
async def test_sqlite_takes_all_after_the_colon(tmp_path, name):
    async with trepid.open_connection(f"sqlite:{tmp_path / name}") as connection:
        await connection.declare("mine")
    assert (tmp_path / name).exists()
    async with trepid.open_connection(f"SQLite:{tmp_path / name}") as connection:
        assert await connection.queues() == ["mine"]


SECRETS = [
    "foo://user:hunter2@host/db",
    "foo://user:hunt@er2@host/db",
    "foo://user:hunt/er2@host/db",
    "foo://:hunt er2@host",
    "foo:user:hunter2@host",
    "user:hunter2@host/db",
    "foo://host/db?password=hunter2",
    "foo://host/db?x=1&api_key=hunter2&y=2",
    "foo://host/db?sslpassword=hunter2",
    "postgresql://user:hunter2@host/db?schema=no-name",
    "postgresql:user:hunter2@host/db",
    "postgresql://user:hunter2@[host/db",
    "redis://:hunter2@host/name",
    "rediss://:hunt/er2@host?prefix=",
    "redis:user:hunter2@host",
    "redis+sentinel://:hunter2@host",
    "redis+sentinel://host?sentinel_password=hunter2",
    "redis+cluster://user:hunter2@host/3",
    "amqp://guest:hunter2@host:port/",
    "amqp://guest:hunt/er2@host",
    "amqp://guest:5/er2@hunter2",
    "amqp:guest:hunter2@host",
    "amqps://guest:hunter2@host/%2f?prefix=9",
    "nats://hunter2@host:port",
    "nats://user:hunt/er2@host",
    "nats://user:hunt?er2=1@host",
    "nats:user:hunter2@host",
    "tls://user:hunter2@one,two?prefix=a-b",
    "memory://user:hunter2@host",
    "//user:hunter2@host",
    "user@host hunter2@x",
]


@pytest.mark.parametrize("url", SECRETS)
def test_no_error_shows_a_password(url):
    with pytest.raises((trepid.BrokerURLError, trepid.UnsupportedError)) as caught:
        trepid.open_connection(url)
    shown = f"{caught.value} {caught.value!r} {caught.value.args}"
    for part in ("hunter2", "hunt", "er2"):
        assert part not in shown.replace("user", "")


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("jobs.db", "no scheme; write sqlite:jobs.db, memory:"),
        ("", "no scheme"),
        ("sqlite:", "the path of the file is missing"),
        ("memory:x", "nothing after the colon"),
        ("mysql://host", "unknown scheme 'mysql'"),
    ],
)
def test_a_wrong_url_says_what_is_wrong_at_once(url, hint):
    with pytest.raises(trepid.BrokerURLError, match=hint):
        trepid.open_connection(url)
    assert issubclass(trepid.BrokerURLError, ValueError)


@pytest.mark.parametrize("wrong", [None, 5, b"memory:", trepid.MemoryBroker])
def test_what_is_neither_url_nor_broker(wrong):
    with pytest.raises(TypeError, match="a broker is a URL"):
        trepid.open_connection(wrong)


async def test_a_second_engine_is_refused_by_who_needs_none():
    with pytest.raises(trepid.UnsupportedError, match="it keeps its results itself"):
        async with trepid.open_connection("memory:", results="memory:"):
            pytest.fail("it needs none")
    with pytest.raises(trepid.BrokerURLError):
        trepid.open_connection("memory:", results="nowhere")


@pytest.mark.parametrize(
    "error", [ValueError("mine"), KeyboardInterrupt(), SystemExit(3), ExceptionGroup("g", [OSError()])]
)
@pytest.mark.parametrize("engine", ["memory", "sqlite"])
async def test_the_bodys_exception_comes_out_bare(tmp_path, error, engine):
    url = "memory:" if engine == "memory" else f"sqlite:{tmp_path}/jobs.db"
    with pytest.raises(type(error)) as caught:
        async with trepid.open_connection(url):
            await trio.lowlevel.checkpoint()
            raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ("url", "library", "extra"),
    [
        ("redis://host", "hiredis", "redis"),
        ("postgresql://host", "psycopg", "postgres"),
        ("amqp://host", "pamqp", "rabbitmq"),
    ],
)
def test_a_missing_library_names_its_extra(url, library, extra):
    program = (
        f"import sys; sys.modules[{library!r}] = None\n"
        "import trepid\n"
        f"try: trepid.open_connection({url!r})\n"
        "except trepid.UnsupportedError as exc: print(exc)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert f"pip install 'trepid[{extra}]'" in done.stdout
