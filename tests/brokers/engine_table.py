"""The table of engines by capability, made from a run of the conformance suite.

``python -m tests.brokers.engine_table`` starts private servers, examines every engine with all cases, and writes
``docs/reference/engines.md``.  A test compares that page with what the engines say of themselves.
"""

import re
import time
from contextlib import contextmanager
from pathlib import Path

import attrs
import trio
import trio.testing

import trepid
from benchmarks.places import places
from trepid.brokers.assisted import AssistedBroker
from trepid.brokers.postgres import PostgreSQLBroker
from trepid.brokers.rabbitmq import lines as rabbitmq_lines
from trepid.brokers.redis import RedisBroker
from trepid.brokers.sqlite import SQLiteBroker
from trepid.connection.urls import broker_at
from trepid.testing.conformance import check_broker

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "engines.md"
NAMES = {
    "memory": "memory",
    "sqlite": "SQLite",
    "redis": "Redis",
    "postgres": "PostgreSQL",
    "rabbitmq": "RabbitMQ",
    "nats": "NATS",
    "rabbitmq+redis": "RabbitMQ with Redis",
    "nats+redis": "NATS with Redis",
}
"""Engines, and pairs of which the second keeps what the first lacks, and how they are called."""
CLOCKED = {"sqlite": SQLiteBroker, "redis": RedisBroker, "postgres": PostgreSQLBroker}
"""Engines whose time can be bent."""
HEAD = """\
# Engines

What each engine promises, as it said itself when it was opened,
and as the conformance suite (`trepid.testing.check_broker`) confirmed.
This page is written by `make engines`; what the capabilities mean is said [here](capabilities.md).
"""


@attrs.frozen
class Examined:
    """What became of an engine in the suite."""

    capabilities: trepid.Capabilities
    passed: int
    unsupported: dict[str, str]


class BentClock:
    """The wall clock, moved on at will: so hours pass at once, while waits take the time they say."""

    def __init__(self):
        self.ahead = 0.0

    def __call__(self):
        return time.time() + self.ahead

    async def bend(self, seconds):
        self.ahead += seconds
        await trio.lowlevel.checkpoint()


@contextmanager
def fresh_brokers(engine, clock=None):
    """Yield a function that makes a broker in an empty place each time; *clock* is for engines that take one."""
    first, _, second = engine.partition("+")
    with places(first) as fresh:
        if second:
            with places(second) as beside:
                yield lambda: AssistedBroker(broker_at(fresh()), broker_at(beside()))
        elif clock is None or engine not in CLOCKED:
            yield lambda: broker_at(fresh())
        else:
            yield lambda: CLOCKED[engine](fresh().removeprefix("sqlite:"), clock=clock)


async def capabilities_of(broker):
    async with broker.open() as session:
        return session.capabilities


def value(of):
    if isinstance(of, bool):
        return "yes" if of else "no"
    return f"{of:g} s" if isinstance(of, float) else str(of)


def rows(columns):
    """Return the rows of the table: a capability, and what each engine says of it."""
    fields = [field.name for field in attrs.fields(trepid.Capabilities)]
    fields = [name for name in fields if name not in ("engine", "durability_proof")]
    return [[f"`{name}`", *(value(getattr(column, name)) for column in columns)] for name in fields]


def page(examined):
    """Return the page."""
    lines = [HEAD]
    table = [["", *(NAMES[key] for key in examined)]]
    table.append(["version", *(_version(each.capabilities.engine) for each in examined.values())])
    table += rows([each.capabilities for each in examined.values()])
    table.append(["cases passed", *(str(each.passed) for each in examined.values())])
    table.append(["cases that do not apply", *(str(len(each.unsupported)) for each in examined.values())])
    for number, row in enumerate(table):
        lines.append(f"| {' | '.join(row)} |")
        if not number:
            lines.append("|---" * len(row) + "|")
    lines.append("\n## How durability is known\n")
    lines += [f"- {NAMES[key]}: {each.capabilities.durability_proof}" for key, each in examined.items()]
    for key, each in examined.items():
        if each.unsupported:
            lines.append(f"\n## Cases that do not apply to {NAMES[key]}\n")
            by_reason = {}
            for name, reason in each.unsupported.items():
                by_reason.setdefault(reason.removeprefix(f"{each.capabilities.engine} declares "), []).append(name)
            lines += [f"- {reason}: {', '.join(f'`{n}`' for n in names)}" for reason, names in by_reason.items()]
    return "\n".join(lines) + "\n"


def _version(engine):
    return " + ".join(re.findall(r"\d[\w.+-]*", engine)) or "this one"


def table_of(text):
    """Return the rows of the table in a page, without its head."""
    found = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in row] for row in found]


async def examine(make, bend, tick):
    options = {"tick": tick} if bend is None else {"bend_time": bend, "tick": 0.1}
    conformance = await check_broker(make, **options)
    return Examined(await capabilities_of(make()), len(conformance.passed), dict(conformance.unsupported))


def main():
    """Examine all engines, and write the page."""
    rabbitmq_lines.YOUNG = 0.0  # nobody kills this server, so nobody need wait until what is young is written down
    examined = {}
    for key in NAMES:
        clock = BentClock()
        with fresh_brokers(key, clock) as make:
            began = time.perf_counter()
            jumping = trio.testing.MockClock(autojump_threshold=0) if key == "memory" else None
            # Whoever asks two servers takes twice as long.
            tick = 0.3 if "+" in key else 0.2
            examined[key] = each = trio.run(examine, make, clock.bend if key in CLOCKED else None, tick, clock=jumping)
            seconds = time.perf_counter() - began
            print(f"{key}: {each.passed} passed, {len(each.unsupported)} do not apply, {seconds:.0f} s", flush=True)
    PAGE.write_text(page(examined), encoding="utf-8")


if __name__ == "__main__":
    main()
