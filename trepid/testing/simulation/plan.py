"""What a simulation will do: workers, errands and troubles, all drawn from a seed."""

from __future__ import annotations

from random import Random
from typing import Literal, TypeAlias

import attrs

from trepid.values.queue import Priority
from trepid.values.unique import OnConflict

Ending: TypeAlias = Literal["return", "raise", "retry", "snooze", "bury"]
Manner: TypeAlias = Literal["plain", "tended", "stubborn", "shielded"]
Kind: TypeAlias = Literal["kill", "stop", "cancel", "silence", "loss", "slowness", "full", "stall"]


@attrs.frozen
class Step:
    """One attempt of an errand: how long it takes, and how it ends."""

    seconds: float
    ending: Ending
    delay: float = 0.0


@attrs.frozen
class Errand:
    """One job, and what its attempts will do; after the last step, attempts return.

    Attributes:
      manner: ``tended`` jobs have a child task, ``stubborn`` ones swallow their cancellation, ``shielded`` ones go on
        for a while after it.
    """

    id: str
    queue: str
    at: float
    manner: Manner
    steps: tuple[Step, ...]
    delay: float | None
    priority: Priority
    retries: int
    timeout: float
    ttl: float | None
    unique: tuple[str, OnConflict] | None
    max_crashes: int | None
    cancel_at: float | None


@attrs.frozen
class Post:
    """One place where a worker works, dies, and is replaced."""

    queues: tuple[str, ...]
    tasks_limit: int
    lease: float
    grace: float


@attrs.frozen
class Trouble:
    """Something that goes wrong.

    Attributes:
      at: when it begins.
      kind: ``kill`` is SIGKILL, ``stop`` SIGTERM, ``cancel`` the cancellation of the worker's nursery; ``silence``
        lets nothing through for a while, ``loss`` loses requests and replies, ``slowness`` delays them, a ``full``
        broker refuses to store; ``stall`` stops all programs, but not the clock.
      post: whom it befalls.
      length: for how long.
      strength: how likely it is per operation, or how slow they are in seconds.
    """

    at: float
    kind: Kind
    post: int
    length: float
    strength: float


@attrs.frozen
class Plan:
    """All that a seed decides.

    Attributes:
      calm: after this moment nothing goes wrong any more.
    """

    seed: int
    posts: tuple[Post, ...]
    errands: tuple[Errand, ...]
    troubles: tuple[Trouble, ...]
    calm: float

    @property
    def bound(self) -> float:
        """When every message must have ended, whatever happened: a moment long after the calm began."""
        work = sum(
            (len(errand.steps) + 2) * (errand.timeout + 20.0) + sum(step.delay for step in errand.steps)
            for errand in self.errands
        )
        return self.calm + work + 600.0


SPAN = 60.0
"""For so long do jobs arrive, and things go wrong."""

_QUEUES = ("red", "green", "blue")
_KINDS: tuple[Kind, ...] = (
    *("kill", "kill", "stop", "cancel", "silence", "silence", "silence"),
    *("loss", "loss", "slowness", "full", "stall"),
)


def draw(seed: int) -> Plan:
    """Draw a plan."""
    rng = Random(seed)  # noqa: S311 - repeatable is what it must be
    queues = _QUEUES[: rng.randint(1, len(_QUEUES))]
    posts = tuple(_post(rng, queues, everything=number == 0) for number in range(rng.randint(1, 4)))
    errands = tuple(_errand(rng, f"job{number}", queues) for number in range(rng.randint(5, 25)))
    troubles = tuple(sorted((_trouble(rng, len(posts)) for _ in range(rng.randint(0, 8))), key=lambda each: each.at))
    calm = max([SPAN, *(trouble.at + trouble.length for trouble in troubles)]) + 1.0
    return Plan(seed, posts, errands, troubles, calm)


def _post(rng: Random, queues: tuple[str, ...], *, everything: bool) -> Post:
    some = queues if everything else tuple(rng.sample(queues, rng.randint(1, len(queues))))
    return Post(some, rng.choice((1, 2, 5)), rng.choice((3.0, 6.0, 10.0, 30.0)), rng.choice((0.0, 1.0, 10.0)))


def _errand(rng: Random, id: str, queues: tuple[str, ...]) -> Errand:
    endings: tuple[Ending, ...] = ("return", "return", "return", "raise", "raise", "retry", "snooze", "bury")
    steps = tuple(
        Step(
            rng.choice((0.0, 0.1, 1.0, 4.0, rng.uniform(0.0, 40.0), rng.uniform(0.0, 40.0))),
            rng.choice(endings),
            rng.choice((0.0, 1.0, rng.uniform(0.0, 8.0))),
        )
        for _ in range(rng.randint(0, 5))
    )
    conflicts: tuple[OnConflict, ...] = ("existing", "raise", "replace")
    unique = (rng.choice("xy"), rng.choice(conflicts)) if rng.random() < 0.25 else None
    at = rng.uniform(0.0, SPAN)
    return Errand(
        id,
        rng.choice(queues),
        at,
        rng.choice(("plain", "plain", "tended", "stubborn", "shielded")),
        steps,
        rng.choice((None, None, 0.0, rng.uniform(0.0, 20.0))),
        rng.choice(tuple(Priority)),
        rng.choice((0, 1, 3, 6)),
        rng.choice((0.5, 3.0, 25.0, 60.0)),
        rng.choice((None, None, None, rng.uniform(1.0, 30.0))),
        unique,
        rng.choice((None, None, 1, 2, 5)),
        at + rng.uniform(0.0, 30.0) if rng.random() < 0.2 else None,
    )


def _trouble(rng: Random, posts: int) -> Trouble:
    kind = rng.choice(_KINDS)
    strength = rng.uniform(0.1, 0.9)
    if kind == "slowness":
        strength = rng.choice((0.02, 0.2, 2.0, 8.0))
    length = rng.choice((0.5, 5.0, rng.uniform(0.0, 40.0)))
    return Trouble(rng.uniform(0.0, SPAN), kind, rng.randrange(posts), length, strength)
