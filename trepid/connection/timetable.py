"""The timetable: which schedules a broker has been given, and which of all schedules are paused.

It is kept in the engine's records.  One of them is the index: what is noted of each name, and which record holds its
schedule.  Whatever changes is written to a fresh record first, and then into the index, in exchange for the index that
was read; so the index alone says what counts, and who waits for a change waits for one key.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
from msgspec.structs import replace

from trepid.errors import UnsupportedError
from trepid.ports.broker import Session
from trepid.ports.records import Claim, Drop, Read, Records, Write
from trepid.values import schedule_text
from trepid.values.schedule import Schedule

INDEX: Final = "trepid:schedules"
"""The key of the index."""

_VERSION: Final = 1


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is noted of one name.

    Attributes:
      record: which record holds the schedule, or None if there is only something to say about one in a router.
      paused: whether none of its instants is fired at present.
      since: when it was last resumed, in seconds since the epoch; what came before is over.
    """

    record: str | None = None
    paused: bool = False
    since: float | None = None


class Index(msgspec.Struct, frozen=True):
    """What is noted of all names.

    Attributes:
      entries: by name.
      revision: grows with each change, so that no two indexes look the same.
      v: its version.
    """

    entries: dict[str, Entry] = {}
    revision: int = 0
    v: int = _VERSION


class Stored(msgspec.Struct, frozen=True):
    """A schedule that was given to the broker, and when that first was.

    If its text cannot be read here, there is only a complaint.
    """

    schedule: Schedule | None
    created: float = 0.0
    complaint: Exception | None = None


_INDEXES = msgspec.json.Decoder(Index)
_ENCODER = msgspec.json.Encoder()


def can_schedule(session: Session) -> bool:
    """Whether an engine fires schedules, and keeps them."""
    return session.capabilities.firing != "none" and session.capabilities.records


def refuse_schedules(session: Session) -> None:
    """Refuse what only an engine can do that has schedules.

    Raises:
      UnsupportedError: if it has none.
    """
    if not can_schedule(session):
        hint = "they need an engine with the capabilities firing and records"
        raise UnsupportedError("schedules", session.capabilities.engine, hint)


def refuse_overlap(session: Session, schedule: Schedule) -> None:
    """Refuse a schedule whose overlap policy an engine cannot keep.

    Raises:
      UnsupportedError: if it cannot.
    """
    can = session.capabilities
    if schedule.overlap != "allow" and not can.unique:
        raise UnsupportedError(f"overlap={schedule.overlap!r}, which is a unique key", can.engine)
    if schedule.overlap == "replace" and not (can.cancel_waiting and can.cancel_running):
        raise UnsupportedError("overlap='replace', which cancels", can.engine)


def read_index(value: bytes | None) -> Index:
    """Return what an index says.

    Raises:
      ValueError: if it cannot be read, or is of another version.
    """
    if value is None:
        return Index()
    index = _INDEXES.decode(value)
    if index.v != _VERSION:
        raise ValueError(f"the index of schedules has version {index.v}; version {_VERSION} is read here")
    return index


async def look(records: Records) -> tuple[bytes | None, Index]:
    """Return the index, as it is kept and as it is read."""
    [value] = await records.carry_out([Read(INDEX)])
    return value, read_index(value)


async def known(records: Records) -> tuple[bytes | None, Index, dict[str, Stored]]:
    """Return the index, as it is kept and as it is read, and all schedules that it knows."""
    value, index = await look(records)
    while True:
        stored = await load(records, index)
        if len(stored) == sum(entry.record is not None for entry in index.entries.values()):
            return value, index, stored
        # One was replaced between the two looks; unless its record is lost, and then this is all there is.
        before = value
        value, index = await look(records)
        if value == before:
            return value, index, stored


async def change(records: Records, step: Callable[[Index], Mapping[str, Entry] | None]) -> None:
    """Change the index: again and again, until nobody else did meanwhile.

    Args:
      records: where it is.
      step: from the index to its entries from now on, or to None if they need not change.

    Cancellation: may or may not have been applied; safe to repeat.
    """
    while True:
        value, index = await look(records)
        entries = step(index)
        if entries is None or await _exchanged(records, value, index, entries):
            return


async def _exchanged(records: Records, value: bytes | None, index: Index, entries: Mapping[str, Entry]) -> bool:
    """Put other entries in place of those of an index, unless that has changed; return whether it was so."""
    new = _ENCODER.encode(Index(dict(entries), index.revision + 1))
    step = Claim(INDEX, new, None) if value is None else Write(INDEX, new, None, instead_of=value)
    [before] = await records.carry_out([step])
    # A call that an engine repeats by itself finds what it has written.
    return before in (value, new)


async def load(records: Records, index: Index) -> dict[str, Stored]:
    """Return the schedules that an index knows; one that was replaced meanwhile is missing."""
    keys = {name: _key(name, entry.record) for name, entry in index.entries.items() if entry.record is not None}
    values = await records.carry_out([Read(key) for key in keys.values()])
    return {name: _stored(value) for name, value in zip(keys, values, strict=True) if value is not None}


def _stored(value: bytes) -> Stored:
    try:
        return Stored(*schedule_text.read(value))
    except (ValueError, UnsupportedError) as exc:
        return Stored(None, complaint=exc)


async def store(records: Records, schedule: Schedule, now: float) -> Stored | None:
    """Store a schedule, in place of an earlier one of its name.

    If its time is the same as before, it goes on where that one is; otherwise it begins now, and the earlier one, whose
    mark is of no more use, is returned.
    """
    name = schedule.name
    while True:
        value, index, schedules = await known(records)
        stored = schedules.get(name)
        created = now
        if stored is not None and stored.schedule is not None and stored.schedule.when == schedule.when:
            created = stored.created
        record = secrets.token_hex(8)
        await records.carry_out([Write(_key(name, record), schedule_text.written(schedule, created), None)])
        entry = replace(index.entries.get(name, Entry()), record=record)
        # Only in place of the one that was looked at: another one may be elsewhere.
        if await _exchanged(records, value, index, {**index.entries, name: entry}):
            await _drop(records, name, index.entries.get(name, Entry()).record)
            return stored if stored is not None and stored.created != created else None
        await _drop(records, name, record)


async def remove(records: Records, name: str) -> Stored | None:
    """Forget a schedule that was stored, and all that is noted of its name; return it, if there was one."""
    while True:
        value, index, schedules = await known(records)
        record = index.entries.get(name, Entry()).record
        if record is None:
            return None
        others = {other: entry for other, entry in index.entries.items() if other != name}
        if await _exchanged(records, value, index, others):
            await _drop(records, name, record)
            return schedules.get(name, Stored(None))


async def pause(records: Records, name: str) -> None:
    """Note that a schedule is paused, stored or not."""

    def step(index: Index) -> Mapping[str, Entry] | None:
        entry = index.entries.get(name, Entry())
        return None if entry.paused else {**index.entries, name: replace(entry, paused=True)}

    await change(records, step)


async def resume(records: Records, name: str, now: float) -> None:
    """Note that a schedule is paused no more; the instants of its pause are over."""

    def step(index: Index) -> Mapping[str, Entry] | None:
        entry = index.entries.get(name)
        if entry is None or not entry.paused:
            return None
        return {**index.entries, name: replace(entry, paused=False, since=now)}

    await change(records, step)


async def _drop(records: Records, name: str, record: str | None) -> None:
    """Remove a record that an index had, or would have had, of a name."""
    await records.carry_out([] if record is None else [Drop(_key(name, record))])


def _key(name: str, record: str | None) -> str:
    return f"trepid:schedule:{name}:{record}"
