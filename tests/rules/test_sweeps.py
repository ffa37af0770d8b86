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


@given(st.integers(0, 5), st.integers(0, 5))
def test_every_page_is_seen_once(ready, scheduled):
    """So many pages are behind the first one of what is due, and of what is due later."""
    seen, stand, pages = [], sweeps.Stand(), {READY: ready, SCHEDULED: scheduled}
    while stand is not None:
        page = stand.after or 0
        seen.append((stand.state, page))
        stand = sweeps.onward(stand, page + 1 if page < pages[stand.state] else None)
    assert seen == [(state, page) for state, more in pages.items() for page in range(more + 1)]


@given(st.booleans(), st.none() | st.integers(1))
def test_a_sweep_goes_on_where_the_last_one_was(later, after):
    stand = sweeps.Stand(later, after)
    assert sweeps.load(sweeps.dump(stand), everywhere=True) == stand


@given(st.none() | st.integers(1))
def test_who_takes_messages_looks_at_what_is_due_later_only(after):
    assert sweeps.load(sweeps.dump(sweeps.Stand(True, after)), everywhere=False) == sweeps.Stand(True, after)
    assert sweeps.load(sweeps.dump(sweeps.Stand(False, after)), everywhere=False) == sweeps.Stand(True)


@given(st.none() | st.binary())
def test_where_nothing_can_be_read_it_begins_at_the_beginning(value):
    assert sweeps.load(value, everywhere=True) == sweeps.Stand()
    assert sweeps.load(value, everywhere=False) == sweeps.Stand(True)


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


@given(st.floats(0, 1))
def test_a_period_is_about_a_lease(spread):
    assert sweeps.period(spread, 0.0) == pytest.approx(scopes.LEASE, rel=0.21)


@given(st.floats(0, 1), st.floats(0, 1e6))
def test_sweeps_take_about_a_hundredth_of_the_time_at_most(spread, took):
    assert took <= sweeps.period(spread, took) / 79
