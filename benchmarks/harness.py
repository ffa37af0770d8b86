"""Interleaved repetitions and ratios: the machines are shared, so only figures of the same run are compared."""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import trio

Measure = Callable[[], float]


def interleaved(measures: Mapping[str, Measure], rounds: int) -> dict[str, list[float]]:
    """Run each measure once per round, in turn, and return all figures; the first round warms up and is dropped."""
    figures: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(rounds + 1):
        for name, measure in measures.items():
            figure = measure()
            if number:
                figures[name].append(figure)
    return figures


def report(title: str, unit: str, figures: Mapping[str, list[float]], base: str | None = None) -> None:
    """Print medians with their spread, and the ratio to *base* round by round."""
    print(f"\n{title} [{unit}]")
    for name, values in figures.items():
        line = f"  {name:<42} {statistics.median(values):>12,.1f}  ({min(values):,.1f} .. {max(values):,.1f})"
        if base is not None and name != base:
            ratios = [value / other for value, other in zip(values, figures[base], strict=True)]
            line += f"   {statistics.median(ratios):.2f} x {base}"
        print(line)
    sys.stdout.flush()


def run(main: Callable[[], Awaitable[float]]) -> Measure:
    """Return a measure that runs an async function in a fresh ``trio.run``."""
    return lambda: trio.run(main)


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    def rate(self, count: int) -> float:
        """Return how many per second *count* things were."""
        return count / (time.perf_counter() - self._began)


def quantile(values: list[float], fraction: float) -> float:
    """Return the value below which *fraction* of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * fraction))]


def resident_mib() -> float:
    """Return how much memory this process holds, in MiB."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * resource.getpagesize() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


@contextmanager
def database() -> Iterator[Path]:
    """Yield the path of a database file that does not exist yet, on this disk, and clean up after it."""
    with tempfile.TemporaryDirectory(prefix="trepid-bench-") as folder:
        yield Path(folder) / "jobs.db"
