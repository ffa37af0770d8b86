"""Rows of the table of messages, as values and back."""

from __future__ import annotations

from typing import Any, Final

import attrs
import msgspec

from trepid.ports.messages import MessageView
from trepid.rules.life import Life, State
from trepid.rules.publishing import PublishToken
from trepid.rules.verdicts import Failure

STATES: Final = tuple(State)
"""States by number."""

NUMBERS: Final = {state: number for number, state in enumerate(State)}
"""Numbers by state: waiting ones are below 2, ended ones from 3."""

LIFE_COLUMNS: Final = ", ".join(Life.__struct_fields__)
"""The columns that make a life, in the order of its fields."""

COLUMNS: Final = f"{LIFE_COLUMNS}, queue, id, publisher, publication, priority, enqueued, unique_key"
_N_LIFE: Final = len(Life.__struct_fields__)

_FAILURES: msgspec.json.Decoder[Failure] = msgspec.json.Decoder(Failure)
_ENCODER: Final = msgspec.json.Encoder()


@attrs.frozen(eq=False)
class Row:
    """One message: its life, which changes, and what it was published with, which does not."""

    life: Life
    queue: int
    id: str
    token: PublishToken
    priority: int
    enqueued: float
    unique: str | None

    def with_life(self, life: Life) -> Row:
        """Return the same message at another point of its life."""
        return Row(life, self.queue, self.id, self.token, self.priority, self.enqueued, self.unique)


def load(found: tuple[Any, ...]) -> Row:
    """Return the message in a row of COLUMNS."""
    life = Life(found[0], found[1], STATES[found[2]], *found[3:_N_LIFE])
    queue, id, publisher, publication, priority, enqueued, unique = found[_N_LIFE : _N_LIFE + 7]
    return Row(life, queue, id, (publisher, publication), priority, enqueued, unique)


def dump(life: Life) -> tuple[Any, ...]:
    """Return the columns of a life."""
    values = msgspec.structs.astuple(life)
    return (*values[:2], NUMBERS[life.state], *values[3:])


def view(row: Row, queue: str, payload: bytes, failures: tuple[Failure, ...]) -> MessageView:
    """Return a message as anybody may see it."""
    return MessageView.of(
        row.life,
        queue=queue,
        id=row.id,
        priority=row.priority,
        enqueued=row.enqueued,
        payload=payload,
        errors=failures,
        unique=row.unique,
    )


def write_failure(failure: Failure) -> bytes:
    """Return a failure as it is stored."""
    return _ENCODER.encode(failure)


def read_failure(stored: bytes) -> Failure:
    """Return a failure as it was."""
    return _FAILURES.decode(stored)
