"""Gates: how many they let through, and when; and how queues share what is asked of them."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

import trepid
from trepid.rules import gates
from trepid.rules.gates import Limit, admitted, opens

MOMENTS = st.lists(st.floats(0, 1000), max_size=30).map(sorted)
PER = st.floats(0.001, 300)


@given(st.integers(1, 5), PER, MOMENTS)
def test_a_rate_is_never_exceeded_and_never_left_unused(count, per, asked):
    """Whoever asks is let through exactly if fewer than *count* started in the span that ends now."""
    limit, starts = Limit("q", "a", count=count, per=per), []
    for now in asked:
        room = admitted(limit, 0, starts, now)
        assert room == count - len([start for start in starts if start + per > now])
        assert (opens(limit, starts, now) is None) == (room > 0)
        if room:
            starts.append(now)
    for first, last in zip(starts, starts[count:], strict=False):
        assert first + per <= last


@given(st.integers(1, 5), PER, MOMENTS)
def test_a_gate_opens_when_it_says(count, per, starts):
    limit = Limit("q", "a", count=count, per=per)
    now = starts[-1] if starts else 0.0
    moment = opens(limit, starts, now)
    if moment is not None:
        assert moment > now
        assert admitted(limit, 0, starts, moment) > 0, "a wait until then is not in vain"


@pytest.mark.parametrize(
    ("limit", "running", "starts", "room"),
    [
        (None, 9, [], None),
        (Limit("q", max_size=3, weight=2), 9, [], None),
        (Limit("q", concurrency=3), 1, [], 2),
        (Limit("q", concurrency=3), 5, [], 0),
        (Limit("q", concurrency=3, count=1, per=10), 0, [95.0], 0),
        (Limit("q", concurrency=1, count=5, per=10), 0, [95.0], 1),
        (Limit("q", count=2, per=10), 99, [80.0, 90.0], 2),
    ],
)
def test_the_stricter_of_two_limits_counts(limit, running, starts, room):
    assert admitted(limit, running, starts, 100.0) == room


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6))
def test_over_a_round_each_queue_is_first_as_often_as_its_weight(weights):
    firsts = Counter(gates.shares(weights, turn)[0] for turn in range(sum(weights)))
    assert [firsts[number] for number in range(len(weights))] == weights
    first, order = gates.shares(weights, 7)
    assert order == weights[first:] + weights[:first]


@given(st.integers(1, 100), st.lists(st.integers(1, 20), min_size=1, max_size=6))
def test_shares_are_enough_for_all_that_is_asked_and_fair(room, weights):
    total = sum(weights)
    given_ = [gates.share(room, weight, total) for weight in weights]
    assert sum(given_) >= room
    assert all(abs(part - room * weight / total) < 1 for part, weight in zip(given_, weights, strict=True))


def test_limits_come_from_queues_and_actors():
    queue = trepid.Queue("mail", max_size=10, weight=3, concurrency=2, rate=trepid.Rate(100, per=60))
    assert gates.queue_limit(queue) == Limit("mail", "", 2, 100, 60.0, 10, 3)
    assert gates.queue_limit(trepid.Queue("mail")).void
    assert gates.queue_limit(trepid.Queue("mail", weight=1)).void

    async def send(to: str) -> None: ...

    limited = trepid.Actor(send, concurrency=5, rate=trepid.Rate(3))
    assert gates.actor_limit("mail", limited) == Limit("mail", "send", 5, 3, 1.0)
    assert gates.actor_limit("mail", trepid.Actor(send)).void
    assert [gates.family(gate) for gate in ("send", "send:", "send:a:b")] == ["send"] * 3
