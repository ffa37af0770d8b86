"""Log lines: for people on a terminal, for files, and for programs."""

from __future__ import annotations

import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO

from trepid.cli.ink import can_write, ink_for, printable
from trepid.cli.tables import span

Format = Literal["auto", "human", "plain", "json"]

FORMATS: Final = ("auto", "human", "plain", "json")
LEVELS: Final = ("debug", "info", "warning", "error")

# outcome: sign, the same where there is only ASCII, style
_SIGNS: Final = {
    "succeeded": ("✓", "+", "good"),
    "retried": ("↻", "~", "warn"),
    "dead": ("✗", "x", "bad"),
    "cancelled": ("⊘", "-", "warn"),
    "released": ("↩", "<", "dim"),
    "lost": ("?", "?", "bad"),
}


# The command line says these itself, in more words.
_SAID_OTHERWISE: Final = frozenset({"WorkerStopping", "WorkerStopped"})


def set_up(form: Format, level: str, *, verbose: bool) -> Literal["human", "plain", "json"]:
    """Send the log of the process to stderr, and return in which form.

    Done before the application is imported: if that sets up the log itself, it has the last word.

    Args:
      form: ``auto`` means for people on a terminal, and plain elsewhere.
      level: the least level that is written.
      verbose: let Trepid also tell when jobs start.
    """
    stream = sys.stderr
    chosen: Literal["human", "plain", "json"] = form if form != "auto" else "human" if stream.isatty() else "plain"
    handler = logging.StreamHandler(stream)
    if chosen == "human":
        handler.addFilter(lambda record: fields_of(record).get("event") not in _SAID_OTHERWISE)
    handler.setFormatter({"human": HumanLines, "plain": PlainLines, "json": JSONLines}[chosen](stream))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("trepid").setLevel(logging.DEBUG if verbose else logging.NOTSET)
    logging.captureWarnings(True)
    return chosen


class _Lines(logging.Formatter):
    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.ink = ink_for(stream)
        self.signs = can_write(stream, "".join(sign for sign, _, _ in _SIGNS.values()))

    def _told(self, record: logging.LogRecord) -> str:
        """Return the message, with the traceback that came with it."""
        text = printable(record.getMessage())
        if record.exc_info and record.exc_info[1] is not None:
            frames = "".join(traceback.format_exception(record.exc_info[1]))
            text += "\n" + printable(frames.rstrip(), lines=True)
        return text


class PlainLines(_Lines):
    """One line per record, with its time in UTC: for files and pipes."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return f"{_utc(record)} {record.levelname.lower()} {record.name}: {self._told(record)}"


class JSONLines(logging.Formatter):
    """One JSON object per record.  ``time``, ``level``, ``logger``, ``message``; events add their fields."""

    def __init__(self, _stream: TextIO) -> None:
        super().__init__()

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        import msgspec

        told: dict[str, Any] = {
            "time": _utc(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info and record.exc_info[1] is not None:
            told["exception"] = "".join(traceback.format_exception(record.exc_info[1]))
        return msgspec.json.encode(told, enc_hook=str).decode()


class HumanLines(_Lines):
    """What somebody at a terminal wants to see of it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        moment = self.ink(datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S.%f")[:-3], "dim")
        fields = fields_of(record)
        if fields.get("event") == "JobEnded":
            return f"{moment}  {self._ended(fields)}"
        if fields.get("event") == "WorkerStarted":
            return f"{moment}  ready"
        if fields.get("event") == "JobStarted":
            return f"{moment}  {self.ink('>', 'dim')} {self._job(fields)}  started"
        if record.levelno >= logging.WARNING:
            style = "warn" if record.levelno < logging.ERROR else "bad"
            return f"{moment}  {self.ink(record.levelname.lower(), style)} {self._told(record)}"
        return f"{moment}  {self._told(record)}"

    def _job(self, fields: dict[str, Any]) -> str:
        tries = f"try {fields['attempt']}"
        return f"{printable(fields['actor']):<16}  {self.ink(fields['id'], 'dim')}  {tries}"

    def _ended(self, fields: dict[str, Any]) -> str:
        sign, plain_sign, style = _SIGNS[fields["outcome"]]
        parts = [self._job(fields), f"{span(fields['seconds']):>5}", fields["queue"]]
        if fields["error"] is not None:
            parts.append(self.ink(printable(fields["error"].partition("\n")[0]), style))
        elif fields["outcome"] != "succeeded":
            parts.append(": ".join(filter(None, (fields["outcome"], fields["reason"]))))
        if fields["delay"] is not None:
            parts.append(f"again in {span(fields['delay'])}")
        if fields["outcome"] == "dead":
            parts.append(self.ink(f"trepid dead show {fields['id']}", "hint"))
        return f"{self.ink(sign if self.signs else plain_sign, style)} {'  '.join(parts)}"


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields of the event that a record is about, if it is about one."""
    fields = getattr(record, "trepid", None)
    return dict(fields) if isinstance(fields, dict) else {}


def _utc(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
