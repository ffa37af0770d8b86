"""What every test can ask for."""

import signal

from tests.servers.fixtures import (
    certificates,
    ground,
    nats_server,
    own_nats,
    own_nats_cluster,
    own_postgres,
    own_rabbitmq,
    own_redis,
    own_redis_cluster,
    postgres_server,
    rabbitmq_server,
    redis_server,
    shared_rabbitmq,
)

__all__ = [
    "certificates",
    "ground",
    "nats_server",
    "own_nats",
    "own_nats_cluster",
    "own_postgres",
    "own_rabbitmq",
    "own_redis",
    "own_redis_cluster",
    "postgres_server",
    "rabbitmq_server",
    "redis_server",
    "shared_rabbitmq",
]


def pytest_configure():
    """Let Ctrl-C be heard: what a shell starts in the background ignores it, and so would whatever the tests start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
