"""Leases, as scripts grant and extend them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, final

import attrs
import trio

from trepid.brokers.redis.engine import Engine
from trepid.brokers.redis.publishing import Parcel, by_queue
from trepid.brokers.redis.rows import LITTLE, past, unpack
from trepid.brokers.redis.scripts import EXTEND, LEASE, OWN
from trepid.brokers.redis.settling import REPLIES
from trepid.errors import BrokerLostError, TrepidError
from trepid.ports.messages import Delivery, Extension, Ref
from trepid.rules.gates import QUEUE, share, shares

HANDED_OVER_WITHIN: Final = 1.0
"""Seconds for which a cancelled call waits for what it may have been granted: on a healthy server, no lease is lost."""


@final
@attrs.frozen
class Claim:
    """What was granted.

    Attributes:
      deliveries: the leases.
      turned: whether it mattered which queue was asked first.
      wait: seconds after which time alone may make something leasable, or None; only known where nothing was.
      weight: of the queue, where there is only one.
      trouble: with another queue, which the next call is to hear of.
    """

    deliveries: list[Delivery]
    turned: bool
    wait: float | None
    weight: int = 1
    trouble: TrepidError | None = None


@final
@attrs.frozen
class Wish:
    """What a call of ``lease`` asks for; see the port."""

    queues: Sequence[str]
    limit: int
    lease_for: float
    owner: str


class _Grant(NamedTuple):
    """On what terms leases were granted."""

    now: float
    deadline: float

    def deliveries(self, queue: str, granted: Sequence[bytes]) -> list[Delivery]:
        """Return leases of one queue, from id, life and payload by turns."""
        now, deadline = self
        deliveries: list[Delivery] = []
        for id, blob, payload in zip(granted[::3], granted[1::3], granted[2::3], strict=True):
            life = unpack(blob)
            stray, failures, crashes, gate = None, 0, 0, None
            if len(life) > LITTLE:
                failures, crashes, stray, gate = past(life)
            max_crashes, result_ttl = life[8], life[9]
            deliveries.append(
                Delivery(
                    queue,
                    id.decode(),
                    (life[1], life[3]),
                    payload,
                    life[4],
                    failures,
                    crashes,
                    float(life[2]),
                    float(life[5]),
                    now,
                    deadline,
                    stray,
                    None if result_ttl is False else float(result_ttl),
                    None if max_crashes is False else max_crashes,
                    gate,
                )
            )
        return deliveries


async def lease(engine: Engine, wish: Wish, turn: int, weights: dict[str, int], *, waits: bool) -> Claim:
    """Lease what is there; with *waits* the next publish rings.

    In a cluster queues are asked one by one, and *weights* has what each has said of its own when it was last asked.
    """
    if not engine.keys.clustered or len(wish.queues) < 2:
        return await _lease(engine, wish, turn, waits=waits)
    for queue in wish.queues:
        if queue not in weights:
            weights[queue] = await _weight(engine, queue)
    start, _ = shares([weights[queue] for queue in wish.queues], turn)
    order = [*wish.queues[start:], *wish.queues[:start]]
    deliveries: list[Delivery] = []
    wait: float | None = None
    # Each queue may give its share; what is left over goes round again.
    while order and len(deliveries) < wish.limit:
        more: list[str] = []
        room, weight = wish.limit - len(deliveries), sum(weights[queue] for queue in order)
        for queue in order:
            most = min(share(room, weights[queue], weight), wish.limit - len(deliveries))
            if not most:
                break
            part = attrs.evolve(wish, queues=[queue], limit=most)
            try:
                claim = await _lease(engine, part, turn, waits=waits and not deliveries)
            except (TrepidError, trio.Cancelled) as exc:  # noqa: ASYNC103 - level-triggered: the next checkpoint raises it
                # The server of this queue may be away; those of others are well, and what they have granted is not to
                # be lost with it.
                if not deliveries:
                    raise
                trouble = exc.with_traceback(None) if isinstance(exc, TrepidError) else None
                return Claim(deliveries, turned=True, wait=None, trouble=trouble)  # noqa: ASYNC104
            weights[queue] = claim.weight
            deliveries += claim.deliveries
            if len(claim.deliveries) == most:
                more.append(queue)
            if claim.wait is not None:
                wait = claim.wait if wait is None else min(wait, claim.wait)
        order = more
    return Claim(deliveries, turned=True, wait=wait)


async def _weight(engine: Engine, queue: str) -> int:
    """Return the weight of a queue; 1 if its server is away, until it says otherwise with its first lease."""
    key = engine.keys.limits(queue)
    try:
        packed: bytes | None = await engine.servers.call(key, "HGET", key, QUEUE)
    except BrokerLostError:
        packed = None
    return 1 if packed is None else unpack(packed)[4]


async def _lease(engine: Engine, wish: Wish, turn: int, *, waits: bool) -> Claim:
    claim = await _granted(engine, wish, turn, waits=waits)
    while not claim.deliveries and claim.wait is not None and claim.wait <= 0:
        # What time has decided is carried out in steps that keep nobody waiting; behind it there may be something.
        claim = await _granted(engine, wish, turn, waits=waits)
    return claim


async def _granted(engine: Engine, wish: Wish, turn: int, *, waits: bool) -> Claim:
    # Counted from before it is asked for, so that it never ends later here than there.
    deadline = trio.current_time() + wish.lease_for
    queues = wish.queues
    told = (wish.limit, wish.lease_for, wish.owner, turn, waits)
    packed, *granted = await engine.run(LEASE, queues, *told, through=HANDED_OVER_WITHIN)
    answer: tuple[float, bool, Any, list[int], int] = unpack(packed)
    now, turned, wait, runs, weight = answer
    grant = _Grant(float(now), deadline)
    deliveries: list[Delivery] = []
    first = 0
    for place, count in zip(runs[::2], runs[1::2], strict=True):
        queue: str = queues[place - 1]
        deliveries += grant.deliveries(queue, granted[first : first + 3 * count])
        first += 3 * count
    return Claim(deliveries, turned, None if wait is False else float(wait), weight)


async def extend(engine: Engine, refs: Sequence[Ref], lease_for: float) -> list[Extension]:
    """Let leases run on."""
    if not engine.keys.clustered:
        return await _extend(engine, refs, lease_for)
    extensions: dict[int, Extension] = {}
    for places in by_queue([ref.queue for ref in refs]).values():
        found = await _extend(engine, [refs[place] for place in places], lease_for)
        extensions.update(zip(places, found, strict=True))
    return [extensions[place] for place in range(len(refs))]


async def _extend(engine: Engine, refs: Sequence[Ref], lease_for: float) -> list[Extension]:
    deadline = trio.current_time() + lease_for
    parcel = Parcel(2)
    items = [(parcel.place(ref.queue), ref.id, *ref.token) for ref in refs]
    packed: list[Any] = unpack(await engine.run(EXTEND, parcel.queues, lease_for, items))
    return [
        Extension(REPLIES[reply], None if cancel is False else cancel, deadline if reply == "A" else 0.0)
        for reply, cancel in packed
    ]


async def owned(engine: Engine, queues: Sequence[str], owner: str, *, asked: bool) -> list[tuple[Ref, str]]:
    """Return the leases of an owner, in order of publishing, and why they were asked to stop, if they were."""
    if engine.keys.clustered:
        found = [each for queue in queues for each in await _owned(engine, [queue], owner, asked=asked)]
        return sorted(found, key=lambda each: each[0].token)
    return await _owned(engine, queues, owner, asked=asked)


async def _owned(engine: Engine, queues: Sequence[str], owner: str, *, asked: bool) -> list[tuple[Ref, str]]:
    packed: list[tuple[int, str, int, int, Any]] = unpack(await engine.run(OWN, queues, owner, asked))
    packed.sort(key=lambda found: found[2:4])
    return [
        (Ref(queues[place - 1], id, (seq, delivery)), "" if cancel is False else cancel)
        for place, id, seq, delivery, cancel in packed
    ]
