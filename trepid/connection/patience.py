"""Patience: what goes on trying while the broker is away, and what must not."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from math import inf
from typing import Final, TypeVar, final

import attrs
import trio

from trepid.errors import BrokerBusyError, BrokerLostError
from trepid.ports.broker import Session
from trepid.ports.capabilities import Capabilities

T = TypeVar("T")

logger = logging.getLogger("trepid.connection")

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0

_UNKNOWN: Final = (
    "the broker was lost while {what} was on its way, and {engine} would not recognise a repetition: it may be stored, "
    "or not.  Enqueue it again if running it twice does no harm; with a second engine, open_connection(..., "
    "results=...), repetitions are recognised"
)


@final
@attrs.frozen
class Patience:
    """Whether operations wait for a broker that is away.

    There is no time limit in here: whoever needs one has ``trio.fail_after``.

    Args:
      waits: false raises what the broker raises, at once.
    """

    waits: bool = True

    async def repeat(self, what: str, operation: Callable[[], Awaitable[T]]) -> T:
        """Carry out an operation that may be repeated, until the broker has answered it.

        Raises:
          BrokerLostError, BrokerBusyError: if nobody waits.

        Cancellation: as that of the operation; between two attempts nothing is under way.
        """
        troubles = 0
        while True:
            try:
                return await operation()
            except (BrokerLostError, BrokerBusyError) as exc:
                if not self.waits:
                    raise
                _tell(what, exc, troubles)
            await _pause(troubles)
            troubles += 1

    async def publish(self, what: str, session: Session, operation: Callable[[], Awaitable[T]]) -> T:
        """Carry out a publish: repeated for as long as the engine recognises it as the same one.

        Engines without any such memory are not even asked while they are known to be away; who is lost on the way is
        told so.

        Raises:
          BrokerLostError: if nobody waits, or if a repetition might be stored as another message.
          BrokerBusyError: if nobody waits; nothing was stored.

        Cancellation: as that of the operation.
        """
        capabilities = session.capabilities
        always = capabilities.deduplication == "always"
        recognised_until = inf  # from the first attempt on whose end is unknown
        trouble: Exception = BrokerLostError("the broker is away")
        troubles = 0
        while True:
            if always or session.connected or not self.waits:
                began = trio.current_time()
                try:
                    return await operation()
                except (BrokerLostError, BrokerBusyError) as exc:
                    if not self.waits:
                        raise
                    trouble = exc
                if isinstance(trouble, BrokerLostError):
                    recognised_until = min(recognised_until, began + _recognised_for(capabilities))
            _tell(what, trouble, troubles)
            await _pause(troubles)
            troubles += 1
            if trio.current_time() > recognised_until:
                raise BrokerLostError(_UNKNOWN.format(what=what, engine=capabilities.engine)) from trouble


def _recognised_for(capabilities: Capabilities) -> float:
    """Return for how many seconds after a publish another attempt may begin: half of the window is for its way."""
    match capabilities.deduplication:
        case "always":
            return inf
        case "window":
            return capabilities.deduplication_window / 2
        case "none":
            return -inf


def _tell(what: str, trouble: Exception, troubles: int) -> None:
    if troubles == 0:
        logger.warning("waiting for the broker with %s: %s: %s", what, type(trouble).__name__, trouble)


async def _pause(troubles: int) -> None:
    longest = min(_FIRST_PAUSE * 2.0 ** min(troubles, 8), _LONGEST_PAUSE)
    await trio.sleep(longest * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
