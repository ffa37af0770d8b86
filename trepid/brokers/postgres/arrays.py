"""Lists as the server's arrays: written a column at a time, since batches are most of what is sent."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

from psycopg import adapt
from psycopg.pq import Format
from psycopg.types.array import ListDumper

_NULL: Final = b"\xff\xff\xff\xff"
_LENGTH: Final = struct.Struct(">i").pack
_HEAD: Final = struct.Struct(">iiiii").pack


def without_zeros(text: str) -> str:
    """Return a text as PostgreSQL takes it: its texts have no zero character, everybody else's have."""
    return text.replace("\0", "\N{SYMBOL FOR NULL}") if "\0" in text else text


def _numbers(values: Sequence[Any]) -> list[bytes]:
    return _eight_bytes("q", values)


def _floats(values: Sequence[Any]) -> list[bytes]:
    return _eight_bytes("d", values)


def _eight_bytes(kind: str, values: Sequence[Any]) -> list[bytes]:
    if None in values:
        pack = struct.Struct(f">i{kind}").pack
        return [_NULL if value is None else pack(8, value) for value in values]
    flat = [8] * (2 * len(values))
    flat[1::2] = values
    return [struct.pack(">" + f"i{kind}" * len(values), *flat)]


def _blobs(values: Sequence[Any]) -> list[bytes]:
    parts: list[bytes] = []
    for value in values:
        if value is None:
            parts.append(_NULL)
        else:
            parts += (_LENGTH(len(value)), value)
    return parts


def _texts(values: Sequence[Any]) -> list[bytes]:
    return _blobs([None if value is None else without_zeros(value).encode() for value in values])


class _ArrayDumper(adapt.Dumper):
    """An array of one type."""

    format = Format.BINARY
    element = 0
    write: Callable[[Sequence[Any]], list[bytes]]

    def dump(self, obj: Any) -> bytes:
        """Write a list."""
        if not obj:
            return _HEAD(0, 0, self.element, 0, 0)[:12]
        parts = type(self).write(obj)
        return b"".join([_HEAD(1, None in obj, self.element, len(obj), 1), *parts])


class _Numbers(_ArrayDumper):
    oid, element, write = 1016, 20, staticmethod(_numbers)


class _Floats(_ArrayDumper):
    oid, element, write = 1022, 701, staticmethod(_floats)


class _Texts(_ArrayDumper):
    oid, element, write = 1009, 25, staticmethod(_texts)


class _Blobs(_ArrayDumper):
    oid, element, write = 1001, 17, staticmethod(_blobs)


_KINDS: Final[dict[type, type[_ArrayDumper]]] = {int: _Numbers, float: _Floats, str: _Texts, bytes: _Blobs}


def _kind(values: Sequence[Any]) -> type[adapt.Dumper]:
    types = set(map(type, values))
    types.discard(type(None))
    kinds = {kind for found in types for base, kind in _KINDS.items() if issubclass(found, base)}
    if not kinds:
        return ListDumper  # of what, only the statement says
    # A number of seconds may be whole.
    return _Floats if kinds == {_Numbers, _Floats} else kinds.pop()


class ArrayDumper(adapt.Dumper):
    """Finds out what a list is one of: numbers, texts, or bytes, each perhaps with some that are not there."""

    format = Format.BINARY

    def get_key(self, obj: Any, format: Any) -> Any:  # noqa: ARG002
        """Return what lists of the same kind have in common."""
        return (self.cls, _kind(obj))

    def upgrade(self, obj: Any, format: Any) -> Any:  # noqa: ARG002
        """Return the dumper for this list."""
        return _kind(obj)(self.cls)

    def dump(self, obj: Any) -> bytes:
        """Never called: every list has a kind."""
        raise AssertionError(obj)
