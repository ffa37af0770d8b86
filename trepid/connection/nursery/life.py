"""Signs of life of a job nursery, and what its broker's clock says."""

from __future__ import annotations

import logging
import secrets
from contextlib import suppress
from typing import Final

import attrs
import trio

from trepid.connection.patience import Patience
from trepid.errors import BrokerBusyError, BrokerFullError, BrokerLostError
from trepid.ports.broker import Session
from trepid.ports.records import Drop, Write
from trepid.rules import scopes

logger = logging.getLogger("trepid.connection")

TROUBLE: Final = (BrokerLostError, BrokerBusyError, BrokerFullError)
"""What may go wrong at a broker and come right again."""

_DROP_WITHIN: Final = 1.0


@attrs.define(eq=False)
class Life:
    """The record that workers look at, renewed every third of its time.

    Attributes:
      scope: the name of the nursery.
      offset: the broker's time less Trio's; rather too little than too much, so that deadlines are not late.
    """

    _session: Session
    _lease: float
    scope: str = attrs.field(init=False, factory=lambda: secrets.token_hex(8))
    offset: float = attrs.field(init=False, default=0.0)
    _scope: trio.CancelScope = attrs.field(init=False, factory=lambda: trio.CancelScope(shield=True))

    async def begin(self, patience: Patience) -> None:
        """Give the first sign; jobs can be published from now on."""
        await patience.repeat("open a job nursery", self._sign)

    async def keep(self) -> None:
        """Give signs until :meth:`end`; a task of the nursery, which goes on while that is being cancelled."""
        with self._scope:
            pause = self._lease / 3
            while True:
                await trio.sleep(pause)
                pause = self._lease / 3
                try:
                    with trio.fail_after(self._lease / 3):
                        await self._sign()
                except (*TROUBLE, trio.TooSlowError) as exc:
                    logger.warning("a job nursery cannot show that it is alive: %s: %s", type(exc).__name__, exc)
                    pause = min(1.0, self._lease / 10)

    async def _sign(self) -> None:
        broker_time = await self._session.now()
        # Counted to after the answer: the broker looked at its clock before that.
        self.offset = broker_time - trio.current_time()
        value = scopes.sign(broker_time + self._lease)
        await self._session.records.carry_out([Write(scopes.key(self.scope), value, self._lease)])

    async def end(self) -> None:
        """Give no more signs, and take back the last one; if that cannot be done within a second, it ends by itself."""
        self._scope.cancel(reason="the job nursery ends")
        await trio.lowlevel.cancel_shielded_checkpoint()
        with trio.move_on_after(_DROP_WITHIN, shield=True), suppress(*TROUBLE):
            await self._session.records.carry_out([Drop(scopes.key(self.scope))])
