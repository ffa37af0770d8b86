"""The scripts, as the server is sent them: put together of the files in `lua/`."""

from __future__ import annotations

from hashlib import sha1
from importlib.resources import files
from typing import Final, final

import attrs


@final
@attrs.frozen(eq=False)
class Script:
    """A script.

    Attributes:
      source: its text.
      digest: by which the server knows it.
    """

    source: str = attrs.field(repr=False)
    digest: str


def _script(*parts: str, head: str = "") -> Script:
    folder = files("trepid.brokers.redis") / "lua"
    source = head + "\n".join((folder / f"{part}.lua").read_text("utf-8") for part in parts)
    return Script(source, sha1(source.encode(), usedforsecurity=False).hexdigest())


PUBLISH: Final = _script("core", "gates", "moves", "observe", "publish", "publishing")
# With such a first line a server that has become a replica refuses the script, and not only what it writes: who finds
# nothing to lease writes nothing, and would ask the wrong server for ever.  A full server must let itself be drained:
# it lets jobs start, go on and be stopped.
_ALSO_WHEN_FULL: Final = "#!lua flags=allow-oom\n"
LEASE: Final = _script("core", "gates", "moves", "observe", "passing", "leasing", head=_ALSO_WHEN_FULL)
EXTEND: Final = _script("core", "gates", "moves", "standing", "extending", head=_ALSO_WHEN_FULL)
SETTLE: Final = _script("core", "gates", "moves", "observe", "standing", "settling")
SETTLE_THEN: Final = _script("core", "gates", "moves", "observe", "publish", "standing", "settling")
CANCEL: Final = _script("core", "gates", "moves", "cancelling", head=_ALSO_WHEN_FULL)
SWEEP: Final = _script("core", "gates", "moves", "observe", "sweeping")
REQUEUE: Final = _script("core", "gates", "moves", "observe", "requeuing")
PURGE: Final = _script("core", "gates", "moves", "purging")
DECLARE: Final = _script("core", "declaring")
DELETE: Final = _script("core", "gates", "moves", "observe", "deleting")
PAUSE: Final = _script("core", "pausing", head=_ALSO_WHEN_FULL)
COUNT: Final = _script("core", "gates", "moves", "observe", "counting")
PEEK: Final = _script("core", "gates", "moves", "observe", "peeking")
HOLD: Final = _script("core", "gates", "moves", "observe", "holding")
GET: Final = _script("core", "gates", "moves", "getting")
AWAIT: Final = _script("core", "gates", "moves", "watching", "awaiting")
OWN: Final = _script("core", "gates", "moves", "owning")
EXPIRE: Final = _script("core", "gates", "moves", "expiring")
RECORD: Final = _script("core", "recording")
LIMIT: Final = _script("core", "gates", "moves", "limiting")
FIRE: Final = _script("core", "gates", "moves", "observe", "publish", "firing")
END: Final = _script("core", "gates", "moves", "watching", "ending")
CLOCK: Final = _script("core", "clock")
