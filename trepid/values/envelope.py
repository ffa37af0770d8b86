"""What travels: the versioned JSON text that carries a job from its producer to a worker.

Version 1 is one JSON object::

    {"v": 1, "actor": "greet", "args": ["Trio"], "kwargs": {"mark": "!"},
     "retries": 3, "timeout": 30.0, "headers": {"trace": "4bf9"}, "scope": "8f3a", "until": 1764979200.0}

Only ``v`` and ``actor`` are required.  ``retries`` and ``timeout`` (seconds) are left out where the job does not say.
``scope`` is the job nursery that it belongs to, ``until`` the deadline that it inherited, in seconds since the epoch.
Readers ignore members they do not know, so that later versions may add some; a change that old readers must not
ignore gets a new ``v``.  What the *broker* acts on (id, queue, priority, due time) is not in here but beside it.

Version 2 has members that must not be ignored: ``then``, the follow-ups, and ``previous``, the places of arguments that
are still to be filled.  What has neither stays version 1.
"""

from __future__ import annotations

from typing import Any

import msgspec
import msgspec.structs

from trepid.errors import EnvelopeError
from trepid.values import codec
from trepid.values.names import checked_name
from trepid.values.previous import PREVIOUS

VERSION = 1
WITH_FOLLOW_UPS = 2
"""The version of an envelope that would lose something with a reader that knows version 1 only."""

_VERSIONS_READ = (VERSION, WITH_FOLLOW_UPS)

_NO_ARGS = msgspec.Raw(b"[]")
_NO_KWARGS = msgspec.Raw(b"{}")


class Chain(msgspec.Struct, frozen=True):
    """Where in a chain a message stands.

    Attributes:
      id: the id of the chain's first message; that of each follow-up is made of it.
      step: which step this is, from 1.
      of: how many steps there are.
      token: the publish token of the next step: kept for it, so that publishing it again is recognised.
    """

    id: str
    step: int
    of: int
    token: tuple[str, int]


class Key(msgspec.Struct, frozen=True, omit_defaults=True, rename={"for_": "for"}):
    """A unique key as it travels."""

    key: str
    on_conflict: str = "existing"
    for_: float | None = None


class Link(msgspec.Struct, frozen=True, omit_defaults=True):
    """A follow-up as it travels with the job before it: its own envelope, and what the broker will act on."""

    job: Envelope
    queue: str
    priority: int = 5
    delay: float | None = None
    due: float | None = None
    ttl: float | None = None
    unique: Key | None = None
    result_ttl: float | None = None
    max_crashes: int | None = None
    gate: str | None = None


class Envelope(msgspec.Struct, frozen=True, omit_defaults=True):
    """A job as it travels; arguments stay unread until the actor, and so their types, are known."""

    v: int
    actor: str
    args: msgspec.Raw = _NO_ARGS
    kwargs: msgspec.Raw = _NO_KWARGS
    retries: int | None = None
    timeout: float | None = None
    headers: dict[str, str] = {}
    scope: str | None = None
    until: float | None = None
    then: tuple[Link, ...] = ()
    previous: tuple[int | str, ...] = ()
    chain: Chain | None = None

    @property
    def bare(self) -> bool:
        """Whether it carries no arguments at all."""
        return self.args is _NO_ARGS and self.kwargs is _NO_KWARGS


class _Version(msgspec.Struct, frozen=True):
    v: int


_ENVELOPES = msgspec.json.Decoder(Envelope)
_ARRAYS = msgspec.json.Decoder(list[msgspec.Raw])
_OBJECTS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_VERSIONS = msgspec.json.Decoder(_Version)
_ENCODER = msgspec.json.Encoder()


def seal(
    actor: str,
    args: tuple[object, ...],
    kwargs: dict[str, object],
    *,
    retries: int | None,
    timeout: float | None,
    headers: dict[str, str],
    then: tuple[Link, ...] = (),
) -> bytes:
    """Write a job as an envelope.

    Raises:
      TypeError: if an argument cannot be written as JSON; the message names the argument.
      ValueError: likewise, for a number or text that JSON cannot carry.
    """
    named: list[tuple[int | str, object]] = [*enumerate(args), *kwargs.items()]
    previous = tuple(place for place, value in named if value is PREVIOUS)
    if previous:
        args = tuple(None if value is PREVIOUS else value for value in args)
        kwargs = {name: None if value is PREVIOUS else value for name, value in kwargs.items()}
    envelope = Envelope(
        VERSION,
        actor,
        msgspec.Raw(_encoded(args, "argument")) if args else _NO_ARGS,
        msgspec.Raw(_encoded(kwargs, "argument")) if kwargs else _NO_KWARGS,
        retries,
        timeout,
        headers,
        then=then,
        previous=previous,
    )
    try:
        return written(envelope)
    except UnicodeEncodeError as exc:  # which cannot be raised again with a text of one's own
        raise ValueError(f"headers: {exc}") from exc


def written(envelope: Envelope) -> bytes:
    """Write an envelope, in the oldest version whose readers lose nothing of it."""
    version = WITH_FOLLOW_UPS if envelope.then or envelope.previous else VERSION
    return _ENCODER.encode(msgspec.structs.replace(envelope, v=version))


def chained(payload: bytes, chain: Chain) -> bytes:
    """Return an envelope with follow-ups that knows where in its chain it stands."""
    return written(msgspec.structs.replace(_ENVELOPES.decode(payload), chain=chain))


def filled(envelope: Envelope, result: bytes) -> Envelope:
    """Return the envelope of a follow-up with *result* in the places that wait for it."""
    if not envelope.previous:
        return envelope
    args, kwargs = _ARRAYS.decode(envelope.args), _OBJECTS.decode(envelope.kwargs)
    for place in envelope.previous:
        if isinstance(place, int):
            args[place] = msgspec.Raw(result)
        else:
            kwargs[place] = msgspec.Raw(result)
    return msgspec.structs.replace(
        envelope,
        args=msgspec.Raw(_ENCODER.encode(args)) if args else _NO_ARGS,
        kwargs=msgspec.Raw(_ENCODER.encode(kwargs)) if kwargs else _NO_KWARGS,
        previous=(),
    )


def tethered(payload: bytes, scope: str, until: float | None) -> bytes:
    """Return an envelope whose job belongs to a job nursery, and inherits its deadline."""
    return written(msgspec.structs.replace(_ENVELOPES.decode(payload), scope=scope, until=until))


def _encoded(values: tuple[object, ...] | dict[str, object], what: str) -> bytes:
    try:
        return codec.encode(values)
    except (TypeError, ValueError):
        # Once more, one by one: the error should name the argument.
        named = values.items() if isinstance(values, dict) else enumerate(values, 1)
        for name, value in named:
            try:
                codec.encode(value)
            except (TypeError, ValueError) as exc:
                raise type(exc)(f"{what} {name} ({type(value).__qualname__}): {exc}") from exc
        raise


def unsealed(payload: bytes) -> Envelope:
    """Read an envelope that was written here, also one that waits for a result."""
    return _ENVELOPES.decode(payload)


def unseal(payload: bytes) -> Envelope:
    """Read an envelope.

    Raises:
      EnvelopeError: if the bytes are too many, are not JSON, or are no envelope of a version known here.
    """
    if len(payload) > codec.LARGEST:
        raise EnvelopeError(f"the envelope has {len(payload):,} bytes, more than {codec.LARGEST:,}")
    try:
        envelope = _ENVELOPES.decode(payload)
    except (ValueError, RecursionError) as exc:
        _refuse_other_version(payload)
        raise EnvelopeError(f"not an envelope: {exc}") from exc
    for each in (envelope, *(link.job for link in envelope.then)):
        if each.v not in _VERSIONS_READ:
            raise _of_other_version(each.v)
        if (each.retries or 0) < 0 or not (each.timeout is None or each.timeout > 0):
            raise EnvelopeError("not an envelope: retries and timeout must not be negative")
    if any(link.job.then for link in envelope.then):
        raise EnvelopeError("not an envelope: a follow-up has no follow-ups of its own")
    if envelope.previous:
        raise EnvelopeError("the envelope waits for the result of a job before it, and was published without one")
    return envelope


def _refuse_other_version(payload: bytes) -> None:
    try:
        found = _VERSIONS.decode(payload).v
    except (ValueError, RecursionError):
        return
    if found not in _VERSIONS_READ:
        raise _of_other_version(found)


def _of_other_version(found: int) -> EnvelopeError:
    known = " and ".join(map(str, _VERSIONS_READ))
    return EnvelopeError(f"the envelope has version {found}; this worker reads versions {known}")


def actor_of(payload: bytes) -> str | None:
    """Return the actor that a payload names, or None where it cannot be read.  For lists and logs."""
    try:
        return checked_name(unseal(payload).actor, "actor")
    except (EnvelopeError, ValueError):
        return None


def scope_of(payload: bytes) -> str | None:
    """Return the job nursery that a payload belongs to, or None if there is none, or the payload cannot be read."""
    try:
        return unseal(payload).scope
    except EnvelopeError:
        return None


def arguments_of(payload: bytes) -> tuple[list[Any], dict[str, Any]]:
    """Return the plain arguments in a payload, without knowledge of the actor.

    Raises:
      EnvelopeError: if it cannot be read.
    """
    envelope = unseal(payload)
    try:
        args, kwargs = codec.decode(envelope.args), codec.decode(envelope.kwargs)
    except ValueError as exc:
        raise EnvelopeError(f"not an envelope: {exc}") from exc
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise EnvelopeError("not an envelope: args must be an array, kwargs an object")
    return args, kwargs
