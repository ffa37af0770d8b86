"""Results: small messages on a subject for each id, in streams that forget by themselves.

A result is stored before its message is deleted.  It says which copy of the message it is of, and never replaces that
of a later copy: so who lost its lease overwrites nothing.

Of what is to be remembered (a follow-up of a chain, a fired instant) something is stored even if its result is not to
be kept: a *trace*, which can be read as nothing, and says for a day that this publish has ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, final

import msgspec
from msgspec.structs import replace

from trepid.brokers.nats import letter as letters
from trepid.brokers.nats.jetstream import (
    WRONG_LAST,
    JetStreamError,
    Letterbox,
    Stored,
    deleting,
    last_of,
    storing,
)
from trepid.brokers.nats.letter import Letter
from trepid.brokers.nats.names import DEAD, LATER
from trepid.brokers.nats.office import Office
from trepid.brokers.nats.topology import TIERS, tier
from trepid.errors import BrokerLostError
from trepid.ports.messages import Ending
from trepid.rules.life import State
from trepid.rules.publishing import PublishToken
from trepid.rules.verdicts import Done, Failure
from trepid.wire.nats.connection import NoRespondersError, Question

HEADER: Final = "Trepid-Result"
TRACE: Final = Done(None, 0.0)
"""What is stored of something remembered whose result is not kept."""
_ASIDE: Final = (LATER, DEAD)


class Slip(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is stored with a result.

    Attributes:
      stamp: when the copy of the message that it is of was stored.
      until: when it is to be forgotten.
      plain: whether there is a result; else the payload is empty.
      unreadable: why the result could not be stored.
      error: the last failure before the end.
      token: of what is remembered, which publish has ended.
    """

    stamp: int
    until: float
    plain: bool = False
    unreadable: str | None = None
    error: Failure | None = None
    token: PublishToken | None = None


class Result(NamedTuple):
    """A result to be stored.

    Attributes:
      queue, id: of which message.
      stamp: when the copy that was leased was stored.
      done: what its holder said.
      error: its last failure, if there was one.
      token: its publish, if it is to be remembered.
    """

    queue: str
    id: str
    stamp: int
    done: Done
    error: Failure | None
    token: PublishToken | None


_encode = msgspec.json.encode
_decode = msgspec.json.Decoder(Slip).decode


def slip_of(found: Letterbox) -> Slip | None:
    """Return what was stored with a result."""
    value = found.message.header(HEADER.encode())
    try:
        return None if value is None else _decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def last_end(found: Sequence[Letterbox | None]) -> int:
    """Return the latest copy that some results and dead letters are of; 0 if there are none."""
    last = 0
    for box in found:
        if box is not None:
            slip, letter = slip_of(box), letters.read(box.message)
            last = max(last, slip.stamp if slip is not None else 0, letter.of if letter is not None else 0)
    return last


def _same(letter: Letter, aside: Sequence[Letterbox | None], traces: Sequence[Letterbox | None]) -> bool:
    """Whether one of these is of the same publish as a letter, and rules it out."""
    for box in aside:
        other = None if box is None else letters.read(box.message)
        if other is not None and other.token == letter.token and (other.checked or other.ended is not None):
            return True
    slips = [slip_of(box) for box in traces if box is not None]
    return any(slip is not None and slip.token == letter.token for slip in slips)


@final
class Results:
    """Stores results, and finds them."""

    def __init__(self, office: Office) -> None:
        self._office = office
        # Where earlier results are looked for before nothing is kept; the others are hardly ever used.
        self._used = {"day"}

    def _question(self, result: Result, last: int, largest: int) -> Question:
        """Return what stores a result, or why it cannot be stored: the server hangs up on who sends more than that."""
        question = self._storing(result, last)
        if question.size <= largest:
            return question
        done = result.done
        if done.result is not None:
            why = f"it has {len(done.result):,} bytes, and the server takes no message of more than {largest:,}"
            done = replace(done, result=None, unreadable=why)
        error = None if result.error is None else replace(result.error, message="", traceback="")
        return self._storing(result._replace(done=done, error=error), last)

    def _storing(self, result: Result, last: int) -> Question:
        done = result.done
        # Nobody's clock is behind a trace, which is not to be read.
        until = self._office.clock.now() + done.keep if done.keep > 0 else 0.0
        slip = Slip(result.stamp, until, done.result is not None, done.unreadable, result.error, result.token)
        return storing(
            self._office.names.result(tier(done.keep), result.queue, result.id),
            done.result or b"",
            {HEADER: _encode(slip).decode()},
            last=last,
        )

    async def store(self, results: Sequence[Result]) -> list[bool]:
        """Store results, and return for each whether no later copy of its message has one already."""
        office = self._office
        self._used |= {tier(result.done.keep) for result in results}
        largest = (await office.jetstream.connection()).largest
        outcomes = await office.jetstream.store_all([self._question(result, 0, largest) for result in results])
        stored: list[bool] = []
        for result, outcome in zip(results, outcomes, strict=True):
            if isinstance(outcome, NoRespondersError):
                kept = tier(result.done.keep)
                await office.topology.ensure_results(await office.jetstream.connection(), kept)
                stored.append(await self._replace(result, largest))
            elif isinstance(outcome, Stored):
                stored.append(True)
            elif outcome.number == WRONG_LAST:
                stored.append(await self._replace(result, largest))
            else:
                raise outcome
        return stored

    async def _replace(self, result: Result, largest: int) -> bool:
        """Store a result where there may be one."""
        jetstream = self._office.jetstream
        names, kept = self._office.names, tier(result.done.keep)
        subject = names.result(kept, result.queue, result.id)
        while True:
            (found,) = await jetstream.look_all([last_of(names.results(kept), subject)])
            there = None if found is None else slip_of(found)
            if there is not None and there.stamp > result.stamp:
                return False
            try:
                await jetstream.store(self._question(result, 0 if found is None else found.seq, largest))
            except JetStreamError as exc:
                if exc.number != WRONG_LAST:
                    raise
            except NoRespondersError:
                raise BrokerLostError("the stream of results does not answer") from None
            else:
                return True

    def questions(self, queue: str, id: str) -> list[Question]:
        """Return the questions for whatever results a message has."""
        names = self._office.names
        return [last_of(names.results(kept), names.result(kept, queue, id)) for kept in TIERS]

    def latest(self, found: Sequence[Letterbox | None]) -> tuple[Slip, Ending] | None:
        """Return the latest of some results, if it is not to be forgotten by now."""
        slips = [(slip, each) for each in found if each is not None and (slip := slip_of(each)) is not None]
        if not slips:
            return None
        slip, box = max(slips, key=lambda pair: pair[0].stamp)
        if slip.until <= self._office.clock.now():
            return None
        payload = box.message.payload if slip.plain else None
        return slip, Ending(State.DONE, payload, slip.unreadable, slip.error)

    async def ended(self, messages: Sequence[tuple[str, str, int]]) -> list[bool]:
        """Return for each message (queue, id, when the copy was stored) whether that copy had ended already.

        A server that is killed forgets the deletions of its last seconds: what was settled then is there again.  The
        result or the dead letter, which was stored before, is there as well, and tells.
        """
        names, questions = self._office.names, list[Question]()
        for queue, id, _ in messages:
            questions += self.questions(queue, id)
            questions.append(last_of(names.stream(queue, DEAD), names.message(queue, DEAD, id)))
        found = await self._office.jetstream.look_all(questions)
        each = len(TIERS) + 1
        return [last_end(found[at * each : (at + 1) * each]) >= stamp for at, (_, _, stamp) in enumerate(messages)]

    async def repeated(self, letters_of: Sequence[tuple[str, Letter]]) -> list[bool]:
        """Return for each doubtful letter, by queue, whether its publish has had another message before.

        That one has ended and left a trace; or it is dead; or it waits among what is delayed, after a first lease.
        Nowhere else can it be: it would have the place of this one.  A delayed one that nobody has leased yet will be
        asked about itself.
        """
        names, questions = self._office.names, list[Question]()
        for queue, letter in letters_of:
            questions += [
                last_of(names.stream(queue, place), names.message(queue, place, letter.id)) for place in _ASIDE
            ]
        aside = await self._office.jetstream.look_all(questions)
        # After those: a dead letter that is purged leaves its trace first.
        traces = await self._office.jetstream.look_all(
            [question for queue, letter in letters_of for question in self.questions(queue, letter.id)]
        )
        return [
            _same(letter, aside[at * len(_ASIDE) :][: len(_ASIDE)], traces[at * len(TIERS) :][: len(TIERS)])
            for at, (_, letter) in enumerate(letters_of)
        ]

    async def trace(self, queue: str, dead: Sequence[Letter]) -> None:
        """Leave the traces of follow-ups whose dead letters are to go."""
        await self.store([Result(queue, each.id, each.of, TRACE, None, each.token) for each in dead])

    async def drop(self, messages: Sequence[tuple[str, str, int]]) -> None:
        """Forget what earlier runs under these ids (queue, id, when the copy was stored) have left."""
        names = self._office.names
        questions = [
            (kept, stamp, last_of(names.results(kept), names.result(kept, queue, id)))
            for queue, id, stamp in messages
            for kept in self._used
        ]
        found = await self._office.jetstream.look_all([question for *_, question in questions])
        deletions = [
            deleting(names.results(kept), box.seq)
            for (kept, stamp, _), box in zip(questions, found, strict=True)
            if box is not None and last_end([box]) <= stamp
        ]
        if deletions:
            await self._office.jetstream.delete_all(deletions)

    async def forget(self, queue: str) -> None:
        """Forget all results of a queue."""
        names = self._office.names
        for kept in TIERS:
            try:
                body = {"filter": names.result(kept, queue, "*")}
                await self._office.jetstream.api(f"STREAM.PURGE.{names.results(kept)}", body)
            except JetStreamError:
                continue  # nothing was ever stored there
