"""The demonstration runs unchanged on every engine: only its URL differs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.brokers.places import ENGINES, fresh_url

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize("engine", [engine for engine in ENGINES if engine != "sqlite"])
def test_the_demonstration(engine, tmp_path, request):
    url = "memory:" if engine == "memory" else fresh_url(engine, request)[1]
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(30):
        (folder / f"text-{number}.txt").write_text(f"text number {number}\n", encoding="utf-8")
    (folder / "bad.txt").write_bytes(b"\xff\xfe")
    done = subprocess.run(
        [sys.executable, "-m", "demo", str(folder), "--broker", url, "--json"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout)
    assert run["summary"]["files"] == 30
    assert run["left"] == 0
    assert run["report"]["dead"] == len(run["dead"]) == 3
    assert any("bad.txt is not UTF-8" in error for _, error in run["dead"])
