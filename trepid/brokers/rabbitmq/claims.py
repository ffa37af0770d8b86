"""What RabbitMQ promises, and what it does not."""

from __future__ import annotations

from trepid.brokers.rabbitmq.topology import RUNG
from trepid.ports.capabilities import Capabilities


def capabilities_of(version: str) -> Capabilities:
    """Return what a server of a version can do; later ones are not asked for more.

    The delay's resolution is that of a server that runs.  One that has crashed forwards what fell due meanwhile after
    ``dead_letter_worker_publisher_confirm_timeout``, three minutes unless its operator has made it shorter.
    """
    return Capabilities(
        engine=f"RabbitMQ {version}",
        durability="fsync",
        durability_proof=f"RabbitMQ {version} agreed to x-queue-type=quorum, and compares again whenever a queue is "
        "declared; such queues write to disk before they confirm (raft.wal_sync_method cannot be read)",
        fencing="advisory",
        expiry="session",
        priorities="emulated",
        delay="tiered",
        delay_resolution=2 * RUNG,
        deduplication="none",
        unique_ids=False,
        unique=False,
        results="none",
        limits=False,
        firing="none",
        holds=False,
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
