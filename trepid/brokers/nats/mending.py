"""Mending: what a server that was killed has left at odds.

It writes down what was deleted from a stream, and what a consumer has handed out, at different times.  So after it was
killed a consumer may wait for an answer about a message that is gone.  NATS 2.9 stops handing out whenever it comes to
such a one, over and over again.  Whoever begins to lease from a queue therefore gives those answers; so does who was
left without a word by a consumer.

Which publishes it knows it finds out when it has the first one after a start, from the messages that are there then.
So a publish would be stored again whose message was done in between.  Whoever connects therefore has it find that out
first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from trepid.brokers.nats.jetstream import JetStreamError, api, look, next_of, storing
from trepid.brokers.nats.names import LATER, LEVELS, PLACES, Names
from trepid.brokers.nats.topology import declared
from trepid.errors import BrokerLostError
from trepid.wire.nats.connection import NatsConnection

_MOST: Final = 100_000
"""Answers to one consumer at a time.  What a kill has left at odds is among the latest."""
_REMINDED_WITHIN: Final = 2.0
_NOWHERE: Final = 2**63 - 1
"""A place that no message of any stream has."""


async def remind(connection: NatsConnection, names: Names) -> None:
    """Have the server find out which publishes it knows, before anything is deleted by which it knows them.

    Raises:
      JetStreamError: if the queues could not be listed.
      BrokerLostError: if the connection is lost.
    """
    # Publishes that are refused in any case: it looks for a repetition first.
    questions = [
        storing(names.message(queue, place, "-"), b"", {}, id="-", last=_NOWHERE)
        for queue in await declared(connection, names)
        for place in PLACES
    ]
    try:
        await connection.ask_all(questions, within=_REMINDED_WITHIN)
    except BrokerLostError:
        # A stream without a leader does not answer.  Servers that follow each other know what each of them knew.
        if connection.link.error is not None:
            raise


async def mend_all(connection: NatsConnection, names: Names, queue: str) -> None:
    """Mend every consumer of a queue.

    Raises:
      BrokerLostError: if the connection is lost.
    """
    for place in (*LEVELS, LATER):
        await mend(connection, names.stream(queue, place), place)


async def mend(connection: NatsConnection, stream: str, place: str) -> None:
    """Answer for the messages of a stream that its consumer has handed out, and that are not there.

    Raises:
      BrokerLostError: if the connection is lost.
    """
    try:
        consumer = await api(connection, f"CONSUMER.INFO.{stream}.{place}")
        if not consumer["num_ack_pending"]:
            return
        absent = await gone(connection, stream, consumer)
    except JetStreamError:
        return  # deleted meanwhile, which is for others to notice
    for number, seq in enumerate(absent):
        # Of the words in this subject the server heeds the place in the stream.  The one after it, the number of the
        # delivery, is one that no delivery has: 2.9 takes everything before an answer for answered, if it was the next.
        connection.say(f"$JS.ACK.{stream}.{place}.1.{seq}.0.0.0", b"+ACK")
        if number % 1000 == 0:
            await connection.link.room()


async def gone(connection: NatsConnection, stream: str, consumer: Mapping[str, Any]) -> list[int]:
    """Return the places that a consumer may wait for, and where there is no message; of very many, the latest.

    Raises:
      JetStreamError: if the stream is gone, too.
      BrokerLostError: if the connection is lost.
    """
    floor, last = consumer["ack_floor"]["stream_seq"], consumer["delivered"]["stream_seq"]
    state = (await api(connection, f"STREAM.INFO.{stream}", {"deleted_details": True}))["state"]
    first, deleted = state["first_seq"], state.get("deleted") or ()
    if len(deleted) >= state["last_seq"] + 1 - first - state["messages"]:
        before = range(floor + 1, min(first, last + 1))[-_MOST:]
        return [*before, *(seq for seq in deleted if floor < seq <= last and seq >= first)][-_MOST:]
    # The list lacks what was deleted together with all its neighbours.
    start = max(floor + 1, last - _MOST + 1)
    there = await _places(connection, stream, start, last)
    return [seq for seq in range(start, last + 1) if seq not in there]


async def _places(connection: NatsConnection, stream: str, start: int, last: int) -> set[int]:
    """Return the places in a part of a stream where there is a message."""
    found: set[int] = set()
    while (box := await look(connection, next_of(stream, ">", start))) is not None and box.seq <= last:
        found.add(box.seq)
        start = box.seq + 1
    return found
