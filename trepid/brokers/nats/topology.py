"""Streams and consumers: what is made for a queue, and what must hold where something is there already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, final

import attrs

from trepid.brokers.nats import names
from trepid.brokers.nats.jetstream import NAME_IN_USE, NO_CONSUMER, NO_STREAM, JetStreamError, api
from trepid.brokers.nats.names import Names
from trepid.errors import BrokerLostError, BrokerRefusedError
from trepid.wire.nats.connection import NatsConnection

ACK_WAIT: Final = 12.0
"""Seconds after which the server takes a message back from a session that is not heard of."""
WINDOW: Final = 120.0
"""Seconds in which the server recognises a repeated publish.  It keeps some 200 bytes for each in memory."""
_FOR_NOW: Final = frozenset({10005, 10008, 10009, 10074, 10118})
"""A cluster without its leader, or with too few servers."""
_KEPT: Final = ("subjects", "retention", "max_msgs_per_subject", "max_age")
"""What a stream must have as it would be made."""
_NANOSECONDS: Final = 1_000_000_000
_DAY: Final = 86_400

TIERS: Final = {"day": _DAY, "month": 31 * _DAY, "ever": 0}
"""Results are kept in streams that forget after so many seconds; 0 is never."""


def tier(keep: float) -> str:
    """Return where a result goes that is kept for so many seconds."""
    return next(name for name, age in TIERS.items() if keep <= age or not age)


async def declared(connection: NatsConnection, names: Names) -> list[str]:
    """Return the declared queues, as the server knows them, sorted; see :meth:`JetStream.api` for errors."""
    found: list[str] = []
    while True:
        page = await api(connection, "STREAM.NAMES", {"subject": names.all_queues, "offset": len(found)})
        streams = page.get("streams") or []
        found += streams
        if not streams or len(found) >= page.get("total", 0):
            return sorted(names.queue(stream) for stream in found)


@final
@attrs.frozen
class Topology:
    """Makes streams and consumers.

    Attributes:
      names: how they are called.
      replicas: how many servers of a cluster keep each stream.
      ack_wait: see :data:`ACK_WAIT`.
    """

    names: Names
    replicas: int
    ack_wait: float

    async def ensure_queue(self, connection: NatsConnection, queue: str) -> None:
        """Make the streams of a queue, and their consumers, unless they are there.

        Raises:
          BrokerRefusedError: if something is there that is not fit for it.
        """
        # While a server of a cluster is away nothing can be made, so what will surely be used is made now.
        await self.ensure_results(connection, "day")
        for place in names.PLACES:
            stream = self.names.stream(queue, place)
            await self._stream(connection, stream, [self.names.subjects(queue, place)], max_age=0, discard="new")
            if place != names.DEAD:
                await self._consumer(connection, stream, place)

    async def ensure_results(self, connection: NatsConnection, tier: str) -> None:
        """Make a stream of results."""
        subjects = f"{self.names.prefix}.results.{tier}.>"
        await self._stream(connection, self.names.results(tier), [subjects], max_age=TIERS[tier])

    async def ensure_records(self, connection: NatsConnection) -> None:
        """Make the stream of records."""
        await self._stream(connection, self.names.records, [self.names.record("*")], max_age=0, discard="new")

    async def ensure_clock(self, connection: NatsConnection) -> None:
        """Make the stream that is asked for the time; it is in memory, and holds one message."""
        await self._stream(connection, self.names.clock, [self.names.tick], max_age=60, storage="memory")

    async def _stream(
        self,
        connection: NatsConnection,
        name: str,
        subjects: list[str],
        *,
        max_age: int,
        storage: str = "file",
        discard: str = "old",
    ) -> None:
        wanted: dict[str, Any] = {
            "name": name,
            "subjects": subjects,
            "retention": "limits",
            "discard": discard,
            "storage": storage,
            "max_msgs_per_subject": 1,
            "max_age": max_age * _NANOSECONDS,
            "num_replicas": self.replicas,
            # The window may be no longer than what it is a window on.
            "duplicate_window": int(min(WINDOW, max_age or WINDOW)) * _NANOSECONDS,
        }
        try:
            made = await api(connection, f"STREAM.CREATE.{name}", wanted)
        except JetStreamError as exc:
            if exc.number != NAME_IN_USE:
                raise _refused(connection, f"stream {name}", exc) from None
            made = await api(connection, f"STREAM.INFO.{name}")
        # An operator may have changed what is his to change: replicas, placement, limits.
        config = made["config"]
        _compare(connection, f"stream {name}", wanted, config, _KEPT)
        if discard == "new" and config["discard"] == "old" and max(config["max_msgs"], config["max_bytes"]) > 0:
            what = f"stream {name} throws away what does not fit its limits; set its discard policy to 'new'"
            raise BrokerRefusedError(connection.name, what)

    async def _consumer(self, connection: NatsConnection, stream: str, name: str) -> None:
        wanted: dict[str, Any] = {
            "durable_name": name,
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": int(self.ack_wait * _NANOSECONDS),
            "max_deliver": -1,
            "max_ack_pending": -1,
            "max_waiting": 4096,
            "replay_policy": "instant",
        }
        body = {"stream_name": stream, "config": wanted}
        try:
            made = await api(connection, f"CONSUMER.INFO.{stream}.{name}")
        except JetStreamError as exc:
            if exc.number != NO_CONSUMER:
                raise _refused(connection, f"consumer {stream}/{name}", exc) from None
            try:
                made = await api(connection, f"CONSUMER.DURABLE.CREATE.{stream}.{name}", body)
            except JetStreamError as refusal:
                raise _refused(connection, f"consumer {stream}/{name}", refusal) from None
        _compare(
            connection,
            f"consumer {stream}/{name}",
            wanted,
            made["config"],
            ("ack_policy", "max_deliver", "max_ack_pending"),
        )
        ack_wait = made["config"]["ack_wait"] / _NANOSECONDS
        if ack_wait < self.ack_wait:
            # Signs of life would come too late, and every message be handed out twice.
            what = f"takes messages back after {ack_wait:g} s where {self.ack_wait:g} s are reckoned with"
            raise BrokerRefusedError(connection.name, f"consumer {stream}/{name} {what}")


def _compare(
    connection: NatsConnection, what: str, wanted: Mapping[str, Any], made: Mapping[str, Any], kept: tuple[str, ...]
) -> None:
    """A server ignores what it does not know, so what it answers is what counts."""
    for key in kept:
        if made.get(key) != wanted[key]:
            raise BrokerRefusedError(
                connection.name, f"{what} has {key}={made.get(key)!r} where Trepid needs {wanted[key]!r}"
            )


def _refused(connection: NatsConnection, what: str, exc: JetStreamError) -> Exception:
    if exc.number == NO_STREAM:
        return exc
    if exc.number in _FOR_NOW:
        return BrokerLostError(f"{connection.name}: {what} cannot be made at present: {exc.text}")
    return BrokerRefusedError(connection.name, f"{what} cannot be made: {exc.text}")
