"""The stand-in for a result that is not there yet."""

from __future__ import annotations

from typing import Any, Final, final


@final
class _Previous:
    """The type of one value, which stays the same when it is copied or pickled.

    Not an enumeration: the codec would write a member of one as its value, wherever it stands.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "trepid.PREVIOUS"

    def __reduce__(self) -> str:
        return "PREVIOUS"


PREVIOUS: Final[Any] = _Previous()
"""Stands for an argument of a follow-up: what the job before it returns.

It may be a whole argument, positional or by name, and not a part of one: ``resize.then(SEND.job(trepid.PREVIOUS))``.
The type checker takes it for anything; the worker converts the result by the annotation of the parameter, as it does
with every argument.
"""
