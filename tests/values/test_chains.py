"""Chains as values: what ``then`` makes, what it refuses, and what travels."""

import copy
import json
import pickle
from datetime import UTC, datetime

import pytest

import trepid
from trepid.values import chains, codec
from trepid.values.envelope import Chain, arguments_of, chained, seal, tethered, unseal


def resize(path: str, width: int = 80) -> str: ...
def send(path: str, *, subject: str) -> int: ...


RESIZE, SEND = trepid.Actor(resize), trepid.Actor(send, queue="mail", retries=3)
CHAIN = RESIZE.job("cat.png").then(SEND.job(trepid.PREVIOUS, subject="A cat"))


def test_the_format_is_this():
    assert json.loads(CHAIN.payload) == {
        "v": 2,
        "actor": "resize",
        "args": ["cat.png"],
        "then": [
            {
                "job": {
                    "v": 2,
                    "actor": "send",
                    "args": [None],
                    "kwargs": {"subject": "A cat"},
                    "retries": 3,
                    "previous": [0],
                },
                "queue": "mail",
                "max_crashes": 5,
            }
        ],
    }


@pytest.mark.parametrize(("said", "done"), [("existing", "existing"), ("raise", "existing"), ("replace", "replace")])
def test_a_key_that_is_held_is_an_error_to_nobody(said, done):
    chain = RESIZE.job("cat.png").then(SEND.job("a", subject="b").options(unique=trepid.Unique("k", said, for_=5)))
    [link] = unseal(chain.payload).then
    assert chains.unique_of(link) == trepid.Unique("k", done, for_=5)


def test_what_the_broker_acts_on_travels_too():
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    job = trepid.Job(
        "a",
        priority=trepid.Priority.HIGH,
        deferred_until=moment,
        ttl=5,
        unique=trepid.Unique("k", "replace", for_=9),
        result_ttl=7,
        max_crashes=2,
        gate="a:x",
        timeout=3,
        headers={"trace": "1"},
    )
    link = json.loads(trepid.Job("first").then(job).payload)["then"][0]
    assert link == {
        "job": {"v": 1, "actor": "a", "timeout": 3.0, "headers": {"trace": "1"}},
        "queue": "default",
        "priority": 9,
        "due": moment.timestamp(),
        "ttl": 5.0,
        "unique": {"key": "k", "on_conflict": "replace", "for": 9.0},
        "result_ttl": 7.0,
        "max_crashes": 2,
        "gate": "a:x",
    }
    back = chains.job_of(unseal(trepid.Job("first").then(job).payload).then[0])
    # Priorities come back as they were published.
    assert back == job


def test_jobs_without_follow_ups_stay_version_1():
    assert json.loads(RESIZE.job("x").payload)["v"] == 1
    assert json.loads(tethered(RESIZE.job("x").payload, "s", None))["v"] == 1
    assert json.loads(tethered(CHAIN.payload, "s", None))["v"] == 2


def test_a_chain_is_a_value():
    first, second = RESIZE.job("cat.png"), SEND.job(trepid.PREVIOUS, subject="A cat")
    assert first.then(second) == CHAIN
    assert first.then(second) != first
    assert first.follow_ups == ()
    assert CHAIN.follow_ups == (second,)
    assert CHAIN.options(delay=5).follow_ups == (second,)
    assert CHAIN.options(delay=5).delay == 5


def test_a_chain_reads_the_result_of_its_last_job():
    assert CHAIN.read_result(b"5") == 5
    with pytest.raises(ValueError, match="int"):
        CHAIN.read_result(b'"text"')
    assert SEND.job("x", subject="y").then(CHAIN).then(RESIZE.job("x")).read_result(b'"text"') == "text"


def test_chains_of_chains_are_flat():
    a, b, c, d = (trepid.Job(name) for name in "abcd")
    chain = a.then(b).then(c.then(d))
    assert [job.name for job in chain.follow_ups] == ["b", "c", "d"]
    assert chain == a.then(b.then(c.then(d))) == a.then(b.then(c)).then(d)
    assert all(not job.follow_ups for job in chain.follow_ups)


@pytest.mark.parametrize(
    ("follow_up", "error", "reason"),
    [
        (SEND, TypeError, r"must be a job, not <trepid.Actor 'send'.*; write actor.job\(...\)"),
        ("send", TypeError, "must be a job, not 'send'"),
        (trepid.PREVIOUS, TypeError, "must be a job, not trepid.PREVIOUS"),
        (trepid.Job("a", id="x"), ValueError, "follow-up 'a': its id is made of that of the first job"),
    ],
)
def test_what_cannot_follow(follow_up, error, reason):
    with pytest.raises(error, match=reason):
        RESIZE.job("x").then(follow_up)


def test_the_whole_chain_counts_towards_the_limit():
    half = RESIZE.job("x" * 600_000)
    with pytest.raises(trepid.PayloadTooLargeError):
        half.then(half)


def test_previous_is_one_and_stays_one():
    previous = trepid.PREVIOUS
    assert repr(previous) == "trepid.PREVIOUS"
    assert pickle.loads(pickle.dumps(previous)) is previous
    assert copy.deepcopy([previous])[0] is previous


def test_previous_stands_for_whole_arguments_only():
    with pytest.raises(TypeError, match=r"argument 1 \(list\): trepid.PREVIOUS stands for a whole argument"):
        trepid.Job("a", args=([trepid.PREVIOUS],))
    with pytest.raises(TypeError, match="whole argument"):
        codec.encode(trepid.PREVIOUS)


def test_a_job_that_waits_says_so():
    assert SEND.job(trepid.PREVIOUS, subject="x").awaits_previous
    assert SEND.job("x", subject=trepid.PREVIOUS).awaits_previous
    assert not CHAIN.awaits_previous
    with pytest.raises(trepid.EnvelopeError, match="waits for the result of a job before it"):
        unseal(SEND.job(trepid.PREVIOUS, subject="x").payload)


def test_a_limit_by_what_is_not_known_yet_is_left_to_the_worker():
    actor = trepid.Actor(resize, concurrency=1, key="path")
    assert actor.job(trepid.PREVIOUS).gate is None
    assert actor.job("x", width=trepid.PREVIOUS).gate == "resize:x"


def test_each_step_hands_on_the_rest():
    chain = RESIZE.job("x").then(RESIZE.job(trepid.PREVIOUS)).then(SEND.job("y", subject=trepid.PREVIOUS))
    first = unseal(chained(chain.payload, Chain("id", 1, 3, ("p", 7))))
    second = unseal(chains.handed_on(first, first.chain, "small.png"))
    assert (second.v, second.chain) == (2, Chain("id", 2, 3, ("p", 8)))
    third_payload = chains.handed_on(second, second.chain, {"deep": [1]})
    third = unseal(third_payload)
    assert (third.v, third.actor, third.chain) == (1, "send", Chain("id", 3, 3, ("p", 9)))
    assert arguments_of(third_payload) == (["y"], {"subject": {"deep": [1]}})


def test_a_chain_that_nobody_has_named_is_named_after_its_message():
    bare = unseal(CHAIN.payload)
    place = chains.place_of(bare, "q", "m", 5.0)
    assert (place.id, place.step, place.of) == ("m", 1, 2)
    assert place == chains.place_of(bare, "q", "m", 5.0)
    names = {chains.place_of(bare, *of).token[0] for of in [("q", "m", 5.0), ("q", "m", 6.0), ("r", "m", 5.0)]}
    assert len(names) == 3


@pytest.mark.parametrize("length", [1, 100, 126, 127, 128])
def test_ids_of_follow_ups_are_ids(length):
    ids = {chains.follow_up_id("x" * length, number) for number in (1, 2, 10, 100)}
    assert len(ids) == 4
    for id in ids:
        trepid.Job("a", id=id)
    assert chains.follow_up_id("x", 2) == "x.2"
    assert chains.follow_up_id("x" * 128, 1) != chains.follow_up_id("x" * 127 + "y", 1)


def test_a_foreign_link_with_places_that_are_not_there():
    link = {"queue": "q", "job": {"v": 2, "actor": "a", "previous": [3]}}
    envelope = unseal(json.dumps({"v": 2, "actor": "a", "then": [link]}).encode())
    with pytest.raises(IndexError):
        chains.handed_on(envelope, Chain("m", 1, 2, ("p", 1)), 5)


def test_sealing_keeps_places_apart():
    payload = seal("a", (1, trepid.PREVIOUS), {"k": trepid.PREVIOUS}, retries=None, timeout=None, headers={})
    assert json.loads(payload)["previous"] == [1, "k"]
