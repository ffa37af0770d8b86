"""The decision table, cell by cell: what each operation is answered in each situation."""

import pytest

from trepid.rules import lifecycle
from trepid.rules.life import CancelReply, Reply, State
from trepid.rules.verdicts import Buried, Done, Failed, Failure, Returned, Withdrawn

OOPS = Failure("E")
NOW = 100.0


def ready():
    return lifecycle.born(7, 0, 0)


def mine():
    return lifecycle.take(ready(), "me", NOW + 10)


def settled(verdict, *, asked=False):
    life = mine()
    if asked:
        life, _ = lifecycle.cancel(life, "stop", NOW)
    life, reply = lifecycle.settle(life, life.token, verdict, NOW)
    assert reply is Reply.APPLIED
    return life


# Each life has had one lease, of the token (7, 1); only in "mine" does it stand.
SITUATIONS = {
    "scheduled": settled(Failed(OOPS, delay=50)),
    "ready": settled(Returned()),
    "mine": mine(),
    "mine, asked": lifecycle.cancel(mine(), "stop", NOW)[0],
    "too late": lifecycle.take(ready(), "me", NOW),
    "theirs": lifecycle.take(settled(Returned()), "them", NOW + 10),
    "done": settled(Done(b"1", 9)),
    "dead": settled(Failed(OOPS)),
    "buried": settled(Buried(OOPS)),
    "cancelled": settled(Withdrawn(9), asked=True),
    "anew": lifecycle.requeue(settled(Failed(OOPS)), 8, NOW),
}
VERDICTS = {
    "done": Done(b"1", 9),
    "failed": Failed(OOPS),
    "returned": Returned(),
    "buried": Buried(OOPS),
    "withdrawn": Withdrawn(9),
}
AP, RE, EX, SU, EN, NO = (
    Reply.APPLIED,
    Reply.REPEATED,
    Reply.EXPIRED,
    Reply.SUPERSEDED,
    Reply.ENDED,
    Reply.NOT_ASKED,
)
#                 done failed returned buried withdrawn extend
REPLIES = {
    "scheduled":   (SU, RE, SU, SU, SU, SU),
    "ready":       (SU, SU, RE, SU, SU, SU),
    "mine":        (AP, AP, AP, AP, NO, AP),
    "mine, asked": (AP, AP, AP, AP, AP, AP),
    "too late":    (EX, EX, EX, EX, EX, EX),
    "theirs":      (SU, SU, RE, SU, SU, SU),
    "done":        (RE, EN, EN, EN, EN, EN),
    "dead":        (EN, RE, EN, EN, EN, EN),
    "buried":      (EN, EN, EN, RE, EN, EN),
    "cancelled":   (EN, EN, EN, EN, RE, EN),
    "anew":        (SU, SU, SU, SU, SU, SU),
}  # fmt: skip
CELLS = [
    (situation, operation, reply)
    for situation, replies in REPLIES.items()
    for operation, reply in zip((*VERDICTS, "extended"), replies, strict=True)
]


@pytest.mark.parametrize(("situation", "operation", "reply"), CELLS)
def test_each_cell(situation, operation, reply):
    life = SITUATIONS[situation]
    if operation == "extended":
        after, answer = lifecycle.extend(life, (7, 1), NOW + 99, NOW)
    else:
        after, answer = lifecycle.settle(life, (7, 1), VERDICTS[operation], NOW)
    assert answer is reply
    if reply is not AP:
        assert after == lifecycle.elapse(life, NOW)


AFTER = {
    ("mine", "done"): State.DONE,
    ("mine", "failed"): State.DEAD,
    ("mine", "returned"): State.READY,
    ("mine", "buried"): State.DEAD,
    ("mine, asked", "done"): State.DONE,
    ("mine, asked", "failed"): State.CANCELLED,
    ("mine, asked", "returned"): State.CANCELLED,
    ("mine, asked", "buried"): State.DEAD,
    ("mine, asked", "withdrawn"): State.CANCELLED,
}


@pytest.mark.parametrize(("situation", "operation"), AFTER)
def test_where_an_applied_verdict_leads(situation, operation):
    after, _ = lifecycle.settle(SITUATIONS[situation], (7, 1), VERDICTS[operation], NOW)
    assert after.state is AFTER[situation, operation]
    assert after.owner is None


@pytest.mark.parametrize(
    ("situation", "reply", "state"),
    [
        ("scheduled", CancelReply.WITHDRAWN, State.CANCELLED),
        ("ready", CancelReply.WITHDRAWN, State.CANCELLED),
        ("mine", CancelReply.REQUESTED, State.LEASED),
        ("mine, asked", CancelReply.REQUESTED, State.LEASED),
        ("too late", CancelReply.WITHDRAWN, State.CANCELLED),
        ("theirs", CancelReply.REQUESTED, State.LEASED),
        ("done", CancelReply.FINISHED, State.DONE),
        ("dead", CancelReply.FINISHED, State.DEAD),
        ("buried", CancelReply.FINISHED, State.DEAD),
        ("cancelled", CancelReply.FINISHED, State.CANCELLED),
        ("anew", CancelReply.WITHDRAWN, State.CANCELLED),
    ],
)
def test_each_cancel(situation, reply, state):
    life, answer = lifecycle.cancel(SITUATIONS[situation], "late", NOW)
    assert (answer, life.state) == (reply, state)
    if situation == "mine, asked":
        assert life.cancel == "stop", "the first request stands"


def test_a_token_from_the_future_is_unknown():
    assert lifecycle.standing(mine(), (8, 1), NOW) is Reply.UNKNOWN
    assert lifecycle.standing(mine(), (7, 2), NOW) is Reply.SUPERSEDED
