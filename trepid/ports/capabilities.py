"""What an engine can do, read from the live engine when it is opened."""

from __future__ import annotations

from typing import Literal

import attrs


@attrs.frozen
class Capabilities:
    """What a broker promises.  Asking for more raises :class:`~trepid.UnsupportedError`.

    Attributes:
      engine: its name and version.
      durability: what an accepted message survives: nothing, the end of the process, or the loss of power.
      durability_proof: the setting that was read to know it.
      fencing: whether late settlements are surely refused.
      priorities: whether priorities are obeyed strictly.
      delay: whether delays are kept, and how.
      delay_resolution: how late a due message may be noticed, in seconds.
      unique: whether unique keys are kept.
      results: whether results are kept, and in which step.
      cancel_waiting, cancel_running: whether messages can be cancelled.
      peek: whether messages can be looked at.
      exact_stats: whether counts are exact.
      requeue: whether dead letters can be brought back.
      pause: whether a queue can be paused for all workers.
      same_transaction: whether a job can be enqueued in the caller's own database transaction.
      certain_cancellation: whether a cancelled operation was surely not applied; else it is only safe to repeat.
      virtual_time: whether it follows a Trio clock such as ``MockClock``.
    """

    engine: str
    durability: Literal["none", "process", "fsync"]
    durability_proof: str
    fencing: Literal["strict", "advisory"] = "strict"
    priorities: bool = True
    delay: Literal["exact", "tiered", "none"] = "exact"
    delay_resolution: float = 0.0
    unique: bool = True
    results: Literal["atomic", "before", "none"] = "atomic"
    cancel_waiting: bool = True
    cancel_running: bool = True
    peek: bool = True
    exact_stats: bool = True
    requeue: bool = True
    pause: bool = True
    same_transaction: bool = False
    certain_cancellation: bool = True
    virtual_time: bool = False
