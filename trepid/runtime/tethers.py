"""Tethers: jobs of job nurseries inherit a deadline, and do not outlive whoever started them.

A worker looks whether the nursery is alive before it starts a job of it, and again when its sign of life would end.
All looks of one moment are one call, and what was seen serves the next jobs of the same nursery for a little while.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from math import inf

import attrs
import trio

from trepid.ports.broker import Session
from trepid.ports.records import Read
from trepid.rules import scopes
from trepid.rules.attempts import Cause
from trepid.rules.life import Token
from trepid.rules.verdicts import Returned, Verdict, Withdrawn
from trepid.runtime.job_run import JobRun
from trepid.runtime.settling import TROUBLE
from trepid.values.envelope import Envelope

_FRESH = 2.0
"""For so many seconds another job of a nursery is started without a new look."""

_AT_ONCE = 500
"""So many nurseries are looked at in one call."""

_GRACE = 0.05
"""So many seconds after the end of a sign of life it is looked whether there is another."""

_AGAIN = 0.25
"""So many seconds pass between looks at a nursery whose sign should have come by now, or with a broker in trouble."""

_SELDOM = 60.0
"""So many seconds at most pass between two looks, whatever the sign says: clocks are set."""

_NO_WORD = Returned(1.0, "job nursery unknown", started=False)


@attrs.frozen
class _Seen:
    """What was seen of a nursery: when, whether it was alive, and when to look again; moments on Trio's clock."""

    at: float
    alive: bool
    again: float


@attrs.define(eq=False)
class Tethers:
    """Which job nurseries are alive, as far as the jobs go that a shift holds."""

    _session: Session
    _held: Mapping[Token, JobRun]
    _lease: float
    _troubled: Callable[[str, Exception], None]
    _seen: dict[str, _Seen] = attrs.field(init=False, factory=dict)
    # Who waits for a look, by nursery.
    _wanted: dict[str, trio.Event] = attrs.field(init=False, factory=dict)
    _more: trio.Event = attrs.field(init=False, factory=trio.Event)
    # The broker's time less Trio's: roughly, and rather too early than too late.
    _offset: float = attrs.field(init=False, default=0.0)

    async def tie(self, run: JobRun, envelope: Envelope, keep: float) -> Verdict | None:
        """Give a job what its nursery hands down; return a verdict if it must not be started, and otherwise None.

        Args:
          run: what it is about.
          envelope: its own.
          keep: how long the ended message stays readable.
        """
        delivery = run.delivery
        granted = delivery.deadline - self._lease  # no later than that, on Trio's clock
        if envelope.until is not None:
            run.until = granted + (envelope.until - delivery.leased)
        if envelope.scope is None or not self._session.capabilities.records:
            await trio.lowlevel.checkpoint()
            return None
        run.tether, self._offset = envelope.scope, delivery.leased - granted
        alive = await self._alive(envelope.scope)
        if alive is None:
            return _NO_WORD
        return None if alive else Withdrawn(keep, reason=Cause.ORPHANED.value)

    async def _alive(self, scope: str) -> bool | None:
        """Return whether a nursery is alive, or None if the broker does not say."""
        asked = trio.current_time()
        seen = self._seen.get(scope)
        if seen is not None and asked < min(seen.at + _FRESH, seen.again):
            await trio.lowlevel.checkpoint()
            return seen.alive
        self._more.set()
        await self._wanted.setdefault(scope, trio.Event()).wait()
        seen = self._seen.get(scope)
        return None if seen is None or seen.at < asked else seen.alive

    async def watch(self) -> None:
        """Look whenever somebody wants to know, and when signs of life end; a task of the worker's helpers."""
        while True:
            if not self._wanted:
                with trio.CancelScope(deadline=min((seen.again for seen in self._seen.values()), default=inf)):
                    await self._more.wait()
            self._more = trio.Event()
            wanted, self._wanted = self._wanted, {}
            self._forget(wanted)
            now = trio.current_time()
            await self._look([*wanted, *(s for s, seen in self._seen.items() if seen.again <= now and s not in wanted)])
            for event in wanted.values():
                event.set()

    def _forget(self, wanted: Collection[str]) -> None:
        """Forget the nurseries of which no job is here."""
        here = {run.tether for run in self._held.values()}
        self._seen = {scope: seen for scope, seen in self._seen.items() if scope in here or scope in wanted}

    async def _look(self, tethers: Sequence[str]) -> None:
        """Look whether some nurseries are alive, and stop the jobs of those that are not."""
        await trio.lowlevel.checkpoint()
        for start in range(0, len(tethers), _AT_ONCE):
            some = tethers[start : start + _AT_ONCE]
            began = trio.current_time()
            try:
                with trio.fail_after(self._lease / 3):
                    values = await self._session.records.carry_out([Read(scopes.key(scope)) for scope in some])
            except (*TROUBLE, trio.TooSlowError) as exc:
                self._troubled("look for job nurseries", exc)
                again = trio.current_time() + _AGAIN
                self._seen |= {
                    scope: attrs.evolve(self._seen[scope], again=again) for scope in some if scope in self._seen
                }
            else:
                self._seen |= {scope: self._judged(value, began) for scope, value in zip(some, values, strict=True)}
        gone = {scope for scope in tethers if scope in self._seen and not self._seen[scope].alive}
        for run in self._held.values() if gone else ():
            if run.tether in gone and not run.ended:
                run.stop(Cause.ORPHANED, Cause.ORPHANED.value)

    def _judged(self, value: bytes | None, now: float) -> _Seen:
        if value is None:
            return _Seen(now, alive=False, again=inf)
        ends = scopes.ends(value)
        again = inf if ends is None else ends - self._offset + _GRACE
        return _Seen(now, alive=True, again=min(max(again, now + _AGAIN), now + _SELDOM))
