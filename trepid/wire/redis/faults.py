"""What a Redis complains of, as exceptions."""

from __future__ import annotations

from typing import Final, final

import attrs

from trepid.errors import BrokerBusyError, BrokerFullError, BrokerLostError, BrokerRefusedError, TrepidError


@final
@attrs.define(eq=False)
class RedisError(TrepidError):
    """The server answered with an error that is none of the ordinary ones.

    Attributes:
      server: which.
      code: its first word, such as ``ERR`` or ``NOSCRIPT``.
      text: the rest.
    """

    server: str
    code: str
    text: str

    def __str__(self) -> str:
        return f"{self.server}: {self.code} {self.text}"


UNFIT: Final = frozenset({"READONLY", "MASTERDOWN", "LOADING", "UNBLOCKED"})
"""Codes of servers that are not, or not yet, the one to talk to: the connection is given up and made anew."""

_FULL: Final = {
    "OOM": "its memory is full (maxmemory)",
    "MISCONF": "it cannot write to its disk, and takes nothing more until it can",
}
_BUSY: Final = {"BUSY": "a script keeps it busy", "NOREPLICAS": "too few replicas follow it (min-replicas-to-write)"}
_REFUSED: Final = frozenset({"NOAUTH", "WRONGPASS", "NOPERM", "DENIED"})


def typed(server: str, said: str) -> Exception:
    """Return the exception for what *server* said."""
    code, _, text = said.partition(" ")
    if code in UNFIT:
        return BrokerLostError(f"{server}: {code} {text}")
    if code in _FULL:
        return BrokerFullError(f"{server}: {_FULL[code]}; nothing of this was stored")
    if code in _BUSY:
        return BrokerBusyError(f"{server}: {_BUSY[code]}")
    if code in _REFUSED:
        return BrokerRefusedError(server, text.rstrip(".") or code)
    if "max number of clients" in text:
        return BrokerLostError(f"{server}: it has too many clients")
    return RedisError(server, code, text)
