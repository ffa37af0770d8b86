"""The fixtures of pytest; ``tests/conftest.py`` imports them, so every test can ask for them."""

from contextlib import ExitStack

import pytest

from tests.servers.ground import Ground
from tests.servers.nats import Nats
from tests.servers.nats import open_cluster as open_nats_cluster
from tests.servers.postgres import Postgres
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.redis import Redis
from tests.servers.redis import open_cluster as open_redis_cluster


@pytest.fixture(scope="session")
def ground():
    """Where the servers of this session live; nothing of it is left when the session ends."""
    ground = Ground()
    yield ground
    ground.close()


@pytest.fixture(scope="session")
def certificates(ground):
    """The certificates of this session."""
    return ground.certificates


def shared(kind, **options):
    """Return a fixture: one server for all tests, started when the first of them asks."""

    @pytest.fixture(scope="session")
    def server(ground):
        with kind(ground, **options) as server:
            yield server

    return server


def own(kind):
    """Return a fixture: a function that starts servers which live as long as the test."""

    @pytest.fixture
    def factory(ground):
        with ExitStack() as servers:
            yield lambda **options: servers.enter_context(kind(ground, **options))

    return factory


redis_server = shared(Redis)
postgres_server = shared(Postgres, durable=False)
shared_rabbitmq = shared(RabbitMQ)
# A message of 1 MiB and its headers are more than a server takes unless it is told to.
nats_server = shared(Nats, options={"max_payload": "4MB"})


@pytest.fixture
def rabbitmq_server(shared_rabbitmq, monkeypatch):
    """The shared RabbitMQ.  Nobody kills it, so nobody needs to wait until what is young is written down."""
    monkeypatch.setattr("trepid.brokers.rabbitmq.lines.YOUNG", 0.0)
    return shared_rabbitmq


own_redis = own(Redis)
own_postgres = own(Postgres)
own_rabbitmq = own(RabbitMQ)
own_nats = own(Nats)


def own_cluster(start):
    """Return a fixture: a function that starts several servers as one cluster."""

    @pytest.fixture
    def factory(ground):
        with ExitStack() as servers:

            def make(**options):
                nodes = start(ground, **options)
                for node in nodes:
                    servers.callback(node.close)
                return nodes

            yield make

    return factory


own_redis_cluster = own_cluster(open_redis_cluster)
own_nats_cluster = own_cluster(open_nats_cluster)
