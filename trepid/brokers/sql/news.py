"""The kinds of news that a commit may bring; what a commit says is a sum of them."""

from __future__ import annotations

from typing import Final

WORK: Final = 1
"""Something may be leased, or will be at an earlier moment than was known."""

ENDED_SOMETHING: Final = 2
"""Something has ended."""

ASKED: Final = 4
"""A leased message was asked to stop."""

RECORDED: Final = 8
"""A value of the records has changed."""

ALL_NEWS: Final = WORK | ENDED_SOMETHING | ASKED | RECORDED
