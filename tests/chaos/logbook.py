"""What the workers of a storm wrote down, and what of it needs an explanation."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import attrs


@attrs.frozen(order=True)
class Start:
    """An execution began.

    Attributes:
      at: when.
      process: where.
      id: of which job.
      crashes: how many its message had to its name.
      leased: when its message was leased, by the broker's clock: before the server was killed, perhaps, if what the job
        must know before it starts was asked for in vain until the server was back.
    """

    at: float
    process: int
    id: str
    crashes: int = 0
    leased: float = float("inf")

    @property
    def since(self) -> float:
        """Since when the process had the job."""
        return min(self.at, self.leased)


@attrs.define
class Logbook:
    """The notes of all workers, read on as they are written.

    Attributes:
      starts: every execution.
      ended: the jobs that came to their end at least once.
    """

    folder: Path
    starts: list[Start] = attrs.Factory(list)
    ended: set[str] = attrs.Factory(set)
    last_end: float = 0.0
    _read: dict[str, int] = attrs.Factory(dict)

    def read_on(self) -> int:
        """Read what is new, and return how many jobs have ended."""
        for log in self.folder.iterdir():
            with log.open() as file:
                file.seek(self._read.get(log.name, 0))
                while (line := file.readline()).endswith("\n"):
                    self._read[log.name] = file.tell()
                    what, id, at, *more = line.split()
                    if what == "start":
                        # Not all workers know it.
                        past = (int(more[0]), float(more[1])) if more else ()
                        self.starts.append(Start(float(at), int(log.name), id, *past))
                    else:
                        self.ended.add(id)
                        self.last_end = max(self.last_end, float(at))
        return len(self.ended)

    def unexplained(
        self, killed: dict[int, float], outages: Iterable[tuple[float, float]], repeated: Iterable[str]
    ) -> list[tuple[Start, Start]]:
        """Return the repeated starts that nothing explains, each with the one before it.

        A job is started again because the process that had it was killed, or because the server was away while it was
        leased, or to be settled, or because its publish had to be repeated and the engine cannot recognise that.

        Args:
          killed: when each killed process was killed.
          outages: when the server was killed, and when it was back.
          repeated: the ids whose publish was repeated.
        """
        outages, repeated = list(outages), set(repeated)
        by_job: dict[str, list[Start]] = {}
        for start in sorted(self.starts):
            by_job.setdefault(start.id, []).append(start)
        found = []
        for id, starts in by_job.items():
            for before, after in pairwise(starts):
                died = killed.get(before.process, float("inf")) <= after.at
                had = min(before.since, after.since)
                away = any(gone <= after.at and back >= had for gone, back in outages)
                if not died and not away and id not in repeated:
                    found.append((before, after))
        return found


def are_twins(before: Start, after: Start) -> bool:
    """Whether two runs are of two copies of a message that came back from a dead session.

    An engine that stores a copy and then acknowledges the original has both if another kill falls in between.  Whatever
    else starts a message again after a loss adds to its crashes; a twin has as many as its sibling, or fewer.
    """
    return 0 < after.crashes <= before.crashes
