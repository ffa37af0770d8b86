"""Workers are killed in the middle of their work; no job is lost, and none runs twice without a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.storm import Account, storm


def _judge(account: Account, kills: int) -> None:
    print(account)
    assert account.lost == ()
    assert account.unexplained == ()
    assert account.kills == kills
    assert account.integrity == "ok"


async def test_nothing_is_lost_when_workers_are_killed(tmp_path: Path) -> None:
    """The short form."""
    _judge(await storm(tmp_path, jobs=1500, workers=3, kills=4, seed=1), kills=4)


@pytest.mark.chaos
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_nothing_is_lost_in_a_long_storm(tmp_path: Path, seed: int) -> None:
    """Ten thousand jobs, three workers, twenty kills."""
    _judge(await storm(tmp_path, jobs=10_000, workers=3, kills=20, seed=seed), kills=20)
