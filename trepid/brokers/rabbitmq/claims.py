"""What RabbitMQ promises, and what it does not."""

from __future__ import annotations

from trepid.brokers.rabbitmq.topology import RUNG
from trepid.ports.capabilities import Capabilities


def capabilities_of(version: str) -> Capabilities:
    """Return what a server of a version can do; later ones are not asked for more."""
    return Capabilities(
        engine=f"RabbitMQ {version}",
        durability="fsync",
        durability_proof=f"confirmed by quorum queues of RabbitMQ {version}, which write to disk before they confirm",
        fencing="advisory",
        expiry="session",
        priorities="emulated",
        delay="tiered",
        delay_resolution=2 * RUNG,
        deduplication="none",
        unique_ids=False,
        unique=False,
        results="none",
        keeps_place=False,
        crash_counts="approximate",
        atomic_batches=False,
        atomic_settling=False,
        cancel_waiting=False,
        cancel_running=False,
        peek=False,
        exact_stats=False,
        owners=False,
        purge="waiting",
        pause=False,
        certain_cancellation=False,
    )
