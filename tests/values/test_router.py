import pytest
from hypothesis import given
from hypothesis import strategies as st

from trepid.errors import DuplicateActorError, DuplicateScheduleError, UnknownActorError
from trepid.values.actor import Actor
from trepid.values.calendar import Every
from trepid.values.job import Job
from trepid.values.router import Router
from trepid.values.schedule import Schedule


def work() -> None: ...


# Two actors for each of four names, so that routers meet with the same and with other actors of a name.
POOL = [[Actor(work, name=name, queue=queue) for queue in ("one", "two")] for name in "abcd"]


async def outer(ctx, call):
    return await call()


async def inner(ctx, call):
    return await call()


SCHEDULES = [[Schedule(name, Every(period), Job("a")) for period in (60, 90)] for name in "st"]


@st.composite
def routers(draw):
    chosen = [draw(st.sampled_from(pair)) for pair in POOL if draw(st.booleans())]
    scheduled = [draw(st.sampled_from(pair)) for pair in SCHEDULES if draw(st.booleans())]
    router = Router(*chosen, schedules=scheduled)
    return router.wrapped(draw(st.sampled_from([outer, inner]))) if draw(st.booleans()) else router


@given(routers(), routers(), routers())
def test_or_is_associative(a, b, c):
    assert (a | b) | c == a | (b | c)


@given(routers())
def test_the_empty_router_is_neutral(a):
    assert a | Router() == Router() | a == a | a == a


@given(routers(), routers())
def test_the_right_side_wins_as_in_dict(a, b):
    union = a | b
    assert dict(union) == dict(a) | dict(b)
    assert union.schedules == {**a.schedules, **b.schedules}
    for name in union:
        assert union.middleware(name) == (b if name in b else a).middleware(name)


@given(routers(), routers())
def test_composing_changes_no_operand(a, b):
    before = (dict(a), dict(b), [a.middleware(name) for name in a], dict(a.schedules))
    assert isinstance(a | b, Router)
    a.wrapped(outer)
    assert (dict(a), dict(b), [a.middleware(name) for name in a], dict(a.schedules)) == before


@given(routers(), routers())
def test_equal_routers_have_equal_hashes(a, b):
    same = dict(a) == dict(b) and a.schedules == b.schedules
    assert (a == b) == (same and all(a.middleware(n) == b.middleware(n) for n in a))
    if a == b:
        assert hash(a) == hash(b)


@given(routers(), routers())
def test_a_constructor_refuses_two_of_a_name(a, b):
    shared = [name for name in b if name in a]
    if shared:
        with pytest.raises(DuplicateActorError) as caught:
            Router(a, b)
        assert caught.value.name == shared[0]
        assert "left | right" in str(caught.value)
    elif set(a.schedules) & set(b.schedules):
        with pytest.raises(DuplicateScheduleError, match=r"left \| right"):
            Router(a, b)
    else:
        assert Router(a, b) == a | b


def test_a_router_is_a_frozen_mapping():
    (a, _), (b, _) = POOL[:2]
    router = Router(a, b)
    assert list(router) == ["a", "b"]
    assert len(router) == 2
    assert router["a"] is a
    assert "a" in router
    assert "z" not in router
    assert router.get("z") is None
    assert repr(router) == "<trepid.Router a, b>"
    assert repr(Router()) == "<trepid.Router empty>"
    with pytest.raises(AttributeError, match="immutable"):
        router.other = 1
    with pytest.raises(AttributeError, match="immutable"):
        del router._actors
    with pytest.raises(TypeError):
        router["c"] = a
    with pytest.raises(TypeError):
        router._actors["c"] = a
    assert router != {"a": a, "b": b}


def test_an_unknown_actor_is_named_with_those_that_are_known():
    with pytest.raises(UnknownActorError) as caught:
        Router(POOL[0][0], POOL[1][0])["c"]
    assert (caught.value.name, caught.value.known) == ("c", {"a", "b"})
    assert str(caught.value) == "no actor is called 'c' (known: a, b)"
    with pytest.raises(LookupError, match="known: none"):
        Router()["c"]


def test_an_actor_may_stand_for_its_router():
    (a, other), (b, _) = POOL[:2]
    assert Router(a) | b == Router(a, b)
    assert Router(a) | other == Router(other)
    assert Router(Router(a), b) == Router(a, b)
    with pytest.raises(TypeError):
        Router(a) | {"b": b}


@pytest.mark.parametrize(
    ("thing", "advice"), [(work, r"wrap the function: trepid.Actor\(fn\)"), ("work", "not 'work'")]
)
def test_what_is_no_actor_is_refused(thing, advice):
    with pytest.raises(TypeError, match=f"a router holds actors and routers.*{advice}"):
        Router(thing)


def test_middleware_wraps_outside_of_what_is_there():
    router = Router(POOL[0][0]).wrapped(inner).wrapped(outer)
    assert router.middleware("a") == (outer, inner)
    assert router.middleware("z") == ()
    assert (router | POOL[1][0]).middleware("b") == ()
    with pytest.raises(TypeError, match="middleware must be an async function"):
        router.wrapped("inner")


def test_queues_are_named_once_in_order():
    (a1, _), (_, b2), (c1, _), _ = POOL
    assert Router(b2, a1, c1).queues() == ("two", "one")


def test_schedules_are_named_once_and_carried_along():
    one, other = SCHEDULES[0]
    router = Router(POOL[0][0], schedules=[one])
    assert router.wrapped(outer).schedules == Router(router).schedules == {"s": one}
    assert (router | POOL[1][0]).schedules == {"s": one}
    assert repr(router) == "<trepid.Router a, schedules s>"
    for make in (lambda: Router(schedules=[one, other]), lambda: Router(router, schedules=[one])):
        with pytest.raises(DuplicateScheduleError):
            make()
    with pytest.raises(TypeError, match="schedules must be"):
        Router(schedules=["s"])
