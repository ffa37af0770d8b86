"""Records: small values by key, each the last message of a subject, exchanged by its place in the stream."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final, final

import msgspec

from trepid.brokers.nats.jetstream import (
    WRONG_LAST,
    JetStreamError,
    Letterbox,
    deleting,
    last_of,
    next_of,
    storing,
)
from trepid.brokers.nats.office import Office
from trepid.brokers.nats.publishing import too_large
from trepid.ports.records import Claim, Drop, Read, Records, Step, Write
from trepid.wire.nats.connection import NoRespondersError

HEADER: Final = "Trepid-Record"


class _Slip(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is stored with a value: its key, and when it is not there any more."""

    key: str
    until: float | None = None


_encode = msgspec.json.encode
_decode = msgspec.json.Decoder(_Slip).decode


@final
class NatsRecords(Records):
    """Records in a stream."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._swept = 0

    async def carry_out(self, steps: Sequence[Step]) -> list[bytes | None]:
        """Carry out steps in order; see :class:`~trepid.ports.records.Records`."""
        await self._office.jetstream.connection()
        replies = [await self._carry_out(step) for step in steps]
        if any(isinstance(step, (Claim, Write)) for step in steps):
            await self.sweep(2)
        if not steps:
            await self._office.jetstream.look_all([])
        return replies

    async def _carry_out(self, step: Step) -> bytes | None:
        """Look, and then act if nobody has acted in between; else look again."""
        while True:
            found = await self._find(step.key)
            before = self._value(found)
            match step:
                case Read():
                    return before
                case Claim(value=value, ttl=ttl):
                    done = before is not None or await self._put(step.key, value, ttl, found)
                case Write(value=value, ttl=ttl, instead_of=instead_of):
                    fits = instead_of is None or before == instead_of
                    done = not fits or await self._put(step.key, value, ttl, found)
                case Drop(only=only):
                    fits = before is not None and (only is None or before == only)
                    done = not fits or found is None or await self._delete(found)
            if done:
                return before

    def _subject(self, key: str) -> str:
        # Any text is a key, and a subject is no place for any text.
        return self._office.names.record(hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest())

    async def _find(self, key: str) -> Letterbox | None:
        question = last_of(self._office.names.records, self._subject(key))
        return (await self._office.jetstream.look_all([question]))[0]

    def _value(self, found: Letterbox | None) -> bytes | None:
        if found is None or self._expired(found):
            return None
        return found.message.payload

    def _expired(self, found: Letterbox) -> bool:
        value = found.message.header(HEADER.encode())
        try:
            slip = None if value is None else _decode(value)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            slip = None
        return slip is None or (slip.until is not None and slip.until <= self._office.clock.now())

    async def _put(self, key: str, value: bytes, ttl: float | None, found: Letterbox | None) -> bool:
        office = self._office
        slip = _Slip(key, None if ttl is None else office.clock.now() + ttl)
        # A header is a line, and a key may have several: JSON has no line breaks.
        headers = {HEADER: _encode(slip).decode()}
        question = storing(self._subject(key), value, headers, last=0 if found is None else found.seq)
        connection = await office.jetstream.connection()
        if (error := too_large(question, connection.largest)) is not None:
            raise error
        try:
            await office.jetstream.store(question)
        except JetStreamError as exc:
            if exc.number != WRONG_LAST:
                raise
            return False
        except NoRespondersError:
            await office.topology.ensure_records(connection)
            return False
        return True

    async def _delete(self, found: Letterbox) -> bool:
        stream = self._office.names.records
        return (await self._office.jetstream.delete_all([deleting(stream, found.seq)]))[0]

    async def sweep(self, limit: int) -> int:
        """Look at some records in turn, and remove those that have expired; return how many were."""
        names, removed = self._office.names, 0
        for _ in range(limit):
            (found,) = await self._office.jetstream.look_all(
                [next_of(names.records, names.record("*"), self._swept + 1)]
            )
            if found is None:
                self._swept = 0
                break
            self._swept = found.seq
            if self._expired(found):
                removed += await self._delete(found)
        return removed
