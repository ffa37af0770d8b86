"""The grammar of names and ids: what is safe in every engine, in a log line and in a terminal."""

from __future__ import annotations

import re

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}")
_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


def checked_name(value: str, what: str) -> str:
    """Return *value* if it is a name of a queue or an actor.

    Raises:
      TypeError: if it is no string.
      ValueError: if it does not match ``[A-Za-z_][A-Za-z0-9_.-]*`` or has more than 100 characters.
    """
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a string, not {value!r}")
    if not _NAME.fullmatch(value):
        raise ValueError(f"{what} {value!r} must match [A-Za-z_][A-Za-z0-9_.-]* and have at most 100 characters")
    return value


def checked_id(value: str) -> str:
    """Return *value* if it is a message id.

    Raises:
      TypeError: if it is no string.
      ValueError: if it does not match ``[A-Za-z0-9_.:-]+`` or has more than 128 characters.
    """
    if not isinstance(value, str):
        raise TypeError(f"id must be a string, not {value!r}")
    if not _ID.fullmatch(value):
        raise ValueError(f"id {value!r} must match [A-Za-z0-9_.:-]+ and have at most 128 characters")
    return value
