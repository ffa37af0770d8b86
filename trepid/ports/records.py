"""The second, tiny port: small values by key, kept for a while.

A broker that keeps no results, unique keys or requests to cancel borrows them from another engine:
``open_connection(url, results=...)``.  What it borrows is this: a store of small values with four steps.  An engine
offers it as ``Session.records`` and declares ``Capabilities(records=True)``; one that does not need do nothing.

What an engine implements is one method, :meth:`Records.carry_out`, with these rules:

* **Steps go in order, each is atomic.**  Steps of one call are carried out one after the other, and a later one sees
  what an earlier one did.  Each is atomic by itself, against every other session.  A call as a whole need not be: if it
  fails midway (a crash, a lost connection), a leading part of it may have been applied, and nothing else.
* **The reply is what was there before.**  One per step, in order: the value under the key just before the step, or None
  if there was none.  That alone says whether a condition held, so there are no other replies and no errors for it.
* **Durable** when the call returns, as durable as a message that was published on this engine.
* **Expiry is decided by the engine's clock.**  What has expired is not there, for every step and at once, although
  nobody has removed it yet.  Expired values take no room for ever: a table is swept (a few rows with each write, and in
  ``reap``), a server with expiring keys does it by itself.
* **Cancelled or lost**, a call may or may not have been applied; repeating it is safe, since callers put something of
  their own into each value that they claim or exchange, and then find that in the reply.
* Keys are any text of 1 to 1000 characters, values 0 to 2 MiB of bytes.  Keys are a space of their own: they never
  meet queues, ids or unique keys, so an engine stores them apart, or behind a prefix.
* A call is a checkpoint, also without steps.  It raises BrokerLostError, BrokerBusyError and BrokerFullError like every
  other operation of the session.

The cases of ``trepid.testing.check_broker`` that are about records run where the capability is declared.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import TypeAlias

import msgspec
import trio


class Read(msgspec.Struct, frozen=True):
    """Look at a value."""

    key: str


class Claim(msgspec.Struct, frozen=True):
    """Store a value where there is none.

    Attributes:
      key: where.
      value: what.
      ttl: for how many seconds, more than 0; None until it is dropped.
    """

    key: str
    value: bytes
    ttl: float | None


class Write(msgspec.Struct, frozen=True):
    """Store a value, whatever is there, or only in place of a certain other one; its time begins anew.

    Attributes:
      key: where.
      value: what.
      ttl: for how many seconds, more than 0; None until it is dropped.
      instead_of: change nothing unless exactly this is there; None writes in any case.
    """

    key: str
    value: bytes
    ttl: float | None
    instead_of: bytes | None = None


class Drop(msgspec.Struct, frozen=True):
    """Remove a value, if there is one.

    Attributes:
      key: where.
      only: change nothing unless exactly this is there; None removes in any case.
    """

    key: str
    only: bytes | None = None


Step: TypeAlias = Read | Claim | Write | Drop


class Records(abc.ABC):
    """A store of small values; it belongs to an open session, and ends with it."""

    @abc.abstractmethod
    async def carry_out(self, steps: Sequence[Step]) -> list[bytes | None]:
        """Carry out steps in order, and return for each the value that was there just before it.

        Cancellation: may or may not have been applied; safe to repeat.
        """

    async def changed(self, key: str, known: bytes | None, *, wait: float) -> bytes | None:
        """Wait until the value under a key is another than *known*, for at most *wait* seconds, and return it.

        The default looks again and again, from every 20 ms to every second; an engine that can be told does better.
        """
        give_up = trio.current_time() + wait
        pause = _FIRST_PAUSE
        while True:
            [value] = await self.carry_out([Read(key)])
            left = give_up - trio.current_time()
            if value != known or left <= 0:
                return value
            await trio.sleep(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE)


_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0
