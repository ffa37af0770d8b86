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

    def python(*words):
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run = json.loads(python("demo", str(folder), "--broker", url, "--json"))
    assert run["summary"]["files"] == 30
    assert run["left"] == 0
    assert run["report"]["dead"] == len(run["dead"]) == 3
    assert any("bad.txt is not UTF-8" in error for _, error in run["dead"])
    if engine != "memory":
        words = ["dead", "requeue", "--broker", url, *(["--results", run["second"]] if run["second"] else [])]
        assert python("trepid", *words, run["dead"][0][0]) == "requeued 1, skipped 0\n"
