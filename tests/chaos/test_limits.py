"""Limits hold for all workers together, also while they are killed, and are used up to the last place."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import attrs
import pytest
import trio

import trepid
from tests.chaos.limited_worker import BY_ACTOR, BY_KEY, CONCURRENCY, KEYS, LEASE, QUEUE
from tests.chaos.logbook import Logbook
from tests.chaos.storm import Crew
from tests.chaos.theatres import theatre
from trepid.ports.broker import Session
from trepid.ports.messages import Publication
from trepid.rules.gates import Limit

ENGINES = ("sqlite", "redis", "postgres")


@attrs.frozen(order=True)
class Move:
    """Somebody comes in (+1) or goes out (-1); of two at the same time, who goes out is first."""

    at: float
    step: int


def highest(spans: Iterable[tuple[float, float]]) -> int:
    """Return how many spans of time overlap, at the most."""
    moves = sorted(move for began, ended in spans for move in (Move(began, 1), Move(ended, -1)))
    inside = most = 0
    for move in moves:
        inside += move.step
        most = max(most, inside)
    return most


def spans(logs: Path, killed: dict[int, float]) -> dict[str, list[tuple[float, float]]]:
    """Return when jobs ran, by what they are counted as; who was killed in its middle ran until then."""
    found: dict[str, list[tuple[float, float]]] = {}
    for log in logs.iterdir():
        open_: dict[str, float] = {}
        for line in log.read_text().splitlines():
            what, name, at = line.split()
            if what == "start":
                open_[name] = float(at)
            else:
                found.setdefault(name.partition(":")[0], []).append((open_.pop(name), float(at)))
        for name, began in open_.items():
            found.setdefault(name.partition(":")[0], []).append((began, killed[int(log.name)]))
    return found


async def _storm(engine: str, folder: Path, request: pytest.FixtureRequest, *, jobs: int, kills: int) -> None:
    where = theatre(engine, folder, request)
    logs = folder / "logs"
    logs.mkdir()
    rng = random.Random(1)
    crew, book = Crew(where.url, logs, "tests.chaos.limited_worker"), Logbook(logs)

    async def until(number: int) -> None:
        with trio.fail_after(120):
            while book.read_on() < number:
                crew.tend()
                await trio.sleep(0.02)

    async with trepid.open_connection(where.url) as connection:
        await connection.declare(QUEUE)
        handles = await connection.enqueue_many(
            BY_ACTOR.job() if n % 2 else BY_KEY.job(rng.choice(KEYS)) for n in range(jobs)
        )
        try:
            for _ in range(3):
                crew.hire()
            for n in range(kills):
                await until(jobs * (n + 1) // (kills + 2))
                crew.kill(rng)
            with trio.fail_after(60 + kills * LEASE):
                for handle in handles:
                    await handle.wait()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 60):
                await trio.to_thread.run_sync(crew.dismiss)
        stats = await connection.stats()
        assert (stats.live, stats.dead, stats.done) == (0, 0, jobs)
    ran = spans(logs, crew.killed)
    most = {name: highest(found) for name, found in ran.items()}
    print(engine, most, "all:", highest(span for found in ran.values() for span in found))
    assert most == {"actor": CONCURRENCY, **dict.fromkeys(KEYS, 1)}, "never more, and used to the full"
    assert highest(span for found in ran.values() for span in found) == QUEUE.concurrency
    assert len(crew.killed) == kills


@pytest.mark.parametrize("engine", ENGINES)
async def test_limits_hold_while_workers_are_killed(
    engine: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The short form: three worker processes, two of which are killed."""
    await _storm(engine, tmp_path, request, jobs=400, kills=2)


@pytest.mark.chaos
@pytest.mark.parametrize("engine", ENGINES)
async def test_limits_hold_in_a_long_storm(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Three worker processes, killed twenty times."""
    await _storm(engine, tmp_path, request, jobs=5000, kills=20)


async def _pull(session: Session, name: str, moments: list[float]) -> None:
    while True:
        deliveries = await session.lease(["default"], 5, 60.0, owner=name, wait=60.0)
        moments += [delivery.leased for delivery in deliveries]


async def _rate(url: str, count: int, per: float, spans: int) -> None:
    """Let three sessions lease as much as they can, and judge by the moments that the engine wrote on the leases."""
    moments: list[float] = []
    async with (
        trepid.open_connection(url) as first,
        trepid.open_connection(url) as second,
        trepid.open_connection(url) as third,
    ):
        await first.declare("default")
        await first.session.limit([Limit("default", "a", count=count, per=per)])
        total = count * (spans + 2)
        batch = [Publication("default", f"m{n}", ("rate", n), b"{}", gate="a") for n in range(total)]
        for start in range(0, total, 500):
            await first.session.publish(batch[start : start + 500])
        with trio.move_on_after(spans * per):
            async with trio.open_nursery() as nursery:
                for connection in (first, second, third):
                    nursery.start_soon(_pull, connection.session, f"owner-{id(connection)}", moments)
    moments.sort()
    for began, ended in zip(moments, moments[count:], strict=False):
        assert ended - began >= per, f"{count + 1} in {ended - began:.6f} s"
    print(f"{len(moments)} of {count * spans} in {spans} spans")
    assert len(moments) >= 0.99 * count * spans


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_rate_is_kept_and_reached(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The short form: forty in two seconds."""
    await _rate(theatre(engine, tmp_path, request).url, 40, 2.0, 4)


@pytest.mark.chaos
@pytest.mark.parametrize("engine", ENGINES)
async def test_a_rate_is_kept_and_reached_for_minutes(
    engine: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A hundred a minute."""
    await _rate(theatre(engine, tmp_path, request).url, 100, 60.0, 4)
