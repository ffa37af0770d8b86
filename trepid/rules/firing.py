"""Which instants of a schedule are fired, given the last one and the time: without a clock, input or output."""

from __future__ import annotations

from itertools import islice, takewhile
from math import inf

import msgspec

from trepid.rules.instants import following, preceding
from trepid.values.schedule import Schedule


class Decision(msgspec.Struct, frozen=True):
    """What a schedule asks for at some time.

    Attributes:
      fire: instants to be fired, earliest first.
      passed: the instant to which the mark is moved without a message, where none of those that have passed is fired.
      look: when to look again: the next instant, or infinity if there is none.
    """

    fire: tuple[float, ...] = ()
    passed: float | None = None
    look: float = inf


def decide(schedule: Schedule, mark: float, now: float) -> Decision:
    """Decide what a schedule fires.

    Instants that are late by no more than its grace are on time, and fired.  The others are misfires, for which it has
    a policy; what that does not want is passed over.  Either way everything up to now is then done with.

    Args:
      schedule: what to decide about.
      mark: the last instant that was fired or passed over; everything up to it is done with.
      now: the time.
    """
    # Nearly always nothing or one instant has come; to look ahead twice is cheaper than to look both ways.
    ahead = list(islice(following(schedule.when, mark), 2))
    if not ahead or ahead[0] > now:
        return Decision(look=ahead[0] if ahead else inf)
    if len(ahead) == 1 or ahead[1] > now:
        due, look = ahead[:1], next(iter(ahead[1:]), inf)
    else:
        late = takewhile(lambda instant: instant > mark, preceding(schedule.when, now))
        due, look = list(islice(late, schedule.most))[::-1], next(following(schedule.when, now), inf)
    chosen = _chosen(schedule, due, now)
    return Decision(tuple(chosen), None if chosen else due[-1], look)


def _chosen(schedule: Schedule, due: list[float], now: float) -> list[float]:
    on_time = [instant for instant in due if now - instant <= schedule.grace]
    match schedule.misfire:
        case "skip":
            return on_time
        case "once":
            return on_time or due[-1:]
        case "all":
            return due
