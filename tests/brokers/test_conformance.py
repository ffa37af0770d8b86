"""Every engine that ships with Trepid keeps the promises of the port: one test per engine and promise."""

import itertools
import time

import pytest
import trio

from tests.brokers.nats.kit import sweep
from tests.brokers.nats.lacks import UNSUPPORTED as NATS_LACKS
from tests.brokers.rabbitmq import tools as rabbitmq_tools
from tests.brokers.rabbitmq.promises import KEPT as RABBITMQ_KEEPS
from trepid.brokers.memory import MemoryBroker
from trepid.brokers.nats import NatsBroker
from trepid.brokers.postgres import PostgreSQLBroker
from trepid.brokers.rabbitmq import RabbitMQBroker
from trepid.brokers.redis import RedisBroker
from trepid.brokers.sqlite import SQLiteBroker
from trepid.testing.conformance import CASES, check_broker

NAMES = [case.name for case in CASES]


@pytest.mark.parametrize("name", NAMES)
async def test_memory(name, autojump_clock):
    conformance = await check_broker(MemoryBroker, cases=[name])
    assert conformance.passed == (name,), "the memory broker supports everything"


class BentClock:
    """The wall clock, moved on at will: so hours pass at once, while waits take the time they say."""

    def __init__(self):
        self.ahead = 0.0

    def __call__(self):
        return time.time() + self.ahead

    async def bend(self, seconds):
        self.ahead += seconds
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("name", NAMES)
async def test_sqlite(name, tmp_path):
    clock, numbers = BentClock(), itertools.count()

    def make_broker():
        return SQLiteBroker(tmp_path / f"{next(numbers)}.db", clock=clock)

    conformance = await check_broker(make_broker, cases=[name], bend_time=clock.bend, tick=0.1)
    assert conformance.passed == (name,), "SQLite supports everything"


PREFIXES = itertools.count()


@pytest.mark.parametrize("name", NAMES)
async def test_redis(name, redis_server):
    clock = BentClock()

    def make_broker():
        return RedisBroker(f"{redis_server.url}?prefix=suite{next(PREFIXES)}", clock=clock)

    conformance = await check_broker(make_broker, cases=[name], bend_time=clock.bend, tick=0.1)
    assert conformance.passed == (name,), "Redis supports everything"


SCHEMAS = itertools.count()


@pytest.mark.parametrize("name", NAMES)
async def test_postgres(name, postgres_server):
    clock = BentClock()

    def make_broker():
        return PostgreSQLBroker(f"{postgres_server.url}?schema=suite_{next(SCHEMAS)}", clock=clock)

    conformance = await check_broker(make_broker, cases=[name], bend_time=clock.bend, tick=0.25)
    assert conformance.passed == (name,), "PostgreSQL supports everything"


@pytest.mark.parametrize("name", NAMES)
async def test_rabbitmq(name, rabbitmq_server):
    urls = []

    def make_broker():
        urls.append(rabbitmq_tools.new_url(rabbitmq_server.url))
        return RabbitMQBroker(urls[-1])

    try:
        conformance = await check_broker(make_broker, cases=[name], tick=0.3)
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 30):
            await rabbitmq_tools.demolish(*dict.fromkeys(urls))
    if name in RABBITMQ_KEEPS:
        assert conformance.passed == (name,), f"RabbitMQ can do it, and says otherwise: {conformance.unsupported}"
    else:
        assert set(conformance.unsupported) == {name}, "RabbitMQ can do what it does not claim: see promises.py"


@pytest.mark.parametrize("name", NAMES)
async def test_nats(name, nats_server):
    prefixes = []

    def make_broker():
        prefixes.append(f"suite{next(PREFIXES)}")
        return NatsBroker(f"{nats_server.url}?prefix={prefixes[-1]}")

    conformance = await check_broker(make_broker, cases=[name], tick=0.1)
    # An engine whose clock cannot be moved: hours are only lived through by the others.
    lacking = NATS_LACKS.get(name)
    assert conformance.passed == (() if lacking else (name,))
    if lacking:
        assert lacking in conformance.unsupported[name]
    for prefix in prefixes:
        await sweep(nats_server.url, prefix)
