"""The servers that other tests stand on."""

import pytest

SHARED = ["redis_server", "postgres_server", "rabbitmq_server", "nats_server"]


@pytest.mark.parametrize("name", SHARED)
def test_a_shared_server_is_the_same_for_everybody(name, request):
    server = request.getfixturevalue(name)
    assert server.is_ready()
    assert server is request.getfixturevalue(name)
