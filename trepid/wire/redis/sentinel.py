"""Sentinels: who says which server is the primary."""

from __future__ import annotations

from typing import Any, Final

import trio

from trepid.errors import BrokerLostError, BrokerRefusedError, TrepidError
from trepid.wire.endpoint import Endpoint
from trepid.wire.redis.address import RedisAddress
from trepid.wire.redis.connection import open_greeted
from trepid.wire.redis.faults import RedisError

_EACH_WITHIN: Final = 2.0
"""Seconds that one sentinel may take before the next is asked."""


async def find_primary(address: RedisAddress) -> Endpoint:
    """Ask the sentinels, one after the other, where the primary is.

    It is asked for its role once it is connected to: what sentinels say is a moment old.

    Raises:
      BrokerLostError: if none of them answers.
      BrokerRefusedError: if those that answer do not know the service, or will not have us.
    """
    refusal: BrokerRefusedError | None = None
    complaints: list[str] = []
    for host, port in address.hosts:
        try:
            with trio.fail_after(_EACH_WITHIN):
                found = await _asked(address, host, port)
        except trio.TooSlowError:
            complaints.append(f"{host}:{port}: no answer")
        except BrokerRefusedError as exc:
            refusal = exc
        except TrepidError as exc:
            complaints.append(str(exc))
        else:
            if found is not None:
                return found
            refusal = BrokerRefusedError(str(address), f"its sentinels know no service {address.service!r}")
    if refusal is not None:
        raise refusal
    raise BrokerLostError(f"{address}: no sentinel answers ({'; '.join(complaints)})")


async def _asked(address: RedisAddress, host: str, port: int) -> Endpoint | None:
    async with open_greeted(address.endpoint(host, port), address.sentinel_login, _ignored) as connection:
        try:
            found: list[Any] | None = await connection.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.service)
        except RedisError as exc:
            raise BrokerRefusedError(connection.name, f"it is no sentinel ({exc.code} {exc.text})") from None
    if found is None:
        return None
    primary, at = found
    return address.endpoint(primary.decode(), int(at))


def _ignored(channel: bytes, said: bytes) -> None:
    """Sentinels have news, too; the next dial asks anyway."""
