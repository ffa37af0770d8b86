"""Mending: what a server that was killed has left at odds.

It writes down what was deleted from a stream, and what a consumer has handed out, at different times.  So after it was
killed a consumer may wait for an answer about a message that is gone.  NATS 2.9 stops handing out whenever it comes to
such a one, over and over again.  Whoever begins to lease from a queue therefore gives those answers.
"""

from __future__ import annotations

from typing import Any, Final

from trepid.brokers.nats.jetstream import JetStreamError, api
from trepid.brokers.nats.names import LATER, LEVELS, Names
from trepid.wire.nats.connection import NatsConnection

_MOST: Final = 100_000
"""Answers to one consumer at a time; the rest is for who comes next."""


async def mend(connection: NatsConnection, names: Names, queue: str) -> None:
    """Answer for the messages of a queue that were handed out and are not there.

    Raises:
      BrokerLostError: if the connection is lost.
    """
    for place in (*LEVELS, LATER):
        stream = names.stream(queue, place)
        try:
            consumer = await api(connection, f"CONSUMER.INFO.{stream}.{place}")
            if not consumer["num_ack_pending"]:
                continue
            found = await api(connection, f"STREAM.INFO.{stream}", {"deleted_details": True})
        except JetStreamError:
            continue  # deleted meanwhile, which is for others to notice
        for number, seq in enumerate(gone(consumer, found["state"])):
            # Of the words in this subject the server heeds the place in the stream alone.
            connection.say(f"$JS.ACK.{stream}.{place}.1.{seq}.{seq}.0.0", b"+ACK")
            if number % 1000 == 0:
                await connection.link.room()


def gone(consumer: dict[str, Any], state: dict[str, Any]) -> list[int]:
    """Return the places that a consumer may wait for, and where there is no message."""
    floor, last = consumer["ack_floor"]["stream_seq"], consumer["delivered"]["stream_seq"]
    first = state["first_seq"]
    before = range(floor + 1, min(first, last + 1))
    among = [seq for seq in state.get("deleted") or () if floor < seq <= last and seq >= first]
    return [*before, *among][:_MOST]
