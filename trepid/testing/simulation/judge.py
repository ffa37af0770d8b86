"""The judge: knows what was promised, and watches every step."""

from __future__ import annotations

from math import inf
from typing import final

import attrs
import trio

from trepid.brokers.memory import Ledger
from trepid.ports.messages import Delivery, Extension, Publication, Ref, Settlement
from trepid.rules import lifecycle
from trepid.rules.life import DEAD, DONE, ENDED, LIVE, CancelReply, Reply
from trepid.rules.publishing import Published, Publishing
from trepid.rules.verdicts import Buried, Done, Failed, Returned, Verdict, Withdrawn
from trepid.testing.simulation.chronicle import Chronicle
from trepid.testing.simulation.plan import Errand
from trepid.testing.simulation.tenure import Tenure

_ROUNDING = 1e-5


@attrs.define(eq=False)
class Start:
    """One call of an errand's function."""

    at: float
    ended: float | None = None
    how: str | None = None


@attrs.define(eq=False)
class Grant:
    """One lease, as the broker granted it."""

    tenure: Tenure
    at: float
    until: float
    verdict: Verdict | None = None
    start: Start | None = None


@attrs.define(eq=False)
class Case:
    """All that is known about one errand."""

    errand: Errand
    accepted: bool = False
    due: float = inf
    grants: dict[str, Grant] = attrs.field(factory=dict)
    cancelled: CancelReply | None = None
    replaced: bool = False


@final
class Judge:
    """Told of every step; writes violations into the chronicle.

    Trio's clock and the broker's are the same in a simulation, so all times are comparable.
    """

    def __init__(self, chronicle: Chronicle, errands: tuple[Errand, ...], ledger: Ledger) -> None:
        self.chronicle = chronicle
        self.cases = {errand.id: Case(errand) for errand in errands}
        self._ledger = ledger

    # ------------------------------------------------------------------------------------------------- the broker

    def published(self, item: Publication, published: Published) -> None:
        """The broker has answered a publish, whether or not the answer arrives."""
        self.chronicle.note(item.id, f"publish {published.outcome}")
        self.chronicle.count(f"publish {published.outcome}")
        if published.outcome is Publishing.ACCEPTED:
            case = self.cases[item.id]
            self._true(not case.accepted, f"{item.id} was accepted twice")
            case.accepted, case.due = True, trio.current_time() + (item.delay or 0.0)
        if item.unique is not None:
            self._unique(item.queue, item.unique.key)

    def _unique(self, queue: str, key: str) -> None:
        rows = self._ledger.shelves[queue].rows.values()
        live = [row.id for row in rows if row.unique == key and row.life.state in LIVE]
        self._true(len(live) <= 1, f"unique key {key} of {queue} is held by {live}")

    def leased(self, delivery: Delivery, tenure: Tenure, lease: float) -> str:
        """The broker has granted a lease; return its name."""
        now, case = trio.current_time(), self.cases[delivery.id]
        name = f"{delivery.token[0]}.{delivery.token[1]}"
        self.chronicle.note(delivery.id, f"leased {name} to {tenure}")
        self._true(now >= case.due - _ROUNDING, f"{delivery.id} was leased at {now}, due at {case.due}")
        self._true(name not in case.grants, f"{delivery.id}: token {name} was used twice")
        self._true(case.cancelled is None, f"{delivery.id} was leased after it was cancelled")
        for earlier in case.grants.values():
            if earlier.verdict is None:
                held = f"{delivery.id} was leased to {tenure} while {earlier.tenure} held it"
                self._true(now >= earlier.until - _ROUNDING, held)
        ttl = case.errand.ttl
        if ttl is not None and all(_unstarted(grant) for grant in case.grants.values()):
            self._true(now <= case.due + ttl + _ROUNDING, f"{delivery.id} was leased after its ttl")
        case.grants[name] = Grant(tenure, now, now + lease)
        return name

    def extended(self, ref: Ref, extension: Extension, lease: float) -> None:
        """The broker has answered the extension of a lease."""
        if extension.reply is Reply.APPLIED:
            self._grant(ref).until = trio.current_time() + lease
        else:
            self.chronicle.count(f"extend {extension.reply}")

    def settled(self, settlement: Settlement, reply: Reply) -> None:
        """The broker has answered a settlement, whether or not the answer arrives."""
        ref, verdict = settlement.ref, settlement.verdict
        kind = type(verdict).__name__
        self.chronicle.note(ref.id, f"{kind} of {ref.token[0]}.{ref.token[1]}: {reply}")
        self.chronicle.count(f"settle {reply}")
        grant, case, now = self._grant(ref), self.cases[ref.id], trio.current_time()
        if grant.start is None and not grant.tenure.leaving:
            self.chronicle.count("delivered too late")
        if reply is not Reply.APPLIED:
            return
        self._true(grant.verdict is None, f"{ref.id} was settled twice")
        self._true(now < grant.until + _ROUNDING, f"{ref.id} was settled at {now}, after its lease ended")
        grant.verdict = verdict
        self.chronicle.count(f"{kind}{' again' if getattr(verdict, 'delay', None) is not None else ''}")
        self._deserved(case, grant, verdict)
        delay = getattr(verdict, "delay", None)
        if delay is not None:
            case.due = now + delay
        row = self._ledger.row(ref.queue, ref.id)
        self._true(row is not None and lifecycle.conserved(row.life), f"{ref.id} breaks the law of conservation")

    def cancelled(self, id: str, reply: CancelReply) -> None:
        """The broker has answered a request to cancel."""
        self.chronicle.note(id, f"cancel {reply}")
        self.chronicle.count(f"cancel {reply}")
        if reply in (CancelReply.WITHDRAWN, CancelReply.REQUESTED):
            self.cases[id].cancelled = reply

    def _grant(self, ref: Ref) -> Grant:
        return self.cases[ref.id].grants[f"{ref.token[0]}.{ref.token[1]}"]

    # ---------------------------------------------------------------------------------------------- the functions

    def stillborn(self, id: str, name: str) -> bool:
        """Whether a function is called by a program that is dead: Trio runs a new task up to its first checkpoint."""
        return self.cases[id].grants[name].tenure.dead

    def started(self, id: str, name: str) -> Start:
        """An errand's function has been called."""
        case, now = self.cases[id], trio.current_time()
        grant = case.grants[name]
        self.chronicle.note(id, f"started {name} on {grant.tenure}")
        self._true(grant.start is None, f"{id}: lease {name} started twice")
        for other in case.grants.values():
            if other is not grant and other.start is not None and other.start.ended is None:
                self.chronicle.count("overlap")
                self._true(self._may_outlive(case, other), f"{id} was started while it ran on {other.tenure}")
        grant.start = Start(now)
        grant.tenure.running += 1
        limit = grant.tenure.post.tasks_limit
        self._true(grant.tenure.running <= limit, f"{grant.tenure} ran more than {limit} jobs")
        return grant.start

    def _may_outlive(self, case: Case, grant: Grant) -> bool:
        """A job stops before its lease ends, unless it will not, or its program does not run."""
        stubborn = case.errand.manner in ("stubborn", "shielded")
        return stubborn or grant.tenure.dead or grant.tenure.stalled_since(grant.at)

    def ended(self, id: str, name: str, how: str) -> None:
        """An errand's function has ended."""
        case, now = self.cases[id], trio.current_time()
        grant = case.grants[name]
        assert grant.start is not None
        grant.start.ended, grant.start.how = now, how
        grant.tenure.running -= 1
        self.chronicle.note(id, f"ended {name}: {how}")
        # Also where nobody else has taken it yet: that is luck.
        in_time = now < grant.until or self._may_outlive(case, grant)
        self._true(in_time, f"{id} outlived its lease {name}, which ended at {grant.until}")
        self.chronicle.count(f"function {how}")

    def _deserved(self, case: Case, grant: Grant, verdict: Verdict) -> None:
        """A verdict must have its cause in what the function did, or in what was asked of the worker."""
        id, start, tenure = case.errand.id, grant.start, grant.tenure
        how = None if start is None else start.how
        # With a context, an attempt lasts until its children have ended, too; then only the verdict tells its end.
        end = trio.current_time() if case.errand.manner == "tended" or start is None else start.ended
        took = 0.0 if start is None or end is None else end - start.at
        late = took >= case.errand.timeout - _ROUNDING
        match verdict:
            case Done():
                self._true(how == "return", f"{id} is done, but its function ended with {how}")
            case Failed(delay=delay):
                failed = how in ("raise", "retry") or late
                self._true(failed, f"{id} was charged a failure after {took} s, but its function ended with {how}")
                self._true((delay is None) == (self._failures(case) > case.errand.retries), f"{id}: retries miscounted")
            case Returned(reason="snooze"):
                self._true(how == "snooze", f"{id} was snoozed, but its function ended with {how}")
            case Returned(reason="unstarted") if start is None and tenure.explains(grant.at, trio.current_time()):
                pass  # It was delivered too late.
            case Returned():
                self._true(tenure.leaving, f"{id} was returned ({verdict.reason}) by {tenure}, which was not leaving")
            case Buried(reason="poison"):
                self._true(self._crashes(case) >= 5, f"{id} is poison after {self._crashes(case)} crashes")
            case Buried():
                self._true(how == "bury", f"{id} was buried ({verdict.reason}), but its function ended with {how}")
            case Withdrawn():
                self._true(case.cancelled is not None, f"{id} was withdrawn, but nobody had cancelled it")

    def _failures(self, case: Case) -> int:
        return sum(isinstance(grant.verdict, Failed) for grant in case.grants.values())

    def _crashes(self, case: Case) -> int:
        now = trio.current_time()
        return sum(grant.verdict is None and grant.until <= now + _ROUNDING for grant in case.grants.values())

    # ---------------------------------------------------------------------------------------------------- the end

    def unfinished(self) -> list[str]:
        """Return the accepted errands that have not ended."""
        return [id for id, case in self.cases.items() if case.accepted and self._state(case) not in ENDED]

    def close(self) -> None:
        """Judge the whole: nothing lost, everything accounted for, every crash explained."""
        for id, case in self.cases.items():
            if not case.accepted:
                self._true(not case.grants, f"{id} was leased, but never accepted")
                continue
            row = self._ledger.row(case.errand.queue, id)
            if row is None:
                self.chronicle.violated(f"{id} is lost")
                continue
            life, crashes = row.life, self._crashes(case)
            self.chronicle.count(f"end {life.state} {life.reason if life.state is DEAD else ''}".strip())
            self._true(life.state in ENDED, f"{id} has not ended: it is {life.state}")
            self._true(lifecycle.conserved(life), f"{id} breaks the law of conservation: {life}")
            self._true(life.deliveries == len(case.grants), f"{id}: {life.deliveries} leases, {len(case.grants)} seen")
            self._true(life.failures == self._charged(case), f"{id}: {life.failures} failures were charged")
            self._true(life.crashes == crashes, f"{id}: {life.crashes} crashes were charged, {crashes} seen")
            done = any(isinstance(grant.verdict, Done) for grant in case.grants.values())
            self._true(done == (life.state is DONE), f"{id} is {life.state}, done: {done}")
            for name, grant in case.grants.items():
                if grant.verdict is None:
                    self.chronicle.count("crash")
                    explained = grant.tenure.explains(grant.at, grant.until)
                    self._true(explained, f"{id}: nothing explains why lease {name} of {grant.tenure} expired")

    def _charged(self, case: Case) -> int:
        return sum(isinstance(grant.verdict, (Failed, Buried)) for grant in case.grants.values())

    def _state(self, case: Case) -> object:
        row = self._ledger.row(case.errand.queue, case.errand.id)
        return None if row is None else row.life.state

    def _true(self, fact: bool, otherwise: str) -> None:  # noqa: FBT001 - it is what is judged
        if not fact:
            self.chronicle.violated(otherwise)


def _unstarted(grant: Grant) -> bool:
    """Whether a lease was given back before its job had started; a crash leaves that open, and counts as a start."""
    return isinstance(grant.verdict, Returned) and not grant.verdict.started
