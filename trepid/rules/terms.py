"""On what terms an attempt is made: what the job says, else the actor of the worker, else the defaults."""

from __future__ import annotations

from typing import Any

import msgspec

from trepid.rules.lifecycle import DAY
from trepid.rules.verdicts import UNKNOWN_ACTOR, Buried, Failure, Returned
from trepid.values.actor import Actor
from trepid.values.envelope import Envelope

TIMEOUT = 600.0
RETRIES = 0

_FIRST_DETOUR = 5.0
_LONGEST_DETOUR = 60.0
_PATIENCE = 3600.0


class Terms(msgspec.Struct, frozen=True):
    """What was settled before an attempt began.

    Attributes:
      actor: who is called.
      timeout: the longest the attempt may take, in seconds.
      retries: how many failures are forgiven.
      keep: how long the ended message stays readable, in seconds.
      failures: how often it has failed so far.
    """

    actor: Actor[..., Any]
    timeout: float
    retries: int
    keep: float
    failures: int


def terms(envelope: Envelope, actor: Actor[..., Any], result_ttl: float | None, failures: int) -> Terms:
    """Decide the terms of an attempt."""
    timeout = envelope.timeout or actor.timeout
    retries = envelope.retries
    if retries is None:
        retries = actor.retries
    if result_ttl is None:
        result_ttl = actor.result_ttl
    return Terms(
        actor,
        TIMEOUT if timeout is None else timeout,
        RETRIES if retries is None else retries,
        DAY if result_ttl is None else result_ttl,
        failures,
    )


def unknown_actor(name: str, stray_since: float | None, now: float) -> Returned | Buried:
    """Decide about a message whose actor this worker does not have.

    During a rolling deploy another worker may have it: so it goes back, for 5 seconds and then for ever longer, up to
    a minute.  After an hour nobody will come: it is dead.
    """
    astray = 0.0 if stray_since is None else now - stray_since
    if astray >= _PATIENCE:
        error = Failure("UnknownActorError", f"no worker had actor {name!r} for an hour")
        return Buried(error, UNKNOWN_ACTOR)
    # Waits of 5, 10, 20 ... sum up to the time spent so far, so that alone says which one comes next.
    return Returned(min(astray + _FIRST_DETOUR, _LONGEST_DETOUR), UNKNOWN_ACTOR, started=False)
