"""Sweeps: all that waits is seen, and only the children of dead job nurseries are ended."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import trepid
from trepid.rules import scopes, sweeps
from trepid.rules.life import READY, SCHEDULED
from trepid.values.envelope import tethered

SCOPES = st.sampled_from(["a", "b", "c"])
PLAIN = trepid.Job("log").payload


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_every_page_of_every_place_is_seen_once(pages):
    """*pages* says of each place how many pages it has behind its first one."""
    seen, stand = [], sweeps.Stand()
    while stand is not None:
        page = stand.after or 0
        seen.append((stand.place, page))
        stand = sweeps.onward(stand, page + 1 if page < pages[stand.place] else None, len(pages))
    assert seen == [(place, page) for place, more in enumerate(pages) for page in range(more + 1)]


@given(st.dictionaries(st.text(min_size=1), st.none() | SCOPES), st.dictionaries(SCOPES, st.booleans()))
def test_exactly_the_children_of_those_who_are_known_to_be_gone_are_orphans(messages, alive):
    payloads = [(id, PLAIN if scope is None else tethered(PLAIN, scope, None)) for id, scope in messages.items()]
    children = sweeps.children(payloads)
    assert children == {id: scope for id, scope in messages.items() if scope is not None}
    assert set(sweeps.orphans(children, alive)) == {id for id, scope in children.items() if alive.get(scope) is False}
    unseen = sweeps.unseen(children, alive)
    assert set(unseen) == set(children.values()) - set(alive)
    assert len(unseen) == len(set(unseen))


@given(st.binary())
def test_what_cannot_be_read_belongs_to_nobody(payload):
    assert sweeps.children([("x", payload)]) == {}


def test_it_is_looked_where_messages_wait():
    assert sweeps.places(["a", "b"]) == [("a", READY), ("a", SCHEDULED), ("b", READY), ("b", SCHEDULED)]


@given(st.floats(0, 1))
def test_a_period_is_about_a_lease(spread):
    assert sweeps.period(spread, 0.0) == pytest.approx(scopes.LEASE, rel=0.21)


@given(st.floats(0, 1), st.floats(0, 1e6))
def test_sweeps_take_about_a_hundredth_of_the_time_at_most(spread, took):
    assert took <= sweeps.period(spread, took) / 79
