"""Chains: the ids of follow-ups, and what a job that has run hands on to the next."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import msgspec.structs

from trepid.errors import PayloadTooLargeError
from trepid.values import codec
from trepid.values.envelope import Chain, Envelope, Link, filled, written
from trepid.values.job import Job
from trepid.values.previous import PREVIOUS
from trepid.values.queue import Priority
from trepid.values.unique import Unique

_LONGEST_ID: Final = 128
_ARRAYS: Final = msgspec.json.Decoder(list[Any])
_OBJECTS: Final = msgspec.json.Decoder(dict[str, Any])


def follow_up_id(first: str, number: int) -> str:
    """Return the id of the *number*-th follow-up (from 1) in the chain whose first message is called *first*."""
    id = f"{first}.{number}"
    if len(id) <= _LONGEST_ID:
        return id
    return f"{first[:80]}:{hashlib.sha256(first.encode()).hexdigest()[:32]}.{number}"


def place_of(envelope: Envelope, queue: str, id: str, enqueued: float) -> Chain:
    """Return where in its chain a message with follow-ups stands.

    Who enqueues a chain has written it into the envelope.  Whoever stored the bare envelope has not: then the chain
    begins here, under a name that is the same for each delivery of this message, and for no other message.
    """
    if envelope.chain is not None:
        return envelope.chain
    name = hashlib.sha256(f"{queue}/{id}/{enqueued!r}".encode()).hexdigest()[:16]
    return Chain(id, 1, 1 + len(envelope.then), (name, 1))


def handed_on(envelope: Envelope, chain: Chain, value: object) -> bytes:
    """Return the envelope of the next step of a chain, after a job that has returned *value*.

    Raises:
      TypeError, ValueError: if the next step wants the value, and it cannot be written as JSON.
      PayloadTooLargeError: if the envelope would have more than 1 MiB.
    """
    link, *rest = envelope.then
    following = link.job
    if following.previous:
        following = filled(following, codec.encode(value))
    name, number = chain.token
    place = Chain(chain.id, chain.step + 1, chain.of, (name, number + 1))
    payload = written(msgspec.structs.replace(following, then=tuple(rest), chain=place))
    if len(payload) > codec.LARGEST:
        raise PayloadTooLargeError(len(payload), codec.LARGEST)
    return payload


def unique_of(link: Link) -> Unique | None:
    """Return the unique key of a follow-up.

    Nobody is there who could be told that it is held: so what would be an error leaves the holder be.
    """
    key = link.unique
    if key is None:
        return None
    return Unique(key.key, "replace" if key.on_conflict == "replace" else "existing", for_=key.for_)


def job_of(link: Link) -> Job[Any]:
    """Return a follow-up as the job that it was made of, with plain arguments."""
    of = link.job
    args, kwargs = _ARRAYS.decode(of.args), _OBJECTS.decode(of.kwargs)
    for place in of.previous:
        if isinstance(place, int):
            args[place] = PREVIOUS
        else:
            kwargs[place] = PREVIOUS
    return Job(
        of.actor,
        args=args,
        kwargs=kwargs,
        queue=link.queue,
        priority=Priority(link.priority),
        retries=of.retries,
        timeout=of.timeout,
        ttl=link.ttl,
        delay=link.delay,
        deferred_until=None if link.due is None else datetime.fromtimestamp(link.due, UTC),
        unique=unique_of(link),
        result_ttl=link.result_ttl,
        headers=of.headers,
        max_crashes=link.max_crashes,
        gate=link.gate,
    )
