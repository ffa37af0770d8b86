"""The register: the deeds, epochs and unique keys of one second engine, and how they are changed."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import count
from typing import TypeAlias, TypeVar, final

import attrs
import trio
from msgspec.structs import replace

from trepid.brokers.assisted.deeds import Deed, Epoch, Holder, dump, elapse, kept_for, load, load_epoch, load_holder
from trepid.brokers.assisted.orphans import Kin, nursery_of, orphaned
from trepid.errors import BrokerBusyError, BrokerLostError
from trepid.ports.broker import Session
from trepid.ports.records import Claim, Drop, Read, Records, Step, Write

T = TypeVar("T")

Name: TypeAlias = tuple[str, str]
"""A queue and an id, or a queue and a unique key."""

Change: TypeAlias = Callable[["Entry"], Deed | None]
"""Makes of an entry as it is the deed as it shall be, or None to leave it as it is."""


@attrs.frozen
class Entry:
    """A deed as it was read: what may replace it must name the same bytes.

    Attributes:
      stored: the deed as it is kept; None if there is none.
      kept: its bytes.
      deed: the deed after what time has decided; None if there is none, or it is void.
      epoch: that of its queue.
      now: when it was read, by the main engine's clock.
    """

    stored: Deed | None
    kept: bytes | None
    deed: Deed | None
    epoch: Epoch
    now: float


def deed_key(name: Name) -> str:
    """Return the key of a deed."""
    return f"deed/{name[0]}/{name[1]}"


def holder_key(name: Name) -> str:
    """Return the key of whoever holds a unique key."""
    return f"unique/{name[0]}/{name[1]}"


def epoch_key(queue: str) -> str:
    """Return the key of a queue's epoch."""
    return f"epoch/{queue}"


def exchange(key: str, value: Deed | Epoch | Holder, ttl: float | None, kept: bytes | None) -> Step:
    """Return the step that puts a value in the place of exactly what was there, or of nothing."""
    return Claim(key, dump(value), ttl) if kept is None else Write(key, dump(value), ttl, kept)


def in_waves(items: Iterable[T], name: Callable[[T], Name]) -> list[dict[Name, T]]:
    """Sort items into as few waves as possible in which no name occurs twice, each in order: ordinarily one."""
    waves: list[dict[Name, T]] = []
    for item in items:
        wave = next((wave for wave in waves if name(item) not in wave), None)
        if wave is None:
            wave = {}
            waves.append(wave)
        wave[name(item)] = item
    return waves


def bell_key(owner: str) -> str:
    """Return the key under which a worker is told that it has been asked for something."""
    return f"bell/{owner}"


_RINGS_FOR = 60.0
_LONG_POLL = 3600.0


@final
class Register:
    """What the second engine keeps for the main one.

    Args:
      records: where.
      main: whose clock counts.
      signs: where job nurseries show that they are alive.
    """

    def __init__(self, records: Records, main: Session, signs: Records) -> None:
        self._records = records
        self._main = main
        self._kin = Kin(signs)
        self._epochs: dict[str, Epoch] = {}
        self._marks = count(secrets.randbits(31) << 32)

    def marked(self, deed: Deed) -> Deed:
        """Return a deed with a mark that no other write of it has."""
        return replace(deed, mark=next(self._marks))

    async def carry_out(self, steps: Sequence[Step]) -> list[bytes | None]:
        """Carry out steps on the records."""
        return await self._records.carry_out(steps)

    def ring(self, owner: str) -> Step:
        """Return the step that tells a worker that one of its messages was asked to stop."""
        return Write(bell_key(owner), str(next(self._marks)).encode(), _RINGS_FOR)

    async def wait_for(self, key: str, known: bytes | None, wake: trio.CancelScope) -> None:
        """Cancel *wake* once a value is another than *known*.  A hint: it never comes while the engine is away."""
        with suppress(BrokerLostError, BrokerBusyError):
            await self._records.changed(key, known, wait=_LONG_POLL)
            wake.cancel(reason="a record has changed")

    def known_epoch(self, queue: str) -> Epoch:
        """Return the epoch of a queue as it was when it was last seen."""
        return self._epochs.get(queue, Epoch())

    def saw_epoch(self, queue: str, kept: bytes | None) -> Epoch:
        """Take note of an epoch."""
        epoch = self._epochs[queue] = load_epoch(kept)
        return epoch

    async def read(self, names: Iterable[Name]) -> dict[Name, Entry]:
        """Look up deeds, once each."""
        wanted = list(dict.fromkeys(names))
        queues = list(dict.fromkeys(queue for queue, _ in wanted))
        now = await self._main.now()
        # The epochs first: a deed that is newer than its epoch is none too old.
        steps: list[Step] = [Read(epoch_key(queue)) for queue in queues]
        steps += [Read(deed_key(name)) for name in wanted]
        found = await self.carry_out(steps)
        for queue, kept in zip(queues, found, strict=False):
            self.saw_epoch(queue, kept)
        return {name: self.entry(name, kept, now) for name, kept in zip(wanted, found[len(queues) :], strict=True)}

    async def look(self, names: Iterable[Name]) -> dict[Name, Entry]:
        """Look up deeds like :meth:`read`, without orphans among them."""
        return await self.without_orphans(await self.read(names))

    async def without_orphans(self, entries: dict[Name, Entry]) -> dict[Name, Entry]:
        """End the messages that wait and whose job nursery is gone; return the entries as they are then."""
        nurseries = {name: nursery for name, entry in entries.items() if (nursery := nursery_of(entry.deed))}
        if not nurseries:
            await trio.lowlevel.checkpoint()
            return entries
        gone = await self._kin.gone(nurseries.values(), max(entries[name].now for name in nurseries))

        def orphaning(entry: Entry) -> Deed | None:
            return orphaned(entry.deed, gone, entry.now)

        ended = await self.change({name: (entries[name], orphaning) for name in nurseries})
        steps = [step for name, (_, new) in ended.items() if new is not None for step in self.freeing(name, new)]
        if steps:
            await self.carry_out(steps)
        return entries | {
            name: entry if new is None else attrs.evolve(entry, stored=new, kept=dump(new), deed=new)
            for name, (entry, new) in ended.items()
        }

    def entry(self, name: Name, kept: bytes | None, now: float) -> Entry:
        """Return the entry of a deed that has been read."""
        epoch, deed = self.known_epoch(name[0]), load(kept)
        return Entry(deed, kept, None if deed is None else elapse(deed, epoch, now), epoch, now)

    async def change(self, changes: dict[Name, tuple[Entry, Change]]) -> dict[Name, tuple[Entry, Deed | None]]:
        """Change deeds: what somebody else has changed meanwhile is looked at again, until all are as they shall be.

        Returns for each the entry that was changed, or left alone, and the deed that it became, or None.
        """
        done: dict[Name, tuple[Entry, Deed | None]] = {}
        while changes:
            steps: dict[Name, tuple[Step, Deed]] = {}
            for name, (entry, change) in changes.items():
                new = change(entry)
                if new is None:
                    done[name] = (entry, None)
                else:
                    new = self.marked(new)
                    steps[name] = (exchange(deed_key(name), new, kept_for(new, entry.now), entry.kept), new)
            before = await self.carry_out([step for step, _ in steps.values()]) if steps else []
            again: dict[Name, tuple[Entry, Change]] = {}
            for (name, (_, new)), kept in zip(steps.items(), before, strict=True):
                entry, change = changes[name]
                # An engine that has repeated a lost call by itself finds our own bytes.
                if kept == entry.kept or kept == dump(new):
                    done[name] = (entry, new)
                else:
                    again[name] = (self.entry(name, kept, entry.now), change)
            changes = again
        return done

    async def live_holder(self, name: Name, kept: bytes) -> tuple[Holder, Entry] | None:
        """Return who holds a unique key, or None if that has ended, or never came to be."""
        holder = load_holder(kept)
        at = (name[0], holder.id)
        entry = (await self.look([at]))[at]
        deed = entry.deed
        if deed is None or deed.token != holder.token or not deed.live:
            return None
        return holder, entry

    def freeing(self, name: Name, deed: Deed) -> list[Step]:
        """Return the steps that free the unique key of a message that has ended."""
        if deed.unique is None:
            return []
        return [Drop(holder_key((name[0], deed.unique)), dump(Holder(name[1], deed.token)))]

    def gone(self, name: Name, deed: Deed, now: float) -> Step:
        """Return the step that notes of a message that has ended that its ticket is gone: it is kept no longer then."""
        noted = self.marked(replace(deed, sealed=True, gone=True))
        return Write(deed_key(name), dump(noted), kept_for(noted, now), dump(deed))

    async def renew(self, queue: str, renewed: Callable[[Epoch], Epoch]) -> None:
        """Begin a new epoch of a queue: of what its messages are, those of the old one are void."""
        key = epoch_key(queue)
        (kept,) = await self.carry_out([Read(key)])
        while True:
            new = renewed(load_epoch(kept))
            (before,) = await self.carry_out([exchange(key, new, None, kept)])
            if before == kept:
                self._epochs[queue] = new
                return
            kept = before
