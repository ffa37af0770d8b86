"""How things are called on the server: streams, consumers, subjects.

A queue is five streams, ``<prefix>-<place>-<queue>``, with a subject for each message::

    <prefix>.<place>.<queue>.<id>

The place says who is to look at it: ``high``, ``medium`` and ``low`` are leased from, ``later`` holds what is not due,
``dead`` the dead letters.  They are no parts of one stream, for a consumer that looks for its few messages among a
hundred thousand others walks past all of those.
"""

from __future__ import annotations

import re
from typing import Final, final

import attrs

HIGH: Final = "high"
MEDIUM: Final = "medium"
LOW: Final = "low"
LATER: Final = "later"
DEAD: Final = "dead"
LEVELS: Final = (HIGH, MEDIUM, LOW)
"""Most urgent first."""
MAIN: Final = MEDIUM
"""Made last and deleted first: a queue is there if this one is."""
PLACES: Final = (HIGH, LOW, LATER, DEAD, MAIN)

PREFIX: Final = re.compile(r"[A-Za-z0-9_]{1,32}")
_PLAIN: Final = re.compile(rb"[A-Za-z0-9_:-]")


def level(priority: int) -> str:
    """Return where a message of this priority waits: there are three levels, and what lies between goes to the next."""
    if priority >= 7:
        return HIGH
    return MEDIUM if priority >= 3 else LOW


def escaped(text: str) -> str:
    """Return text as one word of a subject: letters, digits, ``_``, ``:`` and ``-`` as they are, the rest as ``=2E``.

    Not with a ``%``: the server makes a format of the names of streams, and says nonsense then.
    """
    if text.isascii() and text.replace("_", "").replace("-", "").replace(":", "").isalnum():
        return text
    raw = text.encode("utf-8", "surrogatepass")
    return "".join(chr(byte) if _PLAIN.match(raw, at) else f"={byte:02X}" for at, byte in enumerate(raw)) or "="


def unescaped(word: str) -> str:
    """Return the text that :func:`escaped` was given; of a word that it cannot have made, what can be read."""
    raw = re.sub(rb"=([0-9A-F]{2})", lambda found: bytes([int(found[1], 16)]), word.encode())
    try:
        return "" if word == "=" else raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return raw.decode("utf-8", "replace")


@final
@attrs.frozen
class Names:
    """All names of one prefix.

    Attributes:
      prefix: letters, digits and ``_``: so no prefix is the beginning of another one's names.
    """

    prefix: str

    def stream(self, queue: str, place: str) -> str:
        """The stream of a place of a queue."""
        return f"{self.prefix}-{place}-{escaped(queue)}"

    def queue(self, stream: str) -> str:
        """The queue of a stream of the main place."""
        return unescaped(stream.removeprefix(f"{self.prefix}-{MAIN}-"))

    def subjects(self, queue: str, place: str) -> str:
        """The subjects of all messages in a place of a queue."""
        return f"{self.prefix}.{place}.{escaped(queue)}.*"

    @property
    def all_queues(self) -> str:
        """The subjects of the main places of all queues."""
        return f"{self.prefix}.{MAIN}.>"

    def message(self, queue: str, place: str, id: str) -> str:
        """The subject of a message."""
        return f"{self.prefix}.{place}.{escaped(queue)}.{escaped(id)}"

    def results(self, tier: str) -> str:
        """The stream of results that are kept for so long."""
        return f"{self.prefix}-results-{tier}"

    def result(self, tier: str, queue: str, id: str) -> str:
        """The subject of a result; ``*`` as *id* means all of a queue."""
        return f"{self.prefix}.results.{tier}.{escaped(queue)}.{id if id == '*' else escaped(id)}"

    def over(self, queue: str, id: str) -> str:
        """Where the end of a message is called out, to whoever waits for it."""
        return f"{self.prefix}.over.{escaped(queue)}.{escaped(id)}"

    @property
    def records(self) -> str:
        """The stream of records."""
        return f"{self.prefix}-records"

    def record(self, word: str) -> str:
        """The subject of a record."""
        return f"{self.prefix}.records.{word}"

    @property
    def clock(self) -> str:
        """The stream that is asked for the time."""
        return f"{self.prefix}-clock"

    @property
    def tick(self) -> str:
        """The subject of the clock."""
        return f"{self.prefix}.clock"
