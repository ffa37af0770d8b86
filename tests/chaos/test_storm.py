"""Workers and servers are killed in the middle of their work; no job is lost, and none runs twice without a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.storm import Account, storm
from tests.chaos.theatres import ENGINES, theatre


def _judge(account: Account, kills: int, server_kills: int) -> None:
    print(account)
    assert account.lost == ()
    assert account.left == 0
    assert account.dead == 0
    assert account.unexplained == ()
    assert account.workers_killed == kills
    assert account.servers_killed == server_kills
    assert account.audit == "ok"


@pytest.mark.parametrize("engine", ENGINES)
async def test_nothing_is_lost_in_a_short_storm(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The short form: a few kills of each kind."""
    where = theatre(engine, tmp_path, request)
    server_kills = 1 if where.server else 0
    account = await storm(tmp_path, where, jobs=1200, workers=3, kills=3, server_kills=server_kills, seed=1)
    _judge(account, 3, server_kills)


@pytest.mark.chaos
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("engine", ENGINES)
async def test_nothing_is_lost_in_a_long_storm(
    engine: str, seed: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Ten thousand jobs, three workers, twenty kills of workers and five of the server."""
    where = theatre(engine, tmp_path, request)
    server_kills = 5 if where.server else 0
    account = await storm(tmp_path, where, jobs=10_000, workers=3, kills=20, server_kills=server_kills, seed=seed)
    _judge(account, 20, server_kills)
