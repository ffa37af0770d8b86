"""A draft: one publication on its way from its claim to its confirmation."""

from __future__ import annotations

import attrs
from msgspec.structs import replace

from trepid.brokers.assisted.deeds import TICKET_FOR, Deed, Holder, dump, kept_for, ticket_id
from trepid.brokers.assisted.register import Name, deed_key, holder_key
from trepid.ports.messages import Publication
from trepid.ports.records import Claim, Drop, Step, Write
from trepid.rules.publishing import Published, Publishing, PublishToken


def past_key(queue: str, token: PublishToken) -> str:
    """Return the key under which an old publish of an id is remembered."""
    return f"past/{queue}/{token[0]}/{token[1]:x}"


@attrs.define(eq=False)
class Draft:
    """One publication on its way."""

    item: Publication
    deed: Deed
    answer: Published | None = None
    # Whether the ticket goes to the main engine, once more or for the first time.
    goes: bool = False
    again: bool = False
    claimed: bool = False
    # What had the id before, and has it again if this is not stored.
    former: Deed | None = None
    # A message that waits, to be withdrawn for this one.
    victim: Name | None = None
    key_kept: bytes | None = None

    @property
    def name(self) -> Name:
        """Its queue and id."""
        return (self.item.queue, self.item.id)

    @property
    def holder(self) -> Holder:
        """What its unique key says while it is held."""
        return Holder(self.item.id, self.item.token)

    @property
    def key(self) -> str | None:
        """Where its unique key is kept, if it has one."""
        return None if self.item.unique is None else holder_key((self.item.queue, self.item.unique.key))

    def is_(self, outcome: Publishing, id: str | None = None) -> None:
        """Decide the answer."""
        self.answer = Published(outcome, id or self.item.id)

    @property
    def claim(self) -> Step:
        """The step that claims its id, if nobody has that."""
        return Claim(deed_key(self.name), dump(self.deed), TICKET_FOR)

    @property
    def key_claim(self) -> list[Step]:
        """The step that claims its unique key, if it has one and nobody has that."""
        return [] if self.key is None else [Claim(self.key, dump(self.holder), TICKET_FOR)]

    @property
    def given_back(self) -> Step:
        """The step that leaves the id as it was before it was claimed."""
        key, mine, former = deed_key(self.name), dump(self.deed), self.former
        if former is None:
            return Drop(key, mine)
        return Write(key, dump(former), kept_for(former, self.deed.enqueued), mine)

    @property
    def ticket(self) -> Publication:
        """What the main engine stores.  Whether it was there before is known here alone."""
        return replace(self.item, id=ticket_id(self.item.id, self.item.token), unique=None, remembered=False)
