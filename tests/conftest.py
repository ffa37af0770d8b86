"""What every test can ask for."""

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
