"""Intake: a slot first, then a message."""

from __future__ import annotations

from math import inf

import trio

from trepid.runtime.performing import Performer
from trepid.runtime.settling import TROUBLE, pause_after
from trepid.runtime.shift import Shift
from trepid.runtime.strangers import return_strangers

# Long enough to cost nothing, also in virtual time.  An engine that must look more often does so by itself.
_LONG_POLL = 3600.0


async def receive(shift: Shift, performer: Performer, jobs: trio.Nursery) -> None:
    """Lease messages and start a task for each, until the shift stops or has reached its limit.

    No more is leased than can start at once.  Between a lease and the task that settles it there is no checkpoint.
    """
    queues = shift.worker.queue_names()
    if not queues or not shift.worker.router:
        await trio.sleep_forever()
    lease = shift.worker.lease
    troubles = 0
    while not shift.limit_reached:
        if shift.unsure:
            # Before anything else is leased: strangers count towards no limit.
            await return_strangers(shift)
        room = shift.room()
        if room <= 0:
            await shift.wait_room()
            continue
        # After trouble the first look does not wait: only its return says that the broker is well again.
        wait = _LONG_POLL if shift.ready else 0.0
        try:
            deliveries = await shift.session.lease(queues, room, lease, owner=shift.owner, wait=wait)
        except trio.Cancelled:
            if not shift.session.capabilities.certain_cancellation:
                shift.doubt()
            raise
        except TROUBLE as exc:
            shift.ready = False
            shift.doubt()
            shift.troubled("receive", exc)
            await trio.sleep(pause_after(troubles))
            troubles += 1
            continue
        troubles = 0
        shift.ready = True
        if trio.current_effective_deadline() == -inf and not shift.stopping:
            # Cancelled while the broker was already handing them out: they are released, and never start.
            shift.stop("cancelled", 0.0)
        shift.sweeper.taken(deliveries)
        for delivery in deliveries:
            run = shift.admit(delivery)
            jobs.start_soon(performer.perform, run, name=f"job {delivery.id}")
