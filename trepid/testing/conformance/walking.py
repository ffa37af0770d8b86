"""Random walks: an engine and the pure rules live the same lives, step by step."""

from __future__ import annotations

import random
from typing import Any

import attrs
from msgspec.structs import replace

from trepid.ports.messages import Delivery, MessageView
from trepid.rules import lifecycle
from trepid.rules.life import DEAD, ENDED, LEASED, READY, Life, Reply, State, Token
from trepid.rules.verdicts import Buried, Done, Failed, Returned, Verdict, Withdrawn
from trepid.testing.conformance.report import ConformanceError, holds, same
from trepid.testing.conformance.world import LATE, OOPS, QUEUE, World, case

_STEPS = 150
_MARGIN = 0.3
"""So near to a moment at which time decides something, engine and rules might see it differently."""
_VERDICTS: tuple[Verdict, ...] = (
    Done(b"1", 100.0),
    Done(b"1", 0.0),
    Failed(OOPS),
    Failed(OOPS, delay=0.0),
    Failed(OOPS, delay=17.3),
    Returned(),
    Returned(delay=13.7, reason="snooze"),
    Returned(reason="unstarted", started=False),
    Buried(OOPS),
    Withdrawn(100.0),
)


@attrs.define
class _Message:
    """What the rules say of one message, and what the engine must show of it."""

    id: str
    priority: int
    life: Life
    errors: int = 0

    def shown(self) -> tuple[Any, ...]:
        life = self.life
        return (
            life.state,
            life.attempts,
            life.recent_crashes,
            life.returns,
            life.requeues,
            self.errors,
            life.reason,
            life.owner,
        )


def _seen(view: MessageView) -> tuple[Any, ...]:
    return (
        view.state,
        view.attempts,
        view.crashes,
        view.releases,
        view.requeues,
        len(view.errors),
        view.reason,
        view.owner,
    )


@attrs.define
class _Walk:
    """One walk: the messages as the rules have them, and every lease that was ever granted."""

    world: World
    dice: random.Random
    messages: dict[str, _Message] = attrs.Factory(dict)
    leases: list[tuple[Delivery, Token]] = attrs.Factory(list)
    seq: int = 0
    now: float = 0.0

    async def come_to(self) -> None:
        """Find a moment that is not near to any other, and let time decide what it has decided by then."""
        session = self.world.session
        self.now = await session.now()
        while any(self._near(message.life) for message in self.messages.values()):
            await self.world.pass_time(1.37 * _MARGIN)
            self.now = await session.now()
        for message in list(self.messages.values()):
            message.life = lifecycle.elapse(message.life, self.now)
            self._forget(message)

    def _near(self, life: Life) -> bool:
        moments = (lifecycle.next_change(life), lifecycle.next_change(lifecycle.elapse(life, self.now)))
        return any(moment is not None and abs(moment - self.now) < _MARGIN for moment in moments)

    def _forget(self, message: _Message) -> None:
        if message.life.forget is not None and message.life.forget <= self.now:
            self.messages.pop(message.id, None)

    def next_place(self) -> int:
        self.seq += 1
        return self.seq

    # -------------------------------------------------------------------------------------------------- the steps

    async def publish(self) -> None:
        dice, id = self.dice, f"m{self.next_place()}"
        fields: dict[str, Any] = {
            "delay": dice.choice((None, None, dice.uniform(1, 60))),
            "ttl": dice.choice((None, None, dice.uniform(1, 120))),
            "max_crashes": dice.choice((None, 1, 2, 3)),
            "result_ttl": dice.choice((None, 50.0)),
        }
        priority = dice.choice((0, 5, 9))
        life = lifecycle.born(
            self.seq,
            self.now,
            self.now + (fields["delay"] or 0.0),
            ttl=fields["ttl"],
            max_crashes=fields["max_crashes"],
            result_ttl=fields["result_ttl"],
        )
        await self.world.put(id, priority=priority, **fields)
        self.messages[id] = _Message(id, priority, life)

    async def lease(self) -> None:
        limit, lease_for = self.dice.randint(1, 3), self.dice.uniform(5, 60)
        ready = [message for message in self.messages.values() if message.life.state is READY]
        ready.sort(key=lambda message: (-message.priority, message.life.due, message.life.seq))
        deliveries = await self.world.lease(limit, lease_for=lease_for, owner="walker")
        same("ids that are leased", [each.id for each in deliveries], [message.id for message in ready[:limit]])
        for message, delivery in zip(ready, deliveries, strict=False):
            known = (message.life.failures - message.life.spent_failures, message.life.recent_crashes)
            same(f"failures and crashes of {message.id}", (delivery.failures, delivery.crashes), known)
            message.life = lifecycle.take(message.life, "walker", self.now + lease_for)
            self.leases.append((delivery, message.life.token))

    async def settle(self) -> None:
        if not self.leases:
            return
        delivery, token = self.dice.choice(self.leases[-6:])
        verdict = self.dice.choice(_VERDICTS)
        reply = await self.world.settle(delivery, verdict)
        message = self.messages.get(delivery.id)
        if message is None:
            holds("a message that is gone to be unknown", reply in (Reply.UNKNOWN, Reply.REPEATED), reply)
            return
        life, wanted = lifecycle.settle(message.life, token, verdict, self.now)
        self._compare(f"{verdict} of {delivery.id}, which is {message.life.state}", reply, wanted)
        message.life = life
        if reply is Reply.APPLIED and isinstance(verdict, (Failed, Buried)):
            message.errors += 1
        self._forget(message)

    async def extend(self) -> None:
        if not self.leases:
            return
        delivery, token = self.dice.choice(self.leases[-6:])
        lease_for = self.dice.uniform(5, 60)
        (extension,) = await self.world.session.extend([delivery.ref], lease_for)
        message = self.messages.get(delivery.id)
        if message is None:
            same("an extension of what is gone", extension.reply, Reply.UNKNOWN)
            return
        life, wanted = lifecycle.extend(message.life, token, self.now + lease_for, self.now)
        self._compare(f"an extension of {delivery.id}, which is {message.life.state}", extension.reply, wanted)
        if wanted is Reply.APPLIED:
            same(f"the request to cancel {delivery.id}", extension.cancel, message.life.cancel)
        message.life = life

    async def cancel(self) -> None:
        if not self.messages:
            return
        message = self.dice.choice(list(self.messages.values()))
        (reply,) = await self.world.session.cancel(QUEUE, [message.id], "stop")
        message.life, wanted = lifecycle.cancel(message.life, "stop", self.now)
        same(f"cancel of {message.id}", reply, wanted)
        self._forget(message)

    async def requeue(self) -> None:
        dead = sorted(
            (message for message in self.messages.values() if message.life.state is DEAD),
            key=lambda message: message.life.seq,
        )
        same("requeued", await self.world.session.requeue(QUEUE, limit=2), len(dead[:2]))
        for message in dead[:2]:
            message.life = lifecycle.requeue(message.life, self.next_place(), self.now)

    async def purge(self) -> None:
        ended = [message.id for message in self.messages.values() if message.life.state in ENDED]
        chosen = self.dice.sample(ended, min(2, len(ended)))
        same("purged", await self.world.session.purge(QUEUE, list(ENDED), chosen), len(chosen))
        for id in chosen:
            del self.messages[id]

    async def crash(self) -> None:
        held = [message for message in self.messages.values() if message.life.state is LEASED]
        same("expired", await self.world.session.expire_owner("walker"), len(held))
        for message in held:
            message.life = lifecycle.elapse(replace(message.life, until=self.now), self.now)

    async def wait(self) -> None:
        await self.world.pass_time(self.dice.uniform(1, 40))

    # ------------------------------------------------------------------------------------------------- comparing

    def _compare(self, what: str, got: Reply, wanted: Reply) -> None:
        # Whether a late caller hears of the expiry or of what came after it depends on who has looked since.
        late = (*LATE, Reply.ENDED)
        holds(f"{what}: {wanted!r}", got is wanted or (got in late and wanted in late), got)

    async def compare(self) -> None:
        """Engine and rules must agree on every message."""
        counted = dict.fromkeys(State, 0)
        for message in self.messages.values():
            counted[message.life.state] += 1
            same(f"message {message.id}", _seen(await self.world.view(message.id)), message.shown())
            holds(f"the leases of {message.id} to be accounted for", lifecycle.conserved(message.life), message.life)
        same("counts", await self.world.counts(), {state: count for state, count in counted.items() if count})


async def _walk(world: World, seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311 - a fixed sequence is the point
    walk = _Walk(world, dice)
    moves = [walk.publish] * 4 + [walk.lease] * 5 + [walk.settle] * 6 + [walk.wait] * 3
    moves += [walk.extend, walk.cancel, walk.requeue, walk.purge, walk.crash]
    for step in range(_STEPS):
        move = dice.choice(moves)
        try:
            await walk.come_to()
            await move()
            if step % 5 == 0:
                await walk.come_to()
                await walk.compare()
        except ConformanceError as exc:
            exc.expectation = f"seed {seed}, step {step} ({move.__name__}): {exc.expectation}"
            raise


@case("peek", "requeue", "exact_stats", "priorities", "delay", "cancel_waiting", "cancel_running", hours=True)
async def random_lives_follow_the_rules(world: World) -> None:
    """Through random lives, every reply, order, count and counter is what the rules say."""
    for seed in range(4):
        async with world.fresh() as fresh:
            await _walk(fresh, seed)


@case("exact_stats", "cancel_waiting", "purge")
async def nothing_is_lost_or_doubled(world: World) -> None:
    """What was accepted is in one state or was removed, after any storm of publishes, ends, cancels and purges."""
    dice = random.Random(7)  # noqa: S311 - a fixed sequence is the point
    accepted = removed = 0
    for number in range(60):
        batch = dice.randint(1, 4)
        await world.put(*(f"m{number}-{each}" for each in range(batch)))
        accepted += batch
        for delivery in await world.lease(dice.randint(1, 4)):
            verdict = dice.choice(_VERDICTS[:9])
            await world.end(delivery, verdict)
            removed += isinstance(verdict, Done) and verdict.keep == 0
        if dice.random() < 0.2:
            await world.session.cancel(QUEUE, [f"m{number}-0"], "no")
            removed += await world.session.purge(QUEUE, [dice.choice((State.DONE, State.DEAD, State.READY))], limit=2)
        same("stored and removed", sum((await world.counts()).values()) + removed, accepted)
