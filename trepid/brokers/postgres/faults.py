"""What PostgreSQL complains of, in the words of the port: mapped here and nowhere else."""

from __future__ import annotations

from typing import Final

import psycopg

from trepid.errors import BrokerBusyError, BrokerFullError, BrokerLostError, BrokerRefusedError

_BUSY: Final = frozenset(
    {
        "55P03",  # a lock was not to be had in time
        "57014",  # a statement took too long
        "40001",  # it could not be serialised, again and again
        "40P01",  # a deadlock, again and again
        "25P03",  # idle in a transaction for too long: our own program was stopped
        "55006",  # somebody else uses the object
    }
)
_FULL: Final = frozenset({"53100", "53200", "54000"})  # the disk, the memory, a program's limit
_REFUSED: Final = frozenset(
    {
        "3D000",  # no such database
        "3F000",  # no such schema
        "42P01",  # no such table: somebody has dropped it
        "42501",  # no privilege
        "42703",  # no such column
    }
)


def code_of(exc: BaseException) -> str:
    """Return an error's SQLSTATE, or nothing if the server has not said it."""
    return getattr(exc, "sqlstate", None) or ""


def is_replica(exc: BaseException) -> bool:
    """Whether the server has become read-only: after a failover, the one to write to is elsewhere."""
    return code_of(exc) == "25006"


def is_transient(exc: BaseException) -> bool:
    """Whether the same transaction may well succeed if it is run again."""
    return code_of(exc) in ("40001", "40P01")


def is_loss(exc: BaseException) -> bool:
    """Whether the connection is gone, or as good as gone."""
    if not isinstance(exc, (psycopg.OperationalError, psycopg.InterfaceError)):
        return False
    code = code_of(exc)
    # Without a code it never came from the server.  57P0x: it goes down, or crashed; 08: the connection.
    return not code or code.startswith(("57P", "08"))


def typed(exc: Exception, where: str) -> Exception:
    """Return the error of Trepid that *exc* means, each time a new one; others than psycopg's come back as they are.

    A traceback belongs to one raising: the same exception must not be handed to several waiting tasks.
    """
    if isinstance(exc, BrokerLostError):
        return BrokerLostError(str(exc))
    if isinstance(exc, BrokerRefusedError):
        return BrokerRefusedError(exc.broker, exc.reason)
    if not isinstance(exc, psycopg.Error):
        return exc
    error = _typed(exc, where)
    if error is not exc:
        error.__cause__ = exc
    return error


def _typed(exc: psycopg.Error, where: str) -> Exception:
    code, said = code_of(exc), said_by(exc)
    if code in _BUSY:
        return BrokerBusyError(f"{where}: {said}; nothing of it was stored")
    if code in _FULL:
        return BrokerFullError(f"{where}: no space left ({said}); nothing was stored")
    if code in _REFUSED:
        return BrokerRefusedError(where, said)
    if is_replica(exc) or code.startswith(("53", "57P", "08", "58", "XX")) or is_loss(exc):
        # Too many connections, a server that goes down, a disk that fails.
        return BrokerLostError(f"{where}: {said}")
    return exc


def said_by(exc: BaseException) -> str:
    """Return what an error of psycopg or libpq says, in one line."""
    diag = getattr(exc, "diag", None)
    text = getattr(diag, "message_primary", None) or str(exc)
    return "; ".join(line.strip() for line in text.splitlines() if line.strip()) or type(exc).__name__
