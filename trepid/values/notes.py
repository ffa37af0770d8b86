"""What a running job leaves beside its message: progress, emitted values and saved state, as they are stored.

Each is a small record in JSON.  It names the run that it is of (a message that is published again under its id is
another run) and the lease under which it was written, so that nobody writes over what a later lease has written.
"""

from __future__ import annotations

import sys
from typing import Any, Final, TypeVar

import msgspec

from trepid.errors import PayloadTooLargeError
from trepid.values import codec
from trepid.values.words import checked_text, storable

Lease = tuple[int, int]

_LONGEST_MESSAGE: Final = 2048
_SAME: Final = 0.001
"""Engines that keep times as text may round them; runs are further apart."""


class Head(msgspec.Struct, frozen=True):
    """What all records have.

    Attributes:
      run: when the message was published, in seconds since the epoch.
      lease: the token of the lease under which it was written.
    """

    run: float
    lease: Lease

    def is_of(self, run: float | None) -> bool:
        """Whether it is of this run of the message; of any, where that is not known."""
        return run is None or abs(self.run - run) < _SAME


class Note(Head, frozen=True, omit_defaults=True):
    """How far a job is.

    Attributes:
      attempt: which attempt wrote it.
      done, total, message: its progress; *done* is None where none was told.
      first, emitted: the numbers of the values that it emitted: from the first, up to but without the second.
    """

    attempt: int = 1
    # Whole numbers stay whole.
    done: int | float | None = None
    total: int | float | None = None
    message: str = ""
    first: int = 0
    emitted: int = 0


class Piece(msgspec.Struct, frozen=True):
    """A value that a job emitted, and which attempt did."""

    attempt: int
    value: msgspec.Raw


class Saved(Head, frozen=True):
    """The state that a job has saved for its next attempt."""

    state: msgspec.Raw


H = TypeVar("H", bound=msgspec.Struct)

_ENCODER: Final = msgspec.json.Encoder()


def note_key(queue: str, id: str) -> str:
    """Return the key of a message's note."""
    return f"progress:{queue}/{id}"


def piece_key(queue: str, id: str, number: int) -> str:
    """Return the key of an emitted value."""
    return f"emitted:{queue}/{id}/{number}"


def state_key(queue: str, id: str) -> str:
    """Return the key of a message's saved state."""
    return f"state:{queue}/{id}"


def dump(record: msgspec.Struct) -> bytes:
    """Return a record as it is stored.

    Raises:
      PayloadTooLargeError: if it has more than 1 MiB.
    """
    data = _ENCODER.encode(record)
    if len(data) > codec.LARGEST:
        raise PayloadTooLargeError(len(data), codec.LARGEST)
    return data


def load(kind: type[H], data: bytes | None) -> H | None:
    """Return a stored record, or None if there is none, or none that can be read."""
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=kind)
    except (ValueError, RecursionError):
        return None


def written(value: object) -> msgspec.Raw:
    """Return a value as JSON.

    Raises:
      TypeError, ValueError: if it cannot be written so.
    """
    return msgspec.Raw(codec.encode(value))


def checked_progress(done: float, total: float | None, message: str) -> tuple[float, float | None, str]:
    """Return progress as it may be stored.

    Raises:
      TypeError: if *done* or *total* is no number, or *message* no text.
      ValueError: if a number is negative or not finite, or the text is not valid Unicode.
    """
    return _amount(done, "done"), None if total is None else _amount(total, "total"), _words(message)


def _amount(value: Any, name: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if not 0 <= value <= sys.float_info.max:
        raise ValueError(f"{name} must be zero or more, and finite, not {value!r}")
    return value


def _words(message: str) -> str:
    return storable(checked_text(message, "message"), _LONGEST_MESSAGE)
