"""The conformance suite can fail: brokers with one fault each, and every one of them is caught.

A mutant replaces one function of the memory broker's core, or of the rules under it, by one that is a little wrong.
"""

import math

import pytest
from msgspec.structs import replace

from trepid.brokers.memory import Ledger, MemoryBroker, acceptance, looking, store
from trepid.brokers.memory import ledger as ledger_module
from trepid.brokers.memory.departed import Departed
from trepid.brokers.memory.lanes import Lane, Lanes
from trepid.rules import lifecycle
from trepid.rules.life import LEASED, READY, CancelReply, Reply, State
from trepid.rules.publishing import Plan, Publishing, plan
from trepid.rules.verdicts import Done, Failed, Returned
from trepid.testing import check_broker
from trepid.testing.conformance import CASES

# The walks compare a broker with the very rules that some mutants change, and sweeping cancels says little of them.
FAST = [case.name for case in CASES if not case.name.startswith(("cancelled_", "random_", "nothing_is_lost"))]

MUTANTS = {}


def mutant(patch):
    MUTANTS[patch.__name__] = patch
    return patch


class Rules:
    """The rules, with some of them replaced; the others, and the suite's own, stay as they are."""

    def __init__(self, **replaced):
        self._replaced = replaced

    def __getattr__(self, name):
        return self._replaced.get(name) or getattr(lifecycle, name)


def rules(monkeypatch, **replaced):
    for module in (ledger_module, acceptance, store):
        monkeypatch.setattr(module, "lifecycle", Rules(**replaced))


# ------------------------------------------------------------------------------------------------ leases and tokens


@mutant
def no_token_is_checked(monkeypatch):
    def settle(life, token, verdict, now):
        return lifecycle.settle(life, life.token if life.state is LEASED else token, verdict, now)

    rules(monkeypatch, settle=settle)


@mutant
def a_late_settlement_counts(monkeypatch):
    def settle(life, token, verdict, now):
        if life.state is State.SCHEDULED and life.crashes and life.token == token:
            life = replace(life, state=LEASED, until=math.inf, crashes=life.crashes - 1)
        return lifecycle.settle(life, token, verdict, now)

    rules(monkeypatch, settle=settle)
    monkeypatch.setattr(Ledger, "_done", lambda self, row, life, verdict, now: self.moved(row, life, now))


@mutant
def an_extension_revives_a_lease(monkeypatch):
    def extend(life, token, until, now):
        if life.state in (State.SCHEDULED, READY) and life.token == token:
            return replace(life, until=until), Reply.APPLIED
        return lifecycle.extend(life, token, until, now)

    rules(monkeypatch, extend=extend)


@mutant
def an_extension_steals_a_lease(monkeypatch):
    rules(monkeypatch, extend=lambda life, token, until, now: lifecycle.extend(life, life.token, until, now))


@mutant
def an_extension_shortens(monkeypatch):
    def extend(life, token, until, now):
        after, reply = lifecycle.extend(life, token, until, now)
        return (replace(after, until=until), reply) if reply is Reply.APPLIED else (after, reply)

    rules(monkeypatch, extend=extend)
    real = Ledger.advance

    def advance(self, now):
        self.first_expiry = min((row.life.until for row in self.leased.values()), default=math.inf)
        return real(self, now)

    monkeypatch.setattr(Ledger, "advance", advance)


@mutant
def an_extension_does_nothing(monkeypatch):
    rules(monkeypatch, extend=lambda life, token, until, now: (life, lifecycle.standing(life, token, now)))


@mutant
def a_token_is_used_twice(monkeypatch):
    def settle(life, token, verdict, now):
        after, reply = lifecycle.settle(life, token, verdict, now)
        if reply is Reply.APPLIED and isinstance(verdict, Returned):
            after = replace(after, deliveries=after.deliveries - 1)
        return after, reply

    rules(monkeypatch, settle=settle)


@mutant
def a_lease_exceeds_its_limit(monkeypatch):
    real = Ledger.lease
    monkeypatch.setattr(
        Ledger, "lease", lambda self, queues, limit, *rest, **more: real(self, queues, limit + 1, *rest, **more)
    )


@mutant
def a_paused_queue_is_leased_from(monkeypatch):
    def pause(self, queue, *, paused):
        self.shelf(queue).paused = False

    monkeypatch.setattr(Ledger, "pause", pause)


@mutant
def queues_do_not_take_turns(monkeypatch):
    real = Ledger.lease

    def lease(self, queues, *rest, **more):
        self._turn = -1
        return real(self, queues, *rest, **more)

    monkeypatch.setattr(Ledger, "lease", lease)


# ---------------------------------------------------------------------------------------------- order and waiting


@mutant
def a_return_goes_to_the_end(monkeypatch):
    def settle(life, token, verdict, now):
        after, reply = lifecycle.settle(life, token, verdict, now)
        if reply is Reply.APPLIED and isinstance(verdict, Returned) and after.state is READY:
            after = replace(after, due=now + 0.001, seq=after.seq)
        return after, reply

    rules(monkeypatch, settle=settle)


@mutant
def priority_is_ignored(monkeypatch):
    real = Lanes.lane
    monkeypatch.setattr(Lanes, "lane", lambda self, priority: real(self, 5))


@mutant
def due_messages_are_early(monkeypatch):
    rules(
        monkeypatch,
        born=lambda seq, now, due, **rest: lifecycle.born(
            seq, now, due if due <= now else now + (due - now) * 0.9, **rest
        ),
    )


@mutant
def last_in_is_first_out(monkeypatch):
    real = Lane.append

    def append(self, row):
        real(self, row)
        self._fresh.rotate(1)

    monkeypatch.setattr(Lane, "append", append)


@mutant
def a_publish_wakes_nobody(monkeypatch):
    real = Ledger._insert

    def insert(self, *rest):
        real(self, *rest)
        self.stirred = False

    monkeypatch.setattr(Ledger, "_insert", insert)


# ----------------------------------------------------------------------------------------------- counts and budgets


@mutant
def a_return_is_charged(monkeypatch):
    def settle(life, token, verdict, now):
        after, reply = lifecycle.settle(life, token, verdict, now)
        charged = reply is Reply.APPLIED and isinstance(verdict, Returned)
        return (replace(after, failures=after.failures + 1) if charged else after), reply

    rules(monkeypatch, settle=settle)


@mutant
def a_failure_is_not_counted(monkeypatch):
    def settle(life, token, verdict, now):
        after, reply = lifecycle.settle(life, token, verdict, now)
        return (replace(after, failures=life.failures) if isinstance(verdict, Failed) else after), reply

    rules(monkeypatch, settle=settle)


def _after_a_crash(monkeypatch, change):
    def elapse(life, now):
        after = lifecycle.elapse(life, now)
        return change(life, after) if after.crashes > life.crashes else after

    rules(monkeypatch, elapse=elapse)


@mutant
def a_crash_is_not_counted(monkeypatch):
    _after_a_crash(monkeypatch, lambda life, after: replace(after, crashes=life.crashes))


@mutant
def a_crash_comes_back_at_once(monkeypatch):
    _after_a_crash(
        monkeypatch,
        lambda life, after: replace(after, state=READY, due=life.until) if after.state is State.SCHEDULED else after,
    )


@mutant
def poison_is_off_by_one(monkeypatch):
    def born(seq, now, due, *, max_crashes=None, **rest):
        return lifecycle.born(seq, now, due, max_crashes=None if max_crashes is None else max_crashes + 1, **rest)

    rules(monkeypatch, born=born)


@mutant
def a_crash_forgets_the_cancel(monkeypatch):
    def elapse(life, now):
        crashing = life.state is LEASED and now >= life.until
        return lifecycle.elapse(replace(life, cancel=None) if crashing else life, now)

    rules(monkeypatch, elapse=elapse)


@mutant
def a_requeue_keeps_the_spent_budgets(monkeypatch):
    def requeue(life, seq, now):
        return replace(lifecycle.requeue(life, seq, now), spent_failures=0, spent_crashes=0)

    rules(monkeypatch, requeue=requeue)


@mutant
def a_requeued_token_starts_afresh(monkeypatch):
    def requeue(life, seq, now):
        return replace(lifecycle.requeue(life, seq, now), seq=life.seq, deliveries=0)

    rules(monkeypatch, requeue=requeue)


# ----------------------------------------------------------------------------------------------- ttl and cancelling


@mutant
def a_ttl_outlives_the_start(monkeypatch):
    def settle(life, token, verdict, now):
        after, reply = lifecycle.settle(life, token, verdict, now)
        return (replace(after, expires=life.expires) if after.state in (READY, State.SCHEDULED) else after), reply

    rules(monkeypatch, settle=settle)


@mutant
def a_ttl_counts_from_the_publish(monkeypatch):
    def born(seq, now, due, *, ttl=None, **rest):
        return replace(lifecycle.born(seq, now, due, **rest), expires=None if ttl is None else now + ttl)

    rules(monkeypatch, born=born)


@mutant
def a_cancel_beats_done(monkeypatch):
    def settle(life, token, verdict, now):
        if life.cancel is not None and isinstance(verdict, Done):
            verdict = Returned()
        return lifecycle.settle(life, token, verdict, now)

    rules(monkeypatch, settle=settle)
    monkeypatch.setattr(Ledger, "_done", lambda self, row, life, verdict, now: self.moved(row, life, now))


@mutant
def a_cancelled_job_is_retried(monkeypatch):
    def settle(life, token, verdict, now):
        return lifecycle.settle(
            replace(life, cancel=None) if isinstance(verdict, Failed) else life, token, verdict, now
        )

    rules(monkeypatch, settle=settle)


@mutant
def a_running_job_is_withdrawn(monkeypatch):
    def cancel(life, reason, now):
        after, reply = lifecycle.cancel(life, reason, now)
        return after, CancelReply.WITHDRAWN if reply is CancelReply.REQUESTED else reply

    rules(monkeypatch, cancel=cancel)


# ------------------------------------------------------------------------------------------- publishing and keys


@mutant
def a_duplicate_is_stored_twice(monkeypatch):
    def twice(id, token, **rest):
        planned = plan(id, token, **rest)
        return Plan(Publishing.ACCEPTED, id) if planned.outcome is Publishing.DUPLICATE else planned

    monkeypatch.setattr(acceptance, "plan", twice)


@mutant
def a_removed_publish_is_forgotten(monkeypatch):
    monkeypatch.setattr(Departed, "holds", lambda self, token: False)


@mutant
def a_batch_is_stored_in_part(monkeypatch):
    real = Ledger.publish
    monkeypatch.setattr(
        Ledger, "publish", lambda self, batch, now: [each for item in batch for each in real(self, [item], now)]
    )


@mutant
def a_key_is_freed_by_a_lease(monkeypatch):
    real = Ledger.lease

    def lease(self, *rest, **more):
        taken = real(self, *rest, **more)
        for delivery in taken:
            shelf = self.shelves[delivery.queue]
            shelf.uniques.pop(shelf.rows[delivery.id].unique, None)
        return taken

    monkeypatch.setattr(Ledger, "lease", lease)


@mutant
def a_key_is_never_freed(monkeypatch):
    monkeypatch.setattr(store.Store, "_leave", lambda self, row: self.watched.append(row))


@mutant
def a_running_holder_is_replaced(monkeypatch):
    def ruthless(id, token, *, holder=None, **rest):
        return plan(id, token, holder=None if holder is None else (holder[0], READY), **rest)

    monkeypatch.setattr(acceptance, "plan", ruthless)


# ------------------------------------------------------------------------------------------- results and removal


@mutant
def a_result_is_dropped(monkeypatch):
    real = Ledger._done
    monkeypatch.setattr(
        Ledger, "_done", lambda self, row, life, verdict, now: real(self, row, life, replace(verdict, result=None), now)
    )


@mutant
def nobody_is_told_of_the_end(monkeypatch):
    real = store.Store._leave

    def leave(self, row):
        row.watched = False
        real(self, row)

    monkeypatch.setattr(store.Store, "_leave", leave)
    real_done = Ledger._done

    def done(self, row, *rest):
        row.watched = False
        real_done(self, row, *rest)

    monkeypatch.setattr(Ledger, "_done", done)


@mutant
def a_purge_takes_what_is_leased(monkeypatch):
    def purge(self, queue, states, ids, *limit_and_now):
        limit, now = limit_and_now
        gone = [row for row in self.chosen(queue, ids) if row.life.state in states][:limit]
        for row in gone:
            self.leased.pop(row.life.seq, None)
            self.remove(row, now)
        return len(gone)

    monkeypatch.setattr(Ledger, "purge", purge)


@mutant
def follow_ups_come_with_refusals(monkeypatch):
    real = Ledger.settle

    def settle(self, batch, now, then=()):
        replies = real(self, batch, now)
        self.publish(then, now)
        return replies

    monkeypatch.setattr(Ledger, "settle", settle)


@mutant
def looking_counts(monkeypatch):
    real = looking.view

    def view(row):
        row.life = replace(row.life, returns=row.life.returns + 1)
        return real(row)

    monkeypatch.setattr(looking, "view", view)


# ------------------------------------------------------------------------------------------------------ the verdict


@pytest.mark.parametrize("name", MUTANTS)
async def test_a_mutant_is_caught(name, monkeypatch, autojump_clock):
    MUTANTS[name](monkeypatch)
    with pytest.raises(ExceptionGroup, match="memory: does not conform") as caught:
        await check_broker(MemoryBroker, cases=FAST)
    expectations = [error for error in caught.value.exceptions if error.__cause__ is None]
    assert expectations, "caught by a broken promise, and not only by an accident"
    assert {error.case for error in expectations} <= set(FAST)


async def test_the_original_passes(autojump_clock):
    assert (await check_broker(MemoryBroker, cases=FAST)).passed == tuple(FAST)
