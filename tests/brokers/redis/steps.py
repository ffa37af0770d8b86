"""What the stories of this folder have in common."""

import itertools

from trepid.ports.messages import Publication, Settlement
from trepid.rules.life import Reply
from trepid.rules.verdicts import Done

NUMBERS = itertools.count()


def publications(queue, count, **fields):
    """Return new messages for a queue."""
    fields = {"payload": b"{}"} | fields
    return [
        Publication(queue, f"m{number}", ("steps", number), **fields) for number in itertools.islice(NUMBERS, count)
    ]


async def settled(session, deliveries, keep=0.0):
    """Settle deliveries as done, and return how many settlements were applied."""
    replies = await session.settle([Settlement(each.ref, Done(b"1", keep)) for each in deliveries])
    return replies.count(Reply.APPLIED)
