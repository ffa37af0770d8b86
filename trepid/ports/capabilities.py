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
      expiry: who ends a lease that nobody extends: the engine's clock (``lease``), or only the session that took it,
        and if that is gone, the engine once it has noticed (``session``).
      priorities: whether priorities are obeyed strictly, as well as the engine allows (``emulated``), or not at all.
      delay: whether delays are kept, and how.
      delay_resolution: how late a due message may be noticed, in seconds.
      ttl: whether a message can expire before its first start.
      deduplication: for how long a repeated publish is recognised: as the port says, in a short window, or never.
      deduplication_window: how long that window is, in seconds.
      unique_ids: whether an id is held by at most one live message of a queue.
      unique: whether unique keys are kept.
      results: whether results are kept, and in which step.
      keeps_place: whether a message that is released without a delay keeps its place.
      crash_counts: whether every expired lease is counted, or only most (``approximate``).
      atomic_batches: whether all messages of one publish are stored in one step.
      atomic_settling: whether a settlement is one step; if not, a crash in its middle may leave a message twice.
      cancel_waiting, cancel_running: whether messages can be cancelled.
      peek: whether messages can be looked at.
      exact_stats: whether counts are exact.
      owners: whether the engine knows who holds which lease.
      requeue: whether dead letters can be brought back.
      purge: whether messages can be forgotten by state and id (``exact``), or only all that wait (``waiting``).
      pause: whether a queue can be paused for all workers.
      same_transaction: whether a job can be enqueued in the caller's own database transaction.
      certain_cancellation: whether a cancelled operation was surely not applied; else it is only safe to repeat.
      limits: whether it keeps limits of concurrency, rate and size, and weights.
      firing: whether an instant of a schedule is marked and published in one step (``atomic``), or published,
        recognised if repeated, and then marked (``deduplicated``), or not at all.
      holds: whether a unique key can outlive its message (``Unique.for_``).
      records: whether it can be the second engine of a broker that lacks results, unique keys or cancellation.
      virtual_time: whether it follows a Trio clock such as ``MockClock``.
    """

    engine: str
    durability: Literal["none", "process", "fsync"]
    durability_proof: str
    fencing: Literal["strict", "advisory"] = "strict"
    expiry: Literal["lease", "session"] = "lease"
    priorities: Literal["strict", "emulated", "none"] = "strict"
    delay: Literal["exact", "tiered", "none"] = "exact"
    delay_resolution: float = 0.0
    ttl: bool = True
    deduplication: Literal["always", "window", "none"] = "always"
    deduplication_window: float = 120.0
    unique_ids: bool = True
    unique: bool = True
    results: Literal["atomic", "before", "none"] = "atomic"
    keeps_place: bool = True
    crash_counts: Literal["exact", "approximate"] = "exact"
    atomic_batches: bool = True
    atomic_settling: bool = True
    cancel_waiting: bool = True
    cancel_running: bool = True
    peek: bool = True
    exact_stats: bool = True
    owners: bool = True
    requeue: bool = True
    purge: Literal["exact", "waiting", "none"] = "exact"
    pause: bool = True
    same_transaction: bool = False
    certain_cancellation: bool = True
    limits: bool = True
    firing: Literal["atomic", "deduplicated", "none"] = "atomic"
    holds: bool = True
    records: bool = False
    virtual_time: bool = False
