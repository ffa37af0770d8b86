"""Simulated operation: real workers on the memory broker, a seed full of troubles, and a judge.

A seed decides everything: how many workers there are, which jobs arrive, which workers are killed, stopped, cut off,
slowed down or stalled, and in which order tasks run.  The judge knows the promises: no message is lost, every lease is
accounted for, nothing starts early, no job outlives its lease, nothing starts twice without a fault that explains it, a
stop is no failure, and once the faults stop everything ends.
"""

from __future__ import annotations

from collections import Counter
from typing import final

import attrs

from trepid.testing.simulation.chronicle import Chronicle
from trepid.testing.simulation.determinism import repeatable, seeded
from trepid.testing.simulation.plan import Errand, Plan, Post, Step, Trouble, draw
from trepid.testing.simulation.world import enact

__all__ = ["Errand", "Plan", "Post", "Simulation", "Step", "Trouble", "draw", "repeatable", "simulate"]


@final
@attrs.frozen
class Simulation:
    """What happened in a simulation.

    Attributes:
      plan: what was to happen.
      violations: promises that were broken; empty if all is well.
      digest: a hash of the history; the same seed gives the same one.
      history: what happened, line by line.
      counts: how often noteworthy things happened.
      seconds: how much virtual time passed.
    """

    plan: Plan
    violations: tuple[str, ...]
    digest: str
    history: tuple[str, ...] = attrs.field(repr=False)
    counts: Counter[str] = attrs.field(repr=False)
    seconds: float

    def __str__(self) -> str:
        plan, verdict = self.plan, "; ".join(self.violations) or "all promises were kept"
        size = f"{len(plan.posts)} posts, {len(plan.errands)} jobs, {len(plan.troubles)} troubles"
        return f"seed {plan.seed} ({size}, {self.seconds:.0f} s): {verdict}"


def simulate(seed: int, *, plan: Plan | None = None) -> Simulation:
    """Simulate one seed, in a ``trio.run`` of its own and in virtual time.

    Not to be called from within Trio.  While it runs, the log ``trepid`` is quiet, and the random numbers of the
    program are seeded; both are as before afterwards.

    Args:
      seed: decides everything.
      plan: what is to happen; by default it is drawn from the seed.  Leaving troubles or errands out of a plan that
        fails finds out which of them matter.
    """
    chronicle = Chronicle()
    plan = draw(seed) if plan is None else plan
    with seeded(seed):
        seconds = enact(plan, chronicle)
    return Simulation(
        plan, tuple(chronicle.violations), chronicle.digest(), tuple(chronicle.lines), chronicle.counts, seconds
    )
