"""Limits as values: rates, the settings of queues, and which gate a job has to pass."""

import uuid
from datetime import timedelta

import pytest

import trepid
from trepid.values.limits import checked_gate


async def send(to: str, copies: int = 1) -> None: ...


def test_a_rate():
    assert trepid.Rate(100, per=timedelta(minutes=1)) == trepid.Rate(100, 60)
    assert trepid.Rate(3).per == 1.0


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: trepid.Rate(0), ValueError, "count must be 1 to 1,000,000, not 0"),
        (lambda: trepid.Rate(True), TypeError, "count must be a whole number"),
        (lambda: trepid.Rate(1, per=0), ValueError, "per must be more than zero"),
        (lambda: trepid.Rate(1, key="not a name"), ValueError, "key must be the name of an argument"),
        (lambda: trepid.Rate(1, key=3), TypeError, "key must name an argument or a header"),
        (lambda: trepid.Queue(concurrency=0), ValueError, "concurrency must be 1 to"),
        (lambda: trepid.Queue(max_size=1.5), TypeError, "max_size must be a whole number"),
        (lambda: trepid.Queue(weight=1001), ValueError, "weight must be 1 to 1000, not 1001"),
        (lambda: trepid.Queue(rate=100), TypeError, r"rate must be a trepid.Rate, such as Rate\(100, per=60\)"),
        (lambda: trepid.Queue(rate=trepid.Rate(1, key="to")), ValueError, "belongs to the rate of an actor"),
        (lambda: trepid.Actor(send, rate=5), TypeError, "rate must be a trepid.Rate"),
        (lambda: trepid.Actor(send, concurrency=-1), ValueError, "concurrency must be 1 to"),
        (lambda: trepid.Actor(send, key="to"), ValueError, "a key without concurrency or rate limits nothing"),
        (lambda: trepid.Actor(send, concurrency=1, key="cc"), ValueError, "it has no argument 'cc'"),
        (
            lambda: trepid.Actor(send, rate=trepid.Rate(1, key="to"), key="copies"),
            ValueError,
            "limits count by one key",
        ),
        (lambda: trepid.Job("x", gate="no name:1"), ValueError, "gate 'no name' must match"),
        (lambda: trepid.Job("x", gate="x:" + "y" * 300), ValueError, "at most 256 characters"),
    ],
)
def test_what_breaks_a_rule_is_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_an_actor_without_limits_has_no_gate():
    actor = trepid.Actor(send)
    assert not actor.limited
    assert actor.job("a").gate is None
    assert actor.gate(["a"], {}, {}) is None


def test_the_gate_of_an_actor_is_its_name():
    assert trepid.Actor(send, concurrency=2).job("a").gate == "send"
    assert trepid.Actor(send, name="mail", rate=trepid.Rate(1)).job(to="a").gate == "mail"


@pytest.mark.parametrize(
    ("before", "change", "key"),
    [
        ({}, {"rate": None}, None),
        ({}, {"rate": trepid.Rate(1, key="copies")}, "copies"),
        ({}, {"rate": trepid.Rate(2)}, "to"),
        ({}, {"retries": 1}, "to"),
        ({"concurrency": 1}, {"rate": None}, "to"),
        ({"concurrency": 1}, {"rate": None, "concurrency": None}, None),
        ({}, {"rate": trepid.Rate(1), "key": "copies"}, "copies"),
    ],
)
def test_the_key_of_a_rate_goes_with_the_last_limit(before, change, key):
    actor = trepid.Actor(send, rate=trepid.Rate(1, key="to"), **before)
    assert actor.options(**change).key == key


@pytest.mark.parametrize("change", [{"rate": "often"}, {"rate": trepid.Rate(1, key="copies"), "key": "to"}])
def test_options_refuse_what_the_constructor_does(change):
    with pytest.raises((TypeError, ValueError), match=r"trepid\.Rate|limits count by one key"):
        trepid.Actor(send, rate=trepid.Rate(1, key="to")).options(**change)


@pytest.mark.parametrize("limits", [{"concurrency": 1, "key": "to"}, {"rate": trepid.Rate(1, key="to")}])
def test_limits_count_by_an_argument_however_it_is_given(limits):
    actor = trepid.Actor(send, **limits)
    assert actor.job("a@x").gate == actor.job(to="a@x", copies=2).gate == "send:a@x"
    assert actor.options(name="other").job("b").gate == "other:b"


def test_a_default_counts_like_the_same_argument():
    actor = trepid.Actor(send, concurrency=1, key="copies")
    assert actor.job("a").gate == actor.job("b", 1).gate == "send:1"


def test_any_value_that_can_travel_can_be_counted_by():
    def touch(what: object) -> None: ...

    actor, id = trepid.Actor(touch, concurrency=1, key="what"), uuid.uuid4()
    assert actor.job(id).gate == f'touch:"{id}"'
    assert actor.job([1, {"a": None}]).gate == 'touch:[1,{"a":null}]'
    long = actor.job("x" * 5000).gate
    assert len(long) <= 256
    assert long != actor.job("x" * 4999).gate
    with pytest.raises(TypeError, match="argument 1"):
        actor.job(object())


def test_limits_count_by_a_header():
    actor = trepid.Actor(send, concurrency=1, key="header:tenant")
    assert actor.job("a").gate == "send:"
    assert actor.gate(["a"], {}, {"tenant": "t1"}) == "send:t1"


def test_a_gate_is_an_actor_and_any_text():
    assert checked_gate("send:\N{SNOWMAN}: {x}") == "send:\N{SNOWMAN}: {x}"
    with pytest.raises(TypeError):
        checked_gate(5)
