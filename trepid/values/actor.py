"""The actor: a plain function, and how it wants to be run."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Concatenate, Generic, Literal, ParamSpec, TypeAlias, TypedDict, overload

import attrs
from typing_extensions import TypeVar, Unpack

from trepid.values.context import Context
from trepid.values.durations import Duration, seconds
from trepid.values.job import Job
from trepid.values.limits import Rate, as_rate, checked_key, checked_limit, gate
from trepid.values.names import checked_name
from trepid.values.parameters import Parameters, compiled
from trepid.values.placement import place_of
from trepid.values.previous import PREVIOUS
from trepid.values.queue import Priority, Queue, as_queue
from trepid.values.retry import ExponentialBackoff, RetryPolicy

P = ParamSpec("P")
T = TypeVar("T", default=Any)
R = TypeVar("R")

MAX_CRASHES = 5
"""How often a worker may die over one job, where neither the job nor its actor says."""

RunIn: TypeAlias = Literal["thread", "process", "asyncio"]


class ActorSettings(TypedDict, total=False):
    """What an actor may be told besides its function, for any function."""

    name: str | None
    queue: Queue | str
    priority: Priority | None
    retries: int | None
    timeout: Duration | None
    retry_policy: RetryPolicy
    result_ttl: Duration | None
    max_crashes: int
    concurrency: int | None
    rate: Rate | None
    key: str | None


@attrs.frozen(init=False, eq=False, repr=False)
class Actor(Generic[P, T]):
    """A function that jobs can call by name.  The function itself is unchanged: ``actor.fn is fn``.

    Args:
      fn: a coroutine function, or a sync one.  Its first parameter may be annotated ``trepid.Context``.
      name: what jobs call it; by default the function's own name.
      queue: where its jobs go, and where a worker with this actor looks for them.
      priority: of its jobs, where they do not say.
      retries: how often a failed job is tried again; 0 where neither job nor actor says.
      timeout: the longest one attempt may take, in seconds; 10 minutes where nobody says.
      retry_policy: from the retry number (from 1) to the seconds to wait; it never travels with a job.
      result_ttl: how long a finished job stays readable, in seconds; a day where nobody says.
      max_crashes: how often a worker may die over one job before it is given up as poison.
      concurrency: how many of its jobs may run at once in a queue, across all workers.
      rate: how many of its jobs may start in a span of time in a queue, across all workers: ``Rate(100, per=60)``.
      key: count both for each value of this argument separately, or, as ``"header:NAME"``, of a header.
      run_in: where it runs.  Sync functions: ``"thread"`` (the default) or ``"process"``.  Coroutine functions run in
        Trio; those of asyncio libraries with ``"asyncio"``.
      abandon_on_cancel: for thread functions: on timeout or shutdown leave the thread running and go on without it.

    Raises:
      TypeError: if *fn* is no function that can be run so, or the codec cannot handle one of its annotations.
      ValueError: if a setting breaks its rule.
    """

    fn: Callable[..., Any]
    name: str
    queue: Queue
    priority: Priority | None
    retries: int | None
    timeout: float | None
    retry_policy: RetryPolicy
    result_ttl: float | None
    max_crashes: int
    concurrency: int | None
    rate: Rate | None
    key: str | None
    run_in: Literal["trio", "thread", "process", "asyncio"]
    abandon_on_cancel: bool
    parameters: Parameters

    @overload
    def __init__(
        self,
        fn: Callable[Concatenate[Context[R], P], Awaitable[T]],
        *,
        run_in: Literal["asyncio"] | None = None,
        **settings: Unpack[ActorSettings],
    ) -> None: ...
    @overload
    def __init__(
        self,
        fn: Callable[P, Awaitable[T]],
        *,
        run_in: Literal["asyncio"] | None = None,
        **settings: Unpack[ActorSettings],
    ) -> None: ...
    @overload
    def __init__(
        self,
        fn: Callable[Concatenate[Context[R], P], T],
        *,
        run_in: Literal["thread"] | None = None,
        abandon_on_cancel: bool = False,
        **settings: Unpack[ActorSettings],
    ) -> None: ...
    @overload
    def __init__(
        self,
        fn: Callable[P, T],
        *,
        run_in: Literal["thread", "process"] | None = None,
        abandon_on_cancel: bool = False,
        **settings: Unpack[ActorSettings],
    ) -> None: ...
    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        run_in: RunIn | None = None,
        abandon_on_cancel: bool = False,
        name: str | None = None,
        queue: Queue | str = "default",
        priority: Priority | None = None,
        retries: int | None = None,
        timeout: Duration | None = None,
        retry_policy: RetryPolicy = ExponentialBackoff(),  # noqa: B008 - an immutable value
        result_ttl: Duration | None = None,
        max_crashes: int = MAX_CRASHES,
        concurrency: int | None = None,
        rate: Rate | None = None,
        key: str | None = None,
    ) -> None:
        called = _name(fn, name)
        if not callable(retry_policy):
            raise TypeError(f"actor {called!r}: retry_policy must be callable, not {retry_policy!r}")
        # A job checks counts and spans by the same rules; build one rather than say them twice.
        said: Job[Any] = Job(
            called, priority=priority, retries=retries, timeout=timeout, result_ttl=result_ttl, max_crashes=max_crashes
        )
        parameters = compiled(fn, called)
        fields: dict[str, Any] = {
            "fn": fn,
            "name": called,
            "queue": as_queue(queue),
            "priority": said.priority,
            "retries": said.retries,
            "timeout": said.timeout,
            "retry_policy": retry_policy,
            "result_ttl": said.result_ttl,
            "max_crashes": MAX_CRASHES if said.max_crashes is None else said.max_crashes,
            "concurrency": checked_limit(concurrency, "concurrency"),
            "rate": as_rate(rate),
            "key": _key(called, key, rate, concurrency, parameters),
            "run_in": place_of(fn, called, run_in, parameters, abandon_on_cancel=abandon_on_cancel),
            "abandon_on_cancel": abandon_on_cancel,
            "parameters": parameters,
        }
        for field, value in fields.items():
            object.__setattr__(self, field, value)

    def __repr__(self) -> str:
        return f"<trepid.Actor {self.name!r} queue={self.queue.name!r} run_in={self.run_in!r}>"

    def job(self, *args: P.args, **kwargs: P.kwargs) -> Job[T]:
        """Return a job that calls this actor with these arguments and the actor's settings.

        The type checker sees the function's own signature, without the Context.

        Raises:
          TypeError: if the arguments do not fit the signature, or cannot be written as JSON.
          ValueError: likewise.
          PayloadTooLargeError: if they have more than 1 MiB.
        """
        try:
            self.parameters.signature.bind(*args, **kwargs)
        except TypeError as exc:
            raise TypeError(f"actor {self.name!r}: {exc}") from None
        job = Job(
            self.name,
            args=args,
            kwargs=kwargs,
            queue=self.queue,
            priority=self.priority,
            retries=self.retries,
            timeout=self.timeout,
            result_ttl=self.result_ttl,
            max_crashes=self.max_crashes,
            read_result=self.parameters.read_result,
        )
        return job.options(gate=self.gate(args, kwargs, job.headers)) if self.limited else job

    @property
    def limited(self) -> bool:
        """Whether it limits how many of its jobs may run or start."""
        return self.concurrency is not None or self.rate is not None

    def gate(self, args: Sequence[object], kwargs: Mapping[str, object], headers: Mapping[str, str]) -> str | None:
        """Return the gate that a job with these arguments, which fit the signature, has to pass."""
        if not self.limited:
            return None
        if self.key is None:
            return self.name
        if self.key.startswith("header:"):
            return gate(self.name, headers.get(self.key.removeprefix("header:"), ""))
        bound = self.parameters.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        value = bound.arguments[self.key]
        # What is not known yet is put right by the worker that meets the message.
        return None if value is PREVIOUS else gate(self.name, value)

    def options(self, **changes: Unpack[ActorSettings]) -> Actor[P, T]:
        """Return an actor of the same function with some settings changed."""
        settings: dict[str, Any] = {key: getattr(self, key) for key in ActorSettings.__annotations__}
        settings |= {"run_in": None if self.run_in == "trio" else self.run_in, **changes}
        if self.rate is not None and self.rate.key is not None and "key" not in changes:
            # It came with the rate, so it makes way for that of another one, and goes with the last limit.
            rate = settings["rate"]
            if (isinstance(rate, Rate) and rate.key is not None) or (rate is None and settings["concurrency"] is None):
                settings["key"] = None
        return Actor(self.fn, abandon_on_cancel=self.abandon_on_cancel, **settings)

    def wait_before_retry(self, retry_number: int) -> float:
        """Return the seconds that the retry policy says, checked.

        Raises:
          TypeError, ValueError: if the policy gives no usable span of time.
        """
        return seconds(self.retry_policy(retry_number), f"retry policy of actor {self.name!r}")


def _name(fn: object, name: str | None) -> str:
    if not callable(fn):
        hint = "; pass the function itself, not the coroutine it returns" if inspect.iscoroutine(fn) else ""
        raise TypeError(f"an actor needs a function, not {fn!r}{hint}")
    if name is not None:
        return checked_name(name, "actor name")
    own = getattr(fn, "__name__", None)
    if own is None or own == "<lambda>":
        raise TypeError(f"{fn!r} has no name of its own; pass name=...")
    return checked_name(own, "actor name")


def _key(actor: str, key: str | None, rate: Rate | None, concurrency: int | None, parameters: Parameters) -> str | None:
    """Decide what the limits of an actor are counted by."""
    own = None if rate is None else rate.key
    if own is not None and key is not None and own != key:
        raise ValueError(f"actor {actor!r}: key={key!r} and the rate's key={own!r} differ; limits count by one key")
    key = key if own is None else own
    if key is None:
        return None
    if rate is None and concurrency is None:
        raise ValueError(f"actor {actor!r}: a key without concurrency or rate limits nothing")
    if not checked_key(key).startswith("header:"):
        found = parameters.signature.parameters.get(key)
        if found is None or found.kind in (found.VAR_POSITIONAL, found.VAR_KEYWORD):
            raise ValueError(f"actor {actor!r}: it has no argument {key!r} to count its jobs by")
    return key
