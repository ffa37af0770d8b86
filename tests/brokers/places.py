"""Places on the shared servers that nobody else uses."""

import itertools

SERVERS = ("redis", "postgres", "rabbitmq", "nats")
ENGINES = ("memory", "sqlite", *SERVERS)
_NUMBERS = itertools.count(1)


def fresh_url(name, request):
    """Return the shared server of an engine, and the URL of a place on it that is new."""
    server = request.getfixturevalue(f"{name}_server")
    if name in ("redis", "postgres"):
        return server, server.new_database()
    return server, f"{server.url}?prefix=place{next(_NUMBERS)}"


def place_of(engine, request, tmp_path):
    """Return the URL of a place that is new on an engine that outlives the process, and of its second engine, or ""."""
    match engine:
        case "sqlite":
            return f"sqlite:{tmp_path / 'jobs.db'}", ""
        case "rabbitmq":
            return fresh_url("rabbitmq", request)[1], fresh_url("redis", request)[1]
        case _:
            return fresh_url(engine, request)[1], ""
