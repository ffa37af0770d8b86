"""From a URL to where a server is, who we are there, and what everything is called."""

from __future__ import annotations

import re
import ssl
from typing import Final, final
from urllib.parse import parse_qs, unquote, urlsplit

import attrs

from trepid.brokers.rabbitmq.topology import Names
from trepid.errors import BrokerURLError
from trepid.wire.amqp import Login
from trepid.wire.endpoint import Endpoint

_PORTS: Final = {"amqp": 5672, "amqps": 5671}
_PREFIX: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,49}")
_UNREADABLE: Final = "write amqp://user:password@host:port/vhost, with / @ : and # in a password as %2F %40 %3A and %23"
_KNOWN: Final = ("prefix", "heartbeat", "cafile")


@final
@attrs.frozen
class Address:
    """Where the messages are.

    Attributes:
      endpoint: where the server listens.
      login: who we are there, and in which virtual host.
      names: what everything is called.
    """

    endpoint: Endpoint
    login: Login
    names: Names


def address_of(url: str) -> Address:
    """Return what a URL says: ``amqp[s]://user:password@host:port/vhost?prefix=&heartbeat=&cafile=``.

    Raises:
      BrokerURLError: if it cannot be used; without credentials.
    """
    scheme = url.partition(":")[0].lower()
    shown = f"{scheme}://***"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "localhost", parts.port or _PORTS[scheme]
    except ValueError:
        # What is wrong may be part of a password.
        raise BrokerURLError(shown, _UNREADABLE) from None
    if "//" not in url[: len(scheme) + 3] or "@" in parts.path + parts.query + parts.fragment:
        raise BrokerURLError(shown, _UNREADABLE)
    # As RabbitMQ has it: no path is the default virtual host, one slash alone would be the one without a name.
    path = unquote(parts.path[1:])
    vhost = path or "/"
    query = parse_qs(parts.query, keep_blank_values=True)
    if unknown := sorted(set(query) - set(_KNOWN)):
        raise BrokerURLError(shown, f"unknown option {unknown[0]!r}; there are {', '.join(_KNOWN)}")
    given = {key: values[-1] for key, values in query.items()}
    prefix = given.get("prefix", "trepid")
    if not _PREFIX.fullmatch(prefix):
        raise BrokerURLError(
            shown, "prefix must begin with a letter and have letters, digits, and _.- only, 50 at most"
        )
    try:
        heartbeat = float(given.get("heartbeat", "8"))
    except ValueError:
        heartbeat = 0.0
    if not 1 <= heartbeat <= 600:
        raise BrokerURLError(shown, "heartbeat must be from 1 to 600 seconds")
    if "cafile" in given and scheme != "amqps":
        raise BrokerURLError(shown, "cafile is for amqps:// only")
    try:
        tls = ssl.create_default_context(cafile=given.get("cafile")) if scheme == "amqps" else None
    except OSError as exc:
        raise BrokerURLError(shown, f"cafile cannot be read: {exc.strerror or exc}") from None
    name = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}" + (path and f"/{path}")
    if prefix != "trepid":
        name += f"?prefix={prefix}"
    login = Login(unquote(parts.username or "guest"), unquote(parts.password or "guest"), vhost, heartbeat)
    return Address(Endpoint(name, host, port, tls=tls), login, Names(prefix))
