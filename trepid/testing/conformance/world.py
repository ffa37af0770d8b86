"""What a case is given: one fresh broker, the means to look at it, and the means to let its time pass."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, TypeAlias, final

import attrs
import trio

from trepid.ports.broker import Broker, Session
from trepid.ports.capabilities import Capabilities
from trepid.ports.messages import Delivery, MessageView, Publication, Settlement
from trepid.rules.life import Reply, State
from trepid.rules.publishing import Published, Publishing
from trepid.rules.verdicts import Done, Failed, Failure, Verdict
from trepid.testing.conformance.report import LackingError, holds, same

QUEUE: Final = "q"
OWNER: Final = "owner"
LONG: Final = 3600.0
"""A lease, a delay or a ttl that no case waits for."""
DAY: Final = 86_400.0
COMEBACK: Final = 1.0
"""Seconds that a message stays away after its first crash."""
OOPS: Final = Failure("ValueError", "oops", "frame 1", attempt=1)
LATE: Final = (Reply.EXPIRED, Reply.SUPERSEDED)
"""The answers to whom comes late: the first unless the broker has looked at the message since."""

_LESS: Final = (False, "none", "advisory", "session", "emulated", "window", "approximate", "waiting", "deduplicated")
"""Values of capabilities that promise less than the port does."""

BendTime: TypeAlias = Callable[[float], Awaitable[object]]
MakeBroker: TypeAlias = Callable[[], Broker]


@final
@attrs.frozen(eq=False)
class Case:
    """One promise, and how to see that it is kept.

    Attributes:
      name: by which it is reported.
      promise: what it is about, in a sentence.
      run: raises ConformanceError if the promise is broken.
      needs: capabilities without which there is nothing to see.
      hours: whether more time must pass than anybody would wait for.
    """

    name: str
    promise: str
    run: Callable[[World], Awaitable[None]] = attrs.field(repr=False)
    needs: tuple[str, ...] = ()
    hours: bool = False

    def lacking(self, capabilities: Capabilities, *, bendable: bool) -> str | None:
        """Return what a broker lacks to be put to this case, or None if it has all."""
        for need in self.needs:
            if lacks(capabilities, need):
                name = need.partition(":")[0]
                return f"{capabilities.engine} declares {name}={getattr(capabilities, name)!r}"
        if self.hours and not bendable:
            return "hours would have to pass; give bend_time"
        return None


def case(*needs: str, hours: bool = False) -> Callable[[Callable[[World], Awaitable[None]]], Case]:
    """Declare an async function of a :class:`World` to be a case; its docstring is the promise."""

    def declared(run: Callable[[World], Awaitable[None]]) -> Case:
        name: str = getattr(run, "__name__", "?")
        return Case(name, " ".join((run.__doc__ or "").split()), run, needs, hours)

    return declared


def lacks(capabilities: Capabilities, need: str) -> bool:
    """Whether a broker declares not to have what is needed: a capability, or ``capability:value`` if that will do."""
    name, _, enough = need.partition(":")
    value = getattr(capabilities, name)
    return value in _LESS and value != enough


@final
@attrs.define(eq=False)
class World:
    """A broker that nobody else uses.

    Attributes:
      session: an open session; the queue ``q`` is declared.
      tick: seconds, the shortest span in which a broker surely gets a handful of operations done.
      patience: the scope of the case; who lets time pass moves its deadline on.
      broker: what was opened.
    """

    session: Session
    tick: float
    patience: trio.CancelScope
    broker: Broker
    _make: MakeBroker
    _bend: BendTime
    _sessions: AsyncExitStack
    _tokens: Any = attrs.field(factory=itertools.count)

    # ----------------------------------------------------------------------------------------------------- set-up

    async def other_session(self) -> Session:
        """Open the same broker once more; call it from the case's own task."""
        return await self._sessions.enter_async_context(self.broker.open())

    async def reopen(self) -> None:
        """Close all sessions of this broker, then open it again; call it from the case's own task."""
        await self._sessions.aclose()
        self.session = await self.other_session()

    @asynccontextmanager
    async def fresh(self) -> AsyncGenerator[World, None]:
        """Make another world, with a broker of its own."""
        async with open_world(self._make, self._bend, self.tick, self.patience) as world:
            yield world

    async def pass_time(self, seconds: float) -> None:
        """Let the broker's time pass."""
        self.patience.deadline += seconds
        await self._bend(seconds)

    async def sleep(self, seconds: float) -> None:
        """Let Trio's time pass, as a caller does who waits."""
        self.patience.deadline += seconds
        await trio.sleep(seconds)

    def need(self, capability: str) -> None:
        """End the case here if the broker declares not to have something."""
        if lacks(self.session.capabilities, capability):
            raise LackingError(f"{self.session.capabilities.engine} declares {capability} to be lacking")

    # ------------------------------------------------------------------------------------------------- publishing

    def publication(self, id: str = "m", queue: str = QUEUE, payload: bytes = b"{}", **fields: Any) -> Publication:
        """Build a message; its token is fresh unless given."""
        fields.setdefault("token", ("suite", next(self._tokens)))
        return Publication(queue=queue, id=id, payload=payload, **fields)

    async def publish(self, id: str = "m", **fields: Any) -> Published:
        """Publish one message, whatever the answer."""
        (published,) = await self.session.publish([self.publication(id, **fields)])
        return published

    async def put(self, *ids: str, **fields: Any) -> None:
        """Publish messages that must be accepted; the case ends here if the broker lacks what they ask for."""
        if "delay" in fields or "due" in fields:
            self.need("delay")
        if "unique" in fields:
            self.need("unique")
        replies = await self.session.publish([self.publication(id, **fields) for id in ids or ("m",)])
        same("new messages are accepted", [reply.outcome for reply in replies], [Publishing.ACCEPTED] * len(replies))

    # ---------------------------------------------------------------------------------------------------- leasing

    async def lease(
        self,
        limit: int = 100,
        *,
        lease_for: float = LONG,
        queues: Sequence[str] = (QUEUE,),
        owner: str = OWNER,
        wait: float = 0.0,
        session: Session | None = None,
    ) -> list[Delivery]:
        """Lease whatever is there."""
        return await (session or self.session).lease(list(queues), limit, lease_for, owner=owner, wait=wait)

    async def take(self, lease_for: float = LONG, *, owner: str = OWNER, queue: str = QUEUE) -> Delivery:
        """Lease one message, which must be there."""
        deliveries = await self.lease(1, lease_for=lease_for, owner=owner, queues=[queue])
        same("a ready message is leased", len(deliveries), 1)
        return deliveries[0]

    async def crash(self) -> Delivery:
        """Lease one message and let the lease run out; return what was leased."""
        delivery = await self.take(lease_for=self.tick)
        await self.pass_time(2 * self.tick)
        return delivery

    # --------------------------------------------------------------------------------------------------- settling

    async def settle(self, delivery: Delivery, verdict: Verdict, *, session: Session | None = None) -> Reply:
        """Settle one delivery, whatever the answer."""
        (reply,) = await (session or self.session).settle([Settlement(delivery.ref, verdict)])
        return reply

    async def end(self, delivery: Delivery, verdict: Verdict | None = None) -> None:
        """Settle one delivery, by default as done; it must be applied."""
        reply = await self.settle(delivery, verdict or Done(b"1", DAY))
        same("a settlement in time is applied", reply, Reply.APPLIED)

    @property
    def states(self) -> list[State]:
        """The states into which a message of this broker can be brought, those of no more use first."""
        capabilities = self.session.capabilities
        lacking = {State.CANCELLED: "cancel_waiting", State.SCHEDULED: "delay"}
        order = (State.DONE, State.DEAD, State.CANCELLED, State.LEASED, State.SCHEDULED, State.READY)
        return [state for state in order if state not in lacking or not lacks(capabilities, lacking[state])]

    async def bring(self, state: State, id: str = "m", **fields: Any) -> Delivery | None:
        """Publish a message and bring it into a state; return its lease, if it had one.

        Nothing else may be ready in its queue.  The case ends here if the broker has no such state.
        """
        if state is State.CANCELLED:
            self.need("cancel_waiting")
        queue = fields.get("queue", QUEUE)
        await self.put(id, **({"delay": LONG} if state is State.SCHEDULED else {}), **fields)
        if state in (State.SCHEDULED, State.READY):
            return None
        if state is State.CANCELLED:
            await self.session.cancel(queue, [id], "not wanted")
            return None
        delivery = await self.take(queue=queue)
        if state is not State.LEASED:
            await self.end(delivery, Done(b"1", DAY) if state is State.DONE else Failed(OOPS))
        return delivery

    # ---------------------------------------------------------------------------------------------------- looking

    async def look(self, id: str = "m", queue: str = QUEUE) -> MessageView | None:
        """Look at a message, if it is there."""
        self.need("peek")
        return await self.session.get(queue, id)

    async def glimpse(self, id: str = "m", queue: str = QUEUE) -> MessageView | None:
        """Look at a message as far as the broker lets: None also if it cannot be looked at."""
        if lacks(self.session.capabilities, "peek"):
            await trio.lowlevel.checkpoint()
            return None
        return await self.session.get(queue, id)

    async def view(self, id: str = "m", queue: str = QUEUE) -> MessageView:
        """Look at a message, which must be there."""
        view = await self.look(id, queue)
        holds(f"message {id!r} to be there", view is not None, view)
        assert view is not None
        return view

    async def is_(self, state: State, id: str = "m", queue: str = QUEUE) -> None:
        """The message must be in this state; without a broker that can look, this says nothing."""
        if not lacks(self.session.capabilities, "peek"):
            same(f"state of message {id!r}", (await self.view(id, queue)).state, state)
        else:
            await trio.lowlevel.checkpoint()

    async def counts(self, queue: str = QUEUE) -> dict[State, int]:
        """Count the messages of a queue by state; states without any are left out."""
        self.need("exact_stats")
        stats = await self.session.stats(queue)
        return {state: getattr(stats, state) for state in State if getattr(stats, state)}


@asynccontextmanager
async def open_world(
    make: MakeBroker, bend: BendTime, tick: float, patience: trio.CancelScope
) -> AsyncGenerator[World, None]:
    """Make a broker, open it and declare the queue ``q``."""
    async with AsyncExitStack() as sessions:
        broker = make()
        session = await sessions.enter_async_context(broker.open())
        await session.declare([QUEUE])
        yield World(session, tick, patience, broker, make, bend, sessions)
