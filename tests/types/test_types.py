"""Both type checkers accept what the public API allows, and nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
API = "tests/types/api.py"
TOOLS = Path(sys.executable).parent

CHECKS = {
    # The library's own errors are the business of `make types`; here they would hide those of the users.
    "mypy": ["mypy", "--strict", "--warn-unused-ignores", "--follow-imports=silent", "--no-error-summary", API],
    "pyright": ["pyright", "--pythonpath", sys.executable, API],
}


@pytest.mark.parametrize("checker", CHECKS)
def test_wrong_calls_are_rejected_and_right_ones_are_not(checker: str) -> None:
    tool, *arguments = CHECKS[checker]
    done = subprocess.run(
        [str(TOOLS / tool), *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_wrong_calls_are_marked_for_both_checkers() -> None:
    lines = (ROOT / API).read_text(encoding="utf-8").splitlines()
    marked = [line for line in lines if "# type: ignore[" in line or "# pyright: ignore[" in line]
    assert len(marked) >= 35
    assert all("# type: ignore[" in line and "# pyright: ignore[" in line for line in marked)
