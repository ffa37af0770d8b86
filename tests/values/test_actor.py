import functools
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
import pytest

from trepid.values.actor import Actor, ActorSettings
from trepid.values.context import Context
from trepid.values.envelope import arguments_of
from trepid.values.job import Job
from trepid.values.limits import Rate
from trepid.values.queue import Priority, Queue
from trepid.values.retry import ExponentialBackoff

if TYPE_CHECKING:
    from elsewhere import Missing


class Resources: ...


async def greet(name: str, *, mark: str = "!") -> str:
    return f"Hello, {name}{mark}"


def thumbnail(path: str) -> int:
    return len(path)


async def with_context(ctx: Context, n: int) -> int:
    return n


def with_resources(ctx: Context[Resources], n: int = 1) -> int:
    return n


def test_the_function_is_unchanged():
    actor = Actor(greet)
    assert actor.fn is greet
    assert not callable(actor)
    assert vars(greet) == {}


def test_what_an_actor_does_not_say():
    actor = Actor(greet)
    facts = (actor.name, actor.queue, actor.priority, actor.retries, actor.timeout, actor.result_ttl, actor.max_crashes)
    assert facts == ("greet", Queue("default"), None, None, None, None, 5)
    assert (actor.run_in, actor.abandon_on_cancel, actor.retry_policy) == ("trio", False, ExponentialBackoff())
    assert repr(actor) == "<trepid.Actor 'greet' queue='default' run_in='trio'>"


SETTINGS = {
    "name": "other",
    "queue": "images",
    "priority": Priority.HIGH,
    "retries": 3,
    "timeout": timedelta(minutes=1),
    "retry_policy": lambda n: n,
    "result_ttl": 5,
    "max_crashes": 2,
    "concurrency": 4,
    "rate": Rate(10, per=60),
    "key": "path",
}


def test_none_is_the_default():
    said = dict.fromkeys(("priority", "retries", "timeout", "result_ttl", "max_crashes"))
    assert repr(Actor(greet, **said)) == repr(Actor(greet))
    assert Actor(greet, **said).max_crashes == 5


def test_what_an_actor_says():
    actor = Actor(thumbnail, **SETTINGS)
    said = {key: getattr(actor, key) for key in ActorSettings.__annotations__}
    assert said == {**SETTINGS, "queue": Queue("images"), "timeout": 60.0, "result_ttl": 5.0}


def test_options_change_what_they_name():
    actor = Actor(thumbnail, run_in="thread", abandon_on_cancel=True, **SETTINGS)
    other = actor.options(retries=9, queue="b")
    assert (other.fn, other.name, other.retries, other.queue) == (thumbnail, "other", 9, Queue("b"))
    assert (other.abandon_on_cancel, other.run_in, other.timeout) == (True, "thread", 60.0)
    assert actor.retries == 3
    for run_in in ("thread", "process"):
        assert Actor(thumbnail, run_in=run_in).options(retries=1).run_in == run_in
    assert Actor(greet).options(retries=1).run_in == "trio"
    assert Actor(greet, run_in="asyncio").options(retries=1).run_in == "asyncio"


def test_an_actor_is_frozen():
    with pytest.raises(AttributeError):
        Actor(greet).name = "other"


# ------------------------------------------------------------------------------------------------------- its jobs


def test_a_job_carries_the_actors_settings():
    job = Actor(thumbnail, **SETTINGS).job("cat.png")
    assert isinstance(job, Job)
    assert (job.name, job.args, job.queue, job.priority, job.retries) == (
        "other",
        ("cat.png",),
        Queue("images"),
        Priority.HIGH,
        3,
    )
    assert (job.timeout, job.result_ttl, job.max_crashes) == (60.0, 5.0, 2)
    assert (job.delay, job.ttl, job.id, job.unique) == (None,) * 4


def test_arguments_travel_as_they_were_given():
    job = Actor(greet).job("Trio", mark="?")
    assert arguments_of(job.payload) == (["Trio"], {"mark": "?"})


def test_the_context_is_not_an_argument():
    assert Actor(with_context).job(5).args == (5,)
    assert Actor(with_resources).job().args == ()
    with pytest.raises(TypeError, match="actor 'with_context': too many positional arguments"):
        Actor(with_context).job(5, 6)


@pytest.mark.parametrize(
    ("args", "kwargs", "reason"),
    [
        ((), {}, "missing a required argument: 'name'"),
        (("a", "b"), {}, "too many positional arguments"),
        (("a",), {"colour": 1}, "got an unexpected keyword argument 'colour'"),
        (("a",), {"name": "b"}, "multiple values for argument 'name'"),
    ],
)
def test_wrong_arguments_are_told_at_once(args, kwargs, reason):
    with pytest.raises(TypeError, match=f"actor 'greet': {reason}"):
        Actor(greet).job(*args, **kwargs)


def test_a_result_is_read_by_the_return_annotation():
    class Size(msgspec.Struct):
        width: int

    def measure(): ...

    measure.__annotations__ = {"return": Size}
    job = Actor(measure).job()
    assert job.read_result(b'{"width":3}') == Size(3)
    assert job.options(retries=1).read_result(b'{"width":3}') == Size(3)


# ------------------------------------------------------------------------------------------------- what may run


class SyncCallable:
    def __call__(self, n: int) -> int:
        return n


class AsyncCallable:
    async def __call__(self, n: int) -> int:
        return n

    async def method(self, n: int) -> int:
        return n

    @classmethod
    def made(cls, n: int) -> int:
        return n

    @staticmethod
    def plain(n: int) -> int:
        return n


@pytest.mark.parametrize(
    ("fn", "name", "run_in"),
    [
        (greet, None, "trio"),
        (thumbnail, None, "thread"),
        (functools.partial(greet, mark="?"), "partial", "trio"),
        (functools.partial(thumbnail), "partial", "thread"),
        (SyncCallable(), "object", "thread"),
        (AsyncCallable(), "object", "trio"),
        (AsyncCallable().method, None, "trio"),
        (AsyncCallable.made, None, "thread"),
        (AsyncCallable.plain, None, "thread"),
        (lambda: 0, "free", "thread"),
    ],
)
def test_any_callable_may_be_an_actor(fn, name, run_in):
    actor = Actor(fn, name=name)
    assert actor.run_in == run_in
    assert actor.fn is fn


def test_a_wrapped_function_keeps_its_name():
    @functools.wraps(greet)
    async def wrapper(*args, **kwargs):
        return await greet(*args, **kwargs)

    assert Actor(wrapper).name == "greet"
    assert Actor(wrapper).job("x").args == ("x",)


async def streaming(n: int):  # noqa: ASYNC900 - what an actor must not be
    yield n


def generating(n: int):
    yield n


def untyped(n): ...


async def hidden(ctx: Context[Any], n: int): ...


def opaque(socket: complex) -> None: ...


def opaque_list(things: list[complex]) -> None: ...


def opaque_result() -> complex: ...


def unresolvable(thing: "Missing") -> None: ...


def unresolvable_result() -> "Nowhere": ...  # noqa: F821


def positional_context(n: int, ctx: Context) -> None: ...


def named_context(*, ctx: Context[str]) -> None: ...


REFUSED = [
    (None, {}, "an actor needs a function, not None"),
    ("greet", {}, "an actor needs a function, not 'greet'"),
    (streaming, {}, "actor 'streaming': a generator cannot be an actor"),
    (generating, {}, "actor 'generating': a generator cannot be an actor"),
    (functools.partial(generating), {"name": "part"}, "actor 'part': a generator cannot be an actor"),
    (lambda: 0, {}, r"has no name of its own; pass name=\.\.\."),
    (functools.partial(greet), {}, r"has no name of its own; pass name=\.\.\."),
    (SyncCallable(), {}, r"has no name of its own; pass name=\.\.\."),
    (untyped, {}, "actor 'untyped': its first parameter 'n' needs an annotation: trepid.Context if it is the context"),
    (lambda ctx: 0, {"name": "free"}, "actor 'free': its first parameter 'ctx' needs an annotation"),
    (hidden, {}, r"actor 'hidden': Context\[Any\] hides a wrong resource; write trepid.Context, or"),
    (opaque, {}, "actor 'opaque': parameter 'socket': the codec cannot build complex from JSON"),
    (opaque_list, {}, "actor 'opaque_list': parameter 'things': the codec cannot build complex"),
    (opaque_result, {}, "actor 'opaque_result': the result: the codec cannot build complex"),
    (unresolvable, {}, r"actor 'unresolvable': its annotations cannot be resolved \(.*Missing.*TYPE_CHECKING"),
    (unresolvable_result, {}, r"actor 'unresolvable_result': its annotations cannot be resolved \(.*Nowhere"),
    (positional_context, {}, "'positional_context': only the first positional parameter can be the context, and 'ctx'"),
    (named_context, {}, "'named_context': only the first positional parameter can be the context, and 'ctx'"),
    (greet, {"run_in": "thread"}, "actor 'greet': a coroutine function runs in Trio; run_in='thread' is for sync"),
    (greet, {"run_in": "process"}, "actor 'greet': a coroutine function runs in Trio"),
    (greet, {"abandon_on_cancel": True}, "actor 'greet': abandon_on_cancel is for functions that run in a thread"),
    (thumbnail, {"run_in": "asyncio"}, "actor 'thumbnail': a sync function runs in 'thread' or 'process', not in"),
    (thumbnail, {"run_in": "trio"}, "actor 'thumbnail': a sync function runs in 'thread' or 'process', not in 'trio'"),
    (thumbnail, {"run_in": "process", "abandon_on_cancel": True}, "a process is killed, never abandoned"),
    (with_resources, {"run_in": "process"}, "a Context cannot travel to another process"),
    (lambda: 0, {"run_in": "process", "name": "free"}, "a process needs a function that can be imported"),
    (thumbnail, {"retry_policy": 5}, "actor 'thumbnail': retry_policy must be callable, not 5"),
]


@pytest.mark.parametrize(("fn", "settings", "reason"), REFUSED)
def test_what_cannot_run_is_refused_with_its_reason(fn, settings, reason):
    with pytest.raises(TypeError, match=reason):
        Actor(fn, **settings)


def test_a_coroutine_is_no_function():
    coroutine = greet("x")
    with pytest.raises(TypeError, match="pass the function itself, not the coroutine it returns"):
        Actor(coroutine)
    coroutine.close()


def test_a_local_function_cannot_go_to_a_process():
    def local(n: int) -> int:
        return n

    with pytest.raises(TypeError, match="actor 'local': a process needs a function that can be imported, not a local"):
        Actor(local, run_in="process")
    assert Actor(local).run_in == "thread"


@pytest.mark.parametrize(
    ("settings", "error", "rule"),
    [
        ({"name": "a b"}, ValueError, "actor name 'a b' must match"),
        ({"name": 5}, TypeError, "actor name must be a string, not 5"),
        ({"queue": "1"}, ValueError, "queue name '1' must match"),
        ({"retries": -1}, ValueError, "retries must be 0 or more, not -1"),
        ({"timeout": 0}, ValueError, "timeout must be more than zero, not 0"),
        ({"timeout": "1"}, TypeError, "timeout must be seconds or a timedelta, not '1'"),
        ({"result_ttl": -1}, ValueError, "result_ttl must be zero or more"),
        ({"max_crashes": 0}, ValueError, "max_crashes must be 1 or more, not 0"),
        ({"max_crashes": 1.5}, TypeError, "max_crashes must be a whole number, not 1.5"),
        ({"priority": 4}, ValueError, "priority must be one of Priority.HIGH, Priority.MEDIUM, Priority.LOW, not 4"),
        ({"colour": "red"}, TypeError, "colour"),
    ],
)
def test_a_bad_setting_is_told_its_rule(settings, error, rule):
    with pytest.raises(error, match=rule):
        Actor(greet, **settings)


# ---------------------------------------------------------------------------------------------------- its retries


@pytest.mark.parametrize(
    ("policy", "wait"), [(lambda n: n * 2, 6.0), (lambda n: timedelta(minutes=n), 180.0), (ExponentialBackoff(), 40.0)]
)
def test_any_callable_is_a_retry_policy(policy, wait):
    assert Actor(greet, retry_policy=policy).wait_before_retry(3) == wait


@pytest.mark.parametrize(
    ("policy", "error", "rule"),
    [
        (lambda n: -n, ValueError, "retry policy of actor 'greet' must be zero or more, not -1"),
        (lambda n: None, TypeError, "retry policy of actor 'greet' must be seconds or a timedelta, not None"),
        (lambda n: float("inf"), ValueError, "retry policy of actor 'greet' must be finite"),
    ],
)
def test_what_a_policy_says_is_checked(policy, error, rule):
    with pytest.raises(error, match=rule):
        Actor(greet, retry_policy=policy).wait_before_retry(1)


def test_a_function_that_never_returns_may_be_an_actor():
    async def serve() -> NoReturn:
        raise RuntimeError

    assert Actor(serve).job().name == "serve"
