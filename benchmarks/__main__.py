"""All measurements, one after the other; each has options of its own (``python -m benchmarks.memory --help``)."""

from __future__ import annotations

import subprocess
import sys

_ENGINES = ("memory", "sqlite", "redis", "postgres", "rabbitmq", "nats")
_MODULES = (*_ENGINES, "latency", "flatness", "cancelling", "nurseries")


def main() -> None:
    """Run each in a process of its own, so that none warms the caches of another."""
    for name in sys.argv[1:] or _MODULES:
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)


if __name__ == "__main__":
    main()
