"""One message's life, explored breadth first: every event in every state that can be reached within some moves."""

from collections import deque

import pytest
from msgspec.structs import replace

from trepid.rules import lifecycle
from trepid.rules.life import ENDED, LEASED, READY, SCHEDULED, CancelReply, Life, Reply, State
from trepid.rules.lifecycle import TRANSITIONS, Event
from trepid.rules.verdicts import Buried, Done, Failed, Failure, Returned, Withdrawn

OOPS = Failure("E")
VERDICTS = {
    Event.DONE: [Done(b"1", 5), Done(None, 0)],
    Event.FAILED: [Failed(OOPS), Failed(OOPS, delay=0), Failed(OOPS, delay=2)],
    Event.RETURNED: [Returned(), Returned(delay=2), Returned(started=False), Returned(reason="unknown actor")],
    Event.BURIED: [Buried(OOPS)],
    Event.WITHDRAWN: [Withdrawn(5)],
}
BIRTHS = [
    lifecycle.born(1, 0, due, ttl=ttl, max_crashes=max_crashes)
    for due in (0, 2)
    for ttl in (None, 2)
    for max_crashes in (None, 1, 2)
]
DEPTH = 7
LEASE = 2


def tokens(life):
    """The right token first, then those of before, those that never were, and those of other messages."""
    seq, delivery = life.token
    return [(seq, delivery), (seq, delivery - 1), (seq, delivery + 1), (seq - 1, delivery), (seq + 1, delivery)]


def happenings(life, now):
    """Yield what may happen to a life: the event, its reply if it has one, and the life afterwards."""
    present = lifecycle.elapse(life, now)
    if present.state is READY:
        yield Event.TAKEN, None, lifecycle.take(present, "w", now + LEASE)
    if present.state is State.DEAD and present.requeues < 1:
        yield Event.REQUEUE, None, lifecycle.requeue(present, present.seq + 1, now)
    after, reply = lifecycle.cancel(life, "stop", now)
    yield Event.CANCEL, reply, after
    for token in tokens(life):
        after, reply = lifecycle.extend(life, token, now + LEASE, now)
        yield Event.EXTENDED, reply, after
        for event, verdicts in VERDICTS.items():
            for verdict in verdicts:
                after, reply = lifecycle.settle(life, token, verdict, now)
                yield event, reply, after


def explore(births=BIRTHS, depth=DEPTH):
    """Yield every step that can be made: life and time before, event, reply, life afterwards."""
    queue = deque((life, 0, 0) for life in births)
    seen = {(life, 0) for life in births}
    while queue:
        life, now, moves = queue.popleft()
        steps = [(now, event, reply, after) for event, reply, after in happenings(life, now)]
        steps.append((now + 1, None, None, lifecycle.elapse(life, now + 1)))
        for when, event, reply, after in steps:
            yield life, when, event, reply, after
            if moves < depth and (after, when) not in seen:
                seen.add((after, when))
                queue.append((after, when, moves + 1))


def moves_of_time(life, now):
    """Yield the single moves by which time alone brings a life to *now*."""
    while (moment := lifecycle.next_change(life)) is not None and life.state not in ENDED and moment <= now:
        old, life = life, lifecycle.elapse(life, moment)
        event = {LEASED: Event.LEASE_EXPIRED, SCHEDULED: Event.DUE, READY: Event.TTL_PASSED}[old.state]
        yield old.state, event, life.state


ACCEPTED = (None, Reply.APPLIED, CancelReply.WITHDRAWN, CancelReply.REQUESTED)
COUNTERS = ("seq", "deliveries", "failures", "crashes", "returns", "withdrawals", "requeues")


@pytest.fixture(scope="module")
def steps():
    return list(explore())


def test_the_exploration_is_no_stroll(steps):
    assert len(steps) > 20_000


def test_every_move_is_in_the_table_and_every_move_of_the_table_happens(steps):
    happened = set()
    for life, now, event, reply, after in steps:
        happened.update(moves_of_time(life, now))
        present = lifecycle.elapse(life, now)
        if event is not None and reply in ACCEPTED:
            # A retry without a delay is due, and a returned message may be past its ttl, in the same step.
            landed = after.state
            if event in VERDICTS and landed is not State.DONE:
                landed = _before_time(after, event, landed)
            happened.add((present.state, event, landed))
    allowed = {(old, event, new) for (old, event), news in TRANSITIONS.items() for new in news}
    assert happened - allowed == set()
    assert allowed - happened == set()


def _before_time(after, event, landed):
    """Where a verdict brought a life before time went on in the same step."""
    if event is Event.FAILED and landed is READY:
        return SCHEDULED
    if event is Event.RETURNED and landed is State.DEAD:
        return READY
    return landed


def test_every_lease_is_accounted_for(steps):
    for *_, after in steps:
        assert lifecycle.conserved(after), after


def test_counters_never_go_back(steps):
    for life, _, _, _, after in steps:
        for counter in COUNTERS:
            assert getattr(life, counter) <= getattr(after, counter), (counter, life, after)


def test_one_event_counts_once(steps):
    for life, now, event, _, after in steps:
        if event is not None:
            present = lifecycle.elapse(life, now)
            moved = [counter for counter in COUNTERS[1:] if getattr(after, counter) != getattr(present, counter)]
            assert len(moved) <= 1, (moved, event, life, after)


def test_the_end_is_final_except_for_a_requeue(steps):
    for life, _, event, _, after in steps:
        if life.state in ENDED and event is not Event.REQUEUE:
            assert after == life


def test_a_refusal_changes_nothing(steps):
    for life, now, event, reply, after in steps:
        if reply not in ACCEPTED:
            assert after == lifecycle.elapse(life, now), (event, reply)


def test_no_token_is_used_twice(steps):
    for life, _, event, _, after in steps:
        if event is Event.TAKEN:
            assert after.token > life.token


def test_only_the_current_token_in_time_is_applied():
    for life, now, *_ in explore(depth=5):
        for token in tokens(life):
            applies = life.state is LEASED and token == life.token and now < life.until
            reply = lifecycle.settle(life, token, Done(b"1", 5), now)[1]
            assert (reply is Reply.APPLIED) == applies
            assert (lifecycle.extend(life, token, now + LEASE, now)[1] is Reply.APPLIED) == applies


def test_a_return_costs_no_budget(steps):
    for life, now, event, reply, after in steps:
        if event is Event.RETURNED and reply is Reply.APPLIED:
            present = lifecycle.elapse(life, now)
            assert (after.failures, after.crashes, after.seq) == (present.failures, present.crashes, present.seq)


def test_a_return_without_delay_keeps_its_place():
    for life, now, *_ in explore(depth=5):
        after, reply = lifecycle.settle(life, life.token, Returned(), now)
        if reply is Reply.APPLIED and after.state is READY:
            assert (after.due, after.seq) == (life.due, life.seq)


def test_a_repeated_settlement_is_recognised(steps):
    for life, now, event, reply, after in steps:
        if event in VERDICTS and reply is Reply.APPLIED:
            for verdict in VERDICTS[event]:
                assert lifecycle.settle(after, life.token, verdict, now) == (after, Reply.REPEATED)


def test_a_request_to_cancel_is_never_lost(steps):
    for life, _, event, _, after in steps:
        if life.cancel is not None and after.cancel is None:
            assert event is Event.REQUEUE
        if life.cancel is not None and after.state in (READY, SCHEDULED):
            assert event is Event.REQUEUE


def test_a_requeue_starts_both_budgets_afresh(steps):
    for life, _, event, _, after in steps:
        if event is Event.REQUEUE:
            assert (after.attempts, after.recent_crashes, after.state) == (0, 0, READY)
            assert (after.failures, after.crashes) == (life.failures, life.crashes)
            assert (after.reason, after.cancel, after.ended, after.forget, after.expires) == (None,) * 5


def test_time_decides_the_same_in_one_step_as_in_many(steps):
    for life in {life for life, *_ in steps[:20_000]}:
        stepwise = life
        for now in range(15):
            stepwise = lifecycle.elapse(stepwise, now)
            assert stepwise == lifecycle.elapse(life, now)


def test_the_next_change_is_the_next_change(steps):
    for life in {life for life, *_ in steps[:20_000]}:
        moment = lifecycle.next_change(life)
        before = 1e9 if moment is None else moment - 0.001
        assert lifecycle.elapse(life, before) == life
        if moment is not None and life.state not in ENDED:
            assert lifecycle.elapse(life, moment) != life


def test_the_moment_zero_is_a_time_like_any_other():
    life = lifecycle.take(lifecycle.born(1, 0, 0), "w", 10)
    life, _ = lifecycle.settle(life, life.token, Returned(reason="unknown actor"), 0)
    life, _ = lifecycle.settle(lifecycle.take(life, "w", 10), (1, 2), Returned(reason="unknown actor"), 5)
    assert life.stray_since == 0


def strayed():
    """Return a life that was given back for want of its actor, and is leased again."""
    life = lifecycle.take(lifecycle.born(1, 0, 0), "w", 10)
    life, _ = lifecycle.settle(life, life.token, Returned(reason="unknown actor", started=False), 1)
    assert life.stray_since == 1
    return lifecycle.take(life, "w", 10)


@pytest.mark.parametrize("end", [Failed(OOPS, delay=5), Failed(OOPS), Returned(), Returned(5, "snooze"), "a crash"])
def test_whoever_has_the_actor_ends_the_time_without_it(end):
    life = strayed()
    after = lifecycle.elapse(life, 10) if end == "a crash" else lifecycle.settle(life, life.token, end, 2)[0]
    assert after.stray_since is None


def test_a_requeue_begins_the_time_without_an_actor_afresh():
    life = strayed()
    life, _ = lifecycle.settle(life, life.token, Buried(OOPS, "unknown actor"), 2)
    assert life.stray_since == 1
    assert lifecycle.requeue(life, 2, 3).stray_since is None


def test_a_failure_says_at_which_attempt_it_was():
    life = lifecycle.take(lifecycle.born(1, 0, 0), "w", 10)
    for attempt in (1, 2):
        failed, _ = lifecycle.settle(life, life.token, Failed(OOPS, delay=0), 3)
        assert lifecycle.failure_of(Failed(OOPS), failed, 3) == replace(OOPS, at=3, attempt=attempt)
        withdrawn, _ = lifecycle.settle(lifecycle.cancel(life, "stop", 3)[0], life.token, Withdrawn(5, OOPS), 3)
        assert lifecycle.failure_of(Withdrawn(5, OOPS), withdrawn, 3) == replace(OOPS, at=3, attempt=attempt)
        life = lifecycle.take(failed, "w", 10)


def test_crashes_come_back_after_1_2_4_up_to_60_seconds():
    assert [lifecycle.comeback(n) for n in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert lifecycle.comeback(5000) == 60


@pytest.mark.parametrize("crashes", [1, 2, 5])
def test_poison_is_found_out_at_the_last_crash_of_the_budget(crashes):
    life = lifecycle.born(1, 0, 0, max_crashes=crashes)
    now = 0.0
    for _ in range(crashes):
        assert life.state is READY
        life = lifecycle.take(life, "w", now + 1)
        now += 100
        life = lifecycle.elapse(life, now)
    assert (life.state, life.reason, life.crashes) == (State.DEAD, "poison", crashes)


def test_a_message_born_late_is_due_now():
    assert lifecycle.born(1, 100, 50).due == 100
    assert lifecycle.born(1, 100, 50, ttl=10).expires == 110
    assert lifecycle.born(1, 100, 150, ttl=10).expires == 160


def test_a_lease_is_extended_and_never_shortened():
    life = lifecycle.take(lifecycle.born(1, 0, 0), "w", 10)
    assert lifecycle.extend(life, life.token, 20, 5)[0].until == 20
    assert lifecycle.extend(life, life.token, 7, 5)[0].until == 10
    assert lifecycle.extend(life, life.token, 30, 10)[1] is Reply.EXPIRED


@pytest.mark.parametrize(
    ("verdict", "keep"), [(Done(b"1", 7), 7), (Withdrawn(7), 7), (Failed(OOPS), None), (Buried(OOPS), None)]
)
def test_what_ended_is_kept_for_its_time(verdict, keep):
    life = lifecycle.take(lifecycle.born(1, 0, 0, result_ttl=99), "w", 10)
    if isinstance(verdict, Withdrawn):
        life, _ = lifecycle.cancel(life, "stop", 0)
    life, _ = lifecycle.settle(life, life.token, verdict, 3)
    assert life.forget == (None if keep is None else 3 + keep)
    assert life.ended == 3


def test_a_withdrawn_message_is_kept_as_it_was_published_or_a_day():
    assert lifecycle.cancel(lifecycle.born(1, 0, 0, result_ttl=9), "stop", 1)[0].forget == 10
    assert lifecycle.cancel(lifecycle.born(1, 0, 0), "stop", 1)[0].forget == 1 + 86_400


def test_a_life_is_a_value():
    life = lifecycle.born(1, 0, 0)
    assert life == replace(life)
    assert isinstance(life, Life)
    with pytest.raises(AttributeError):
        life.seq = 2
