"""One order of events per seed."""

from __future__ import annotations

import logging
import random
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from typing import Any


@contextmanager
def seeded(seed: int) -> Generator[None, None, None]:
    """Let ``trio.run`` schedule its tasks in an order that depends on *seed* alone, and quieten the log.

    Trio shuffles tasks that are ready together.  Hypothesis makes that repeatable by the same two private names; where
    a future Trio has them no more, a run is still a fair simulation, but its seed does not bring it back.
    """
    scheduler: Any = import_module("trio._core._run")
    before = getattr(scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING", None)
    shuffle = getattr(scheduler, "_r", None)
    log = logging.getLogger("trepid")
    level, state = log.level, random.getstate()
    shuffled = shuffle.getstate() if shuffle is not None else None
    try:
        log.setLevel(logging.CRITICAL + 1)
        random.seed(seed)
        if shuffle is not None and before is not None:
            scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
            shuffle.seed(seed)
        yield
    finally:
        log.setLevel(level)
        random.setstate(state)
        if shuffle is not None and before is not None:
            scheduler._ALLOW_DETERMINISTIC_SCHEDULING = before
            shuffle.setstate(shuffled)


def repeatable() -> bool:
    """Whether this version of Trio lets a seed decide the order of tasks."""
    scheduler = import_module("trio._core._run")
    return hasattr(scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING") and hasattr(scheduler, "_r")
