"""What travels: the versioned JSON text that carries a job from its producer to a worker.

Version 1 is one JSON object::

    {"v": 1, "actor": "greet", "args": ["Trio"], "kwargs": {"mark": "!"},
     "retries": 3, "timeout": 30.0, "headers": {"trace": "4bf9"}, "scope": "8f3a", "until": 1764979200.0}

Only ``v`` and ``actor`` are required.  ``retries`` and ``timeout`` (seconds) are left out where the job does not say.
``scope`` is the job nursery that it belongs to, ``until`` the deadline that it inherited, in seconds since the epoch.
Readers ignore members they do not know, so that later versions may add some; a change that old readers must not
ignore gets a new ``v``.  What the *broker* acts on (id, queue, priority, due time) is not in here but beside it.
"""

from __future__ import annotations

from typing import Any

import msgspec
import msgspec.structs

from trepid.errors import EnvelopeError
from trepid.values import codec
from trepid.values.names import checked_name

VERSION = 1

_NO_ARGS = msgspec.Raw(b"[]")
_NO_KWARGS = msgspec.Raw(b"{}")


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

    @property
    def bare(self) -> bool:
        """Whether it carries no arguments at all."""
        return self.args is _NO_ARGS and self.kwargs is _NO_KWARGS


class _Version(msgspec.Struct, frozen=True):
    v: int


_ENVELOPES = msgspec.json.Decoder(Envelope)
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
) -> bytes:
    """Write a job as an envelope of the current version.

    Raises:
      TypeError: if an argument cannot be written as JSON; the message names the argument.
      ValueError: likewise, for a number or text that JSON cannot carry.
    """
    envelope = Envelope(
        VERSION,
        actor,
        msgspec.Raw(_encoded(args, "argument")) if args else _NO_ARGS,
        msgspec.Raw(_encoded(kwargs, "argument")) if kwargs else _NO_KWARGS,
        retries,
        timeout,
        headers,
    )
    try:
        return _ENCODER.encode(envelope)
    except UnicodeEncodeError as exc:  # which cannot be raised again with a text of one's own
        raise ValueError(f"headers: {exc}") from exc


def tethered(payload: bytes, scope: str, until: float | None) -> bytes:
    """Return an envelope whose job belongs to a job nursery, and inherits its deadline."""
    return _ENCODER.encode(msgspec.structs.replace(_ENVELOPES.decode(payload), scope=scope, until=until))


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
    if envelope.v != VERSION:
        _refuse_other_version(payload)
    if (envelope.retries or 0) < 0 or not (envelope.timeout is None or envelope.timeout > 0):
        raise EnvelopeError("not an envelope: retries and timeout must not be negative")
    return envelope


def _refuse_other_version(payload: bytes) -> None:
    try:
        found = _VERSIONS.decode(payload).v
    except (ValueError, RecursionError):
        return
    if found != VERSION:
        raise EnvelopeError(f"the envelope has version {found}; this worker reads version {VERSION}")


def actor_of(payload: bytes) -> str | None:
    """Return the actor that a payload names, or None where it cannot be read.  For lists and logs."""
    try:
        return checked_name(unseal(payload).actor, "actor")
    except (EnvelopeError, ValueError):
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
