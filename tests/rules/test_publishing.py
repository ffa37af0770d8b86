"""What a publish does, for every combination of what is there already."""

import itertools

import pytest

from trepid.rules.life import ENDED, State
from trepid.rules.publishing import Plan, Published, Publishing, measured, plan, refusals

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


NEW, REPLACING = Plan(Publishing.ACCEPTED, "new"), Plan(Publishing.ACCEPTED, "in its place", withdraw=True)
THERE, UNDECLARED = Plan(Publishing.EXISTING, "there"), Plan(Publishing.NO_QUEUE, "nowhere")
FULL = Plan(Publishing.FULL, "new")


def test_a_queue_without_room_for_all_takes_nothing_that_is_new():
    asked = []

    def has_room(queue, more):
        asked.append((queue, more))
        return queue == "wide"

    queues, plans = ["narrow", "wide", "narrow", "narrow", "?"], [NEW, NEW, THERE, NEW, UNDECLARED]
    assert measured(queues, plans, has_room) == [FULL, NEW, THERE, FULL, UNDECLARED]
    assert asked == [("narrow", 2), ("wide", 1)], "of what does not grow, nobody need ask"
    assert measured(["narrow"], [REPLACING], has_room) == [REPLACING]
    assert measured(["wide"] * 2, [NEW, NEW], has_room) == [NEW, NEW]


def test_one_refusal_keeps_the_whole_batch_out():
    assert refusals([NEW, THERE, REPLACING]) is None
    assert refusals([]) is None
    assert refusals([NEW, THERE, FULL]) == [
        Published(Publishing.NOT_STORED, "new"),
        Published(Publishing.EXISTING, "there"),
        Published(Publishing.FULL, "new"),
    ]
