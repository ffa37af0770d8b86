"""JSON through msgspec: how arguments and results become bytes and back, guided by annotations.

Bytes never become code: the decoder builds only the types that the actor's own annotations name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath
from typing import Any, Never, NoReturn

import msgspec
from msgspec import inspect as mi

from trepid.values.previous import PREVIOUS

LARGEST = 1024 * 1024
"""No payload and no result may have more bytes than this."""


def _encode_extra(value: object) -> object:
    if isinstance(value, PurePath):
        return str(value)
    if value is PREVIOUS:
        raise TypeError("trepid.PREVIOUS stands for a whole argument of a follow-up, and not for a part of one")
    raise TypeError(f"objects of type {type(value).__qualname__} cannot be written as JSON")


def _decode_extra(kind: type, value: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, PurePath) and isinstance(value, str):
        return kind(value)
    raise TypeError(f"expected {getattr(kind, '__qualname__', kind)}, got {type(value).__qualname__}")


# A function that never returns has no result to be converted.
_UNTYPED = (Any, object, NoReturn, Never)

_ENCODER = msgspec.json.Encoder(enc_hook=_encode_extra)
_ANYTHING: msgspec.json.Decoder[Any] = msgspec.json.Decoder()


def encode(value: object) -> bytes:
    """Return *value* as JSON.

    Raises:
      TypeError: if a part of it has a type that JSON cannot carry.
      ValueError: if a number is not finite or too large, or a text is not valid Unicode.
    """
    try:
        data = _ENCODER.encode(value)
    except (OverflowError, UnicodeEncodeError) as exc:
        raise ValueError(str(exc)) from exc
    except RecursionError as exc:
        raise ValueError("the value is nested too deeply, or contains itself") from exc
    # msgspec writes NaN and the infinities as null: a silent change that nobody asked for.
    if b"null" in data and any(isinstance(part, float) and not math.isfinite(part) for part in _parts(value)):
        raise ValueError("a number is not finite (nan, inf): JSON cannot carry it")
    return data


def _parts(value: object) -> Iterator[object]:
    """Yield *value* and everything inside it that the encoder would visit."""
    plain = msgspec.to_builtins(value, enc_hook=_encode_extra)
    waiting: list[object] = [plain]
    while waiting:
        part = waiting.pop()
        yield part
        if isinstance(part, Mapping):
            waiting.extend(part.values())
        elif isinstance(part, (list, tuple)):
            waiting.extend(part)


def decode(data: bytes | msgspec.Raw) -> Any:
    """Return what the JSON in *data* says, as plain dicts, lists, strings and numbers.

    Raises:
      ValueError: if it is not JSON.
    """
    try:
        return _ANYTHING.decode(data)
    except RecursionError as exc:
        raise ValueError("the value is nested too deeply") from exc


def decoder(annotation: Any) -> Callable[[bytes | msgspec.Raw], Any]:
    """Return a function from JSON to a value of the type that *annotation* names.

    Raises:
      TypeError: if the codec cannot build such values.
    """
    if annotation in _UNTYPED:
        return decode
    _refuse_unknown(annotation)
    return msgspec.json.Decoder(annotation, dec_hook=_decode_extra).decode


def _refuse_unknown(annotation: Any) -> None:
    """Raise TypeError unless every type inside *annotation* is one that JSON can be converted to."""
    seen: set[int] = set()
    waiting: list[object] = [mi.type_info(annotation)]
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, mi.CustomType):
            if not (isinstance(part.cls, type) and issubclass(part.cls, PurePath)):
                raise TypeError(f"the codec cannot build {getattr(part.cls, '__qualname__', part.cls)!s} from JSON")
        elif isinstance(part, (mi.Type, mi.Field)):
            waiting.extend(getattr(part, name) for name in part.__struct_fields__)
        elif isinstance(part, tuple):
            waiting.extend(part)
