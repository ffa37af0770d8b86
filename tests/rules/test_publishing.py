"""What a publish does, for every combination of what is there already."""

import itertools

import pytest

from trepid.rules.life import ENDED, State
from trepid.rules.publishing import Plan, Publishing, plan

MINE, OTHER = ("me", 1), ("you", 1)
NAMESAKES = [None, *itertools.product((MINE, OTHER), State)]
HOLDERS = [None, *(("holder", state) for state in sorted(State))]


def said(namesake, holder, on_conflict):
    """The decision in words, the first that fits."""
    if namesake is not None and namesake[0] == MINE:
        return Plan(Publishing.DUPLICATE, "m")
    if namesake is not None and namesake[1] not in ENDED:
        return Plan(Publishing.EXISTING, "m")
    match holder, on_conflict:
        case None, _:
            return Plan(Publishing.ACCEPTED, "m")
        case _, "raise":
            return Plan(Publishing.CONFLICT, "holder")
        case (_, State.READY | State.SCHEDULED), "replace":
            return Plan(Publishing.ACCEPTED, "m", withdraw=True)
    return Plan(Publishing.EXISTING, "holder")


@pytest.mark.parametrize("on_conflict", ["existing", "raise", "replace"])
@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("namesake", NAMESAKES)
def test_each_combination(namesake, holder, on_conflict):
    decided = plan("m", MINE, namesake=namesake, holder=holder, on_conflict=on_conflict)
    assert decided == said(namesake, holder, on_conflict)
    assert decided.insert == (decided.outcome is Publishing.ACCEPTED)
    assert decided.insert or not decided.withdraw
