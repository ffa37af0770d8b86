"""Empty places to measure in: a file, or a private server of this machine, for each engine."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from benchmarks.harness import database
from tests.servers.ground import Ground
from tests.servers.nats import Nats
from tests.servers.postgres import Postgres
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.redis import Redis

Fresh = Callable[[], str]
"""Returns the URL of an empty place, a new one each time."""

_SERVERS: Final[Mapping[str, Any]] = {"redis": Redis, "postgres": Postgres, "rabbitmq": RabbitMQ, "nats": Nats}
ENGINES: Final = ("memory", "sqlite", *_SERVERS)


@contextmanager
def places(engine: str, **options: Any) -> Iterator[Fresh]:
    """Yield a function that returns the URL of a new place; whatever was started for it ends with the block.

    Args:
      engine: one of ``ENGINES``.
      options: of the server, such as ``durable=False``; by default it is as durable as it can be.
    """
    with ExitStack() as stack:
        if engine == "memory":
            yield lambda: "memory:"
        elif engine == "sqlite":
            yield lambda: f"sqlite:{stack.enter_context(database())}"
        else:
            ground = Ground()  # type: ignore[no-untyped-call]
            stack.callback(ground.close)
            if engine == "nats":
                # Its own default refuses the largest jobs that Trepid takes.
                options = {"options": {"max_payload": "4MB"}, **options}
            server = stack.enter_context(_SERVERS[engine](ground, **options))
            numbers = itertools.count()
            if engine in ("redis", "postgres"):
                yield server.new_database
            else:
                yield lambda: f"{server.url}?prefix=place{next(numbers)}"
