"""From a URL to a broker.  Adapters are imported only when their URL is opened."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Final

from trepid.errors import BrokerURLError, UnsupportedError
from trepid.ports.broker import Broker

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(.*)", re.DOTALL)


def _memory(url: str, rest: str) -> Broker:
    from trepid.brokers.memory import MemoryBroker

    if rest.strip("/"):
        raise BrokerURLError(without_secrets(url), "memory: takes nothing after the colon")
    return MemoryBroker()


def _sqlite(url: str, rest: str) -> Broker:
    from trepid.brokers.sqlite import SQLiteBroker

    if not rest:
        raise BrokerURLError(url, "the path of the file is missing; write sqlite:jobs.db")
    return SQLiteBroker(rest)


def _postgresql(url: str, _: str) -> Broker:
    with _installed("postgres"):
        from trepid.brokers.postgres import PostgreSQLBroker
    return PostgreSQLBroker(url)


def _redis(url: str, _: str) -> Broker:
    with _installed("redis"):
        from trepid.brokers.redis import RedisBroker
    return RedisBroker(url)


def _amqp(url: str, _: str) -> Broker:
    with _installed("rabbitmq"):
        from trepid.brokers.rabbitmq import RabbitMQBroker
    return RabbitMQBroker(url)


def _nats(url: str, _: str) -> Broker:
    with _installed("nats"):
        from trepid.brokers.nats import NatsBroker
    return NatsBroker(url)


@contextmanager
def _installed(extra: str) -> Generator[None]:
    """Turn the lack of a library into an error that names the extra which brings it."""
    try:
        yield
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.startswith("trepid"):
            raise
        raise UnsupportedError(f"{extra} brokers", "this installation", f"pip install 'trepid[{extra}]'") from exc


_REDIS: Final = ("redis", "rediss", "unix", "redis+unix", "redis+sentinel", "rediss+sentinel", "redis+cluster")

_ENGINES: Final[Mapping[str, Callable[[str, str], Broker]]] = {
    "memory": _memory,
    "sqlite": _sqlite,
    **dict.fromkeys((*_REDIS, "rediss+cluster"), _redis),
    **dict.fromkeys(("postgresql", "postgres"), _postgresql),
    **dict.fromkeys(("amqp", "amqps"), _amqp),
    **dict.fromkeys(("nats", "tls"), _nats),
}
_EXAMPLES: Final = "sqlite:jobs.db, memory:, redis://, postgresql://, amqp:// or nats://"


def broker_at(url: str) -> Broker:
    """Return the broker that *url* names; nothing is opened yet.

    Raises:
      BrokerURLError: if the URL has no known scheme, or says too little.
      UnsupportedError: if what the engine needs is not installed.
    """
    if not isinstance(url, str):
        raise TypeError(f"a broker is a URL or a trepid.Broker, not {type(url).__name__}")
    found = _SCHEME.fullmatch(url)
    # Without the slashes, what stands before the colon of user:password@host is no scheme, and nobody's business.
    if found is None or ("@" in found[2] and found[2][:2] != "//" and found[1].lower() not in _ENGINES):
        raise BrokerURLError(without_secrets(url), f"no scheme; write {_EXAMPLES}")
    scheme, rest = found[1].lower(), found[2]
    engine = _ENGINES.get(scheme)
    if engine is not None:
        return engine(url, rest)
    raise BrokerURLError(without_secrets(url), f"unknown scheme {scheme!r}; write {_EXAMPLES}")


def without_secrets(url: str) -> str:
    """Return *url* with anything masked that may be a user name, a password or a token."""
    # Everything up to the last @: a password may hold any character, whatever the standard says.
    masked = re.sub(r"^([A-Za-z][A-Za-z0-9+.-]*://)?.*@", r"\1***@", url, flags=re.DOTALL)
    return re.sub(r"([?&][^=&]*(?:pass|secret|token|key)[^=&]*=)[^&]*", r"\1***", masked, flags=re.IGNORECASE)
