"""What two engines can do together."""

from __future__ import annotations

import attrs

from trepid.ports.capabilities import Capabilities


def claims(main: Capabilities, second: Capabilities) -> Capabilities:
    """Return what can be promised of messages in one engine and their deeds in another."""
    return attrs.evolve(
        main,
        engine=f"{main.engine} with {second.engine}",
        deduplication="always",
        unique_ids=True,
        unique=True,
        results="before",
        cancel_waiting=True,
        cancel_running=True,
        same_transaction=False,
        exact_stats=False,
        certain_cancellation=False,
        limits=False,
        firing="deduplicated",
        holds=False,
        records=True,
        virtual_time=main.virtual_time and second.virtual_time,
    )
