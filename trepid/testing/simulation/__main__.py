"""``python -m trepid.testing.simulation --seeds 1000 --from 0``: simulate many seeds, and show those that fail."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence

from trepid.testing.simulation import Simulation, repeatable, simulate

_SHOWN = 60
"""How many of the last lines of a history are shown."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, and return the exit code: 1 if a promise was broken.

    Args:
      arguments: those of the command line, by default of this process.
    """
    parser = argparse.ArgumentParser(prog="python -m trepid.testing.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds (default: 100)")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first one (default: 0)")
    parser.add_argument("--history", action="store_true", help="show the whole history of every seed")
    chosen = parser.parse_args(arguments)
    if not repeatable():
        _say("this version of Trio does not let a seed decide the order of tasks: a failure may not come back")
    began, failed, counts, seconds = time.perf_counter(), 0, Counter[str](), 0.0
    for seed in range(chosen.first, chosen.first + chosen.seeds):
        done = simulate(seed)
        failed += bool(done.violations)
        seconds += done.seconds
        counts.update({name: number for name, number in done.counts.items() if not name.startswith("known ")})
        if done.violations or chosen.history:
            _show(done, everything=chosen.history)
    for name, number in sorted(counts.items()):
        _say(f"{number:9,} {name}")
    took = time.perf_counter() - began
    _say(f"{chosen.seeds} seeds, {failed} failed, {seconds / 3600:.1f} hours simulated in {took:.1f} s")
    return 1 if failed else 0


def _show(done: Simulation, *, everything: bool) -> None:
    _say(str(done))
    for line in done.history if everything else done.history[-_SHOWN:]:
        _say(f"    {line}")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
