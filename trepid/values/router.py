"""The router: an immutable collection of actors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias, final

from trepid.errors import DuplicateActorError, DuplicateScheduleError, UnknownActorError
from trepid.values.actor import Actor
from trepid.values.context import Context
from trepid.values.schedule import Schedule

Call: TypeAlias = Callable[[], Awaitable[object]]
Middleware: TypeAlias = Callable[[Context[Any], Call], Awaitable[object]]
"""An ``async def middleware(ctx, call)`` round an attempt, inside its timeout; ``await call()`` goes on."""


@final
class Router(Mapping[str, Actor[..., Any]]):
    """A frozen mapping from names to actors.  Composing routers returns new ones; nothing is registered anywhere.

    ``a | b`` holds the actors and the schedules of both, and where both have a name the right one wins, as in ``dict``.

    Args:
      actors_or_routers: what it holds.
      schedules: what a worker with this router fires.  It does so for as long as they stand here: one that is removed
        from the code stops with the last worker that knew it.

    Raises:
      DuplicateActorError, DuplicateScheduleError: if two of them share a name.
      TypeError: if one is neither actor nor router, or no schedule.
    """

    __slots__ = ("_actors", "_middleware", "_schedules")
    _actors: Mapping[str, Actor[..., Any]]
    _middleware: Mapping[str, tuple[Middleware, ...]]
    _schedules: Mapping[str, Schedule]

    def __init__(self, *actors_or_routers: Actor[..., Any] | Router, schedules: Iterable[Schedule] = ()) -> None:
        actors: dict[str, Actor[..., Any]] = {}
        middleware: dict[str, tuple[Middleware, ...]] = {}
        scheduled: dict[str, Schedule] = {}
        for item in actors_or_routers:
            router = item if isinstance(item, Router) else _router_of(item)
            for name in router:
                if name in actors:
                    raise DuplicateActorError(name)
            actors |= router._actors
            middleware |= router._middleware
            _schedule(scheduled, router._schedules.values())
        _schedule(scheduled, schedules)
        _fill(self, actors, middleware, scheduled)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a router is immutable; compose a new one with `|`")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a router is immutable; compose a new one with `|`")

    def __getitem__(self, name: str) -> Actor[..., Any]:
        try:
            return self._actors[name]
        except KeyError:
            raise UnknownActorError(name, frozenset(self._actors)) from None

    def find(self, name: str) -> Actor[..., Any] | None:
        """Return the actor of this name, or None."""
        return self._actors.get(name)

    def __contains__(self, name: object) -> bool:
        return name in self._actors

    def __iter__(self) -> Iterator[str]:
        return iter(self._actors)

    def __len__(self) -> int:
        return len(self._actors)

    def __repr__(self) -> str:
        schedules = f", schedules {', '.join(self._schedules)}" if self._schedules else ""
        return f"<trepid.Router {', '.join(self._actors) or 'empty'}{schedules}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Router):
            return NotImplemented
        mine, theirs = (self._actors, self._middleware), (other._actors, other._middleware)
        return mine == theirs and self._schedules == other._schedules

    def __hash__(self) -> int:
        return hash(frozenset(self._actors.items()))

    def __or__(self, other: Router | Actor[..., Any]) -> Router:
        """Return a router with the actors and schedules of both; the right side wins."""
        if isinstance(other, Actor):
            other = _router_of(other)
        if not isinstance(other, Router):
            return NotImplemented
        kept = {name: around for name, around in self._middleware.items() if name not in other._actors}
        actors, middleware = {**self._actors, **other._actors}, {**kept, **other._middleware}
        return _fill(Router.__new__(Router), actors, middleware, {**self._schedules, **other._schedules})

    def wrapped(self, middleware: Middleware) -> Router:
        """Return a router whose actors run inside *middleware*, outside of what wraps them already."""
        if not callable(middleware):
            raise TypeError(f"middleware must be an async function of (ctx, call), not {middleware!r}")
        around = {name: (middleware, *self._middleware.get(name, ())) for name in self._actors}
        return _fill(Router.__new__(Router), dict(self._actors), around, dict(self._schedules))

    def middleware(self, name: str) -> tuple[Middleware, ...]:
        """Return what wraps the actor of this name, outermost first."""
        return self._middleware.get(name, ())

    @property
    def schedules(self) -> Mapping[str, Schedule]:
        """Its schedules by name."""
        return self._schedules

    def queues(self) -> tuple[str, ...]:
        """Return the names of the queues of its actors, each once, in order."""
        return tuple(dict.fromkeys(actor.queue.name for actor in self._actors.values()))


def _router_of(item: object) -> Router:
    if not isinstance(item, Actor):
        advice = "; wrap the function: trepid.Actor(fn)" if callable(item) else ""
        raise TypeError(f"a router holds actors and routers, not {item!r}{advice}")
    return _fill(Router.__new__(Router), {item.name: item}, {}, {})


def _schedule(scheduled: dict[str, Schedule], more: Iterable[Schedule]) -> None:
    """Add schedules to those that are there already."""
    for schedule in more:
        if not isinstance(schedule, Schedule):
            raise TypeError(f"schedules must be a list of trepid.Schedule, not {schedule!r}")
        if schedule.name in scheduled:
            raise DuplicateScheduleError(schedule.name)
        scheduled[schedule.name] = schedule


def _fill(
    router: Router,
    actors: dict[str, Actor[..., Any]],
    middleware: dict[str, tuple[Middleware, ...]],
    schedules: dict[str, Schedule],
) -> Router:
    object.__setattr__(router, "_actors", MappingProxyType(actors))
    object.__setattr__(router, "_middleware", MappingProxyType(middleware))
    object.__setattr__(router, "_schedules", MappingProxyType(schedules))
    return router
