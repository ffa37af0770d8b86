"""Outages, made to order: a broker whose operations fail, or dawdle, as a plan says."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from math import inf
from typing import TypeAlias, TypeVar, final

import attrs
import trio

from trepid.errors import BrokerLostError
from trepid.ports.broker import Broker, Session
from trepid.ports.capabilities import Capabilities
from trepid.testing.relay import Relay

T = TypeVar("T")


@attrs.frozen
class Fault:
    """What goes wrong with one operation of a broker.

    Args:
      error: makes the exception that is raised, such as ``BrokerFullError``; None if the operation goes well.
      applied: whether the broker carries the operation out nevertheless.
      delay: seconds that pass before the request arrives.  Cancelled meanwhile, it was not applied.
      reply_delay: seconds that pass before the reply comes back.  Cancelled meanwhile, it was applied.
    """

    error: Callable[[], Exception] | None = None
    applied: bool = True
    delay: float = attrs.field(default=0.0, kw_only=True)
    reply_delay: float = attrs.field(default=0.0, kw_only=True)


def request_lost(*, delay: float = 0.0) -> Fault:
    """Return a fault: after *delay* seconds the connection breaks, and the request has not arrived."""
    return Fault(partial(BrokerLostError, "the request was lost"), applied=False, delay=delay)


def reply_lost(*, delay: float = 0.0) -> Fault:
    """Return a fault: the request is carried out, and after *delay* seconds the connection breaks."""
    return Fault(partial(BrokerLostError, "the reply was lost"), reply_delay=delay)


def refused(error: Callable[[], Exception]) -> Fault:
    """Return a fault: the broker says no, with such an error (``BrokerFullError``), and nothing is applied."""
    return Fault(error, applied=False)


def slow(seconds: float) -> Fault:
    """Return a fault: all goes well, but the request takes this long to arrive."""
    return Fault(delay=seconds)


FaultPlan: TypeAlias = Callable[[str], Fault | None]
"""Asked once per operation, by the name of the port's method: what goes wrong with it, or None."""


@attrs.define(eq=False)
class _Planned:
    operations: frozenset[str]
    fault: Fault
    times: float


@final
class Faults:
    """A plan that a test writes as it goes.

    ``faults.next("settle", reply_lost())`` plans one fault, ``with faults.outage():`` an outage, and ``faults.away(5)``
    lets the broker be away for five seconds.
    """

    def __init__(self) -> None:
        self._planned: list[_Planned] = []
        self._away_until = -inf

    @property
    def connected(self) -> bool:
        """Whether the broker can be reached at all: not while it is away."""
        return trio.current_time() >= self._away_until

    def __call__(self, operation: str) -> Fault | None:
        """Return what goes wrong with an operation that starts now.  What was planned first comes first."""
        if not self.connected:
            return request_lost()
        for planned in self._planned:
            if not planned.operations or operation in planned.operations:
                planned.times -= 1
                if planned.times < 1:
                    self._planned.remove(planned)
                return planned.fault
        return None

    def next(self, operations: str | tuple[str, ...], fault: Fault, *, times: float = 1) -> None:
        """Plan that something goes wrong.

        Args:
          operations: with which methods of the port, such as ``"publish"`` or ``("settle", "extend")``, or with
            ``"records"``; an empty tuple is all of them.
          fault: what.
          times: how often; ``math.inf`` until :meth:`clear`.
        """
        names = (operations,) if isinstance(operations, str) else operations
        for name in names:
            if name != "records" and not callable(getattr(Session, name, None)):
                raise ValueError(f"a broker has no operation {name!r}")
        if not times >= 1:
            raise ValueError(f"times must be 1 or more, not {times!r}")
        self._planned.append(_Planned(frozenset(names), fault, times))

    def away(self, seconds: float) -> None:
        """Let the broker be away for some seconds of Trio's time: nothing reaches it, and its sessions know that."""
        self._away_until = trio.current_time() + seconds

    def clear(self) -> None:
        """Let everything go well from now on."""
        self._planned.clear()
        self._away_until = -inf

    @contextmanager
    def outage(self, fault: Fault | None = None) -> Generator[None, None, None]:
        """Let every operation that starts inside of the block fail, by default as a lost request."""
        everything = _Planned(frozenset(), fault or request_lost(), inf)
        self._planned.insert(0, everything)
        try:
            yield
        finally:
            self._planned = [planned for planned in self._planned if planned is not everything]


@final
class FaultyBroker(Broker):
    """A broker whose operations fail as a plan says.

    Args:
      inner: the broker that does the work.
      plan: a :class:`Faults`, or any function from the name of an operation to a :class:`Fault` or None.
    """

    def __init__(self, inner: Broker, plan: FaultPlan) -> None:
        self.inner = inner
        self.plan = plan

    def __str__(self) -> str:
        return f"faulty {self.inner}"

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Session, None]:
        """Open the inner broker; opening itself always goes well."""
        async with self.inner.open() as session:
            yield FaultySession(session, self.plan)


@final
class FaultySession(Relay):
    """An open :class:`FaultyBroker`."""

    def __init__(self, inner: Session, plan: FaultPlan) -> None:
        super().__init__(inner)
        self._plan = plan

    @property
    def capabilities(self) -> Capabilities:
        """What the inner session can do; but who is cancelled while a reply is delayed does not know what was done."""
        return attrs.evolve(self.inner.capabilities, certain_cancellation=False)

    @property
    def connected(self) -> bool:
        """Whether the broker can be reached: not while a :class:`Faults` lets it be away."""
        return self.inner.connected and not (isinstance(self._plan, Faults) and not self._plan.connected)

    async def carry(self, operation: str, call: Callable[[], Awaitable[T]]) -> T:
        """Carry out an operation, as well as the plan lets it go."""
        fault = self._plan(operation)
        if fault is None:
            return await call()
        if fault.delay:
            await trio.sleep(fault.delay)
        if not fault.applied:
            await trio.lowlevel.checkpoint()
            assert fault.error is not None, "an operation that is not carried out needs an error to say so"
            raise fault.error()
        reply = await call()
        if fault.reply_delay:
            await trio.sleep(fault.reply_delay)
        if fault.error is not None:
            raise fault.error()
        return reply
