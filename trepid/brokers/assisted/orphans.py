"""Orphans: a job whose job nursery is gone, and that still waits, has ended for whoever looks at it.

Neither engine can list what waits, so nobody can sweep it as elsewhere.  But whoever wants to know of a message reads
its deed, and whoever leases its ticket does, too: so it is enough if the deed ends when it is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, final

import trio

from trepid.brokers.assisted.deeds import Deed, cancelled
from trepid.ports.records import Read, Records
from trepid.rules import scopes
from trepid.rules.attempts import Cause
from trepid.rules.life import READY

_MANY: Final = 1000

_AGAIN: Final = 1.0
"""Seconds until a sign of life is looked for again that does not say how long it lasts."""


@final
class Kin:
    """Which job nurseries are alive.  One of which there was a sign is believed in until the sign ends.

    Args:
      signs: where the nurseries give their signs of life.
    """

    def __init__(self, signs: Records) -> None:
        self._signs = signs
        self._believed: dict[str, float] = {}

    async def gone(self, nurseries: Iterable[str], now: float) -> frozenset[str]:
        """Return those nurseries that are gone.

        Each has given its first sign of life before it published a job, so one without a sign is not about to begin.

        Args:
          nurseries: of messages that were read before this call.
          now: the time by the clock of which the signs speak.
        """
        await trio.lowlevel.checkpoint()
        doubtful = [each for each in dict.fromkeys(nurseries) if now >= self._believed.get(each, now)]
        if not doubtful:
            return frozenset()
        if len(self._believed) > _MANY:
            self._believed = {each: until for each, until in self._believed.items() if now < until}
        signs = await self._signs.carry_out([Read(scopes.key(each)) for each in doubtful])
        seen = {each: sign for each, sign in zip(doubtful, signs, strict=True) if sign is not None}
        # No sign lasts longer than that, whatever the clock says of whoever gave it.
        latest = now + scopes.LEASE
        self._believed |= {each: min(scopes.ends(sign) or now + _AGAIN, latest) for each, sign in seen.items()}
        return frozenset(doubtful) - seen.keys()


def nursery_of(deed: Deed | None) -> str | None:
    """Return the job nursery without which a deed would end: that of a message that waits."""
    return deed.scope if deed is not None and deed.state is READY else None


def orphaned(deed: Deed | None, gone: frozenset[str], now: float) -> Deed | None:
    """Return the deed of a message whose nursery is one of those that are gone, or None to leave it as it is."""
    if deed is None or nursery_of(deed) not in gone:
        return None
    return cancelled(deed, now, Cause.ORPHANED.value)
