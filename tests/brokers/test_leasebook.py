"""The lease book of engines whose server knows no leases, compared with the rules."""

import gc
import weakref

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from trepid.brokers.leasebook import LeaseBook
from trepid.ports.messages import Ref
from trepid.rules import lifecycle
from trepid.rules.life import DONE, LEASED, SCHEDULED, Reply
from trepid.rules.verdicts import Buried, Done, Failed, Failure, Returned, Withdrawn

OOPS = Failure("ValueError", "oops")
VERDICTS = (Done(b"1", 60), Done(None, 0), Failed(OOPS), Failed(OOPS, delay=5), Returned(), Returned(delay=5))
ALL_VERDICTS = (*VERDICTS, Buried(OOPS), Withdrawn(60))


def granted(book, seq=1, *, now=0.0, lease=10.0, owner="me"):
    life = lifecycle.take(lifecycle.born(seq, now, now), owner, now + lease)
    return book.open("q", f"m{seq}", life, message=None)


def settle(book, ref, verdict, now):
    judgement = book.judge(ref, verdict, now)
    if judgement.lease is not None:
        book.close(judgement.lease, judgement.life)
    return judgement.reply


def test_a_settlement_is_applied_once_and_then_recognised():
    for verdict in VERDICTS:
        book = LeaseBook()
        ref = granted(book).ref
        assert settle(book, ref, verdict, 1.0) is Reply.APPLIED
        assert settle(book, ref, verdict, 2.0) is Reply.REPEATED
        assert book.held("me", 2.0) == []
        assert book.next_end() is None


def test_a_late_settlement_is_refused_before_and_after_the_crash_was_carried_out():
    book = LeaseBook()
    lease = granted(book)
    assert settle(book, lease.ref, Done(None, 0), 10.0) is Reply.EXPIRED
    assert book.extend(lease.ref, 99.0, 10.0) is Reply.EXPIRED
    assert book.expired(10.0) == [lease]
    assert book.expired(10.0) == []
    book.close(lease, lifecycle.elapse(lease.life, 10.0))
    assert settle(book, lease.ref, Done(None, 0), 10.0) is Reply.SUPERSEDED
    assert book.extend(lease.ref, 99.0, 10.0) is Reply.SUPERSEDED


def test_what_is_being_settled_does_not_run_out():
    book = LeaseBook()
    lease = granted(book)
    judgement = book.judge(lease.ref, Done(None, 0), 9.0)
    assert judgement.lease is lease
    assert book.held("me", 11.0) == [lease]
    book.free(lease)
    assert book.expired(9.9) == []
    assert book.judge(lease.ref, Done(None, 0), 9.9).lease is lease
    book.free(lease)
    assert book.expired(11.0) == [lease]


def test_an_extension_moves_the_end_and_never_shortens():
    book = LeaseBook()
    lease = granted(book)
    assert book.extend(lease.ref, 30.0, 5.0) is Reply.APPLIED
    assert book.extend(lease.ref, 7.0, 6.0) is Reply.APPLIED
    assert book.next_end() == 10.0, "no later than the end"
    assert book.expired(29.0) == []
    assert book.next_end() == 30.0
    assert book.expired(30.0) == [lease]


def test_a_lost_lease_is_superseded_and_an_unknown_one_unknown():
    book = LeaseBook()
    lease = granted(book)
    book.lose(lease)
    assert book.extend(lease.ref, 99.0, 1.0) is Reply.SUPERSEDED
    assert settle(book, lease.ref, Done(None, 0), 1.0) is Reply.SUPERSEDED
    assert settle(book, Ref("q", "m9", (1, 2)), Done(None, 0), 1.0) is Reply.UNKNOWN
    assert book.extend(Ref("q", "nothing", (1, 1)), 99.0, 1.0) is Reply.UNKNOWN
    book.forget("q", ["m1"])
    assert settle(book, lease.ref, Done(None, 0), 1.0) is Reply.UNKNOWN


def test_a_token_that_nobody_was_given_is_refused():
    book = LeaseBook()
    (first, second) = granted(book).ref.token
    forged = Ref("q", "m1", (first, second + 1))
    assert book.extend(forged, 99.0, 1.0) is Reply.SUPERSEDED
    assert settle(book, forged, Done(None, 0), 1.0) is Reply.SUPERSEDED
    assert settle(book, Ref("q", "m1", (first + 1, second)), Done(None, 0), 1.0) is Reply.UNKNOWN
    assert settle(book, Ref("q", "m1", (first, second)), Done(None, 60), 1.0) is Reply.APPLIED
    assert settle(book, forged, Done(None, 0), 1.0) is Reply.ENDED


def test_a_withdrawal_that_nobody_asked_for_leaves_the_lease():
    book = LeaseBook()
    lease = granted(book)
    assert settle(book, lease.ref, Withdrawn(60), 1.0) is Reply.NOT_ASKED
    assert book.held("me", 1.0) == [lease]
    assert not lease.busy


def test_a_dead_owner_has_no_lease():
    book = LeaseBook()
    mine, yours = granted(book, 1), granted(book, 2, owner="you")
    book.crash(mine, 3.0)
    assert book.expired(3.0) == [mine]
    assert book.held("you", 3.0) == [yours]
    assert book.leased("q", 3.0) == 2, "a crash is counted until it has been carried out"


def test_only_so_many_are_remembered():
    book = LeaseBook(remembered=3)
    refs = [granted(book, seq).ref for seq in range(5)]
    for ref in refs:
        settle(book, ref, Done(None, 60), 1.0)
    replies = [settle(book, ref, Done(None, 60), 2.0) for ref in refs]
    assert replies == [Reply.UNKNOWN] * 2 + [Reply.REPEATED] * 3


class Payload:
    """What an engine keeps with a lease."""


def test_a_lease_that_has_ended_keeps_no_message():
    """Thousands of them are remembered, and their messages may have a mebibyte each."""
    book, first, second = LeaseBook(), Payload(), Payload()
    life = lifecycle.take(lifecycle.born(1, 0.0, 0.0), "me", 10.0)
    long = book.open("q", "long", life, Payload())
    ended = [book.open("q", "done", life, first), book.open("q", "lost", life, second)]
    kept = [weakref.ref(first), weakref.ref(second)]
    del first, second
    assert settle(book, ended[0].ref, Done(None, 60), 1.0) is Reply.APPLIED
    book.lose(ended[1])
    refs = [lease.ref for lease in ended]
    del ended
    gc.collect()
    assert [each() for each in kept] == [None, None]
    assert [settle(book, ref, Done(None, 60), 2.0) for ref in refs] == [Reply.REPEATED, Reply.SUPERSEDED]
    assert book.find(long.ref) is long


def test_ends_of_leases_that_are_over_do_not_pile_up_behind_a_long_one():
    book = LeaseBook(remembered=10)
    granted(book, 0, lease=5.0)
    for seq in range(1, 5_000):
        settle(book, granted(book, seq).ref, Done(None, 60), 1.0)
    assert len(book._ends) < 100
    assert book.next_end() == 5.0


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["grant", "extend", "settle", "crash", "lose", "wait"]),
        st.integers(0, 5),
        st.sampled_from(ALL_VERDICTS),
        st.floats(0.1, 15.0),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_every_reply_is_that_of_the_rules(steps):
    """A model keeps each message's life by the rules alone; the book must say the same, whatever happens."""
    book, now, lives, refs = LeaseBook(), 0.0, {}, []
    for step, which, verdict, span in steps:
        if step == "grant":
            lease = granted(book, len(refs) + 1, now=now, lease=span)
            refs.append(lease.ref)
            lives[lease.ref] = lease.life
        elif step == "wait":
            now += span
        elif refs:
            ref = refs[which % len(refs)]
            life = lives[ref]
            if step == "extend":
                lives[ref], wanted = lifecycle.extend(life, ref.token, now + span, now)
                got = book.extend(ref, now + span, now)
                assert got is wanted or (wanted is Reply.ENDED and got is Reply.UNKNOWN and life.forget <= now)
            elif step == "settle":
                lives[ref], wanted = lifecycle.settle(life, ref.token, verdict, now)
                assert settle(book, ref, verdict, now) is wanted
            elif step == "lose" and (lease := book.find(ref)) is not None:
                book.lose(lease)
                lives[ref] = replace(life, state=SCHEDULED, due=1e9)
            elif step == "crash" and (lease := book.find(ref)) is not None:
                book.crash(lease, now)
                lives[ref] = replace(life, until=min(now, life.until))
        for lease in book.expired(now):
            assert lives[lease.ref].until <= now
            book.close(lease, lifecycle.elapse(lease.life, now))
        for ref in refs:
            lives[ref] = lifecycle.elapse(lives[ref], now)
            assert (book.find(ref) is not None) == (lives[ref].state is LEASED)
        end = book.next_end()
        leased = [life.until for life in lives.values() if life.state is LEASED]
        assert (end is None) == (not leased)
        assert end is None or end <= min(leased)
    assert all(life.state is not DONE or life.verdict == "Done" for life in lives.values())
