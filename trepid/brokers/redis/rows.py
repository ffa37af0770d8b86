"""Lives as the scripts pack them, as values; and what is kept beside them."""

from __future__ import annotations

from typing import Any, Final

import attrs
import msgspec

from trepid.rules import lifecycle
from trepid.rules.life import CANCELLED, DEAD, DONE, LEASED, READY, SCHEDULED, Life, State
from trepid.rules.verdicts import Failure

_DEFAULTS: Final[tuple[Any, ...]] = (
    *(0, 0, 0, 0, 0, 0, "", 0, False, False, False, False, False, 0),
    *(False, 0, False, False, 0, 0, 0, 0, 0, 0, 0, False, False, False, False, False),
)
_STATES: Final[tuple[State, ...]] = (SCHEDULED, LEASED, DONE, DEAD, CANCELLED)
_VERDICTS: Final = {"D": "Done", "F": "Failed", "R": "Returned", "B": "Buried", "W": "Withdrawn"}
_FAILURES: msgspec.json.Decoder[Failure] = msgspec.json.Decoder(Failure)

unpack: Final = msgspec.msgpack.decode
pack: Final = msgspec.msgpack.Encoder().encode


@attrs.frozen(eq=False)
class Row:
    """One message as it is stored.

    Attributes:
      life: its life, after all that time had decided when it was read.
      priority, enqueued, unique: as published.
      gate: the gate that it has to pass, if any.
      unreadable: why its result could not be stored, if so.
    """

    life: Life
    priority: int
    enqueued: float
    unique: str | None
    gate: str | None
    unreadable: str | None


def load(blob: bytes, now: float) -> Row | None:
    """Return a message as time has made it by *now*, or None if it is to be forgotten by then."""
    packed = unpack(blob)
    packed += _DEFAULTS[len(packed) :]
    state, seq, due, deliveries, priority, enqueued = packed[:6]
    max_crashes, result_ttl, expires, unique, owner, until, verdict, settled, ended, forget = packed[8:18]
    failures, crashes, returns, withdrawals, spent_failures, spent_crashes, requeues = packed[18:25]
    stray_since, reason, cancel, unreadable, gate = packed[25:]
    life = Life(
        seq,
        float(due),
        _STATES[state] if state or due > now else READY,
        _time(expires),
        deliveries,
        owner or None,
        float(until),
        _text(cancel),
        failures,
        crashes,
        returns,
        withdrawals,
        spent_failures,
        spent_crashes,
        requeues,
        _time(stray_since),
        _VERDICTS.get(verdict),
        settled,
        _time(ended),
        _text(reason),
        _time(forget),
        None if max_crashes is False else int(max_crashes),
        _time(result_ttl),
    )
    life = lifecycle.elapse(life, now)
    if life.forget is not None and life.forget <= now:
        return None
    return Row(life, int(priority), float(enqueued), _text(unique), _text(gate), _text(unreadable))


LITTLE: Final = 18
"""How many entries a life has at most to which nothing has ever happened, and which has no gate."""


def past(packed: list[Any]) -> tuple[int, int, float | None, str | None]:
    """Return a message's failures and crashes since it was published or requeued, since when it is astray, its gate."""
    packed += _DEFAULTS[len(packed) :]
    return packed[18] - packed[22], packed[19] - packed[23], _time(packed[25]), _text(packed[29])


def _time(packed: Any) -> float | None:
    return None if packed is False else float(packed)


def _text(packed: Any) -> str | None:
    return None if packed is False else packed


def read_failures(stored: bytes | None) -> tuple[Failure, ...]:
    """Return the failures of a message, oldest first."""
    if not stored:
        return ()
    return tuple(_read_failure(line) for line in stored.splitlines())


def _read_failure(line: bytes) -> Failure:
    at, attempt, said = line.split(b" ", 2)
    return msgspec.structs.replace(_FAILURES.decode(said), at=float(at), attempt=int(attempt))


def write_failure(failure: Failure) -> str:
    """Return a failure as a script takes it, which adds when it was, and which attempt."""
    return _encode(failure).decode()


_encode: Final = msgspec.json.Encoder().encode
