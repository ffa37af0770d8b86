"""An actor's signature, compiled: how the arguments in an envelope become the arguments of a call."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import attrs
import msgspec

from trepid.errors import ArgumentsError
from trepid.values import codec
from trepid.values.context import Context
from trepid.values.envelope import Envelope
from trepid.values.words import complaint

Reader: TypeAlias = Callable[[bytes | msgspec.Raw], Any]

_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@attrs.frozen(eq=False)
class Parameters:
    """What an actor takes (without its Context) and gives."""

    actor: str
    takes_context: bool
    signature: inspect.Signature
    positional: tuple[tuple[str, Reader], ...]
    named: Mapping[str, Reader]
    more_positional: Reader | None
    more_named: Reader | None
    required: frozenset[str]
    nameless: frozenset[str]
    read_result: Callable[[bytes], Any]

    def read(self, envelope: Envelope) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments of the call that *envelope* asks for, converted by the annotations.

        Raises:
          ArgumentsError: if they do not fit the signature.
        """
        if envelope.bare and not self.required:
            return [], {}
        try:
            raw_args, raw_kwargs = _ARRAY.decode(envelope.args), _OBJECT.decode(envelope.kwargs)
        except (ValueError, RecursionError) as exc:
            raise ArgumentsError(self.actor, str(exc)) from exc
        taken = [name for name, _ in self.positional[: len(raw_args)]]
        # With **rest, a name given as keyword may be that of a positional-only parameter, and does not fill it.
        missing = self.required.difference(taken, raw_kwargs) or self.nameless.difference(taken)
        if missing:
            raise ArgumentsError(self.actor, f"missing {', '.join(sorted(missing))}")
        if len(raw_args) > len(self.positional) and self.more_positional is None:
            raise ArgumentsError(self.actor, f"{len(raw_args)} positional arguments, {len(self.positional)} expected")
        named_twice = [name for name in taken if name in raw_kwargs and name in self.named]
        if named_twice:
            raise ArgumentsError(self.actor, f"{named_twice[0]} is given twice")
        return (
            [self._value(*self._positional(i), raw) for i, raw in enumerate(raw_args)],
            {name: self._value(name, self._named(name), raw) for name, raw in raw_kwargs.items()},
        )

    def _positional(self, index: int) -> tuple[str, Reader]:
        if index < len(self.positional):
            return self.positional[index]
        assert self.more_positional is not None
        return f"*[{index - len(self.positional)}]", self.more_positional

    def _named(self, name: str) -> Reader:
        reader = self.named.get(name, self.more_named)
        if reader is None:
            raise ArgumentsError(self.actor, f"unexpected argument {name!r}")
        return reader

    def _value(self, name: str, reader: Reader, raw: msgspec.Raw) -> Any:
        try:
            return reader(raw)
        except Exception as exc:
            # A type's own code (__post_init__) runs here, and may raise anything.
            raise ArgumentsError(self.actor, f"{name}: {complaint(exc)}") from exc


def compiled(fn: Callable[..., Any], actor: str) -> Parameters:
    """Compile the signature of *fn*.

    Raises:
      TypeError: if the first parameter is untyped, an annotation cannot be resolved, or the codec cannot handle it.
    """
    signature, hints = _signature(fn, actor)
    parameters = list(signature.parameters.values())
    takes_context = bool(parameters) and _is_context(parameters[0], hints, actor)
    parameters = parameters[1:] if takes_context else parameters
    _refuse_context(parameters, hints, actor)
    readers = {p.name: _reader(hints.get(p.name, Any), f"parameter {p.name!r}", actor) for p in parameters}
    kinds = inspect.Parameter

    def of(kind: object) -> Reader | None:
        return next((readers[p.name] for p in parameters if p.kind is kind), None)

    required = [p for p in parameters if p.default is p.empty and p.kind in (*_POSITIONAL, kinds.KEYWORD_ONLY)]
    return Parameters(
        actor=actor,
        takes_context=takes_context,
        signature=signature.replace(parameters=parameters),
        positional=tuple((p.name, readers[p.name]) for p in parameters if p.kind in _POSITIONAL),
        named={p.name: readers[p.name] for p in parameters if p.kind in _NAMED},
        more_positional=of(kinds.VAR_POSITIONAL),
        more_named=of(kinds.VAR_KEYWORD),
        required=frozenset(p.name for p in required),
        nameless=frozenset(p.name for p in required if p.kind is kinds.POSITIONAL_ONLY),
        read_result=_reader(hints.get("return", Any), "the result", actor),
    )


def _signature(fn: Callable[..., Any], actor: str) -> tuple[inspect.Signature, dict[str, Any]]:
    try:
        signature = inspect.signature(fn)
    except ValueError as exc:
        raise TypeError(f"actor {actor!r}: {fn!r} has no signature to read; wrap it in a function") from exc
    target = fn
    while isinstance(target, functools.partial):
        target = target.func
    if not inspect.isroutine(target) and not inspect.isclass(target):
        target = type(target).__call__
    try:
        return signature, typing.get_type_hints(target, include_extras=True)
    except Exception as exc:
        raise TypeError(
            f"actor {actor!r}: its annotations cannot be resolved ({exc}); import the types at run time, "
            "not only under TYPE_CHECKING"
        ) from exc


def _is_context(first: inspect.Parameter, hints: Mapping[str, Any], actor: str) -> bool:
    if first.kind not in _POSITIONAL:
        return False
    hint = hints.get(first.name)
    if first.name not in hints:
        raise TypeError(
            f"actor {actor!r}: its first parameter {first.name!r} needs an annotation: trepid.Context if it is the "
            "context, else the type of the argument"
        )
    if hint is Context:
        return True
    if typing.get_origin(hint) is not Context:
        return False
    if typing.get_args(hint)[0] is Any:
        raise TypeError(
            f"actor {actor!r}: Context[Any] hides a wrong resource; write trepid.Context, or "
            "trepid.Context[Resources] with the type that the worker's resources give"
        )
    return True


def _refuse_context(parameters: Sequence[inspect.Parameter], hints: Mapping[str, Any], actor: str) -> None:
    for parameter in parameters:
        hint = hints.get(parameter.name)
        if hint is Context or typing.get_origin(hint) is Context:
            raise TypeError(
                f"actor {actor!r}: only the first positional parameter can be the context, "
                f"and {parameter.name!r} is not"
            )


def _reader(annotation: Any, what: str, actor: str) -> Reader:
    try:
        return codec.decoder(annotation)
    except TypeError as exc:
        raise TypeError(f"actor {actor!r}: {what}: {exc}") from exc
